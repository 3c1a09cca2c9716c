"""Reading and adding at positions, and in the rows of a table."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.arrays import asarray
from tinyattn.backends.cuda.flags import check_indices
from tinyattn.backends.cuda.graphs import refuse_in_capture
from tinyattn.backends.cuda.launch import REALS, launch
from tinyattn.backends.cuda.rows import contiguous, launch_elements
from tinyattn.backends.shared import Placed

__all__ = [
    "as_strided", "assign", "embedding", "embedding_gradient", "gather", "getitem", "index_add", "index_for",
    "last_writes", "place", "setitem", "ungather",
]  # fmt: skip

Array = Any
_SORTED_AT_ONCE = 512  # look-ups that a block of the sort walks through
_DIGITS = 256
_MOST_STRETCHES = 65535  # what a grid's second axis may count


def index_for(x: Array, index: Any, check: bool = True) -> Any:
    """Return `index` with its arrays on the GPU; a kernel checks their integers, which CuPy would wrap."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(p, np.ndarray | cp.ndarray) for p in parts):
        return index
    ready = tuple(asarray(p) if isinstance(p, np.ndarray) else p for p in parts)
    if any(isinstance(p, cp.ndarray) and p.dtype.kind == "b" for p in ready):
        refuse_in_capture("a mask as an index makes a shape that only the GPU knows; where() or masked_fill() keep it")
    for part, axis in zip(ready, _axes(ready, x.ndim), strict=True) if check else ():
        if isinstance(part, cp.ndarray) and part.dtype.kind != "b" and axis < x.ndim:
            check_indices("index", part, x.shape[axis], least=-x.shape[axis])
    return ready if isinstance(index, tuple) else ready[0]


def _axes(parts: tuple[Any, ...], ndim: int) -> list[int]:
    """The axis at which each part of an index begins."""
    widths = [p.ndim if isinstance(p, cp.ndarray) and p.dtype.kind == "b" else int(p is not None) for p in parts]
    for i, part in enumerate(parts):
        if part is Ellipsis:
            widths[i] = ndim - (sum(widths) - 1)
    return [sum(widths[:i]) for i in range(len(parts))]


def as_strided(x: Array, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Array:
    """A view of the memory of x, from `offset` elements after its first one; strides count elements, too."""
    start = x.view()  # CuPy's own as_strided forgets whose memory it is
    start._set_shape_and_strides((offset + 1,), (x.itemsize,), True, True)
    out = start[offset:]
    out._set_shape_and_strides(size, [n * x.itemsize for n in stride], True, True)
    return out


def getitem(x: Array, index: Any) -> Array:
    return x[index]


def assign(x: Array, value: Array, index: Any) -> None:
    """`x[index] = value` in place, as if one element after the other; `value` may share memory with x.

    CuPy writes equal positions in any order, reads what it writes to, and copies contiguous memory that overlaps.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if value.size > 1 and any(isinstance(p, cp.ndarray) and p.dtype.kind != "b" and p.size > 1 for p in parts):
        if len(parts) > 1:
            x[...] = setitem(x, value, index)
            return
        value = cp.broadcast_to(value, (*parts[0].shape, *x.shape[1:])).reshape(parts[0].size, *x.shape[1:])
        value = value[_winners(parts[0], len(x))].reshape(*parts[0].shape, *x.shape[1:])
    x[index] = value.copy() if value.data.mem is x.data.mem else value


def _winners(index: Array, rows: int) -> Array:
    """For each index of a row, in row order, where the last one of the same row stands."""
    flat = _numbers(cp.where(index < 0, index + rows, index))
    order = _sorted(flat, rows)
    ordered, out = flat[order], cp.empty(flat.size, np.int64)
    out[order] = order[cp.searchsorted(ordered, ordered, "right") - 1]
    return out


def setitem(x: Array, value: Array, index: Any) -> Array:
    stays = last_writes(index, x.shape)
    if stays is None:
        out = x.copy()
        out[index] = value
        return out
    out = cp.empty(x.size + 1, x.dtype)  # values that do not stay go to the end: CuPy writes in any order
    out[:-1] = x.reshape(-1)
    out[cp.where(stays, _positions(index, x.shape), x.size)] = value
    return out[:-1].reshape(x.shape)


def last_writes(index: Any, shape: tuple[int, ...]) -> Array | None:
    """Where in `out[index]`, for `out` of `shape`, an assigned value is not overwritten by a later one.

    None if an index cannot name a position twice.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(p, cp.ndarray) and p.dtype.kind != "b" for p in parts):
        return None
    positions = _positions(index, shape)
    flat = _numbers(positions)
    stays = cp.ones(flat.size, bool)
    if flat.size > 1:
        order = _sorted(flat, math.prod(shape))  # equal positions are neighbours, in the order of the writes
        ordered = flat[order]
        stays[order[:-1]] = ordered[1:] != ordered[:-1]
    return stays.reshape(positions.shape)


