"""Kernels of the table look-up."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.launch import launch
from tinyattn.backends.cuda.rows import contiguous, in_float32, launch_elements

__all__ = ["embedding", "embedding_gradient"]

Array = Any
_SORTED_AT_ONCE = 512  # look-ups that a block of the sort walks through
_DIGITS = 256
_MOST_STRETCHES = 65535  # what a grid's second axis may count


@in_float32
def embedding(weight: Array, index: Array, padding_idx: int | None = None) -> Array:
    """The rows of `weight` that `index` names; zeros for one that is out of range."""
    weight, flat = contiguous(weight), _numbers(index)
    rows, dim = len(weight), math.prod(weight.shape[1:])
    out = cp.empty((*index.shape, *weight.shape[1:]), weight.dtype)
    launch_elements("embedding", "embedding_rows", [weight, flat, out, flat.size, rows, dim], out.size)
    return out


@in_float32
def embedding_gradient(g: Array, index: Array, rows: int, padding_idx: int | None = None) -> Array:
    """Add each vector of `g` to the row of the table it came from; the same bits every time."""
    shape = (rows, *g.shape[index.ndim :])
    g, flat, dim = contiguous(g), _numbers(index), math.prod(shape[1:])
    out = cp.zeros(shape, g.dtype)
    if not g.size:
        return out
    count = flat.size
    order = _sorted(flat, rows)
    stretch = min(max(math.isqrt(count), 32), 1024)  # look-ups long, so that there are about as many stretches
    stretch = max(stretch, -(-count // _MOST_STRETCHES))
    stretches = -(-count // stretch)
    parts = cp.empty((stretches, 2, dim), g.dtype)
    grid, sizes = (-(-dim // 128), stretches), [count, rows, dim, stretch, -1 if padding_idx is None else padding_idx]
    launch("embedding", "embedding_sums", grid, (128,), [g, flat, order, out, parts, *sizes])
    launch("embedding", "embedding_join", grid, (128,), [flat, order, parts, out, *sizes])
    return out


def _sorted(keys: Array, rows: int) -> Array:
    """Where the keys, in [0, rows), stand in ascending order; equal ones in the order they come in.

    A radix sort, a byte at a time: CuPy's own may wait for the GPU, which a graph cannot record.
    """
    count, order = keys.size, None
    stretches = -(-count // _SORTED_AT_ONCE)
    counts = cp.empty((_DIGITS, stretches), np.int32)
    for shift in range(0, max((rows - 1).bit_length(), 1), 8):
        args, room = [count, _SORTED_AT_ONCE, shift], 4 * _SORTED_AT_ONCE
        launch("embedding", "sort_count", (stretches,), (_DIGITS,), [keys, order, counts, *args], room)
        launch("embedding", "sort_scan", (1,), (1024,), [counts, counts.size], 4 * 1024)
        placed = cp.empty(count, np.int32)
        launch("embedding", "sort_place", (stretches,), (_DIGITS,), [keys, order, counts, placed, *args], room)
        order = placed
    return order


def _numbers(index: Array) -> Array:
    return contiguous(index.astype(np.int64, copy=False)).reshape(-1)
