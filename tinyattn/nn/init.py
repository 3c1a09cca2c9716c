"""Initial values of parameters, written in place. As torch.nn.init.

Every function fills `tensor`, a floating-point tensor of any shape unless stated otherwise, without recording
gradients, and returns it. Random numbers come from `generator`, by default the process-wide one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from tinyattn.grad_mode import no_grad
from tinyattn.ops import creation
from tinyattn.random import Generator
from tinyattn.tensors import Tensor

__all__ = [
    "calculate_gain", "constant_", "dirac_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_",
    "orthogonal_", "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip


@no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with uniform numbers in [a, b). As torch.nn.init.uniform_.

    >>> bool((nn.init.uniform_(ta.empty(3), 2.0, 3.0) >= 2.0).all())
    True
    """
    return tensor.uniform_(a, b, generator=generator)


@no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with normal numbers. As torch.nn.init.normal_.

    >>> nn.init.normal_(ta.empty(2, 3), std=0.02).shape
    (2, 3)
    """
    return tensor.normal_(mean, std, generator=generator)


@no_grad()
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Fill with normal numbers; those outside [a, b] are drawn again. As torch.nn.init.trunc_normal_.

    Raises ValueError if [a, b] has less than a thousandth of the distribution, which would take too long (torch warns).

    >>> bool((nn.init.trunc_normal_(ta.empty(100)).abs() <= 2.0).all())
    True
    """
    curve = NormalDist(mean, std)
    if not curve.cdf(b) - curve.cdf(a) > 1e-3:
        raise ValueError(
            f"trunc_normal_: hardly any number with mean={mean} and std={std} lies in [{a}, {b}]; "
            "choose an interval around the mean, in the units of the tensor and not of std"
        )
    tensor.normal_(mean, std, generator=generator)
    outside = (tensor < a) | (tensor > b)
    while count := int(outside.sum().item()):
        tensor[outside] = (
            creation.randn(count, dtype=tensor.dtype, device=tensor.device, generator=generator) * std + mean
        )
        outside = (tensor < a) | (tensor > b)
    return tensor


@no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one number. As torch.nn.init.constant_.

    >>> nn.init.constant_(ta.empty(2), 0.5).tolist()
    [0.5, 0.5]
    """
    return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros. As torch.nn.init.zeros_.

    >>> nn.init.zeros_(ta.empty(2)).tolist()
    [0.0, 0.0]
    """
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones. As torch.nn.init.ones_.

    >>> nn.init.ones_(ta.empty(2)).tolist()
    [1.0, 1.0]
    """
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill uniformly in ± gain sqrt(6 / (fan_in + fan_out)). As torch.nn.init.xavier_uniform_.

    Activations and gradients then keep their size. tensor: a weight (out, in, ...); raises ValueError for under 2 axes.
    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward networks".

    >>> bool((nn.init.xavier_uniform_(ta.empty(2, 4)).abs() <= 1.0).all())
    True
    """
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill normally with standard deviation gain sqrt(2 / (fan_in + fan_out)). As torch.nn.init.xavier_normal_.

    tensor, errors and source as for `xavier_uniform_`.

    >>> nn.init.xavier_normal_(ta.empty(2, 4)).shape
    (2, 4)
    """
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill uniformly in ± gain sqrt(3 / fan). As torch.nn.init.kaiming_uniform_.

    Activations then keep their size through `nonlinearity` (see `calculate_gain`). a: the negative slope of leaky_relu.
    mode: "fan_in" keeps the size in the forward pass, "fan_out" in the backward pass.
    tensor: a weight (out, in, ...). Raises ValueError for under 2 axes and for another mode or nonlinearity.
    He et al. 2015, "Delving deep into rectifiers".

    >>> bool((nn.init.kaiming_uniform_(ta.empty(2, 6), nonlinearity="relu").abs() <= 1.0).all())
    True
    """
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Fill normally with standard deviation gain / sqrt(fan). As torch.nn.init.kaiming_normal_.

    Arguments, errors and source as for `kaiming_uniform_`.

    >>> nn.init.kaiming_normal_(ta.empty(2, 6), nonlinearity="relu").shape
    (2, 6)
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


