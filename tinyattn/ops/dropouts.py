"""Dropout (Srivastava et al. 2014)."""

from __future__ import annotations

from typing import Any

from tinyattn import random
from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Variable
from tinyattn.ops import creation


@operation(
    traits="maps drops",
    definition=lambda xp, x, keep, *, scale: x * keep * scale,
    x=lambda xp, g, keep, scale: g * keep * scale,
)
def _dropout(xp: Any, x: Any, keep: Any, *, scale: float) -> Any:
    return x * keep * scale


def dropout(
    input: Variable,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: random.Generator | None = None,
) -> Variable:
    """Zero each element with probability p and scale the rest by 1 / (1 - p); nothing when not training.

    As torch.nn.functional.dropout; `generator` gives a stream of its own.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p={p}; a probability lies between 0 and 1")
    if not training or p == 0:
        return input
    keep = creation.as_tensor(random.generator_for(input.device, generator).keep(input.shape, p))
    out: Variable = _dropout(input, keep, scale=0.0 if p == 1 else 1 / (1 - p))
    return input.copy_(out) if inplace else out
