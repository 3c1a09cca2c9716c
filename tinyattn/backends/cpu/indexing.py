"""Reading and adding at positions, and in the rows of a table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.backends.cpu.blocks import rows as blocks_of
from tinyattn.backends.cpu.recording import one_call
from tinyattn.backends.cpu.sums import total
from tinyattn.backends.shared import Placed, out_of_range

__all__ = [
    "assign", "check_indices", "embedding", "embedding_gradient", "gather", "getitem", "index_add", "index_for",
    "last_writes", "place", "setitem", "ungather",
]  # fmt: skip

Array = Any
_TURNS = 8  # vectors of one row that are added one by one
_BLOCK = 1 << 15  # elements whose sums in float64 stay in the cache
_SPARSE = 16  # elements of an array for each one added, from which on sorting is quicker
_FEW = 64  # rows of a table for which the product is quicker, by up to ten times; vectors added in their own dtype


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


def getitem(x: Array, index: Any) -> Array:
    *ahead, last = index if type(index) is tuple and index else (index,)
    if (
        isinstance(last, np.ndarray)
        and last.dtype != bool
        and all(type(p) is slice and p == slice(None) for p in ahead)
    ):
        return x.take(last, len(ahead))  # in row order, as in PyTorch; x[index] puts other axes first
    out = x[index]
    if not isinstance(out, np.ndarray):  # one element, which is a view too if the index has a "..."
        out = x[(*index, ...) if isinstance(index, tuple) else (index, ...)]
    return out


def assign(x: Array, value: Array, index: Any) -> None:
    """`x[index] = value` in place, one element after the other; `value` may share memory with x."""
    x[index] = value


def setitem(x: Array, value: Array, index: Any) -> Array:
    out = x.copy()
    out[index] = value
    return out


def last_writes(index: Any, shape: tuple[int, ...]) -> Array | None:
    """Where in `out[index]`, for `out` of `shape`, an assigned value is not overwritten by a later one.

    None if an index cannot name a position twice.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(p, np.ndarray) and p.dtype != bool for p in parts):
        return None
    positions = np.arange(math.prod(shape)).reshape(shape)[index]
    order = np.arange(positions.size).reshape(positions.shape)
    last = np.zeros(math.prod(shape), np.int64)
    last[positions] = order
    return last[positions] == order


def place(values: Array, index: Any, shape: tuple[int, ...]) -> Placed:
    """Zeros of `shape` with `values` added at `index`, not spelled out yet."""
    return Placed(values, index, shape, np.zeros, index_add)


