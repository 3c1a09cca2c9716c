"""What rules and definitions may call on plain arrays: NumPy's functions under PyTorch's names."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

from tinyattn.backends.cpu.blocks import expanded
from tinyattn.backends.cpu.choices import select as where
from tinyattn.backends.cpu.error_function import erf
from tinyattn.backends.cpu.halves import narrow, widen
from tinyattn.backends.cpu.sums import Dim, axes_of, column_sums, count, running, total, variance

__all__ = [
    "abs", "acos", "acosh", "arange", "argmax", "argmin", "as_strided", "asarray", "asin", "asinh",
    "atan", "atan2", "atanh", "broadcast_to", "cast", "cat", "ceil", "clamp", "clone", "cos", "cosh",
    "cumsum", "diagonal", "div", "einsum", "empty", "erf", "exp", "expm1", "eye", "flip", "floor", "floor_divide",
    "fmod", "from_dlpack", "full", "hypot", "isfinite", "linspace", "log", "log10", "log1p", "log2",
    "logical_and", "logical_not", "logical_or", "masked_fill", "matmul", "maximum", "mean", "minimum", "ndarray",
    "nonzero", "pad", "perhaps", "permute", "pow", "quiet", "reciprocal", "remainder", "reshape", "roll", "round",
    "rsqrt", "shift", "sign", "sin", "sinh", "sqrt", "square", "stack", "std", "stream", "sum", "sum_to", "tan", "tanh",
    "to_host", "tril", "triu", "trunc", "trunc_divide", "var", "view_like", "where", "zeros", "zeros_like",
]  # fmt: skip

Array = Any


def quiet() -> Any:
    """No floating-point warnings inside: an infinity or NaN is an answer here, as in PyTorch (and
    some BLAS kernels raise flags on perfectly finite numbers). The engine calls everything in it."""
    return np.errstate(all="ignore")


# --- elementwise ---

abs, sin, cos, tanh = np.abs, np.sin, np.cos, np.tanh
maximum, minimum, isfinite = np.maximum, np.minimum, np.isfinite
logical_and, logical_not, logical_or = np.logical_and, np.logical_not, np.logical_or
exp, expm1 = np.exp, np.expm1
log, log1p, log2, log10 = np.log, np.log1p, np.log2, np.log10
tan, sinh, cosh = np.tan, np.sinh, np.cosh
asin, acos, atan, atan2 = np.arcsin, np.arccos, np.arctan, np.arctan2
asinh, acosh, atanh, hypot = np.arcsinh, np.arccosh, np.arctanh, np.hypot
floor, ceil, trunc, round = np.floor, np.ceil, np.trunc, np.rint
sqrt, div = np.sqrt, np.true_divide


def square(x: Array) -> Array:
    return np.square(x, dtype=_total(x) if x.dtype.kind == "b" else x.dtype)


def sign(x: Array) -> Array:
    if x.dtype.kind == "b":
        return x.copy()
    return np.subtract(np.asarray(x > 0).view(np.int8), np.asarray(x < 0).view(np.int8)).astype(x.dtype)  # 0 of NaN


def reciprocal(x: Array) -> Array:
    return np.true_divide(1, x)  # half the time of np.reciprocal


def rsqrt(x: Array) -> Array:
    return 1.0 / np.sqrt(x)


def floor_divide(a: Array, b: Array) -> Array:
    """The quotient rounded down, exactly: rounding to nearest goes astray only where it gives an integer."""
    if np.result_type(a, b).kind != "f":
        _check_divisor(a, b)
        return np.floor_divide(a, b)
    quotient = np.true_divide(a, b)
    out = np.asarray(np.floor(quotient))
    unsure = np.equal(out, quotient)
    return np.floor_divide(a, b, out=out, where=unsure) if np.any(unsure) else out  # takes 20 ns an element


def remainder(a: Array, b: Array) -> Array:
    _check_divisor(a, b)
    return np.remainder(a, b)


def fmod(a: Array, b: Array) -> Array:
    _check_divisor(a, b)
    return np.fmod(a, b)


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
            return reciprocal(a)
        if b == -2 and a.dtype.kind == "f":
            inverse = reciprocal(a)
            inverse *= inverse
            return inverse
        if b == 2:
            return square(a)
        if b == 0.5 and a.dtype.kind == "f":
            return np.sqrt(a)  # as PyTorch, NaN at -inf
    if np.result_type(a, b).kind in "iu" and np.any(np.asarray(b) < 0):  # 1 / a, rounded to 0
        return np.where(b < 0, np.where(np.abs(a) == 1, np.power(a, np.abs(b)), 0), np.power(a, np.maximum(b, 0)))
    return np.power(a, b)


def clamp(x: Array, min: Array = None, max: Array = None) -> Array:
    if x.dtype.kind == "f" and not hasattr(min, "shape") and not hasattr(max, "shape"):
        # np.maximum with a number is four times as slow
        return x.clip(-np.inf if min is None else min, np.inf if max is None else max)
    x = x if min is None else np.maximum(x, min)
    return x if max is None else np.minimum(x, max)


def masked_fill(x: Array, mask: Array, value: Array) -> Array:
    return where(mask, x.dtype.type(value) if not hasattr(value, "dtype") else value, x)


def cast(x: Array, dtype: Any) -> Array:
    if x.dtype == dtype:
        return x
    if x.dtype == np.float16 and dtype == np.float32:
        return widen(x)
    return narrow(x) if dtype == np.float16 else x.astype(dtype)


def clone(x: Array) -> Array:
    if 0 not in x.strides:
        return np.array(x, order="K")
    return expanded(x)  # which has no order of its own


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
    return x.dtype if x.dtype.kind == "f" else np.int64


def sum(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    if x.dtype.kind != "f":
        return np.sum(x, axis=dim, keepdims=keepdim, dtype=np.int64)  # NumPy would count uint8 in uint64
    return _of_dtype(total(x, dim), x, dim, keepdim)


def mean(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    return _of_dtype(total(x, dim) / float(count(x, dim)), x, dim, keepdim)


def var(x: Array, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Array:
    return _of_dtype(variance(x, dim, correction), x, dim, keepdim)


def std(x: Array, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Array:
    return _of_dtype(np.sqrt(variance(x, dim, correction)), x, dim, keepdim)


def _of_dtype(wide: Array, x: Array, dim: Dim, keepdim: bool) -> Array:
    """A reduction of `x` over `dim` in float64, rounded to its dtype."""
    return wide.astype(x.dtype) if keepdim else wide.squeeze(axes_of(x, dim)).astype(x.dtype)


def cumsum(x: Array, dim: int) -> Array:
    return running(x, dim) if x.ndim and x.dtype.kind == "f" else np.cumsum(x, axis=dim, dtype=x.dtype)


def argmax(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    return x.argmax(dim, keepdims=keepdim)


def argmin(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    return x.argmin(dim, keepdims=keepdim)


def perhaps(condition: Callable[[], Array]) -> bool:
    """Whether an element of `condition()` may be true: exact here; always True on a GPU, which is not synchronised."""
    return bool(condition().any())


def nonzero(x: Array) -> tuple[Array, ...]:
    return np.nonzero(x)


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes that broadcasting `shape` to `x.shape` had added or stretched."""
    ahead = x.ndim - len(shape)
    plain = x.dtype in (np.float32, np.float64) and x.flags.c_contiguous and x.size
    if plain and ahead and len(shape) == 1 and x.shape[ahead:] == shape:
        return column_sums(x.reshape(-1, shape[0])).astype(x.dtype)  # the gradient of a bias
    stretched = tuple(i for i, n in enumerate(shape, ahead) if n == 1 and x.shape[i] != 1)
    return sum(x, (*range(ahead), *stretched)).astype(x.dtype, copy=False).reshape(shape)


