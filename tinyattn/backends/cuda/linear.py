"""Kernel of the affine map."""

from __future__ import annotations

from typing import Any

from tinyattn.backends.cuda.products import matmul

__all__ = ["linear"]

Array = Any


def linear(x: Array, weight: Array, bias: Array = None) -> Array:
    """(..., in) -> (..., out) by one product over all rows, never one for each sample."""
    rows = 1
    for n in x.shape[:-1]:
        rows *= n
    out = matmul(x.reshape(rows, x.shape[-1]), weight.T)  # (rows, out)
    if bias is not None:
        out += bias
    return out.reshape(*x.shape[:-1], weight.shape[0])