def _positions(index: Any, shape: tuple[int, ...]) -> Array:
    return cp.arange(math.prod(shape)).reshape(shape)[index]


def place(values: Array, index: Any, shape: tuple[int, ...]) -> Placed:
    """Zeros of `shape` with `values` added at `index`, not spelled out yet."""
    return Placed(values, index, shape, cp.zeros, index_add)


def index_add(buffer: Array, index: Any, values: Array) -> None:
    """`buffer[index] += values`, counting a position as often as it occurs in `index`, always in the same order."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(p, cp.ndarray) for p in parts):
        view = buffer[index]  # `buffer[index] += values` would copy the view onto itself afterwards
        view += values
        return
    if not any(isinstance(p, cp.ndarray) and p.dtype.kind != "b" for p in parts):
        buffer[index] += values  # a mask names every position once
        return
    if buffer.dtype.kind in "biu":  # exact in any order
        total = cp.zeros(buffer.shape, cp.uint64)  # which has an atomic addition, and wraps around as int64 does
        cp.add.at(total, index, values.astype(cp.uint64))
        buffer += total.astype(buffer.dtype)
        return
    if len(parts) == 1:  # whole rows
        row = buffer.shape[1:]
        values = cp.broadcast_to(values, (*parts[0].shape, *row))
        index = cp.where(parts[0] < 0, parts[0] + buffer.shape[0], parts[0])
        buffer += embedding_gradient(values, index, buffer.shape[0])
        return
    positions = cp.arange(buffer.size).reshape(buffer.shape)[index]
    values = cp.ascontiguousarray(cp.broadcast_to(values, positions.shape)).reshape(-1, 1)
    buffer += embedding_gradient(values, positions.reshape(-1), buffer.size).reshape(buffer.shape)


def gather(x: Array, dim: int, index: Array) -> Array:
    """As torch.gather: `index` may be shorter than `x` along the other axes."""
    return x[_along(index, dim)] if x.ndim else x[None][index].reshape(index.shape)


def ungather(values: Array, dim: int, index: Array, shape: tuple[int, ...]) -> Array:
    """Zeros of `shape` with `values` added where `gather` would have read them."""
    out = cp.zeros(shape, values.dtype)
    if out.ndim:
        index_add(out, _along(index, dim), values)
    else:
        out[...] = values.sum()
    return out


def _along(index: Array, dim: int) -> tuple[Array, ...]:
    grid = []
    for axis, n in enumerate(index.shape):
        grid.append(cp.arange(n).reshape([-1 if i == axis else 1 for i in range(index.ndim)]))
    grid[dim] = index
    return tuple(grid)


# --- tables ---


def embedding(weight: Array, index: Array, padding_idx: int | None = None) -> Array:
    """The rows of `weight` that `index` names. One that is out of range gives zeros, or any row if not of `REALS`."""
    if weight.dtype.name not in REALS:  # the kernel would take the bytes for those of float32
        return weight[index]
    weight, flat = contiguous(weight), _numbers(index)
    rows, dim = len(weight), math.prod(weight.shape[1:])
    out = cp.empty((*index.shape, *weight.shape[1:]), weight.dtype)
    launch_elements("embedding", "embedding_rows", [weight, flat, out, flat.size, rows, dim], out.size)
    return out


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