# --- shapes ---


def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    """A view, which can be written to where each element has memory of its own."""
    out = np.broadcast_to(x, shape)
    if x.flags.writeable:
        out.flags.writeable = True  # NumPy's own is read-only also where nothing is repeated
    return out


def reshape(x: Array, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


def permute(x: Array, dims: tuple[int, ...]) -> Array:
    return x.transpose(dims)


def cat(tensors: Any, dim: int = 0) -> Array:
    """In row order, as in PyTorch; NumPy's own result follows the order of the parts in memory."""
    shape = list(tensors[0].shape)
    shape[dim] = builtins.sum([x.shape[dim] for x in tensors])
    return np.concatenate(tensors, axis=dim, out=np.empty(shape, np.result_type(*tensors)))


def stack(tensors: Any, dim: int = 0) -> Array:
    shape = tensors[0].shape
    if dim < len(shape):  # what is joined along an axis that is there is cut apart
        return cat(tensors, dim).reshape(*shape[:dim], len(tensors), *shape[dim:])
    index = (slice(None),) * dim + (None,)  # a third of the time of np.expand_dims
    return cat([x[index] for x in tensors], dim)


def diagonal(x: Array, offset: int) -> Array:
    """A view of the diagonals of matrices (..., rows, columns)."""
    out = x.diagonal(offset, -2, -1)
    out.flags.writeable = x.flags.writeable
    return out


def as_strided(x: Array, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Array:
    """A view of the memory of x, from `offset` elements after its first one; strides count elements, too."""
    step = x.itemsize
    start = np.lib.stride_tricks.as_strided(x, (offset + 1,), (step,), subok=True)[offset:]
    return np.lib.stride_tricks.as_strided(start, size, [n * step for n in stride], subok=True)


def flip(x: Array, dims: tuple[int, ...]) -> Array:
    return np.flip(x, dims).copy() if x.ndim else x.copy()  # as in PyTorch


def roll(x: Array, shifts: Any, dims: Any = None) -> Array:
    return np.roll(x, shifts, dims)


def tril(x: Array, diagonal: int = 0) -> Array:
    return where(np.tri(x.shape[-2], x.shape[-1], diagonal, bool), x, x.dtype.type(0))


def triu(x: Array, diagonal: int = 0) -> Array:
    return where(np.tri(x.shape[-2], x.shape[-1], diagonal - 1, bool), x.dtype.type(0), x)


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

_EXACT = 1 << 53  # up to which float64 holds every integer


def matmul(a: Array, b: Array) -> Array:
    """NumPy's product, but for what it computes without BLAS."""
    if a.shape[-1] == 1 and a.ndim > 1 < b.ndim:
        return a * b  # columns (n, 1) times rows (1, m)
    if a.dtype.kind in "iu" and a.size > 1000 and _largest(a) * _largest(b) * a.shape[-1] < _EXACT:
        return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64).astype(a.dtype, copy=False)
    return np.matmul(a, b)


def _largest(x: Array) -> int:
    return builtins.max(int(x.max()), -int(x.min())) if x.size else 0


def einsum(equation: str, *operands: Array) -> Array:
    terms, _, output = equation.partition("->")
    out = np.einsum(equation, *operands, optimize=not {*terms} <= {*output, ","})  # BLAS pays where there is a sum
    return out.copy() if len(operands) == 1 else out  # of one operand it can be a view


# --- creation ---


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.empty(shape, dtype)


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
    return np.linspace(start, end, steps, dtype=None if dtype.kind in "iu" else dtype).astype(dtype)  # cut towards 0


def from_dlpack(source: Any) -> Array:
    return np.from_dlpack(source)


def zeros_like(x: Array) -> Array:
    return np.zeros(x.shape, x.dtype)


def stream(seed: int) -> np.random.Generator:
    """The stream of random numbers that belongs to a seed from 0 to 2**64 - 1."""
    return np.random.Generator(np.random.PCG64(seed))