def index_add(buffer: Array, index: Any, values: Array) -> None:
    """`buffer[index] += values`, counting a position as often as it occurs in `index`."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(p, np.ndarray) and p.dtype != bool for p in parts):
        buffer[index] += values  # slices, integers and masks name every position once
        return
    if not buffer.flags.c_contiguous:
        np.add.at(buffer, index, values)
        return
    while len(parts) > 1 and (parts[-1] is Ellipsis or _is_whole(parts[-1])):
        parts = parts[:-1]
    *ahead, last = parts
    if buffer.size and isinstance(last, np.ndarray) and last.dtype != bool and all(map(_is_whole, ahead)):
        _add_along(buffer, len(ahead), last, values)
    else:  # np.add.at is fast only on one axis, so count positions in the flattened buffer
        _add_at(buffer, _positions(buffer.shape, index, values), values)


def _is_whole(part: Any) -> bool:
    return type(part) is slice and part == slice(None)


def _add_along(buffer: Array, axis: int, index: Array, values: Array) -> None:
    """Add slices along `axis`: as rows where they are wide, else element by element, in blocks that fit the cache."""
    shape, n = buffer.shape, buffer.shape[axis]
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    values = np.broadcast_to(values, (*shape[:axis], *index.shape, *shape[axis + 1 :])).reshape(outer, -1, inner)
    index = index.astype(np.int64, copy=False).reshape(-1)
    index = np.where(index < 0, index + n, index)
    if inner > _TURNS:
        rows = (np.arange(outer)[:, None] * n + index).reshape(-1)
        _add_rows(buffer.reshape(-1, inner), rows, values.reshape(-1, inner))
        return
    blocks, step = buffer.reshape(outer, -1), max(_BLOCK // (n * inner), 1)
    at = (index[:, None] * inner + np.arange(inner)).reshape(-1)
    positions = np.arange(min(step, outer))[:, None] * (n * inner) + at
    for start in range(0, outer, step):
        block = blocks[start : start + step]
        _add_at(block, positions[: len(block)], values[start : start + step].reshape(len(block), -1))


@one_call(0)
def _add_at(buffer: Array, positions: Array, values: Array) -> None:
    """Add `values` at `positions` of the flattened buffer; in float64 if many may come to one position."""
    values, positions = np.broadcast_to(values, positions.shape).reshape(-1), positions.reshape(-1)
    flat = buffer.reshape(-1)
    if buffer.dtype != np.float32 or values.size <= _FEW:
        np.add.at(flat, positions, values)
        return
    if values.size < flat.size // _SPARSE:  # without float64 zeros as large as the buffer
        order, ordered = _in_order(positions, flat.size)
        begins = np.concatenate(([True], ordered[1:] != ordered[:-1]))
        flat[ordered[begins]] += np.bincount(np.cumsum(begins) - 1, values.take(order)).astype(np.float32)
        return
    piece = max(flat.size, _BLOCK)  # bincount makes float64 of what it is given
    sums = np.bincount(positions[:piece], values[:piece], flat.size)
    for start in range(piece, values.size, piece):
        part = slice(start, start + piece)
        sums += np.bincount(positions[part], values[part], flat.size)
    flat += sums.astype(np.float32)


def _positions(shape: tuple[int, ...], index: Any, values: Array) -> Array:
    """Where `index` reads in a flat array of `shape`, in the shape of its result: by the strides of each axis, unless
    there are fewer elements than results."""
    count = math.prod(shape)
    if count <= 4 * values.size:
        return getitem(np.arange(count).reshape(shape), index)
    total: Any = 0
    for axis, n in enumerate(shape):
        along = np.arange(n) * math.prod(shape[axis + 1 :])
        along = along.reshape(-1, *(1 for _ in shape[axis + 1 :]))
        total = total + np.broadcast_to(along, shape)[index]  # a view until here
    return total


def gather(x: Array, dim: int, index: Array) -> Array:
    """As torch.gather: `index` may be shorter than `x` along the other axes."""
    if x.ndim and x.flags.c_contiguous and index.size:
        return np.take(
            x.reshape(-1), _flat(index, dim, x.shape), mode="wrap"
        )  # checked: "raise" takes half as long again
    return x[_along(index, dim)] if x.ndim else x[None][index].reshape(index.shape)


def ungather(values: Array, dim: int, index: Array, shape: tuple[int, ...]) -> Array:
    """Zeros of `shape` with `values` added where `gather` would have read them."""
    out = np.zeros(shape, values.dtype)
    if not out.ndim:
        out[...] = total(values, None)
        return out
    if index.shape[dim] == 1:  # a place each
        out.reshape(-1)[_flat(index, dim, shape)] = values
        return out
    blocks = dim and index.size >= out.size // _SPARSE > 0
    step = max(_BLOCK // math.prod(shape[1:]), 1) if blocks else len(index) or 1
    for start in range(0, len(index), step):  # along another axis, each block has its own part of the result
        part = slice(start, min(start + step, len(index)))
        block = out[part] if dim else out
        _add_at(block, _flat(index[part], dim, block.shape), values[part])
    return out


def _along(index: Array, dim: int) -> tuple[Array, ...]:
    grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    grid[dim] = index
    return tuple(grid)


def _flat(index: Array, dim: int, shape: tuple[int, ...]) -> Array:
    """The same as positions in a flat array of `shape`."""
    inner, step = math.prod(shape[dim + 1 :]), 1
    total = index.astype(np.int64) if inner == 1 else np.multiply(index, inner, dtype=np.int64, casting="unsafe")
    for axis in reversed(range(len(shape))):
        if axis != dim and index.shape[axis] > 1:
            total += (np.arange(index.shape[axis]) * step).reshape(-1, *(1 for _ in shape[axis + 1 :]))
        step *= shape[axis]
    return total


# --- tables ---


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
    out = np.zeros((rows, vectors.shape[1]))
    for part in blocks_of(len(index), max(out.shape)):
        out += (np.arange(rows)[:, None] == index[part]).astype(vectors.dtype) @ vectors[part]
    return out.astype(vectors.dtype, copy=False) if np.isfinite(out).all() else None


def _by_sorting(vectors: Array, index: Array, rows: int) -> Array:
    """Sorted by row, the vectors of one row lie together and one reduceat adds them up; np.add.at would
    take five times as long. More than _FEW are added in parts, and these in float64."""
    out = np.zeros((rows, vectors.shape[1]), vectors.dtype)
    _add_rows(out, index, vectors)
    return out


@one_call(0)
def _add_rows(out: Array, index: Array, vectors: Array) -> None:
    if not index.size:
        return
    order, ordered = _in_order(index, len(out))
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(starts, append=len(index))
    by_count = np.argsort(-counts)
    first, least = starts[by_count], -counts[by_count]
    sums = vectors.take(order[first], 0)  # (rows that occur, width), the most frequent first
    for turn in range(1, min(int(counts.max()), _TURNS)):  # quicker than reduceat, whose segments are short
        some = int(np.searchsorted(least, -turn))
        sums[:some] += vectors.take(order[first[:some] + turn], 0)
    out[ordered[first]] += sums
    if counts.max() > _TURNS:
        late = np.arange(len(index)) - np.repeat(starts, counts) >= _TURNS
        _add_late(out, ordered[late], order[late], vectors)


def _in_order(index: Array, size: int) -> tuple[Array, Array]:
    """The stable order of indices below `size`, and the indices in it; a number that holds index and place sorts ten
    times as fast as argsort."""
    shift = len(index).bit_length()
    if size.bit_length() + shift > 62:
        order = np.argsort(index, kind="stable")
        return order, index[order]
    keys = np.left_shift(index, shift, dtype=np.int64, casting="unsafe")
    keys += np.arange(len(index))
    keys.sort()
    return keys & ((1 << shift) - 1), keys >> shift


def _add_late(out: Array, ordered: Array, order: Array, vectors: Array) -> None:
    """Add vectors[order] to the rows `ordered`: up to _FEW for one row in their own dtype, and then in float64."""
    begins = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    starts = cuts = np.flatnonzero(begins)
    if len(ordered) > _FEW:
        begins[::_FEW] = True
        cuts = np.flatnonzero(begins)
    sums = np.add.reduceat(vectors[order], cuts, axis=0)
    if len(cuts) > len(starts):
        sums = np.add.reduceat(sums.astype(np.float64), np.searchsorted(cuts, starts), axis=0)
    out[ordered[starts]] += sums
