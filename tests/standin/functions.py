"""The functions of the stand-in: CuPy's names and CuPy's arguments, no others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy import broadcast_shapes, dtype, generic, inf, nan, newaxis, pi, promote_types

from standin import machine
from standin.arrays import _index, _wrapped, compute, ndarray, operand, upload
from standin.arrays import empty as _empty

float16, float32, float64, bool_ = np.float16, np.float32, np.float64, np.bool_
int8, int16, int32, int64 = np.int8, np.int16, np.int32, np.int64
uint8, uint16, uint32, uint64 = np.uint8, np.uint16, np.uint32, np.uint64


# --- elementwise ---


class ufunc:  # noqa: N801 - CuPy's name
    """An elementwise function. No `where`, no `axis`, no `reduce`."""

    def __init__(self, function: Any) -> None:
        self._function, self.__name__ = function, function.__name__

    def __call__(
        self, *args: Any, out: ndarray | None = None, dtype: Any = None, casting: str = "same_kind"
    ) -> ndarray:
        if len(args) > self._function.nin:
            *args, out = args
        options = {} if dtype is None else {"dtype": dtype, "casting": casting}
        kind = None if out is None else out.dtype

        def run(*inputs: Any) -> Any:
            found = self._function(*inputs, **options)
            if kind is not None and not np.can_cast(found.dtype, kind, casting):
                raise TypeError(f"output (typecode '{kind.char}') could not be coerced from '{found.dtype.char}'")
            return found

        return compute(run, *args, out=out)

    def at(self, a: ndarray, indices: Any, b: ndarray) -> None:
        if a.dtype.name not in ("int32", "float16", "float32", "float64", "uint32", "uint64"):
            raise TypeError(f"{a.dtype} has no atomic addition")

        def add(old: Any, values: Any, *found: Any) -> Any:
            new = old.copy()
            self._function.at(new, _wrapped(parts, iter(found), old.shape), values)
            return new

        parts, arrays = _index(a, indices)
        a[...] = compute(add, a, b, *arrays)


for _name in """abs absolute add subtract multiply true_divide divide negative power sqrt
    square reciprocal exp exp2 expm1 log log2 log10 log1p sin cos tan tanh sinh cosh arcsin arccos arctan arctan2 arcsinh arccosh arctanh fmod sign maximum minimum fmax fmin
    isnan isfinite isinf logical_and logical_or logical_not logical_xor equal not_equal less less_equal greater
    greater_equal bitwise_and bitwise_or bitwise_xor invert trunc floor ceil rint copysign hypot signbit""".split():
    globals()[_name] = ufunc(getattr(np, _name))


def _floor_divide(x: Any, y: Any, **options: Any) -> Any:
    """Of floats CuPy takes the floor of the rounded quotient."""
    if np.result_type(x, y).kind != "f":
        return np.floor_divide(x, y, **options)
    return np.floor(np.true_divide(x, y, **options))


def _remainder(x: Any, y: Any, **options: Any) -> Any:
    return np.remainder(x, y, **options) if np.result_type(x, y).kind != "f" else x - _floor_divide(x, y) * y


for _function in (_floor_divide, _remainder):
    _function.nin = 2  # type: ignore[attr-defined]
floor_divide, remainder = ufunc(_floor_divide), ufunc(_remainder)
mod = remainder


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None and y is None:
        return nonzero(condition)
    return compute(lambda c, a, b: np.where(np.asarray(c) != 0, a, b), condition, x, y)


def clip(a: Any, a_min: Any, a_max: Any, out: Any = None) -> ndarray:
    bounds = [b for b in (a_min, a_max) if b is not None]

    def run(x: Any, *found: Any) -> Any:
        it = iter(found)
        return np.clip(x, None if a_min is None else next(it), None if a_max is None else next(it))

    return compute(run, a, *bounds, out=out)


def isneginf(x: Any, out: Any = None) -> ndarray:
    return compute(np.isneginf, x, out=out)


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    if where is None:
        compute(lambda s: np.asarray(s), src, out=dst)
    else:
        compute(lambda d, s, w: np.where(w, s, d), dst, src, where, out=dst)


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    return np.result_type(*(a._a if isinstance(a, ndarray) else a for a in arrays_and_dtypes))


# --- reductions ---


def _reduction(name: str) -> Callable[..., ndarray]:
    def function(x: Any, axis: Any = None, **options: Any) -> Any:
        if axis not in (None, ()) and not np.ndim(x):
            raise np.exceptions.AxisError(0, 0)  # NumPy has an axis 0 there
        return getattr(np, name)(x, axis=axis, **options)

    def typed(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return compute(lambda x: function(x, axis=axis, dtype=dtype, keepdims=keepdims), a, out=out)

    def plain(a: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return compute(lambda x: function(x, axis=axis, keepdims=keepdims), a, out=out)

    def position(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
        return compute(lambda x: function(x, axis=axis, keepdims=keepdims), a, out=out)

    return {"sum": typed, "mean": typed, "prod": typed, "argmax": position, "argmin": position}.get(name, plain)


sum, mean, prod = _reduction("sum"), _reduction("mean"), _reduction("prod")
max, min, any, all = _reduction("max"), _reduction("min"), _reduction("any"), _reduction("all")
amax, amin, argmax, argmin = max, min, _reduction("argmax"), _reduction("argmin")


def var(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: bool = False) -> ndarray:
    return compute(lambda x: np.var(x, axis=axis, dtype=dtype, ddof=ddof, keepdims=keepdims), a, out=out)


def cumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
    return compute(lambda x: np.cumsum(x, axis=axis, dtype=dtype), a, out=out)


def count_nonzero(a: Any, axis: Any = None) -> ndarray:
    return compute(lambda x: np.asarray(np.count_nonzero(x, axis=axis)), a)


def nonzero(a: ndarray) -> tuple[ndarray, ...]:
    return a.nonzero()


def cumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> ndarray:
    return compute(lambda x: np.cumprod(x, axis=axis, dtype=dtype), a, out=out)


def argsort(a: ndarray, axis: int = -1, kind: Any = None) -> ndarray:
    return compute(lambda x: np.argsort(x, axis=axis, kind="stable"), a)


# --- shapes ---


def broadcast_to(array: ndarray, shape: Sequence[int]) -> ndarray:
    stretched = np.broadcast_to(array._a, shape)
    if stretched.size == array.size:  # nothing stands for several elements: CuPy's can be written to
        stretched = array._a.reshape(stretched.shape)
    return array._view(stretched)


def reshape(a: ndarray, newshape: Any, order: str = "C", *, copy: Any = None) -> ndarray:
    return a.reshape(newshape)


def transpose(a: ndarray, axes: Any = None) -> ndarray:
    return a._view(np.transpose(a._a, axes))


def swapaxes(a: ndarray, axis1: int, axis2: int) -> ndarray:
    return a.swapaxes(axis1, axis2)


def diagonal(a: ndarray, offset: int, axis1: int, axis2: int) -> ndarray:
    view = np.diagonal(a._a, offset, axis1, axis2)
    view.flags.writeable = True  # as CuPy's is
    return a._view(view)


def moveaxis(a: ndarray, source: Any, destination: Any) -> ndarray:
    return a._view(np.moveaxis(a._a, source, destination))


def squeeze(a: ndarray, axis: Any = None) -> ndarray:
    return a.squeeze(axis)


def expand_dims(a: ndarray, axis: Any) -> ndarray:
    return a._view(np.expand_dims(a._a, axis))


def ravel(a: ndarray, order: str = "C") -> ndarray:
    return a.reshape(-1)


def flip(a: ndarray, axis: Any = None) -> ndarray:
    return a._view(np.flip(a._a, axis))


def concatenate(
    tup: Any, axis: int | None = 0, out: Any = None, *, dtype: Any = None, casting: str = "same_kind"
) -> ndarray:
    if machine.capturing() is not None:
        raise machine.CUDARuntimeError("cudaErrorStreamCaptureUnsupported: a table of addresses is copied to the GPU")
    return compute(lambda *xs: np.concatenate(xs, axis), *tup, out=out)


def roll(a: ndarray, shift: Any, axis: Any = None) -> ndarray:
    return compute(lambda x: np.roll(x, shift, axis), a)


def tril(m: ndarray, k: int = 0) -> ndarray:
    return compute(lambda x: np.tril(x, k), m)


def triu(m: ndarray, k: int = 0) -> ndarray:
    return compute(lambda x: np.triu(x, k), m)


def repeat(a: ndarray, repeats: int, axis: Any = None) -> ndarray:
    return compute(lambda x: np.repeat(x, repeats, axis), a)


def take(a: ndarray, indices: ndarray, axis: Any = None, out: Any = None) -> ndarray:
    return compute(lambda x, i: np.take(x, i, axis, mode="wrap"), a, indices, out=out)


# --- products ---


def matmul(a: ndarray, b: ndarray, out: Any = None) -> ndarray:
    if a.dtype.kind == "f" and machine.capturing() is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    return compute(np.matmul, a, b, out=out)


# --- creation ---


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _empty((shape,) if isinstance(shape, int | np.integer) else tuple(shape), dtype)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    operand(fill_value)
    out = empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype)
    out.fill(fill_value)
    return out


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 1, dtype)


def empty_like(
    prototype: ndarray, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None
) -> ndarray:
    return empty(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


def zeros_like(a: ndarray, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None) -> ndarray:
    return full_like(a, 0, dtype, shape=shape)


def full_like(
    a: ndarray, fill_value: Any, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None
) -> ndarray:
    return full(a.shape if shape is None else shape, fill_value, a.dtype if dtype is None else dtype)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    return compute(lambda: np.arange(0 if stop is None else start, start if stop is None else stop, step, dtype))


def eye(N: int, M: int | None = None, k: int = 0, dtype: Any = float, order: str = "C") -> ndarray:
    return compute(lambda: np.eye(N, M, k, dtype))


def array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", ndmin: int = 0) -> ndarray:
    if isinstance(obj, ndarray):
        return obj.copy() if dtype is None or obj.dtype == dtype else obj.astype(dtype)
    found = np.asarray(obj, dtype)
    out = empty(found.shape, found.dtype)
    upload(out._a, found)
    return out


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    return array(a, dtype)


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    if not isinstance(a, ndarray):
        return array(a, dtype)
    if a.flags.c_contiguous and (dtype is None or a.dtype == np.dtype(dtype)):
        return a
    return compute(lambda x: np.ascontiguousarray(x, dtype), a)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get()


def from_dlpack(array: Any) -> ndarray:
    if isinstance(array, ndarray):
        return array
    raise TypeError("only arrays of the GPU")


_ = (broadcast_shapes, dtype, generic, inf, nan, newaxis, pi, promote_types, math)  # names that CuPy has too
