"""Array libraries with one interface: NumPy (`cpu/`) and CuPy (`cuda/`) have the same functions.

`of(array)` returns the library of an array, which operations call `xp`. `tinyattn.ops` has the same functions for
Tensors, so a rule can run on arrays and on Tensors.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from tinyattn.backends import cpu
from tinyattn.backends.cpu import quiet
from tinyattn.backends.cpu.blocks import keep_freed_memory
from tinyattn.backends.devices import CPU, check_driver, device, is_device, why_not
from tinyattn.backends.shared import (
    CaptureError,
    MixedDevicesError,
    Placed,
    get_float32_matmul_precision,
    owner,
    set_float32_matmul_precision,
)

keep_freed_memory()

__all__ = [
    "CPU", "CaptureError", "MixedDevicesError", "Placed", "check", "check_accumulation", "create", "device",
    "device_of", "full_name", "get", "get_default_device", "get_float32_matmul_precision", "gpu", "in_use", "is_array",
    "is_device", "keeps_gpu", "move", "of", "on_gpu", "owner", "quiet", "refuse_in_capture", "return_to",
    "set_default_device", "set_float32_matmul_precision", "users_gpu", "why_not",
]  # fmt: skip

_F = TypeVar("_F", bound=Callable[..., Any])
_cuda: Any = None  # the CuPy library after the first use of a GPU; until then every array is NumPy's


def of(*arrays: Any) -> Any:
    """Return the array library of `arrays` (numbers and None are ignored); the CPU's if no array is given.

    Raises MixedDevicesError if they are on different devices.
    """
    if _cuda is None:
        return cpu
    found = {device_of(array): None for array in arrays if is_array(array)}
    if len(found) > 1:
        names = " and ".join(map(str, found))
        raise MixedDevicesError(
            f"Expected all tensors to be on the same device, but found at least two devices, {names}: bring them "
            "together with x.to(device)."
        )
    where = next(iter(found), CPU)
    return cpu if where is CPU else on_gpu(where.index)


def get(device: Any) -> Any:
    """Return the array library of `device`, a name or None (the default device).

    Raises ValueError for a name that is no device, RuntimeError (or ImportError, if CuPy is missing) for a GPU that
    cannot be used here.
    """
    if device is None:
        device = _default
    if device is CPU or device == "cpu":
        return cpu
    where = _device(device)
    return cpu if where.type == "cpu" else on_gpu(where.index)


def gpu() -> Any:
    """Return the array library of GPUs.

    Raises ImportError or RuntimeError, with what to install, where it cannot be used.
    """
    global _cuda
    if _cuda is None:
        check_driver()
        _cuda = importlib.import_module("tinyattn.backends.cuda")  # not before, since it imports CuPy
    return _cuda


def on_gpu(index: int | None) -> Any:
    """Return the array library of GPUs and make it work on GPU `index` (None: the current one).

    Raises as `gpu`, and RuntimeError for a GPU that is not there.
    """
    library = gpu()
    library.select(index)
    return library


def device_of(array: Any) -> device:
    """Return the device of an array."""
    if type(array) is np.ndarray or _cuda is None or not isinstance(array, _cuda.ndarray):
        return CPU
    return _cuda.device_of(array)


def get_default_device() -> device:
    """Where tensors are made that are not told where: the CPU unless `set_default_device` has said otherwise.

    >>> str(ta.get_default_device())
    'cpu'
    """
    return full_name(_default)


def set_default_device(device: Any) -> None:
    """Make new tensors on `device` where none is named (None: on the CPU). As torch.set_default_device.

    Raises ImportError or RuntimeError where no GPU can be used.

    >>> ta.set_default_device("cpu")
    >>> ta.zeros(2).device
    device(type='cpu')
    """
    global _default
    _default = CPU if device is None else full_name(device)


def full_name(device: Any) -> device:
    """The device of that name, with the number of the GPU: "cuda" is the one that is current; None: the default."""
    where = _device(_default if device is None else device)
    return where if where.type == "cpu" or where.index is not None else _device("cuda", gpu().current_device())


def move(array: Any, device: Any) -> Any:
    """Return a copy of `array` on another device."""
    if get(device) is cpu:
        return array.copy() if isinstance(array, np.ndarray) else of(array).to_host(array)
    return get(device).asarray(array)


def check() -> None:
    """Raise the errors that a GPU has reported so far, such as an index out of range, without synchronisation."""
    if _cuda is not None:
        _cuda.check()


def in_use() -> bool:
    """Whether this process has used a GPU."""
    return _cuda is not None


def users_gpu() -> int | None:
    """Return the number of CuPy's current GPU, for `return_to`; None if this process has used none."""
    return None if _cuda is None else _cuda.users_gpu()


def return_to(index: int | None) -> None:
    """Make the GPU that `users_gpu` returned CuPy's current one again."""
    if index is not None:
        _cuda.return_to(index)


def keeps_gpu(function: _F) -> _F:
    """Decorate a function that computes on arrays: CuPy's current GPU is afterwards what it was before, so that a user
    of both libraries keeps theirs."""

    @functools.wraps(function)
    def kept(*args: Any, **kwargs: Any) -> Any:
        before = users_gpu()
        try:
            return function(*args, **kwargs)
        finally:
            return_to(before)

    return kept  # type: ignore[return-value]


@keeps_gpu
def create(device: Any, name: str, *args: Any) -> Any:
    """Return the array that the function `name` of the library of `device` creates."""
    return getattr(get(device), name)(*args)


def check_accumulation(grad: Any) -> None:
    """Raise CaptureError if a CUDA graph would accumulate into a gradient from before the capture."""
    if _cuda is not None and not isinstance(grad, np.ndarray):
        _cuda.check_accumulation(grad)


def refuse_in_capture(why: str) -> None:
    """Raise CaptureError with the message `why` while a CUDA graph is being captured."""
    if _cuda is not None:
        _cuda.refuse_in_capture(why)


def is_array(x: Any) -> bool:
    """Whether `x` is an array of one of the libraries."""
    return isinstance(x, np.ndarray) or (_cuda is not None and isinstance(x, _cuda.ndarray))


_default = CPU
_device = device  # the arguments of functions here have the name that users know
