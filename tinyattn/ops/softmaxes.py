"""Softmax and its logarithm: definition, kernel and rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyattn.engine.operation import operation
from tinyattn.ops import dims as _dims
from tinyattn.ops.elementwise import cast
from tinyattn.ops.promotion import floating

if TYPE_CHECKING:
    from tinyattn.tensors import Tensor


def _softmax_definition(xp: Any, x: Any, *, dim: int) -> Any:
    if x.numel() == 0:
        return x
    e = xp.exp(x - xp.amax(x, dim, keepdim=True).detach())  # shifting changes nothing but overflow
    return e / xp.sum(e, dim, keepdim=True)


@operation(definition=_softmax_definition, x=lambda xp, g, out, dim: xp.softmax_backward(g, out, dim))
def _softmax(xp: Any, x: Any, *, dim: int) -> Any:
    return xp.softmax(x, dim)


def _log_softmax_definition(xp: Any, x: Any, *, dim: int) -> Any:
    if x.numel() == 0:
        return x
    return x - xp.logsumexp(x, dim, keepdim=True)


@operation(definition=_log_softmax_definition, x=lambda xp, g, out, dim: xp.log_softmax_backward(g, out, dim))
def _log_softmax(xp: Any, x: Any, *, dim: int) -> Any:
    return xp.log_softmax(x, dim)


def softmax_backward(g: Tensor, out: Tensor, dim: int) -> Tensor:
    """The gradient of softmax, from its output."""
    return out * (g - _ops.sum(g * out, dim, keepdim=True))


def log_softmax_backward(g: Tensor, out: Tensor, dim: int) -> Tensor:
    """The gradient of log_softmax, from its output."""
    return g - _ops.exp(out) * _ops.sum(g, dim, keepdim=True)


def softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """exp(x) over its sum along `dim`. As torch.softmax.

    softmax([2.3, 1.1, 0.7]) = [0.6653, 0.2004, 0.1343]. A slice of nothing but -inf gives NaN.
    """
    return _softmax(_ready(input, dtype), dim=_dims.one(dim, input.ndim))


def log_softmax(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """log(softmax(x)), without overflow or underflow. As torch.log_softmax."""
    return _log_softmax(_ready(input, dtype), dim=_dims.one(dim, input.ndim))


def _ready(input: Tensor, dtype: Any) -> Tensor:
    return cast(input, dtype) if dtype is not None else floating(input)[0]


from tinyattn import ops as _ops  # noqa: E402 - the namespace this module is part of
