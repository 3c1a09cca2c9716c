"""Dropout: its definition and the operation."""

from __future__ import annotations

from typing import Any

from tinyattn import random
from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation


@operation(
    traits="maps drops",
    definition=lambda xp, x, keep, *, scale: x * keep * scale,
    x=lambda xp, g, keep, scale: g * keep * scale,
)
def _dropout(xp: Any, x: Any, keep: Any, *, scale: float) -> Any:
    return x * keep * scale


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: random.Generator | None = None,
) -> Tensor:
    """Zero each element with probability p and scale the others by 1 / (1 - p); return the input if not training.

    inplace: write into `input`. generator: draws the mask, the default generator if None. Raises ValueError for a p
    outside 0 to 1. Srivastava et al. 2014, "Dropout". As torch.nn.functional.dropout.

    Example:
        >>> F.dropout(ta.ones(4), 0.5, generator=ta.Generator().manual_seed(0))
        tensor([2., 2., 2., 0.])
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p={p}; a probability lies between 0 and 1")
    if not training or p == 0:
        return input
    keep = creation.as_tensor(random.generator_for(input.device, generator).keep(input.shape, p))
    out: Tensor = _dropout(input, keep, scale=0.0 if p == 1 else 1 / (1 - p))
    return input.copy_(out) if inplace else out
