"""The arrays of the stand-in: CuPy's `ndarray`, strictly.

Where CuPy would copy between GPU and processor or wait without being asked, this refuses or counts.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from standin import machine


class _Pointer:
    """What CuPy has as `array.data`."""

    def __init__(self, memory: machine.Memory, ptr: int) -> None:
        self.mem, self.ptr, self.device_id = memory, ptr, memory.device_id


class _Device:
    def __init__(self, index: int) -> None:
        self.id = index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


class _Flags:
    """Without `writeable`, as CuPy's."""

    def __init__(self, flags: Any) -> None:
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata
        self.forc = self.c_contiguous or self.f_contiguous


class ndarray:  # noqa: N801 - CuPy's name
    """Memory of a GPU, `_a` as a view of the block that plays it."""

    __slots__ = ("__weakref__", "_a", "_memory", "base")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, a: np.ndarray, memory: machine.Memory, base: ndarray | None = None) -> None:
        self._a, self._memory, self.base = a, memory, base

    def _view(self, a: np.ndarray) -> ndarray:
        return ndarray(a, self._memory, self if self.base is None else self.base)

    # --- what it is ---

    shape = property(lambda self: self._a.shape)
    strides = property(lambda self: self._a.strides)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    flags = property(lambda self: _Flags(self._a.flags))
    device = property(lambda self: _Device(self._memory.device_id))
    data = property(lambda self: _Pointer(self._memory, self._a.ctypes.data))
    T = property(lambda self: self._view(self._a.T))

    @property
    def mT(self) -> ndarray:
        if self.ndim < 2:
            raise ValueError("matrix transpose with ndim < 2 is undefined")
        return self._view(self._a.swapaxes(-1, -2))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self._a.ctypes.data, False), "version": 3}

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    # --- to the processor: refused, or counted ---

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        from standin import functions

        known = getattr(functions, ufunc.__name__, None)
        if known is None or method != "__call__":
            raise TypeError(f"np.{ufunc.__name__} of an array on a GPU")
        if "out" in options:
            (options["out"],) = options["out"]  # NumPy hands it over as a tuple
        return known(*inputs, **options)

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise TypeError(f"np.{function.__name__} of an array on a GPU")

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if not blocking and out is not None:
            machine.launch(lambda: np.copyto(out, self._a))
            return out
        machine.synchronise("download")
        return self._a.copy()

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __repr__(self) -> str:
        return repr(self._a)

    def __reduce__(self) -> Any:
        from standin import functions

        return functions.array, (self.get(),)

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        upload(self._a, arr)

    # --- launches that make a new array ---

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return compute(lambda a: a.astype(dtype), self)

    def copy(self, order: str = "C") -> ndarray:
        return compute(lambda a: a.copy(), self, anywhere=True)

    def fill(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            raise TypeError("fill with an array of the processor")
        compute(lambda v: np.asarray(v), value, out=self)

    def view(self, dtype: Any = None) -> ndarray:
        return self._view(self._a.view() if dtype is None else self._a.view(dtype))

    def reshape(self, *shape: Any, order: str = "C", copy: Any = None) -> ndarray:
        target = shape[0] if len(shape) == 1 and not isinstance(shape[0], int | np.integer) else shape
        made = self._a.reshape(target)
        if made.size and not np.may_share_memory(made, self._a):  # not without a copy
            return compute(lambda a: a.reshape(target), self)
        return self._view(made)

    def ravel(self, order: str = "C") -> ndarray:
        return self.reshape(-1)

    def flatten(self, order: str = "C") -> ndarray:
        return self.copy().reshape(-1)

    def transpose(self, *axes: Any) -> ndarray:
        return self._view(self._a.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> ndarray:
        return self._view(self._a.swapaxes(a, b))

    def squeeze(self, axis: Any = None) -> ndarray:
        return self._view(self._a.squeeze(axis))

    def nonzero(self) -> tuple[ndarray, ...]:
        machine.synchronise()
        return tuple(compute(lambda a, i=i: a.nonzero()[i], self) for i in range(self.ndim))

    def __getattr__(self, name: str) -> Any:
        from standin import functions

        if name in ("sum", "mean", "max", "min", "any", "all", "argmax", "argmin", "prod", "cumsum", "take", "argsort"):
            return lambda *args, **options: getattr(functions, name)(self, *args, **options)
        raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")

    # --- indexing ---

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> ndarray:
        parts, arrays = _index(self, index)
        if not arrays:
            a = self._a[parts]
            return self._view(a if isinstance(a, np.ndarray) else self._a[(*parts, ...)])
        if any(a.dtype.kind == "b" for a in arrays):
            machine.synchronise()  # how many there are decides the shape
        return compute(lambda a, *found: a[_wrapped(parts, iter(found), a.shape)], self, *arrays)

    def __setitem__(self, index: Any, value: Any) -> None:
        parts, arrays = _index(self, index)
        operand(value)
        if any(a.dtype.kind == "b" for a in arrays) and isinstance(value, ndarray) and value.ndim:
            machine.synchronise()
        target = self._a
        if not arrays:
            compute(lambda v: np.asarray(v), value, out=self[index] if parts else self)
            return
        held, given = [a._a for a in arrays], value._a if isinstance(value, ndarray) else value
        _same_device(self, *arrays, value)

        def body() -> None:
            with np.errstate(all="ignore"):
                target[_wrapped(parts, iter(held), target.shape)] = given

        machine.launch(body)


def _index(x: ndarray, index: Any) -> tuple[tuple[Any, ...], list[ndarray]]:
    """The parts of an index, with `_ARRAY` where arrays stand (a graph must not keep those alive), and the arrays."""
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if isinstance(part, np.ndarray | list | range):
            raise TypeError(f"an index of {type(part).__name__} would be copied to the GPU in secret")
    arrays = [part for part in parts if isinstance(part, ndarray)]
    return tuple(_ARRAY if isinstance(part, ndarray) else part for part in parts), arrays


_ARRAY = object()


def _wrapped(parts: tuple[Any, ...], arrays: Iterator[np.ndarray], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The index for NumPy; integers out of range come round again, as in CuPy."""
    found = [next(arrays) if part is _ARRAY else part for part in parts]
    width = [p.ndim if isinstance(p, np.ndarray) and p.dtype.kind == "b" else int(p is not None) for p in found]
    axis = 0
    for i, part in enumerate(found):
        if part is Ellipsis:
            axis += len(shape) - (sum(width) - 1)
            continue
        if isinstance(part, np.ndarray) and part.dtype.kind != "b" and shape[axis]:
            found[i] = part % shape[axis]
        axis += width[i]
    return tuple(found)


# --- launching ---


def operand(x: Any) -> Any:
    """What a kernel takes: arrays of the GPU and numbers."""
    if isinstance(x, ndarray):
        return x._a
    if isinstance(x, bool | int | float | np.generic):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def _same_device(*arrays: Any) -> None:
    for x in arrays:
        if isinstance(x, ndarray) and x._memory.device_id != machine.current_device():
            raise ValueError(
                f"Array device must be same as the current device: array device = {x._memory.device_id} while current "
                f"= {machine.current_device()}"
            )


def empty(shape: Sequence[int], dtype: Any) -> ndarray:
    dtype = np.dtype(dtype)
    memory = machine.allocate(math.prod(shape) * dtype.itemsize)
    a = memory.block[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
    return ndarray(a, memory)


def compute(function: Callable[..., Any], *inputs: Any, out: ndarray | None = None, anywhere: bool = False) -> ndarray:
    """Launch: out <- function(*inputs), of NumPy's arrays; `out` is new unless given."""
    held = [operand(x) for x in inputs]
    if not anywhere:
        _same_device(*inputs, out)
    with np.errstate(all="ignore"):
        result = np.asarray(function(*held))
    if out is None:
        out = empty(result.shape, result.dtype)
    elif np.broadcast_shapes(result.shape, out.shape) != out.shape:
        raise ValueError(f"non-broadcastable output operand with shape {out.shape} doesn't match {result.shape}")
    target = out._a
    if machine.capturing() is None:
        machine.launch(lambda: np.copyto(target, result, casting="unsafe"))
        return out

    def body() -> None:
        with np.errstate(all="ignore"):
            np.copyto(target, np.asarray(function(*held)), casting="unsafe")

    machine.launch(body)
    return out


def upload(target: np.ndarray, source: np.ndarray) -> None:
    """From the processor's memory to the GPU's."""
    machine.synchronise("upload")
    np.copyto(target, source)


# --- operators ---


def _operator(name: str) -> tuple[Any, Any, Any]:
    function = getattr(operator, name)

    def forward(self: ndarray, other: Any) -> ndarray:
        return compute(function, self, other)

    def backward(self: ndarray, other: Any) -> ndarray:
        return compute(function, other, self)

    def in_place(self: ndarray, other: Any) -> ndarray:
        def cast(a: Any, b: Any) -> Any:
            found = function(a, b)
            if not np.can_cast(found.dtype, a.dtype, "same_kind"):
                raise TypeError(f"output (typecode '{a.dtype.char}') could not be coerced from '{found.dtype.char}'")
            return found

        return compute(cast, self, other, out=self)

    return forward, backward, in_place


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "lshift", "rshift"):
    _forward, _backward, _in_place = _operator(_name)
    _plain = _name.rstrip("_")
    setattr(ndarray, f"__{_plain}__", _forward)
    setattr(ndarray, f"__r{_plain}__", _backward)
    setattr(ndarray, f"__i{_plain}__", _in_place)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ndarray, f"__{_name}__", _operator(_name)[0])
for _function in (operator.neg, operator.pos, operator.abs, operator.invert):
    setattr(ndarray, f"__{_function.__name__}__", lambda self, function=_function: compute(function, self))


def _matmul(self: ndarray, other: Any) -> ndarray:
    from standin import functions

    return functions.matmul(self, other)


ndarray.__matmul__ = _matmul  # type: ignore[attr-defined]
