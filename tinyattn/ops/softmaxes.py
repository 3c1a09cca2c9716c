"""Softmax, its logarithm, and the softmaxes that give exactly 0 to low scores."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.grad_mode import no_grad
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import clamp, where
from tinyattn.ops.copies import cast
from tinyattn.ops.extremes import amax
from tinyattn.ops.promotion import floating, opmath
from tinyattn.ops.reductions import sum as _sum
from tinyattn.ops.synonyms import numpy_names


def _softmax_definition(xp: Any, x: Any, *, dim: int) -> Any:
    if x.numel() == 0:
        return xp.clone(x)
    e = xp.exp(x - xp.amax(x, dim, keepdim=True).detach())  # shifting only prevents overflow
    return e / xp.sum(e, dim, keepdim=True)


@operation(
    traits="rows normalises",
    definition=_softmax_definition,
    fresh=True,
    x=lambda xp, g, out, dim: out * (g - xp.sum(g * out, dim, keepdim=True)),
)
def _softmax(xp: Any, x: Any, *, dim: int) -> Any:
    return xp.softmax(x, dim)


def _log_softmax_definition(xp: Any, x: Any, *, dim: int) -> Any:
    if x.numel() == 0:
        return xp.clone(x)
    shifted = x - xp.amax(x, dim, keepdim=True).detach()
    return shifted - xp.log(xp.sum(xp.exp(shifted), dim, keepdim=True))


@operation(
    traits="rows normalises",
    definition=_log_softmax_definition,
    fresh=True,
    x=lambda xp, g, out, dim: g - xp.exp(out) * xp.sum(g, dim, keepdim=True),
)
def _log_softmax(xp: Any, x: Any, *, dim: int) -> Any:
    return xp.log_softmax(x, dim)


@numpy_names
def softmax(input: Tensor, dim: int | None = None, *, dtype: Any = None) -> Tensor:
    """Divide exp(input) by its sum along `dim`; the result has the shape of `input`.

    Without dim, as in old programs for PyTorch, axis 0 of 0, 1 or 3 axes and axis 1 of others is taken, with a warning.
    dtype: that of the result; the input is cast to it first. A slice that holds only -inf gives NaN. As torch.softmax.

    Example:
        >>> ta.softmax(ta.tensor([2.3, 1.1, 0.7]), 0)
        tensor([0.6653, 0.2004, 0.1343])
    """
    return _softmax(_ready(input, dtype), dim=_axis(dim, input.ndim))


@numpy_names
def log_softmax(input: Tensor, dim: int | None = None, *, dtype: Any = None) -> Tensor:
    """Compute log(softmax(input, dim)) without overflow or underflow; arguments as `softmax`. As torch.log_softmax.

    Example:
        >>> ta.log_softmax(ta.tensor([0.0, 200.0]), 0)
        tensor([-200.,    0.])
    """
    return _log_softmax(_ready(input, dtype), dim=_axis(dim, input.ndim))


def _axis(dim: int | None, ndim: int) -> int:
    """Axis `dim`, or the one that PyTorch takes without it."""
    if dim is None:
        dim = 0 if ndim in (0, 1, 3) else 1
        warnings.warn(f"softmax without dim: axis {dim} of {ndim} is taken; pass dim={dim}", UserWarning, stacklevel=4)
    return _dims.one(dim, ndim)


def _ready(input: Tensor, dtype: Any) -> Tensor:
    return floating(input if dtype is None else cast(input, dtype))[0]


# --- sparse ---


def sparsemax(input: Tensor, dim: int = -1) -> Tensor:
    """Project each slice along `dim` onto the probability simplex: max(input - tau, 0), with the tau of sum 1.

    This is `entmax` with alpha 2; shapes, gradients and errors as there. Martins and Astudillo 2016, "From softmax to
    sparsemax".

    >>> F.sparsemax(ta.tensor([1.0, 0.5, -1.0])).tolist()
    [0.75, 0.25, 0.0]
    """
    return entmax(input, 2.0, dim)


@opmath
def entmax(input: Tensor, alpha: Any = 1.5, dim: int = -1) -> Tensor:
    """Return max((alpha - 1) input - tau, 0) ** (1 / (alpha - 1)) along `dim`, with the tau of sum 1.

    alpha: a number from 1, where this is `softmax`, to 2, where it is `sparsemax`; or a tensor of such numbers above 1,
        of size 1 along `dim`, that broadcasts with the input and gets a gradient. A tensor's values are not checked.
    A score of -inf gets 0; a slice that holds only -inf gives NaN, as in `softmax`. Raises ValueError for another
    number, or for a tensor of another size along `dim`. Peters, Niculae and Martins 2019, "Sparse
    sequence-to-sequence models"; the learned alpha: Correia, Niculae and Martins 2019.

    >>> F.entmax(ta.tensor([1.0, 1.0, 1.0, 1.0, -2.0])).tolist()
    [0.25, 0.25, 0.25, 0.25, 0.0]
    """
    dim, input = _dims.one(dim, input.ndim), floating(input)[0]
    if isinstance(alpha, Variable):
        if alpha.ndim >= input.ndim - dim and alpha.shape[dim - input.ndim] != 1:
            raise ValueError(
                f"entmax: alpha of shape {tuple(alpha.shape)} differs along dim={dim}; give one alpha a slice"
            )
    elif not 1 <= alpha <= 2:
        raise ValueError(f"entmax: alpha={alpha}; expected a number from 1 (softmax) to 2 (sparsemax)")
    elif alpha == 1:
        return softmax(input, dim)
    if input.numel() == 0:
        return input * alpha
    lowest = float(np.finfo(input.dtype).min)  # instead of -inf, which would make alpha's gradient 0 * inf
    scores = (alpha - 1) * clamp(input - amax(input, dim, keepdim=True).detach(), lowest)
    tau, power = amax(scores, dim, keepdim=True).detach() - 1, 1 / (alpha - 1)
    with no_grad():
        for _ in range(math.ceil(math.log(input.shape[dim])) + 10):
            tau = _newton(scores, tau, power, dim)
    for _ in range(2):  # recorded: the steps change nothing but give tau its exact first and second derivative
        tau = _newton(scores, tau, power, dim)
    base, slope = _terms(scores, tau, power)
    return base * slope


def _terms(scores: Tensor, tau: Tensor, power: Any) -> tuple[Tensor, Tensor]:
    """Return u = max(scores - tau, 0) and u ** (power - 1), both 0 and without gradient where u is 0."""
    base = scores - tau
    positive = where(base > 0, base, 1)  # a power of 0 has a gradient of NaN
    return clamp(base, 0), where(base > 0, positive ** (power - 1), 0)


def _newton(scores: Tensor, tau: Tensor, power: Any, dim: int) -> Tensor:
    """Move tau towards sum(max(scores - tau, 0) ** power) = 1.

    The sum is convex and falls with tau, so from a tau that is too low no step goes too far.
    """
    base, slope = _terms(scores, tau, power)
    return tau + (_sum(base * slope, dim, keepdim=True) - 1) / (power * _sum(slope, dim, keepdim=True))
