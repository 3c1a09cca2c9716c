"""What rules and definitions may call on plain arrays: CuPy's functions under PyTorch's names.

Only `nonzero` and `to_host` synchronise the GPU, because the CPU needs their result.
"""

from __future__ import annotations

import builtins
import contextlib
import math
from collections.abc import Callable
from typing import Any

import cupy as cp
import numpy as np
from cupy import ndarray

from tinyattn.backends import cpu
from tinyattn.backends.cuda.flags import check
from tinyattn.backends.cuda.graphs import refuse_in_capture
from tinyattn.backends.cuda.products import einsum, matmul
from tinyattn.backends.cuda.rows import column_sums, contiguous

__all__ = [
    "abs", "acos", "acosh", "amax", "amin", "arange", "asarray", "asin",
    "asinh", "atan", "atan2", "atanh", "broadcast_to", "cast", "cat", "ceil", "clamp", "clone", "cos", "cosh",
    "cumprod", "cumsum", "diagonal", "div", "einsum", "empty", "erf", "exp", "expm1", "eye", "flip", "floor",
    "floor_divide", "fmod", "from_dlpack", "full", "hypot", "isfinite", "linspace", "log", "log10", "log1p", "log2",
    "logical_and", "logical_not", "logical_or", "masked_fill", "matmul", "maximum", "mean", "minimum", "ndarray",
    "nonzero", "pad", "perhaps", "permute", "pow", "prod", "quiet", "reciprocal", "relu", "remainder", "reshape",
    "roll", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "stack", "std", "sum", "sum_to",
    "tan", "tanh", "to_host", "tril", "triu", "trunc", "trunc_divide", "var", "view_like", "where", "zeros",
    "zeros_like",
]  # fmt: skip

Array = Any
Dim = int | tuple[int, ...] | None


def quiet() -> Any:
    """Nothing to silence: a GPU never warns."""
    return contextlib.nullcontext()


# --- operators, methods and NumPy's ufuncs, which serve CuPy's arrays too ---

square, rsqrt = cpu.square, cpu.rsqrt
permute, reshape = cpu.permute, cpu.reshape

# --- elementwise ---

abs, sin, cos, tanh = cp.abs, cp.sin, cp.cos, cp.tanh
maximum, minimum, isfinite = cp.maximum, cp.minimum, cp.isfinite
logical_and, logical_not, logical_or = cp.logical_and, cp.logical_not, cp.logical_or
exp, expm1 = cp.exp, cp.expm1
log, log1p, log2, log10 = cp.log, cp.log1p, cp.log2, cp.log10
tan, sinh, cosh = cp.tan, cp.sinh, cp.cosh
asin, acos, atan, atan2 = cp.arcsin, cp.arccos, cp.arctan, cp.arctan2
asinh, acosh, atanh, hypot = cp.arcsinh, cp.arccosh, cp.arctanh, cp.hypot
floor, ceil, trunc, round, fmod = cp.floor, cp.ceil, cp.trunc, cp.rint, cp.fmod
sqrt, reciprocal = cp.sqrt, cp.reciprocal
div = cp.true_divide


def cast(x: Array, dtype: Any) -> Array:
    return x.astype(dtype, copy=False)


def where(condition: Array, a: Array, b: Array) -> Array:
    return cp.where(condition, a, b)


def clamp(x: Array, min: Array = None, max: Array = None) -> Array:
    x = x if min is None else cp.maximum(x, min)
    return x if max is None else cp.minimum(x, max)


def relu(x: Array) -> Array:
    """max(x, 0)"""
    return cp.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e ** -x)"""
    return cp.reciprocal(cp.exp(-x) + 1)


def amax(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    return x.max(dim, keepdims=keepdim)


def amin(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    return x.min(dim, keepdims=keepdim)


def prod(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    return x.prod(dim, keepdims=keepdim, dtype=x.dtype if x.dtype.kind == "f" else np.int64)


def sign(x: Array) -> Array:
    return x.copy() if x.dtype.kind == "b" else cp.sign(cp.where(cp.isnan(x), 0, x))  # of NaN it is 0 in PyTorch


def floor_divide(a: Array, b: Array) -> Array:
    """The floor of the exact quotient; CuPy's is that of the rounded one, which for 1.0 // 0.1 is 10."""
    if cp.result_type(a, b).kind != "f":
        return cp.floor_divide(a, b)
    quotient, rest = cp.true_divide(a, b), cp.fmod(a, b)
    out = cp.rint(cp.true_divide(a - rest, b) - _below(rest, b))  # an integer but for rounding
    return cp.where(cp.equal(b, 0), quotient, cp.where(cp.equal(out, 0), cp.copysign(out, quotient), out))


def remainder(a: Array, b: Array) -> Array:
    """a - b * (a // b), with the sign of b; exact for floats, as C's fmod is."""
    if cp.result_type(a, b).kind != "f":
        return cp.remainder(a, b)
    rest = cp.fmod(a, b)
    return cp.copysign(cp.where(_below(rest, b), rest + b, rest), b)


