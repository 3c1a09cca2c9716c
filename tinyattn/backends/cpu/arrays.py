"""What rules and definitions may call on plain arrays: NumPy's functions under PyTorch's names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

from tinyattn.backends.cpu.error_function import erf
from tinyattn.backends.cpu.halves import narrow, widen
from tinyattn.backends.cpu.sums import column_sums, has_short_rows, row_sums

__all__ = [
    "abs", "acos", "amax", "amin", "arange", "argmax", "argmin", "argsort", "asarray", "asin", "atan", "atan2",
    "broadcast_to", "cast", "cat", "ceil", "clamp", "clone", "cos", "cosh", "cumprod", "cumsum", "diagonal", "div",
    "einsum", "erf", "exp", "expm1", "eye", "flip", "floor", "floor_divide", "fmod", "from_dlpack", "full", "is_any",
    "isfinite", "linspace", "log", "log10", "log1p", "log2", "logical_and", "logical_not", "logical_or",
    "masked_fill", "matmul", "maximum", "mean", "minimum", "ndarray", "nonzero", "pad", "perhaps", "permute", "pow",
    "prod", "quiet", "reciprocal", "remainder", "reshape", "roll", "round", "rsqrt", "shift", "sign", "sin", "sinh",
    "sqrt", "square", "stack", "stream", "sum", "sum_to", "tan", "tanh", "to_host", "tril", "triu", "trunc",
    "trunc_divide", "var", "view_like", "where", "zeros", "zeros_like",
]  # fmt: skip

Array = Any
Dim = int | tuple[int, ...] | None


def quiet() -> Any:
    """No floating-point warnings inside: an infinity or NaN is an answer here, as in PyTorch (and
    some BLAS kernels raise flags on perfectly finite numbers). The engine calls everything in it."""
    return np.errstate(all="ignore")


# --- elementwise ---

abs, sin, cos, tanh = np.abs, np.sin, np.cos, np.tanh
maximum, minimum, where, isfinite = np.maximum, np.minimum, np.where, np.isfinite
logical_and, logical_not, logical_or = np.logical_and, np.logical_not, np.logical_or
exp, expm1 = np.exp, np.expm1
log, log1p, log2, log10 = np.log, np.log1p, np.log2, np.log10
tan, sinh, cosh = np.tan, np.sinh, np.cosh
asin, acos, atan, atan2 = np.arcsin, np.arccos, np.arctan, np.arctan2
floor, ceil, trunc, round, fmod = np.floor, np.ceil, np.trunc, np.rint, np.fmod
sqrt, reciprocal = np.sqrt, np.reciprocal
div = np.true_divide


def square(x: Array) -> Array:
    return np.square(x, dtype=_total(x) if x.dtype.kind == "b" else x.dtype)


def sign(x: Array) -> Array:
    return x if x.dtype.kind == "b" else np.sign(np.where(np.isnan(x), 0, x))  # of NaN it is 0 in PyTorch


def rsqrt(x: Array) -> Array:
    return 1.0 / np.sqrt(x)


def floor_divide(a: Array, b: Array) -> Array:
    _check_divisor(a, b)
    return np.floor_divide(a, b)


def remainder(a: Array, b: Array) -> Array:
    _check_divisor(a, b)
    return np.remainder(a, b)


def _check_divisor(a: Array, b: Array) -> None:
    """Raise ZeroDivisionError where an integer would be divided by 0, which NumPy calls 0."""
    divisor = np.asarray(b)
    if np.result_type(a, b).kind != "f" and not divisor.all() and np.broadcast(a, b).size:
        where = tuple(map(int, np.argwhere(divisor == 0)[0]))
        at = f" at position {where}" if where else ""
        raise ZeroDivisionError(f"the divisor is 0{at}, and integers have no infinity; cast first (x.float())")


def trunc_divide(a: Array, b: Array) -> Array:
    if np.result_type(a, b).kind == "f":
        return np.trunc(np.true_divide(a, b))
    quotient = floor_divide(a, b)
    return quotient + np.not_equal(a, quotient * b).astype(quotient.dtype) * (quotient < 0)


def pow(a: Array, b: Array) -> Array:
    if isinstance(b, float | int):  # np.power takes some 50 ns an element, a product 0.1
        if b == 3:
            return a * a * a
        if b == -1 and a.dtype.kind == "f":
            return np.reciprocal(a)
    if np.result_type(a, b).kind in "iu" and np.any(np.asarray(b) < 0):  # 1 / a, rounded to 0
        return np.where(b < 0, np.where(np.abs(a) == 1, np.power(a, np.abs(b)), 0), np.power(a, np.maximum(b, 0)))
    return np.power(a, b)


def clamp(x: Array, min: Array = None, max: Array = None) -> Array:
    x = x if min is None else np.maximum(x, min)
    return x if max is None else np.minimum(x, max)


def masked_fill(x: Array, mask: Array, value: Array) -> Array:
    return np.where(mask, x.dtype.type(value) if not hasattr(value, "dtype") else value, x)


def cast(x: Array, dtype: Any) -> Array:
    if x.dtype == dtype:
        return x
    if x.dtype == np.float16 and dtype == np.float32:
        return widen(x)
    return narrow(x) if dtype == np.float16 else x.astype(dtype)


def clone(x: Array) -> Array:
    return np.array(x)


def view_like(x: Array, owner: Array, copied: Array) -> Array:
    """Of a copy of the array that owns the memory of `x`, the view that `x` is of that."""
    if x is owner:
        return copied
    if copied.strides != owner.strides or copied.dtype.hasobject:  # the owner has gaps, which a copy has not
        return x.copy()
    offset = x.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return ndarray(x.shape, x.dtype, copied.ravel(order="K").view(np.uint8), offset, x.strides)


def asarray(x: Any, dtype: Any = None) -> Array:
    return np.asarray(x, dtype)


def to_host(x: Array) -> Array:
    """`x` in the memory of the processor, where it is already."""
    return x


# --- reductions ---


def _total(x: Array) -> Any:
    return x.dtype if x.dtype.kind == "f" else np.dtype(np.int64)  # NumPy would count uint8 in uint64


def sum(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    if has_short_rows(x, dim):
        return row_sums(x) if keepdim else row_sums(x)[..., 0]
    return x.sum(dim, keepdims=keepdim, dtype=_total(x))


def mean(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    axes = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    count = 1
    for d in axes:
        count *= x.shape[d]
    # NumPy's own mean warns about empty arrays and divides by a float64 count
    return np.true_divide(sum(x, dim, keepdim), float(count), dtype=x.dtype)


def var(x: Array, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Array:
    centred = x - mean(x, dim, keepdim=True)
    total = sum(np.square(centred), dim, keepdim)
    left = max(x.size // max(total.size, 1) - correction, 0) if x.size else 0
    return np.true_divide(total, float(left), dtype=x.dtype)


def amax(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    return x.max(dim, keepdims=keepdim)


def amin(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    return x.min(dim, keepdims=keepdim)


def prod(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    return x.prod(dim, keepdims=keepdim, dtype=_total(x))


def cumsum(x: Array, dim: int) -> Array:
    return x.cumsum(dim, dtype=x.dtype) if x.ndim else x.copy()


def cumprod(x: Array, dim: int) -> Array:
    return x.cumprod(dim, dtype=x.dtype)


def argsort(x: Array, dim: int) -> Array:
    return x.argsort(dim, kind="stable")


def argmax(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    return x.argmax(dim, keepdims=keepdim)


def argmin(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    return x.argmin(dim, keepdims=keepdim)


def is_any(x: Array) -> bool:
    return bool(np.any(x))


def perhaps(x: Array) -> bool:
    """Whether an element may be true: exact here; always True on a GPU, which is not synchronised."""
    return bool(np.any(x))


def nonzero(x: Array) -> tuple[Array, ...]:
    return np.nonzero(x)


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes that broadcasting `shape` to `x.shape` had added or stretched."""
    ahead = x.ndim - len(shape)
    if ahead and x.shape[ahead:] == shape and x.dtype.kind == "f" and len(shape) == 1 and x.size:
        return column_sums(x.reshape(-1, shape[0]))  # the gradient of a bias
    stretched = tuple(i for i, n in enumerate(shape, ahead) if n == 1 and x.shape[i] != 1)
    return np.sum(x, axis=(*range(ahead), *stretched), keepdims=True).reshape(shape)


