"""Activations made of other operations, with PyTorch's argument `inplace`. Those with a kernel: `activations.py`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import activations, creation
from tinyattn.ops.activations import sigmoid, softplus
from tinyattn.ops.choices import clamp, masked_fill, where
from tinyattn.ops.elementwise import abs as _abs
from tinyattn.ops.elementwise import log, log1p, tanh
from tinyattn.ops.extremes import argmax
from tinyattn.ops.joins import chunk
from tinyattn.ops.loss import one_hot
from tinyattn.ops.promotion import floating, opmath
from tinyattn.ops.shape import reshape
from tinyattn.ops.softmaxes import softmax
from tinyattn.ops.synonyms import named


def _activation(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give `function` a last argument `inplace`: if True, it writes into its input and returns that.

    float16 is computed in float32.
    """
    signature, computed = inspect.signature(function), opmath(function)
    last = inspect.Parameter("inplace", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=False, annotation="bool")
    place = len(signature.parameters) - 1

    @functools.wraps(function, updated=())
    def call(input: Tensor, *args: Any, inplace: bool = False, **options: Any) -> Tensor:
        if len(args) > place:
            *args, inplace = args  # type: ignore[assignment]
        if inplace:
            return input._inplace(f"{function.__name__}_", computed, *args, **options)
        return computed(input, *args, **options)

    call.__qualname__, call.__module__ = function.__name__, __name__  # an operation has another module, and no qualname
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), last], return_annotation="Tensor"
    )
    return call


relu, silu = _activation(activations.relu), _activation(activations.silu)


@_activation
def threshold(input: Tensor, threshold: float, value: float) -> Tensor:
    """Return input where it is above `threshold`, else `value`, elementwise. As torch.nn.functional.threshold.

    >>> F.threshold(ta.tensor([0.5, 2.0]), 1.0, -9.0).tolist()
    [-9.0, 2.0]
    """
    return masked_fill(input, input <= threshold, value)


@operation(
    traits="maps",
    promote=floating,
    fresh=True,
    x=lambda xp, g, x, negative_slope: xp.where(x > 0, g, g * negative_slope),
)
def _leaky_relu(xp: Any, x: Any, *, negative_slope: float = 0.01) -> Any:
    scaled = x * negative_slope
    return xp.maximum(x, scaled) if 0 < negative_slope <= 1 else xp.where(x > 0, x, scaled)


@_activation
def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return input where it is above 0, else negative_slope * input. As torch.nn.functional.leaky_relu.

    >>> F.leaky_relu(ta.tensor([-1.0, 2.0]), 0.5).tolist()
    [-0.5, 2.0]
    """
    return _leaky_relu(input, negative_slope=negative_slope)


@opmath
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Return input where it is above 0, else weight * input, with one weight or one for each channel (axis 1).

    Raises RuntimeError for another number of weights. As torch.nn.functional.prelu (He et al. 2015).

    >>> F.prelu(ta.tensor([[-1.0, -1.0]]), ta.tensor([0.25, 0.5])).tolist()
    [[-0.25, -0.5]]
    """
    if weight.ndim and weight.numel() != 1:
        if weight.ndim != 1 or input.ndim < 2 or input.shape[1] != weight.shape[0]:
            raise RuntimeError(
                f"prelu: weight {tuple(weight.shape)} for input {tuple(input.shape)}; expected one number, or one for "
                "each channel of axis 1"
            )
        weight = reshape(weight, (-1, *(1 for _ in input.shape[2:])))
    elif weight.ndim:
        weight = reshape(weight, ())
    above = input > 0  # there 0 in place of the input, since 0 * inf would make the weight's gradient NaN
    return where(above, input, weight * where(above, 0.0, input))


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # their fixed point (Klambauer et al. 2017)


_expm1 = Operation(  # with a gradient from the input: far below 0, that from the output is 0
    lambda xp, x: xp.expm1(x), name="expm1_below", promote=floating, traits="maps saturates", fresh=True,
    x=lambda xp, g, x: g * xp.exp(x),
)  # fmt: skip


