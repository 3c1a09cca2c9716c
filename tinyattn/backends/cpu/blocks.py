"""Large arrays taken a piece at a time, so that a chain of operations stays in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Array = Any

BLOCK = 1 << 18  # elements: a few float32 arrays of this length fit into the second-level cache


def stretches(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same stretch of every array (of one size) in turn; all at once where one is not contiguous."""
    size = arrays[0].size
    if size <= BLOCK or not all(array.flags.c_contiguous for array in arrays):
        yield arrays
        return
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, size, BLOCK):
        yield tuple(array[start : start + BLOCK] for array in flat)


def rows_at_once(width: int) -> int:
    """How many rows of `width` elements make a block."""
    return max(BLOCK // max(width, 1), 1)


def rows(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows, each `width` elements long."""
    step = rows_at_once(width)
    return (slice(start, start + step) for start in range(0, count, step))
