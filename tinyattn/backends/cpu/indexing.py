"""Reading and adding at positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.backends.placed import Placed

__all__ = ["gather", "getitem", "index_add", "place", "scatter", "setitem"]

Array = Any


def getitem(x: Array, index: Any) -> Array:
    out = x[index]
    if type(out) is not np.ndarray:  # one element, which is a view too if the index has a "..."
        out = x[(*index, ...) if isinstance(index, tuple) else (index, ...)]
    return out


def setitem(x: Array, value: Array, index: Any) -> Array:
    out = x.copy()
    out[index] = value
    return out


def place(values: Array, index: Any, shape: tuple[int, ...]) -> Placed:
    """Zeros of `shape` with `values` added at `index`, not spelled out yet."""
    from tinyattn.backends import cpu

    return Placed(cpu, values, index, shape)


def index_add(buffer: Array, index: Any, values: Array) -> None:
    """`buffer[index] += values`, counting a position as often as it occurs in `index`."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(p, np.ndarray) and p.dtype != bool for p in parts):
        buffer[index] += values  # slices, integers and masks name every position once
        return
    # np.add.at is fast only on one axis, so count positions in the flattened buffer
    positions = np.arange(buffer.size).reshape(buffer.shape)[index]
    values = np.broadcast_to(values, positions.shape)
    if buffer.flags.c_contiguous:
        np.add.at(buffer.reshape(-1), positions.reshape(-1), np.ascontiguousarray(values).reshape(-1))
    else:
        np.add.at(buffer, index, values)


def gather(x: Array, dim: int, index: Array) -> Array:
    """As torch.gather: `index` may be shorter than `x` along the other axes."""
    return x[_along(index, dim)] if x.ndim else x[None][index].reshape(index.shape)


def scatter(values: Array, dim: int, index: Array, shape: tuple[int, ...]) -> Array:
    """Zeros of `shape` with `values` added where `gather` would have read them."""
    out = np.zeros(shape, values.dtype)
    if out.ndim:
        index_add(out, _along(index, dim), values)
    else:
        out += values.sum()
    return out


def _along(index: Array, dim: int) -> tuple[Array, ...]:
    grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    grid[dim] = index
    return tuple(grid)
