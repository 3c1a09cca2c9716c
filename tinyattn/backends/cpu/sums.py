"""Sums whose error does not grow with their length: short chains of additions by BLAS, joined in float64.

NumPy adds pairwise along contiguous memory only. Along any other axis it adds one element after the other, where
float32 stops at 2 ** 24 ones, and it takes up to twenty times as long. A product with ones is fast along every axis.
Everything that adds floating-point numbers on the CPU comes through `total`, `row_sums` or `column_sums`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

Array = Any
Dim = int | tuple[int, ...] | None
_SHORT, _MANY = 256, 64
_FEW, _FEW_WIDE = 1024, 64  # elements so few that NumPy adds them in float64: float32, and float64 itself
_CHAIN = 128  # additions one after the other in float32; then float64 goes on
_LONG = 2048  # elements of a row; the processor adds at least 16 of them side by side
_LONG_WIDE = 256  # the same of float64, whose sums nothing wider joins
_NARROW, _WIDE = 64, 1024  # elements beside each other for which a product is slow, and fast
_PIECE = 1 << 16  # elements of an array that is copied piece by piece: in float64, half of a second-level cache
_SCAN = 16  # running sums in one product


@lru_cache(maxsize=64)
def _ones(n: int, dtype: Any) -> Array:
    ones = np.ones(n, dtype)
    ones.flags.writeable = False
    return ones


# --- any axes ---


def axes_of(x: Array, dim: Dim) -> tuple[int, ...]:
    """`dim` as non-negative integers; None: all axes."""
    ndim = x.ndim
    dims = range(ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    return tuple([d % ndim for d in dims]) if ndim else ()


def count(x: Array, dim: Dim) -> int:
    """How many elements are added up for each that is left."""
    return math.prod(x.shape[d] for d in axes_of(x, dim))


def total(x: Array, dim: Dim, few: int | None = None) -> Array:
    """The sum of floating-point numbers over `dim`, in float64; the axes stay, with size 1.

    few: so many elements may be added one after the other in float64.
    """
    if x.size <= (few or _few(x)):
        return np.add.reduce(x, dim, np.float64, keepdims=True)
    axes = axes_of(x, dim)
    if x.flags.c_contiguous and x.dtype != np.float16:
        return _dense(x, axes)
    shape = [1 if d in axes else n for d, n in enumerate(x.shape)]
    repeats = tuple(d for d in axes if x.strides[d] == 0)  # broadcast: n equal numbers make one product
    factor = math.prod(x.shape[d] for d in repeats)
    x = x[tuple(slice(1) if d in repeats else slice(None) for d in range(x.ndim))]
    order, y, added = _in_memory_order(x, axes)
    if y.dtype != np.float16 and y.flags.c_contiguous:
        out = _dense(y, added)
    elif y.dtype != np.float16 and y.ndim - 1 in added and y.strides[-1] == y.itemsize and y.shape[-1] >= _NARROW:
        out = _dense(_rows(y)[..., None], added)  # rows with gaps between them
    else:
        out = np.zeros([shape[d] for d in order])
        for part, place in _pieces(y.shape, added):
            out[place] += _dense(np.ascontiguousarray(y[part], np.result_type(y, np.float32)), added)
    out = out.transpose(np.argsort(order))
    return out * factor if repeats else out


def _few(x: Array) -> int:
    return _FEW_WIDE if x.dtype == np.float64 else _FEW


def variance(x: Array, dim: Dim, correction: float) -> Array:
    """The sum of squared deviations over n - `correction`, in float64; the axes stay, with size 1.

    The deviations, from a mean that is rounded, are squared in float64, and their own sum corrects the result (Chan,
    Golub and LeVeque 1983, "Algorithms for computing the sample variance"). It is exactly 0 for equal numbers.
    """
    n = count(x, dim)
    mean = (total(x, dim) / float(n)).astype(x.dtype).astype(np.float64)
    if x.size <= _PIECE:
        sums, squares = _moments(x, mean, axes_of(x, dim))
    else:
        order, y, added = _in_memory_order(x, axes_of(x, dim))
        mean = mean.transpose(order)
        sums, squares = np.zeros(mean.shape), np.zeros(mean.shape)
        for part, place in _pieces(y.shape, added):
            first, second = _moments(y[part], mean[place], added)
            sums[place] += first
            squares[place] += second
        sums, squares = (each.transpose(np.argsort(order)) for each in (sums, squares))
    return np.maximum(squares - sums * sums / float(n), 0) / max(n - correction, 0.0)


def _moments(x: Array, mean: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """The sums of x - mean and of its square."""
    z = x.astype(np.float64)
    z -= mean
    return total(z, axes, _few(x)), total(np.square(z, out=z), axes, _few(x))


def _in_memory_order(x: Array, axes: tuple[int, ...]) -> tuple[list[int], Array, tuple[int, ...]]:
    """The axes from the largest stride to the smallest, `x` transposed so, and where `axes` are then."""
    order = sorted(range(x.ndim), key=lambda d: -abs(x.strides[d]))
    return order, x.transpose(order), tuple(i for i, d in enumerate(order) if d in axes)


def _pieces(shape: tuple[int, ...], added: tuple[int, ...]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Indices of pieces of an array, each with the index of their sums, whose axes `added` have size 1."""
    for part in _parts(shape):
        yield part, tuple(slice(1) if d in added else each for d, each in enumerate(part))


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    if not shape:
        yield ()
        return
    rest = math.prod(shape[1:])
    step = max(_PIECE // max(rest, 1), 1)
    for start in range(0, shape[0], step):
        for tail in _parts(shape[1:]) if rest > _PIECE else [tuple(slice(n) for n in shape[1:])]:
            yield slice(start, min(start + step, shape[0])), *tail


def _dense(x: Array, added: tuple[int, ...]) -> Array:
    """The sum of a contiguous array over the axes `added`, which stay with size 1, in float64."""
    shape = [1 if d in added else n for d, n in enumerate(x.shape)]
    groups: list[list[int]] = []  # [size, whether it is added up]: neighbours of one kind are one axis
    for d, n in enumerate(x.shape):
        if n == 1:
            continue
        if groups and groups[-1][1] == (d in added):
            groups[-1][0] *= n
        else:
            groups.append([n, d in added])
    inner = 1
    for n, reduced in reversed(groups):
        if reduced:
            x = _middle(x.reshape(-1, n, inner))
        else:
            inner *= n
    return x.reshape(shape).astype(np.float64, copy=False)


def _middle(x: Array) -> Array:
    """(outer, n, inner) -> (outer, inner), in float64."""
    outer, n, inner = x.shape
    if inner == 1:
        return _rows(x[..., 0])[:, None]
    if n <= _CHAIN:
        if outer > _MANY and n * inner < _SHORT:  # many products, each too small to be worth a call
            return _rows(np.ascontiguousarray(x.swapaxes(1, 2)).reshape(-1, n)).reshape(outer, inner)
        return np.matmul(_ones(n, x.dtype), x).astype(np.float64, copy=False)
    side = min(_WIDE // inner, n // _CHAIN) if inner < _NARROW else 1
    if side > 1:  # several rows beside each other
        cut = n // side * side
        wide = _middle(x[:, :cut].reshape(outer, -1, side * inner))
        out = _middle(wide.reshape(outer, side, inner))
    else:
        cut = n // _CHAIN * _CHAIN
        chains = np.matmul(_ones(_CHAIN, x.dtype), x[:, :cut].reshape(outer, -1, _CHAIN, inner))
        out = _middle(chains.astype(np.float64, copy=False))
    return out + _middle(x[:, cut:]) if cut < n else out


def _rows(x: Array) -> Array:
    """(..., n) -> (...,), in float64."""
    n, longest = x.shape[-1], _LONG_WIDE if x.dtype == np.float64 else _LONG
    if n <= longest:
        out = x @ _ones(n, x.dtype) if n <= _CHAIN and x.ndim == 2 else np.vecdot(x, _ones(n, x.dtype))
        return out.astype(np.float64, copy=False)
    cut = n // longest * longest
    parts = np.vecdot(x[..., :cut].reshape(*x.shape[:-1], -1, longest), _ones(longest, x.dtype))
    out = _rows(parts.astype(np.float64, copy=False))
    return out + _rows(x[..., cut:]) if cut < n else out


# --- running sums ---


def running(x: Array, dim: int) -> Array:
    """Sums of all elements up to each along `dim`: in stretches by a product with a triangle, then in float64."""
    outer, n, inner = math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :])
    if x.dtype not in (np.float32, np.float64) or (x.size <= _FEW and n <= _few(x)):
        return _running_in_float64(x, dim)
    if 1 < inner < 2 * _SCAN:  # products of narrow matrices are slow
        return np.ascontiguousarray(np.moveaxis(running(np.moveaxis(x, dim, -1), x.ndim - 1), -1, dim))
    even = [size for size in range(_SCAN // 2, 2 * _SCAN) if n % size == 0]  # no remainder that would be copied
    y, size = np.ascontiguousarray(x).reshape(outer, n, inner), min(even or [min(n, _SCAN)], key=_from_scan)
    cut = n // size * size
    stretches = y[:, :cut].reshape(outer, -1, size, inner)
    triangle = np.tri(size, dtype=x.dtype)
    sums = np.matmul(triangle, stretches) if inner > 1 else stretches.reshape(-1, size) @ triangle.T
    sums = sums.reshape(stretches.shape)
    ends = sums[:, :, -1].astype(np.float64)  # (outer, stretches, inner)
    if not np.isfinite(ends).all():  # in a product, 0 times infinity is NaN
        return _running_in_float64(x, dim)
    if cut > size:
        sums[:, 1:] += running(ends[:, :-1], 1).astype(x.dtype)[:, :, None]
    sums = sums.reshape(outer, cut, inner)
    if cut < n:
        sums = np.concatenate((sums, y[:, cut:]), 1)
        for i in range(cut, n):
            sums[:, i] += sums[:, i - 1]
    return sums.reshape(x.shape)


def _from_scan(size: int) -> int:
    return abs(size - _SCAN)


def _running_in_float64(x: Array, dim: int) -> Array:
    return np.cumsum(x, dim, np.float64).astype(x.dtype)


# --- rows and columns of a matrix ---


def row_sums(x: Array) -> Array:
    """(..., width) -> (..., 1)"""
    if x.size == 0:
        return np.zeros((*x.shape[:-1], 1), x.dtype)
    rows = x.reshape(-1, x.shape[-1])
    sums = rows @ _ones(rows.shape[1], x.dtype) if rows.shape[1] <= _LONG else _rows(rows).astype(x.dtype)
    return sums.reshape(*x.shape[:-1], 1)


def row_means(x: Array) -> Array:
    """(rows, width) -> (rows, 1)"""
    means = row_sums(x)
    means /= x.shape[1]
    return means


def row_dots(a: Array, b: Array) -> Array:
    """(rows, width) (rows, width) -> (rows,); the sums of products, in float64 if the rows are long."""
    rows, width = a.shape
    if width <= _LONG:
        return np.vecdot(a, b)
    cut = width // _LONG * _LONG
    parts = np.vecdot(*(each[:, :cut].reshape(rows, -1, _LONG) for each in (a, b)))
    out = _rows(parts.astype(np.float64, copy=False))
    return out + np.vecdot(a[:, cut:], b[:, cut:]) if cut < width else out


def column_sums(x: Array) -> Array:
    """(rows, width) -> (width,), in float64"""
    return _middle(x[None])[0]


def has_short_rows(x: Array, dim: Any, longest: int = _SHORT) -> bool:
    """Whether `row_sums` is the faster way to add along `dim`: many rows, each too short for NumPy's loops."""
    return (
        isinstance(x, np.ndarray)
        and dim in (x.ndim - 1, (x.ndim - 1,))
        and x.ndim > 1
        and 1 < x.shape[-1] <= longest
        and x.size >= _MANY * x.shape[-1]
        and x.dtype in (np.float32, np.float64)
        and x.flags.c_contiguous
    )
