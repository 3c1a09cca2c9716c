"""Sums down the columns of a matrix."""

from __future__ import annotations

from typing import Any

import cupy as cp

from tinyattn.backends.cuda.launch import launch

__all__: list[str] = []

Array = Any
_ACROSS, _DOWN = 128, 8  # columns and rows that a block takes at a time (kernels/columns.cuh)
_STRIPES = 256  # blocks over the rows, at most: enough to keep a GPU busy


def stripes(rows: int) -> int:
    """How many stripes the rows are cut into, each for one block: at least 64 rows."""
    return max(min(rows // (8 * _DOWN), _STRIPES), 1)


def launch_columns(source: str, kernel: str, args: list[Any], width: int, cuts: int) -> None:
    """A kernel that sums down columns; `cuts` stripes of the rows."""
    grid = (-(-width // _ACROSS), cuts)
    launch(source, kernel, grid, (32 * _DOWN,), args, shared_bytes=4 * 32 * _DOWN * args[0].dtype.itemsize)


def add_stripes(sums: Array) -> Array:
    """(stripes, width) -> (width,)"""
    cuts, width = sums.shape
    out = cp.empty(width, sums.dtype)
    launch_columns("sums", "column_sums", [sums, None, out, cuts, width], width, 1)
    return out


def column_sums(x: Array, by: Array = None) -> Array:
    """(rows, width) -> (width,), contiguous; of x, or of its products with `by`. The same bits every time."""
    rows, width = x.shape
    cuts = stripes(rows)
    out = cp.empty(width if cuts == 1 else (cuts, width), x.dtype)
    launch_columns("sums", "column_sums", [x, by, out, rows, width], width, cuts)
    return out if cuts == 1 else add_stripes(out)
