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


def launch_columns(source: str, kernel: str, args: list[Any], width: int, cuts: int, several: int = 1) -> None:
    """A kernel that sums down columns; `cuts` stripes of the rows, `several` matrices."""
    grid = (-(-width // _ACROSS), cuts, several)
    launch(source, kernel, grid, (32 * _DOWN,), args, shared_bytes=4 * 32 * _DOWN * args[0].dtype.itemsize)


def add_stripes(sums: Array) -> Array:
    """(several, stripes, width) -> (several, width)"""
    several, cuts, width = sums.shape
    if cuts == 1:
        return sums[:, 0]
    out = cp.empty((several, width), sums.dtype)
    launch_columns("sums", "column_sums", [sums, None, out, cuts, width], width, 1, several)
    return out


def column_sums(x: Array, by: Array = None) -> Array:
    """(rows, width) -> (width,), contiguous; of x, or of its products with `by`. The same bits every time."""
    rows, width = x.shape
    cuts = stripes(rows)
    out = cp.empty((1, cuts, width), x.dtype)
    launch_columns("sums", "column_sums", [x, by, out, rows, width], width, cuts)
    return add_stripes(out)[0]
