"""Reading and adding at positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.backends.errors import out_of_range
from tinyattn.backends.placed import Placed

__all__ = [
    "check_indices", "gather", "getitem", "index_add", "index_for", "place", "scatter", "setitem", "unravel_index",
]  # fmt: skip

Array = Any


def check_indices(name: str, index: Array, size: int, what: str = "index", least: int = 0) -> None:
    """Raise IndexError for an index outside [least, size), with the value and where it stands."""
    if not index.size:
        return
    low, high = index.min(), index.max()
    if low >= least and high < size:
        return
    bad = low if low < least else high
    position = tuple(int(i[0]) for i in (index == bad).nonzero()) if index.ndim else ()
    raise out_of_range(name, what, int(bad), position, least, size)


def index_for(x: Array, index: Any, check: bool = True) -> Any:
    """`index`, as it is; NumPy itself sees whether it is in range. Raises RuntimeError for one on a GPU."""
    for part in index if type(index) is tuple else (index,):
        if hasattr(part, "__cuda_array_interface__"):
            raise RuntimeError("a tensor on the CPU was indexed by one on a GPU: bring the index here with index.cpu()")
    return index


def unravel_index(positions: Array, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Flat positions in an array of `shape` as an index for each axis."""
    return np.unravel_index(positions, shape)


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