def _below(rest: Array, b: Array) -> Array:
    """Whether the rest of a quotient rounded towards 0 shows that the floor is lower by one."""
    return cp.not_equal(rest, 0) & (cp.less(rest, 0) != cp.less(b, 0))


def trunc_divide(a: Array, b: Array) -> Array:
    if cp.result_type(a, b).kind == "f":
        return cp.trunc(cp.true_divide(a, b))
    quotient = floor_divide(a, b)
    return quotient + cp.not_equal(a, quotient * b).astype(quotient.dtype) * (quotient < 0)


def pow(a: Array, b: Array) -> Array:
    if isinstance(b, float | int):
        if b == 3:
            return a * a * a
        if b == -1 and a.dtype.kind == "f":
            return cp.reciprocal(a)
        if b == 2:
            return square(a)
        if b == 0.5 and a.dtype.kind == "f":
            return cp.sqrt(a)  # as PyTorch, NaN at -inf and -0 at -0
    if cp.result_type(a, b).kind in "iu" and not (isinstance(b, int) and b >= 0):  # 1 / a, rounded to 0
        inverse = cp.where(cp.abs(a) == 1, cp.power(a, cp.abs(b)), 0)
        return cp.where(b < 0, inverse, cp.power(a, cp.maximum(b, 0)))
    return cp.power(a, b)


def masked_fill(x: Array, mask: Array, value: Array) -> Array:
    return cp.where(mask, x.dtype.type(value) if not hasattr(value, "dtype") else value, x)


def erf(x: Any) -> Any:
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x, elementwise."""
    from cupyx.scipy import special  # which takes a while to import

    return special.erf(x).astype(x.dtype, copy=False)


def clone(x: Array) -> Array:
    return x.copy()


def view_like(x: Array, owner: Array, copied: Array) -> Array:
    """Of a copy of the array that owns the memory of `x`, the view that `x` is of that."""
    if x is owner:
        return copied
    if copied.strides != owner.strides:  # the owner has gaps, which a copy has not
        return x.copy()
    return ndarray(x.shape, x.dtype, copied.data + (x.data.ptr - owner.data.ptr), x.strides)


def asarray(x: Any, dtype: Any = None) -> Array:
    """`x` in the memory of the GPU; an array of the processor's is copied there."""
    if isinstance(x, cp.ndarray):
        x = x if x.device.id == cp.cuda.Device().id else x.copy()  # from one GPU to another
        return x if dtype is None else x.astype(dtype, copy=False)
    x = np.asarray(x, dtype)
    if not x.ndim:
        return cp.full((), x.item(), x.dtype)  # a number travels with the launch
    refuse_in_capture(f"an array of shape {x.shape} is copied from the processor")
    return cp.asarray(x)


def to_host(x: Array) -> np.ndarray[Any, Any]:
    """A copy in the memory of the processor, once everything before it is done."""
    refuse_in_capture(f"a tensor of shape {tuple(x.shape)} is read by the processor (item, cpu, tolist, bool ...)")
    out = x.get()
    check()
    return out


# --- reductions ---