def _exponential(x: Tensor, alpha: float, width: float = 1.0) -> Tensor:
    low = clamp(x, None, 0.0)
    low = _expm1(low if width == 1 else low / width)
    line = x if alpha == width else where(x == 0, x * (alpha / width), x)  # at 0: the slope from below, no curvature
    return where(x < 0, low if alpha == 1 else low * alpha, line)  # NaN stays NaN, with its gradient


@_activation
def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Return input where it is above 0, else alpha (e ** input - 1). As torch.nn.functional.elu (Clevert et al. 2015).

    >>> F.elu(ta.tensor([-1.0, 2.0]))
    tensor([-0.6321,  2.    ])
    """
    return _exponential(input, alpha)


@_activation
def celu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Return input where it is above 0, else alpha (e ** (input / alpha) - 1). As torch.nn.functional.celu.

    >>> F.celu(ta.tensor([-1.0, 2.0]), 0.5)
    tensor([-0.4323,  2.    ])
    """
    if alpha == 0:
        raise RuntimeError("celu: alpha=0; expected a number other than 0, by which the input is divided")
    return _exponential(input, alpha, alpha)


@_activation
def selu(input: Tensor) -> Tensor:
    """Return the ELU with the scales that keep mean 0 and variance 1. As torch.nn.functional.selu.

    Klambauer et al. 2017, "Self-normalizing neural networks".

    >>> F.selu(ta.tensor([-1.0, 2.0]))
    tensor([-1.1113,  2.1014])
    """
    return _exponential(input, _SELU_ALPHA) * _SELU_SCALE


@operation(
    traits="maps clamps", fresh=True, x=lambda xp, g, x, low, high: xp.where(xp.logical_or(x <= low, x >= high), 0.0, g)
)
def _hardtanh(xp: Any, x: Any, *, low: float = -1.0, high: float = 1.0) -> Any:
    return xp.clamp(x, low, high)


