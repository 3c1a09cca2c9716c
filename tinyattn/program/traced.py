"""Traced: an array that computes as NumPy's, and tells the recorder of its context, if there is one.

While a step is recorded, the `np` that kernels see records the arrays it makes; other threads get NumPy's own answers.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinyattn.backends.cpu.recording import recording
from tinyattn.locks import fork_safe

# NumPy's functions in Python, whose own calls are recorded; those recorded whole; and those that only look at shapes.
COMPOSED = {
    getattr(np, name)
    for name in "sum prod max min amax amin any all mean clip moveaxis swapaxes expand_dims squeeze transpose ravel "
    "reshape flip roll tril triu stack".split()
}
WHOLE = {
    getattr(np, name)
    for name in "concatenate where take repeat einsum bincount argsort searchsorted cumsum cumprod argmax "
    "argmin".split()
}
SHAPES = {getattr(np, name) for name in "shape ndim size result_type may_share_memory can_cast".split()}
VIEWS = {np.broadcast_to, np.diagonal, np.lib.stride_tricks.sliding_window_view}


def plain(x: Any) -> Any:
    """`x` with ordinary arrays in the place of those that record."""
    if isinstance(x, np.ndarray):
        return x.view(np.ndarray) if type(x) is not np.ndarray else x
    if type(x) in (tuple, list):
        return type(x)(map(plain, x))
    return {key: plain(v) for key, v in x.items()} if type(x) is dict else x


class Traced(np.ndarray):
    """See the module."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        recorder = recording.get()
        given = {} if out is None else {"out": plain(out)}
        result = getattr(ufunc, method)(*plain(inputs), **given, **plain(options))
        name = ufunc.__name__ + ("" if method == "__call__" else f".{method}")
        if recorder is None:
            return result if out is None else out[0]
        if type(result) is tuple:
            recorder.refuse(f"np.{name}, which has several results")
            return result
        if method == "at":
            recorder.wrote("ufunc", name, inputs, options, inputs[0])
            return None
        if out is None or out[0] is None:
            return recorder.made("ufunc", name, inputs, options, result)
        recorder.wrote("ufunc", name, inputs, options, out[0])
        return out[0]

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        recorder = recording.get()
        if recorder is not None and function in COMPOSED:
            return super().__array_function__(function, types, args, options)
        result = function(*plain(args), **plain(options))
        if recorder is None or function in SHAPES:
            return result
        if function in VIEWS:
            return result.view(Traced)
        name = function.__name__
        if function is np.empty_like:
            return recorder.add(result, "made")
        if function is np.copyto:
            recorder.wrote("function", name, args[1:], options, args[0])
        elif function in WHOLE:
            out = options.get("out")
            if out is None:
                return recorder.made("function", name, args, options, result)
            recorder.wrote("function", name, args, {k: v for k, v in options.items() if k != "out"}, out)
            return out
        else:
            recorder.refuse(f"np.{name}")
        return result

    def __getitem__(self, index: Any) -> Any:
        recorder, source = recording.get(), plain(self)
        result = source[plain(index)]
        if recorder is None:
            return result
        if not isinstance(result, np.ndarray):  # one element, which is a view too
            result = source[(*plain(index), ...) if type(index) is tuple else (plain(index), ...)]
        if any(isinstance(i, np.ndarray) and i.dtype == bool for i in (index if type(index) is tuple else (index,))):
            recorder.refuse("elements picked by a mask, whose number depends on the data,")
        return recorder.made("get", "get", (self, index), {}, result)

    def __setitem__(self, index: Any, value: Any) -> None:
        recorder, target = recording.get(), plain(self)
        target[plain(index)] = plain(value)
        if recorder is None:
            return
        parts = index if type(index) is tuple else (index,)
        if any(isinstance(i, np.ndarray | list) for i in parts):
            recorder.wrote("set", "set", (index, value), {}, self)
            return
        part = target[(*parts, ...) if Ellipsis not in parts else parts]
        if not isinstance(value, np.ndarray) or recorder.value(value) != recorder.value(part):  # of x[i] += y
            recorder.wrote("copy", "copyto", (value,), {}, part)

    def __bool__(self) -> bool:
        truth, recorder = bool(plain(self)), recording.get()
        if recorder is not None:
            recorder.guard(self, truth)
        return truth


