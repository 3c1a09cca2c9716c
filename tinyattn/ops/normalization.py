"""Layer normalisation (Ba, Kiros and Hinton 2016): definition, and a kernel in the backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Variable, recording_namespace
from tinyattn.ops import dims as _dims


def _definition(xp: Any, x: Any, weight: Any, bias: Any, *, shape: tuple[int, ...], eps: float) -> Any:
    dim = tuple(range(-len(shape), 0))
    centred = x - xp.mean(x, dim, keepdim=True)
    out = centred * xp.rsqrt(xp.mean(centred * centred, dim, keepdim=True) + eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


@operation(
    traits="rows",
    definition=_definition,
    fresh=True,
    extras=("normal", "rstd"),
    backward=lambda xp, g, normal, rstd, weight, shape, needed: xp.layer_norm_backward(
        g, normal, rstd, weight, shape, needed
    ),
)
def _layer_norm(xp: Any, x: Any, weight: Any, bias: Any, *, shape: tuple[int, ...], eps: float) -> Any:
    return xp.layer_norm(x, weight, bias, shape, eps)


def layer_norm(
    input: Variable,
    normalized_shape: int | Sequence[int],
    weight: Variable | None = None,
    bias: Variable | None = None,
    eps: float = 1e-5,
) -> Variable:
    """Shift and scale the last axes to mean 0 and variance 1, then apply weight and bias.

    input (..., *normalized_shape), weight and bias of shape normalized_shape. As
    torch.nn.functional.layer_norm.
    """
    shape = _dims.sizes((normalized_shape,))
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise RuntimeError(f"layer_norm: normalized_shape={shape} must end the input's shape {tuple(input.shape)}")
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and tuple(x.shape) != shape:
            raise RuntimeError(f"layer_norm: {name} has shape {tuple(x.shape)}; expected {shape}")
    if math.prod(input.shape) == 0:
        return _definition(recording_namespace(), input, weight, bias, shape=shape, eps=eps)
    return _layer_norm(input, weight, bias, shape=shape, eps=eps)
