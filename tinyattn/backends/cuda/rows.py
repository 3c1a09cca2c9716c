"""How the rows and columns of a matrix are shared among threads, and what arrays the kernels take."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp

from tinyattn.backends.cuda.launch import blocks, launch

__all__: list[str] = []

Array = Any
_WARP, _SMALL, _LARGEST = 32, 128, 512  # threads
_ACROSS, _DOWN = 128, 8  # columns and rows that a block takes at a time (kernels/sums.cu)
_STRIPES = 256  # blocks over the rows, at most: enough to keep a GPU busy


def held(itemsize: int) -> int:
    """Elements of a row that a thread keeps in registers (kernels/rows.cuh)."""
    return 64 // itemsize


def can_hold(width: int, itemsize: int) -> bool:
    """Whether a team can keep a whole row in registers."""
    return width <= _LARGEST * held(itemsize)


def team(width: int, itemsize: int) -> int:
    """Threads for a row: so many that each has eight elements, up to a warp; then so many that they can hold it."""
    for size in (1, 2, 4, 8, 16, 32):
        if width <= 8 * size:
            return size
    return next((size for size in (_WARP, 128, 256) if width <= held(itemsize) * size), _LARGEST)


def launch_rows(source: str, kernel: str, args: list[Any], rows: int, width: int) -> None:
    """A kernel in which teams do the rows of a matrix; args: what it takes before (rows, width, size)."""
    itemsize = args[0].dtype.itemsize
    size = team(width, itemsize)
    block = max(size, _SMALL)
    between_warps = size // _WARP * itemsize if size > _WARP else 0  # bytes
    launch(source, kernel, (blocks(rows, block // size),), (block,), [*args, rows, width, size], between_warps)


def launch_elements(source: str, kernel: str, args: list[Any], count: int, **more: Any) -> None:
    """A kernel in which a thread does four elements of `count` at a time."""
    launch(source, kernel, (blocks(count, 4 * 256),), (256,), args, **more)


def contiguous(x: Array) -> Array:
    """x in memory as the kernels read it, which nearly always it is."""
    return x if x.flags.c_contiguous else cp.ascontiguousarray(x)


# --- sums down the columns ---


def stripes(rows: int) -> int:
    """How many stripes the rows are cut into, each for one block: at least 64 rows."""
    return max(min(rows // (8 * _DOWN), _STRIPES), 1)


def column_sums(x: Array, by: Array = None, cuts: int | None = None) -> Array:
    """(..., rows, width) -> (..., width), contiguous; of x, or of its products with `by`. The same bits every time.

    cuts: how many stripes of the rows are added up separately; then another launch adds their sums.
    """
    *lead, rows, width = x.shape
    cuts = stripes(rows) if cuts is None else cuts
    out = cp.empty((*lead, cuts, width), x.dtype)
    grid, shared_bytes = (-(-width // _ACROSS), cuts, math.prod(lead)), 4 * 32 * _DOWN * x.dtype.itemsize
    launch("sums", "column_sums", grid, (32 * _DOWN,), [x, by, out, rows, width], shared_bytes)
    return out.reshape(*lead, width) if cuts == 1 else column_sums(out, cuts=1)