@no_grad()
def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fill with a random (semi-)orthogonal matrix times gain. As torch.nn.init.orthogonal_.

    tensor: (rows, ...), read as (rows, product of the others). Raises ValueError for under 2 axes.
    Saxe et al. 2013, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks".

    >>> w = nn.init.orthogonal_(ta.empty(2, 3))
    >>> ta.allclose(w @ w.T, ta.eye(2), atol=1e-6)
    True
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: shape {tuple(tensor.shape)}; expected two axes at least")
    shape = (tensor.shape[0], math.prod(tensor.shape[1:]))
    drawn = creation.randn(*shape, dtype="float64", device=tensor.device, generator=generator).cpu().numpy()
    q, r = np.linalg.qr(drawn if shape[0] >= shape[1] else drawn.T)
    q = q * np.where(np.diag(r) < 0, -1, 1)  # makes the distribution uniform
    values = (q if shape[0] >= shape[1] else q.T).reshape(tensor.shape) * gain
    return tensor.copy_(creation.as_tensor(np.ascontiguousarray(values), dtype=tensor.dtype, device=tensor.device))


@no_grad()
def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with ones on its diagonal and zeros elsewhere. As torch.nn.init.eye_.

    Raises ValueError for other than 2 axes.

    >>> nn.init.eye_(ta.empty(2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if tensor.ndim != 2:
        raise ValueError(f"eye_: shape {tuple(tensor.shape)}; expected a matrix")
    return tensor.copy_(creation.eye(*tensor.shape, dtype=tensor.dtype, device=tensor.device))


@no_grad()
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution's weight so that it passes its input channels on unchanged. As torch.nn.init.dirac_.

    groups: each group of outputs does so. Raises ValueError for other than 3 to 5 axes, or outputs that do not divide.

    >>> nn.init.dirac_(ta.empty(1, 1, 3)).tolist()
    [[[0.0, 1.0, 0.0]]]
    """
    if tensor.ndim not in (3, 4, 5) or tensor.shape[0] % groups:
        raise ValueError(
            f"dirac_: shape {tuple(tensor.shape)} with groups={groups}; expected a convolution's weight of 3 to 5 "
            "axes, and groups that divide the first"
        )
    tensor.zero_()
    outputs, middle = tensor.shape[0] // groups, tuple(k // 2 for k in tensor.shape[2:])
    for i in range(min(outputs, tensor.shape[1])):
        for g in range(groups):
            tensor[(g * outputs + i, i, *middle)] = 1.0
    return tensor


def _older(function: Any) -> Callable[..., Tensor]:
    name = function.__name__

    def call(*args: Any, **options: Any) -> Tensor:
        warnings.warn(f"nn.init.{name[:-1]} is deprecated; write nn.init.{name}", FutureWarning, stacklevel=2)
        return function(*args, **options)

    call.__name__ = call.__qualname__ = name[:-1]
    call.__doc__ = f"As `{name}`, whose older name this is."
    return call


uniform, normal, constant, eye = map(_older, (uniform_, normal_, constant_, eye_))
xavier_uniform, xavier_normal = map(_older, (xavier_uniform_, xavier_normal_))
kaiming_uniform, kaiming_normal, orthogonal = map(_older, (kaiming_uniform_, kaiming_normal_, orthogonal_))

_LINEAR = "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d sigmoid".split()
_GAINS = {
    **dict.fromkeys(_LINEAR, 1.0),
    "tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 0.75,
}  # fmt: skip


def calculate_gain(nonlinearity: str, param: Any = None) -> float:
    """Return the factor by which weights must be larger before `nonlinearity`. As torch.nn.init.calculate_gain.

    param: the negative slope of "leaky_relu". Raises ValueError for an unknown nonlinearity.

    >>> nn.init.calculate_gain("relu") ** 2
    2.0000000000000004
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else float(param)
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"calculate_gain: nonlinearity={nonlinearity!r}; expected one of {[*_GAINS, 'leaky_relu']}")
    return _GAINS[nonlinearity]


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode={mode!r}; expected 'fan_in' or 'fan_out'")
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def _fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight (out, in, ...): inputs of one output, outputs of one input."""
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out need a weight (out, in, ...), got shape {tuple(tensor.shape)}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


_calculate_fan_in_and_fan_out = _fans  # PyTorch's name, which models use
