"""Softmax and its logarithm: definition, kernel and rule."""

from __future__ import annotations

from typing import Any

from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Variable
from tinyattn.ops import dims as _dims
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import exp
from tinyattn.ops.promotion import floating
from tinyattn.ops.reductions import sum


def _softmax_definition(xp: Any, x: Any, *, dim: int) -> Any:
    if x.numel() == 0:
        return x
    e = xp.exp(x - xp.amax(x, dim, keepdim=True).detach())  # shifting changes nothing but overflow
    return e / xp.sum(e, dim, keepdim=True)


@operation(
    traits="rows normalises", definition=_softmax_definition, x=lambda xp, g, out, dim: xp.softmax_backward(g, out, dim)
)
def _softmax(xp: Any, x: Any, *, dim: int) -> Any:
    return xp.softmax(x, dim)


def _log_softmax_definition(xp: Any, x: Any, *, dim: int) -> Any:
    if x.numel() == 0:
        return x
    return x - xp.logsumexp(x, dim, keepdim=True)


@operation(
    traits="rows normalises",
    definition=_log_softmax_definition,
    x=lambda xp, g, out, dim: xp.log_softmax_backward(g, out, dim),
)
def _log_softmax(xp: Any, x: Any, *, dim: int) -> Any:
    return xp.log_softmax(x, dim)


def softmax_backward(g: Variable, out: Variable, dim: int) -> Variable:
    """The gradient of softmax, from its output."""
    return out * (g - sum(g * out, dim, keepdim=True))


def log_softmax_backward(g: Variable, out: Variable, dim: int) -> Variable:
    """The gradient of log_softmax, from its output."""
    return g - exp(out) * sum(g, dim, keepdim=True)


def softmax(input: Variable, dim: int, *, dtype: Any = None) -> Variable:
    """exp(x) over its sum along `dim`. As torch.softmax.

    softmax([2.3, 1.1, 0.7]) = [0.6653, 0.2004, 0.1343]. A slice of nothing but -inf gives NaN.
    """
    return _softmax(_ready(input, dtype), dim=_dims.one(dim, input.ndim))


def log_softmax(input: Variable, dim: int, *, dtype: Any = None) -> Variable:
    """log(softmax(x)), without overflow or underflow. As torch.log_softmax."""
    return _log_softmax(_ready(input, dtype), dim=_dims.one(dim, input.ndim))


def _ready(input: Variable, dtype: Any) -> Variable:
    return cast(input, dtype) if dtype is not None else floating(input)[0]
