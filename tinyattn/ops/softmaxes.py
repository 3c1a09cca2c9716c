"""Softmax and its logarithm: definition, rule and kernel."""

from __future__ import annotations

import warnings
from typing import Any

from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import dims as _dims
from tinyattn.ops.copies import cast
from tinyattn.ops.promotion import floating
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

    dim: None, of older models, is 0 for 0, 1 and 3 axes and else 1, with a warning.
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
    if dim is None:
        dim = 0 if ndim in (0, 1, 3) else 1
        warnings.warn(f"softmax: no dim was given, so it is {dim} for {ndim} axes; write dim={dim}", stacklevel=4)
    return _dims.one(dim, ndim)


def _ready(input: Tensor, dtype: Any) -> Tensor:
    return cast(input, dtype) if dtype is not None else floating(input)[0]
