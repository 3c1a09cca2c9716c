"""Kernels of softmax, log_softmax and logsumexp."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp

from tinyattn.backends.cuda.launch import blocks, launch
from tinyattn.backends.cuda.rows import contiguous, in_float32, launch_rows

__all__ = ["log_softmax", "logsumexp", "softmax"]

Array = Any
Dim = int | tuple[int, ...] | None


@in_float32
def softmax(x: Array, dim: int) -> Array:
    """Divide exp(x) by its sum along `dim`; x is shifted by the maximum, so that exp cannot overflow."""
    return _along("softmax", x, dim)


@in_float32
def log_softmax(x: Array, dim: int) -> Array:
    """Compute log(softmax(x)) without overflow or underflow."""
    return _along("log_softmax", x, dim)


@in_float32
def logsumexp(x: Array, dim: Dim, keepdim: bool = False) -> Array:
    named = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    axes = sorted(axis % x.ndim for axis in named) if x.ndim else []
    left = [axis for axis in range(x.ndim) if axis not in axes]
    kept = [x.shape[axis] for axis in left]
    width = math.prod(x.shape[axis] for axis in axes)
    rows = contiguous(x.transpose(*left, *axes) if x.ndim else x)
    out = cp.empty(kept, x.dtype)
    if width:
        launch_rows("softmax", "logsumexp_rows", [rows, out], out.size, width)
    else:
        out.fill(-math.inf)
    return out.reshape([1 if axis in axes else n for axis, n in enumerate(x.shape)]) if keepdim else out


def _along(kernel: str, x: Array, dim: int) -> Array:
    """Launch a kernel of softmax.cu: for contiguous rows if `dim` is the last axis, else for strided columns."""
    x = contiguous(x)
    out = cp.empty(x.shape, x.dtype)
    if x.size == 0:
        return out
    n = x.shape[dim] if x.ndim else 1
    inner = math.prod(x.shape[dim % x.ndim + 1 :]) if x.ndim else 1  # the stride along `dim`, in elements
    if inner == 1:
        launch_rows("softmax", f"{kernel}_rows", [x, out], x.size // n, n)
    else:
        grid = (blocks(x.size // n, 128),)
        launch("softmax", f"{kernel}_columns", grid, (128,), [x, out, x.size // n // inner, n, inner])
    return out
