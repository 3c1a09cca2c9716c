"""Kernels of the table look-up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.backends.cpu import blocks

__all__ = ["embedding", "embedding_gradient"]

Array = Any
_FEW = 64  # rows of a table for which the product is quicker, by up to ten times


def embedding(weight: Array, index: Array, padding_idx: int | None = None) -> Array:
    """The rows of `weight` that `index` names."""
    return np.take(weight, index, axis=0)


def embedding_gradient(g: Array, index: Array, rows: int, padding_idx: int | None = None) -> Array:
    """Add each vector of `g` to the row of the table it came from."""
    shape = (rows, *g.shape[index.ndim :])
    flat, vectors = index.reshape(-1), g.reshape(index.size, math.prod(shape[1:]))
    out = _by_product(vectors, flat, rows) if rows <= _FEW else None
    if out is None:
        out = _by_sorting(vectors, flat, rows)
    if padding_idx is not None:
        out[padding_idx] = 0
    return out.reshape(shape)


def _by_product(vectors: Array, index: Array, rows: int) -> Array:
    """For a small table: a product with a matrix that has a one where a vector belongs to a row, else zeros.
    None where 0 x infinity would spoil rows that never met it."""
    out = np.zeros((rows, vectors.shape[1]), vectors.dtype)
    for part in blocks.rows(len(index), max(out.shape)):
        out += (np.arange(rows)[:, None] == index[part]).astype(out.dtype) @ vectors[part]
    return out if np.isfinite(out).all() else None


def _by_sorting(vectors: Array, index: Array, rows: int) -> Array:
    """Sorted by row, the vectors of one row lie together and one reduceat adds them up; np.add.at would
    take five times as long."""
    out = np.zeros((rows, vectors.shape[1]), vectors.dtype)
    if index.size:
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        out[ordered[starts]] = np.add.reduceat(vectors[order], starts, axis=0)
    return out
