"""Layer normalisation: its definition and the operation; the kernel stands in the backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor, recording_namespace
from tinyattn.ops import dims as _dims
from tinyattn.ops.reductions import deviations


def _definition(xp: Any, x: Any, weight: Any, bias: Any, *, shape: tuple[int, ...], eps: float) -> Any:
    dim = tuple(range(-len(shape), 0))
    centred = deviations(xp, x, dim)
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
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Shift and scale the last axes to mean 0 and variance 1, then multiply by weight and add bias.

    input: (..., *normalized_shape). weight, bias: of shape normalized_shape. eps is added to the variance. Raises
    RuntimeError for shapes that do not fit. Ba, Kiros and Hinton 2016, "Layer normalization". As
    torch.nn.functional.layer_norm.

    Example:
        >>> ta.layer_norm(ta.tensor([[1.0, 2.0, 3.0]]), 3)
        tensor([[-1.2247,  0.    ,  1.2247]])
    """
    shape = _dims.sizes((normalized_shape,))
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise RuntimeError(
            f"layer_norm: normalized_shape={shape} must equal the last sizes of the input, {tuple(input.shape)}"
        )
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and tuple(x.shape) != shape:
            raise RuntimeError(f"layer_norm: {name} has shape {tuple(x.shape)}; expected {shape}")
    if math.prod(input.shape) == 0:
        return _definition(recording_namespace(), input, weight, bias, shape=shape, eps=eps)
    return _layer_norm(input, weight, bias, shape=shape, eps=eps)
