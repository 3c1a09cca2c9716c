"""Largest and smallest elements, and products, along an axis: in long rows, since NumPy starts anew for each row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.backends.cpu.blocks import rows
from tinyattn.backends.cpu.recording import one_call
from tinyattn.backends.cpu.sums import Dim, axes_of

__all__ = ["amax", "amin", "cumprod", "prod"]

Array = Any
_FOLDED = 16  # columns, at most, that are compared one after the other
_BESIDE = 64  # running products beside each other, from which on stretches are quicker
_FEW = 1024  # elements of a vector that are multiplied one after the other
_PLAIN, _WIDE = 256, 256  # elements in all, and beside each other, for which NumPy's reductions are fast


def amax(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    return _extreme(np.maximum, x, dim, keepdim)


def amin(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    return _extreme(np.minimum, x, dim, keepdim)


def _extreme(larger: Any, x: Array, dim: Dim, keepdim: bool) -> Array:
    """As larger.reduce, which takes its time for each row: it is called with long ones."""
    axes = axes_of(x, dim)
    if len(axes) != 1 or x.size <= _PLAIN or x.ndim == 1 or not x.flags.c_contiguous:
        return larger.reduce(x, dim, keepdims=keepdim)
    axis, n = axes[0], x.shape[axes[0]]
    if axis < x.ndim - 1:
        return larger.reduce(_halved(larger, x, axis), axis, keepdims=keepdim)
    shape = (*x.shape[:-1], 1) if keepdim else x.shape[:-1]
    if n > _FOLDED:
        return larger.reduceat(x.reshape(-1), np.arange(0, x.size, n)).reshape(shape)
    xs, ys = x.reshape(-1, n), np.empty(x.size // n, x.dtype)
    for part in rows(*xs.shape):  # column by column
        y = larger(xs[part, 0], xs[part, -1], out=ys[part])
        for column in range(1, n - 1):
            larger(y, xs[part, column], out=y)
    return ys.reshape(shape)


def _halved(combine: Any, x: Array, axis: int) -> Array:
    """Half of `axis` combined with the other half, elementwise, until NumPy's reductions are fast: they take their time
    for each row, and they multiply one element after the other."""
    ahead = (slice(None),) * axis
    inner = math.prod(x.shape[axis + 1 :])
    while x.shape[axis] > 8 and x.size > _PLAIN and inner < _WIDE:
        half, odd = divmod(x.shape[axis], 2)
        rest = x[(*ahead, slice(2 * half, None))]
        x = combine(x[(*ahead, slice(half))], x[(*ahead, slice(half, 2 * half))])
        if odd:
            first = x[(*ahead, slice(1))]
            combine(first, rest, out=first)
    return x


def _folded(x: Array) -> Array:
    """The products of all elements of a vector that are a multiple of _WIDE apart: NumPy multiplies rows in vectors."""
    cut = x.size // _WIDE * _WIDE
    if cut <= _FEW:
        return x
    out = np.multiply.reduce(x[:cut].reshape(-1, _WIDE), 0)
    out[: x.size - cut] *= x[cut:]
    return out


def prod(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    axes = axes_of(x, dim)
    if len(axes) == 1 and x.dtype.kind == "f":
        x = _folded(x) if x.ndim == 1 else _halved(np.multiply, x, axes[0])
    return x.prod(dim, keepdims=keepdim, dtype=x.dtype if x.dtype.kind == "f" else np.int64)


@one_call()
def cumprod(x: Array, dim: int) -> Array:
    """The running product: within stretches, side by side, and then from each to the next. NumPy multiplies one element
    after the other, 3 ns each."""
    outer, n, inner = math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :])
    length = 2 * math.isqrt(n)  # more factors side by side than stretches, which start anew for each row
    if x.dtype.kind != "f" or n < 16 or outer * inner < _BESIDE:
        return x.cumprod(dim, dtype=x.dtype)
    count = -(-n // length)
    y = np.empty((outer, count * length, inner), x.dtype)
    y[:, :n], y[:, n:] = x.reshape(outer, n, inner), 1
    parts = y.reshape(outer, count, length, inner)
    for i in range(1, length):
        parts[:, :, i] *= parts[:, :, i - 1]
    ends = parts[:, :, -1]
    if not (np.abs(parts).min() >= np.finfo(x.dtype).tiny and np.isfinite(ends).all()):  # not so with those before it
        return x.cumprod(dim, dtype=x.dtype)
    for i in range(1, count):
        parts[:, i] *= parts[:, i - 1, -1:]
    return y[:, :n].reshape(x.shape)