# --- shapes ---

broadcast_to = np.broadcast_to


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


def permute(x: Array, dims: tuple[int, ...]) -> Array:
    return x.transpose(dims)


def cat(tensors: Any, dim: int = 0) -> Array:
    return np.concatenate(tensors, axis=dim)


def stack(tensors: Any, dim: int = 0) -> Array:
    return np.stack(tensors, axis=dim)


def diagonal(x: Array, offset: int) -> Array:
    """A view of the diagonals of matrices (..., rows, columns)."""
    out = x.diagonal(offset, -2, -1)
    out.flags.writeable = x.flags.writeable
    return out


def flip(x: Array, dims: tuple[int, ...]) -> Array:
    return np.flip(x, dims).copy() if x.ndim else x.copy()  # as in PyTorch


def roll(x: Array, shifts: Any, dims: Any = None) -> Array:
    return np.roll(x, shifts, dims)


def tril(x: Array, diagonal: int = 0) -> Array:
    return np.tril(x, diagonal)


def triu(x: Array, diagonal: int = 0) -> Array:
    return np.triu(x, diagonal)


def pad(x: Array, pad: tuple[tuple[int, int], ...], value: float = 0.0) -> Array:
    """`pad` holds a (before, after) for every axis, none negative."""
    out = np.full([n + a + b for n, (a, b) in zip(x.shape, pad, strict=True)], value, x.dtype)
    out[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, pad, strict=True))] = x
    return out


