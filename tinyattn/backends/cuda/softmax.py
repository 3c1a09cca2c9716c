"""Kernels of softmax and its relatives."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp

from tinyattn.backends.cuda.launch import blocks, launch
from tinyattn.backends.cuda.rows import contiguous, in_float32, launch_rows

__all__ = ["log_softmax", "log_softmax_backward", "logsumexp", "softmax", "softmax_backward"]

Array = Any
Dim = int | tuple[int, ...] | None


@in_float32
def softmax(x: Array, dim: int) -> Array:
    """exp(x) over its sum along `dim`; shifted by the maximum, so that exp cannot overflow."""
    return _along("softmax", [x], dim)


@in_float32
def softmax_backward(g: Array, out: Array, dim: int) -> Array:
    """out (g - sum(g out))"""
    return _along("softmax_backward", [g, out], dim)


@in_float32
def log_softmax(x: Array, dim: int) -> Array:
    """log(softmax(x)), without overflow or underflow."""
    return _along("log_softmax", [x], dim)


@in_float32
def log_softmax_backward(g: Array, out: Array, dim: int) -> Array:
    """g - exp(out) sum(g)"""
    return _along("log_softmax_backward", [g, out], dim)


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


def _along(kernel: str, arrays: list[Array], dim: int) -> Array:
    """A kernel of softmax.cu, which has one for rows that lie side by side in memory and one for others."""
    arrays = [contiguous(x) for x in arrays]
    x, out = arrays[0], cp.empty(arrays[0].shape, arrays[0].dtype)
    n = x.shape[dim] if x.ndim else 1
    inner = math.prod(x.shape[dim % x.ndim + 1 :]) if x.ndim else 1
    if x.size == 0:
        return out
    if inner == 1:
        launch_rows("softmax", f"{kernel}_rows", [*arrays, out], x.size // n, n)
    else:
        grid = (blocks(x.size // n, 128),)
        launch("softmax", f"{kernel}_columns", grid, (128,), [*arrays, out, x.size // n // inner, n, inner])
    return out