def _method(name: str) -> Callable[..., Any]:
    def method(self: Traced, *args: Any, **options: Any) -> Any:
        recorder = recording.get()
        result = getattr(plain(self), name)(*plain(args), **plain(options))
        if recorder is None:
            return result
        kind, called = ("copy", "copyto") if name in _COPIES else ("method", name)
        return recorder.made(kind, called, (self,) if kind == "copy" else (self, *args), options, result)

    return method


def _number(name: str, what: str) -> Callable[..., Any]:
    def method(self: Traced, *args: Any) -> Any:
        recorder = recording.get()
        if recorder is not None:
            recorder.refuse(f"{what} reads a number that the next call will not have,")
        return getattr(plain(self), name)(*args)

    return method


def _fill(self: Traced, value: Any) -> None:
    plain(self).fill(plain(value))
    recorder = recording.get()
    if recorder is not None:
        recorder.wrote("copy", "copyto", (value,), {}, self)


_COPIES = {"copy", "astype", "reshape", "ravel", "flatten"}
for _name in (*_COPIES, *"take repeat argsort argmax argmin cumsum cumprod".split()):
    setattr(Traced, _name, _method(_name))
for _name, _what in {
    "item": ".item()", "tolist": ".tolist()", "__float__": "float()", "__int__": "int()", "__index__": "int()",
    "nonzero": "nonzero()", "sort": "sort()", "tobytes": "tobytes()", "__repr__": "print", "__str__": "print",
    "__format__": "print",
}.items():  # fmt: skip
    setattr(Traced, _name, _number(_name, _what))
Traced.fill = _fill  # type: ignore[assignment]


# --- arrays out of nothing ---

_KERNELS = "tinyattn.backends.cpu."
RECORDING = fork_safe(threading.Lock())  # held by the one thread that records


class _NumPy(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _maker(make: Callable[..., Any], filled: Any = None, constant: bool = False) -> Callable[..., Any]:
    """`make`, recorded: its array holds nothing yet, is filled with a number, or is a constant."""

    def recorded(*args: Any, **options: Any) -> Any:
        recorder = recording.get()
        array = make(*plain(args), **plain(options))
        if recorder is None:
            return array
        out = recorder.add(array, "constant" if constant else "made")
        if not constant and filled is not None:
            recorder.wrote("copy", "copyto", (args[1] if filled == "given" else filled,), {}, out)
        return out

    return recorded


def _asarray(x: Any, dtype: Any = None) -> Any:
    if isinstance(x, Traced):
        return x if dtype is None or x.dtype == dtype else x.astype(dtype)
    recorder = recording.get()
    if recorder is not None and isinstance(x, list | tuple) and any(isinstance(part, Traced) for part in x):
        return recorder.made("array", "array", (list(x),), {}, np.array(plain(x), dtype))
    return np.asarray(x, dtype)


def _copier(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, recorded as a copy of an array."""

    def recorded(x: Any, *args: Any, **options: Any) -> Any:
        recorder, result = recording.get(), make(plain(x), *args, **options)
        return recorder.made("copy", "copyto", (x,), {}, result) if recorder and isinstance(x, Traced) else result

    return recorded


_numpy = _NumPy("numpy")
for _name, _function in {
    "empty": _maker(np.empty), "empty_like": _maker(np.empty_like), "zeros": _maker(np.zeros, 0),
    "zeros_like": _maker(np.zeros_like, 0), "full": _maker(np.full, "given"),
    "arange": _maker(np.arange, constant=True), "eye": _maker(np.eye, constant=True),
    "tri": _maker(np.tri, constant=True),
    "linspace": _maker(np.linspace, constant=True), "asarray": _asarray, "array": _copier(np.array),
    "ascontiguousarray": _copier(np.ascontiguousarray),
}.items():  # fmt: skip
    setattr(_numpy, _name, _function)


@contextmanager
def recorded_numpy() -> Iterator[None]:
    """Let the kernels of the CPU see it inside the block, in which this thread holds `RECORDING`."""
    kernels: list[Any] = [m for name, m in sys.modules.items() if name.startswith(_KERNELS) and hasattr(m, "np")]
    for module in kernels:
        module.np = _numpy
    try:
        yield
    finally:
        for module in kernels:
            module.np = np