@_activation
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Return input between min_val and max_val; its gradient at both is 0. As torch.nn.functional.hardtanh.

    >>> F.hardtanh(ta.tensor([-3.0, 0.5, 3.0])).tolist()
    [-1.0, 0.5, 1.0]
    """
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val={min_val} and max_val={max_val}; expected min_val <= max_val")
    if input.dtype.kind == "f":
        return _hardtanh(input, low=float(min_val), high=float(max_val))
    low, high = int(min_val), int(max_val)
    return masked_fill(masked_fill(input, input <= low, low), input >= high, high)


@_activation
def relu6(input: Tensor) -> Tensor:
    """Return min(max(input, 0), 6), elementwise. As torch.nn.functional.relu6.

    >>> F.relu6(ta.tensor([-1.0, 3.0, 9.0])).tolist()
    [0.0, 3.0, 6.0]
    """
    return hardtanh(input, 0, 6)


@_activation
def hardsigmoid(input: Tensor) -> Tensor:
    """Return relu6(input + 3) / 6, elementwise. As torch.nn.functional.hardsigmoid.

    >>> F.hardsigmoid(ta.tensor([-4.0, 0.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    input = floating(input)[0]
    return relu6(input + 3) / 6


def _hardswish_rule(xp: Any, g: Any, x: Any) -> Any:
    return g * xp.where(xp.abs(x) < 3, x * (1 / 3) + 0.5, xp.clamp(x, 0.0, 1.0))


@operation(traits="maps saturates", fresh=True, x=_hardswish_rule)
def _hardswish(xp: Any, x: Any) -> Any:
    return x * xp.clamp(x + 3, 0.0, 6.0) / 6


@_activation
def hardswish(input: Tensor) -> Tensor:
    """Return input * relu6(input + 3) / 6, elementwise. As torch.nn.functional.hardswish (Howard et al. 2019).

    >>> F.hardswish(ta.tensor([0.0, 3.0, 6.0])).tolist()
    [0.0, 3.0, 6.0]
    """
    return _hardswish(floating(input)[0])


@_activation
def mish(input: Tensor) -> Tensor:
    """Return input * tanh(softplus(input)), elementwise. As torch.nn.functional.mish (Misra 2019).

    >>> F.mish(ta.tensor([0.0, 1.0]))
    tensor([0.    , 0.8651])
    """
    input = floating(input)[0]
    return input * tanh(softplus(input))


@opmath
def softsign(input: Tensor) -> Tensor:
    """Return input / (1 + |input|), elementwise. As torch.nn.functional.softsign.

    >>> F.softsign(ta.tensor([-1.0, 3.0])).tolist()
    [-0.5, 0.75]
    """
    input = floating(input)[0]
    return input / (_abs(input) + 1)


@opmath
def tanhshrink(input: Tensor) -> Tensor:
    """Return input - tanh(input), elementwise. As torch.nn.functional.tanhshrink.

    >>> F.tanhshrink(ta.tensor([0.0, 1.0]))
    tensor([0.    , 0.2384])
    """
    input = floating(input)[0]
    return input - tanh(input)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Return input, and 0 where |input| <= lambd. As torch.nn.functional.hardshrink.

    >>> F.hardshrink(ta.tensor([-0.5, 1.0])).tolist()
    [0.0, 1.0]
    """
    return masked_fill(input, _abs(input) <= lambd, 0.0)


@opmath
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """Return input moved towards 0 by lambd, and 0 where |input| <= lambd. As torch.nn.functional.softshrink.

    Raises RuntimeError for a negative lambd.

    >>> F.softshrink(ta.tensor([-0.5, 2.0])).tolist()
    [0.0, 1.5]
    """
    if not lambd >= 0:
        raise RuntimeError(f"softshrink: lambd={lambd}; expected a number of at least 0")
    return where(_abs(input) <= lambd, 0.0, input - clamp(input, -lambd, lambd))


@opmath
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Split the input in halves a and b along `dim`, and return a * sigmoid(b). As torch.nn.functional.glu.

    Raises RuntimeError for an odd size. Dauphin et al. 2016, "Language modeling with gated convolutional networks".

    >>> F.glu(ta.tensor([3.0, 0.0])).tolist()
    [1.5]
    """
    if input.ndim == 0 or input.shape[dim] % 2:
        raise RuntimeError(f"glu: shape {tuple(input.shape)} cannot be halved along dim={dim}; its size must be even")
    a, b = chunk(input, 2, dim)
    return a * sigmoid(b)


def softmin(input: Tensor, dim: int | None = None, *, dtype: Any = None) -> Tensor:
    """Return softmax(-input, dim). As torch.nn.functional.softmin.

    >>> F.softmin(ta.tensor([1.0, 1.0]), 0).tolist()
    [0.5, 0.5]
    """
    return softmax(-floating(input)[0], dim, dtype=dtype)  # -input wraps around among unsigned integers


@opmath
def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1, *, generator: Any = None
) -> Tensor:
    """Draw from the relaxed categorical distribution: softmax((logits + Gumbel noise) / tau) along `dim`.

    hard: return one-hot vectors, with the gradient of the relaxed ones. eps: without effect. generator: draws the
    noise. As torch.nn.functional.gumbel_softmax (Jang et al. 2016).

    >>> F.gumbel_softmax(ta.tensor([[0.0, 100.0]]), hard=True).tolist()
    [[0.0, 1.0]]
    """
    uniform = clamp(creation.rand_like(logits, generator=generator), float(np.finfo(logits.dtype).tiny))  # in (0, 1)
    soft = softmax((logits - log(-log1p(-uniform))) / tau, dim)
    if not hard:
        return soft
    drawn = one_hot(argmax(soft, dim), soft.shape[dim]).to(soft.dtype).movedim(-1, dim)
    return drawn - soft.detach() + soft


def _in_place(function: Callable[..., Tensor], example: str) -> Callable[..., Tensor]:
    name = f"{function.__name__}_"
    doc = f"""Write `{function.__name__}` of the input into it, and return it. As torch.nn.functional.{name}.

    >>> x = ta.tensor([-1.0, 2.0])
    >>> F.{name}(x{example}) is x
    True
    """

    @named(name, doc)
    def write(input: Tensor, *args: Any, **options: Any) -> Tensor:
        return function(input, *args, **options, inplace=True)

    return write


relu_, leaky_relu_, elu_, selu_, celu_, hardtanh_ = (
    _in_place(function, "") for function in (relu, leaky_relu, elu, selu, celu, hardtanh)
)
threshold_ = _in_place(threshold, ", 0.0, 0.0")