def sum(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    if x.dtype.kind != "f":
        return cp.sum(x, axis=dim, keepdims=keepdim, dtype=np.int64)
    return _of_dtype(_sum(x, dim), x, dim, keepdim)


def mean(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    wide = _wide_sum(x, dim)
    out = cp.true_divide(wide, _added(x, dim), out=cp.empty(wide.shape, x.dtype), casting="same_kind")
    return _of_dtype(out, x, dim, keepdim)


def var(x: Array, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Array:
    return _of_dtype(_variance(x, dim, correction), x, dim, keepdim)


def std(x: Array, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Array:
    return _of_dtype(cp.sqrt(_variance(x, dim, correction)), x, dim, keepdim)


def _variance(x: Array, dim: Dim, correction: float) -> Array:
    """As backends/cpu/sums.py: deviations from the rounded mean, in float64, and their own sum as a correction."""
    n = _added(x, dim)
    z = cp.subtract(x, mean(x, dim, keepdim=True), dtype=np.float64)
    sums, squares = _wide_sum(z, dim), _wide_sum(cp.square(z), dim)
    return cp.maximum(squares - sums * sums / n, 0) / max(n - correction, 0.0)


def _wide_sum(x: Array, dim: Dim) -> Array:
    return _sum(x, dim).astype(np.float64, copy=False)


def _sum(x: Array, dim: Dim) -> Array:
    """The sum in a dtype that loses nothing; the axes stay, with size 1.

    CUB adds trailing axes as a tree. Along other axes one thread adds a long chain, in float64.
    """
    axes = _axes(x, dim)
    tree = x.flags.c_contiguous and axes == tuple(range(x.ndim - len(axes), x.ndim))
    return cp.sum(x, axis=axes, keepdims=True, dtype=x.dtype if tree else np.float64)


def _axes(x: Array, dim: Dim) -> tuple[int, ...]:
    dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(d % x.ndim for d in dims if x.ndim))


def _added(x: Array, dim: Dim) -> float:
    """How many elements are added up for each that is left."""
    return float(math.prod(x.shape[d] for d in _axes(x, dim)))


def _of_dtype(wide: Array, x: Array, dim: Dim, keepdim: bool) -> Array:
    """A reduction of `x` over `dim` in float64, rounded to its dtype."""
    out = wide.astype(x.dtype, copy=False)
    return out if keepdim else cp.squeeze(out, axis=_axes(x, dim))


def cumsum(x: Array, dim: int) -> Array:
    return x.cumsum(dim, dtype=x.dtype) if x.ndim else x.copy()


def perhaps(condition: Callable[[], Array]) -> bool:
    """Whether an element of `condition()` may be true: always True; the exact answer would need a synchronisation."""
    return True


def nonzero(x: Array) -> tuple[Array, ...]:
    """Return the indices of the true elements; synchronises the GPU, because their number is the shape."""
    refuse_in_capture("the processor asks how many elements are true")
    return cp.nonzero(x)


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes that broadcasting `shape` to `x.shape` had added or stretched."""
    ahead = x.ndim - len(shape)
    if ahead and x.shape[ahead:] == shape != () and x.dtype in (np.float32, np.float64) and x.size:
        return column_sums(contiguous(x).reshape(-1, math.prod(shape))).reshape(shape)  # the gradient of a bias
    stretched = tuple(i for i, n in enumerate(shape, ahead) if n == 1 and x.shape[i] != 1)
    return sum(x, (*range(ahead), *stretched)).astype(x.dtype, copy=False).reshape(shape)


# --- shapes ---


def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    return cp.broadcast_to(x, shape)


def cat(tensors: Any, dim: int = 0) -> Array:
    """One after the other along `dim`, each by a copy of its own: `cp.concatenate` sends a table of addresses."""
    shape = list(tensors[0].shape)
    shape[dim] = builtins.sum(t.shape[dim] for t in tensors)
    out = cp.empty(shape, cp.result_type(*tensors))
    start = 0
    for t in tensors:
        out[(slice(None),) * dim + (slice(start, start + t.shape[dim]),)] = t
        start += t.shape[dim]
    return out


def stack(tensors: Any, dim: int = 0) -> Array:
    first = tensors[0]
    out = cp.empty((*first.shape[:dim], len(tensors), *first.shape[dim:]), cp.result_type(*tensors))
    for i, t in enumerate(tensors):
        out[(slice(None),) * dim + (i,)] = t
    return out


def cumprod(x: Array, dim: int) -> Array:
    return cp.cumprod(x, dim, x.dtype)


def diagonal(x: Array, offset: int) -> Array:
    """A view of the diagonals of matrices (..., rows, columns)."""
    return cp.diagonal(x, offset, -2, -1)


def flip(x: Array, dims: tuple[int, ...]) -> Array:
    return cp.flip(x, dims).copy() if x.ndim else x.copy()  # as in PyTorch


def roll(x: Array, shifts: Any, dims: Any = None) -> Array:
    for shift, dim in zip(shifts, dims, strict=True):
        n = x.shape[dim]
        first = n - shift % n if n else 0
        ahead = (slice(None),) * dim
        x = cat([x[(*ahead, slice(first, None))], x[(*ahead, slice(None, first))]], dim)
    return x


def tril(x: Array, diagonal: int = 0) -> Array:
    return cp.tril(x, diagonal)


def triu(x: Array, diagonal: int = 0) -> Array:
    return cp.triu(x, diagonal)


def pad(x: Array, pad: tuple[tuple[int, int], ...], value: float = 0.0) -> Array:
    """`pad` holds a (before, after) for every axis, none negative."""
    out = cp.full([n + a + b for n, (a, b) in zip(x.shape, pad, strict=True)], value, x.dtype)
    out[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, pad, strict=True))] = x
    return out


# --- creation ---


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    return cp.empty(shape, dtype)


def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    return cp.zeros(shape, dtype)


def full(shape: tuple[int, ...], value: Any, dtype: Any) -> Array:
    return cp.full(shape, value, dtype)


def eye(n: int, m: int, dtype: Any, device: Any = None) -> Array:
    """`device` is for tensors; an array library knows where it is."""
    return cp.eye(n, m, dtype=dtype)


def arange(start: Any, step: Any, count: int, dtype: Any) -> Array:
    """start, start + step, ...: `count` numbers."""
    return (cp.arange(count) * step + start).astype(dtype)


def linspace(start: float, end: float, steps: int, dtype: Any) -> Array:
    numbers = np.linspace(start, end, steps, dtype=None if dtype.kind in "iu" else dtype)
    return cp.asarray(numbers.astype(dtype))  # few numbers, once: the same as the processor's, cut towards 0


def zeros_like(x: Array) -> Array:
    return cp.zeros(x.shape, x.dtype)


def from_dlpack(source: Any) -> Array:
    """An array on the memory of any library's array on this GPU."""
    return cp.from_dlpack(source)
