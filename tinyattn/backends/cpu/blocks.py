"""The processor's memory: large arrays are worked on block by block, within the cache; freed memory is kept."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Array = Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # in malloc.h of glibc
BLOCK = 1 << 18  # elements: a few float32 arrays of this length fit into the second-level cache
_WIDE = 4096  # elements for which NumPy's cost of a row does not matter
SMALL_BLOCK = 1 << 16  # where many passes are made over each


def stretches(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same stretch of every array (of one size) in turn; all at once where one is not contiguous."""
    size = arrays[0].size
    if size <= BLOCK or not all(array.flags.c_contiguous for array in arrays):
        yield arrays
        return
    yield from pieces(BLOCK, arrays)


def pieces(most: int, arrays: Sequence[Array]) -> Iterator[tuple[Array, ...]]:
    """Stretches of at most `most` elements of contiguous arrays of one size."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, arrays[0].size, most):
        yield tuple(array[start : start + most] for array in flat)


def dense(x: Array) -> Array:
    """`x`, or a copy where it does not fill its memory in some order of its axes."""
    return x if _in_order(x, x).flags.c_contiguous else x.copy()


def blockwise(kernel: Callable[..., Any], x: Array, *others: Array) -> Array:
    """An array like `x`, into whose pieces `kernel(piece of x, of it, of each of others)` writes.

    others: further outputs, laid out in memory as `x`, which is dense. All pieces have one axis and are contiguous.
    """
    most = min(SMALL_BLOCK, BLOCK)
    if x.size <= most and x.flags.c_contiguous:
        out = np.empty_like(x)
        kernel(*[array.reshape(-1) for array in (x, out, *others)])
        return out
    x = dense(x)  # one pass with strides instead of each
    out = np.empty_like(x)
    for part in pieces(most, tuple(_in_order(array, x) for array in (x, out, *others))):
        kernel(*part)
    return out


def _in_order(array: Array, first: Array) -> Array:
    """`array` with its axes in the order in which they lie in the memory of `first`."""
    if first.flags.c_contiguous:
        return array
    return array.transpose(sorted(range(first.ndim), key=lambda axis: -first.strides[axis]))


def expanded(x: Array) -> Array:
    """A copy in row order. Narrow rows that are all the same are copied many at once: NumPy starts anew for each."""
    if x.size <= _WIDE:
        return x.copy()
    out = np.empty(x.shape, x.dtype)
    few = _WIDE // x[:1].size if x.strides[0] == 0 else 0
    whole = len(x) // few * few if few else 0
    if whole:
        out[:few] = x[:few]
        out[few:whole].reshape(-1, out[:few].size)[...] = out[:few].reshape(-1)
    out[whole:] = x[whole:]
    return out


def rows_at_once(width: int) -> int:
    """How many rows of `width` elements make a block."""
    return max(BLOCK // max(width, 1), 1)


def rows(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows, each `width` elements long."""
    step = rows_at_once(width)
    return (slice(start, start + step) for start in range(0, count, step))


def keep_freed_memory(size: int = 1 << 30) -> None:
    """Make the C library keep up to `size` bytes (1 GiB) of freed memory for the next allocation.

    By default glibc returns every large array to the system, which clears its pages for the next one: a fifth to a
    third of a training step. Here it keeps arrays of up to 32 MB, its maximum, and uses one heap for all threads,
    since it returns whole heaps of other threads (mallopt(3)). Settings in the environment take precedence; with
    another C library this does nothing.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    mallopt(_MMAP_THRESHOLD, 32 << 20)
    mallopt(_TRIM_THRESHOLD, size)
    mallopt(_ARENA_MAX, 1)
