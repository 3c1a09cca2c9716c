"""Kernel of the affine map."""

from __future__ import annotations

from typing import Any

__all__ = ["linear"]

Array = Any


def linear(x: Array, weight: Array, bias: Array = None) -> Array:
    """(..., in) -> (..., out) by one product over all rows, never one for each sample."""
    out = x.reshape(-1, x.shape[-1]) @ weight.T if x.size else x @ weight.T  # (rows, out)
    if bias is not None:
        out += bias
    return out.reshape(*x.shape[:-1], weight.shape[0])