def shift(images: Array, offsets: Array, margin: int) -> Array:
    """Cut every image out of a frame of zeros, at offsets (2, batch) of 0 to 2 * margin."""
    *batch, height, width = images.shape
    framed = np.zeros((*batch, height + 2 * margin, width + 2 * margin), images.dtype)
    framed[..., margin : margin + height, margin : margin + width] = images
    windows = sliding_window_view(framed, (height, width), axis=(-2, -1))
    windows = np.moveaxis(windows, (-4, -3), (1, 2))  # (batch, rows, columns, ..., height, width)
    return windows[np.arange(len(images)), offsets[0], offsets[1]]  # a view until here


# --- products ---

matmul = np.matmul


def einsum(equation: str, *operands: Array) -> Array:
    out = np.einsum(equation, *operands, optimize=len(operands) > 1)
    return out.copy() if len(operands) == 1 else out  # of one operand it can be a view


# --- creation ---


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.zeros(shape, dtype)


def full(shape: tuple[int, ...], value: Any, dtype: Any) -> Array:
    return np.full(shape, value, dtype)


def eye(n: int, m: int, dtype: Any, device: Any = None) -> Array:
    """`device` is for tensors; an array library knows where it is."""
    return np.eye(n, m, dtype=dtype)


def arange(start: Any, step: Any, count: int, dtype: Any) -> Array:
    """start, start + step, ...: `count` numbers."""
    return (start + np.arange(count) * step).astype(dtype)


def linspace(start: float, end: float, steps: int, dtype: Any) -> Array:
    return np.linspace(start, end, steps, dtype=dtype)


def from_dlpack(source: Any) -> Array:
    return np.from_dlpack(source)


def zeros_like(x: Array) -> Array:
    return np.zeros(x.shape, x.dtype)


def stream(seed: int) -> np.random.Generator:
    """The stream of random numbers that belongs to a seed from 0 to 2**64 - 1."""
    return np.random.Generator(np.random.PCG64(seed))
