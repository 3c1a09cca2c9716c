"""Which GPU: the user's current one, and the one that CuPy must work on for a given array.

CuPy computes on its own current device, whichever the arrays lie on. Every way into this library leads through
`select`, which sets that to the device of the arrays, so that users need not choose a GPU.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import cupy as cp

from tinyattn.backends.devices import device

__all__ = ["current_device", "device_count", "device_of", "select", "set_device"]

_own = threading.local()


@cache
def device_count() -> int:
    """How many GPUs there are."""
    return int(cp.cuda.runtime.getDeviceCount())


@cache
def _named(index: int) -> device:
    return device("cuda", index)


def device_of(array: Any) -> device:
    """Where an array lies."""
    return _named(array.device.id)


def current_device() -> int:
    """The number of the GPU that "cuda" means in this thread."""
    return getattr(_own, "index", 0)


def set_device(index: int) -> None:
    """Have "cuda" mean another GPU in this thread."""
    _own.index = _checked(index)


def _checked(index: int) -> int:
    if not 0 <= index < device_count():
        raise RuntimeError(f"device 'cuda:{index}' is not there; this machine has {device_count()} GPU(s), from cuda:0")
    return index


def select(index: int | None) -> None:
    """Make GPU `index` (None: the user's current one) the one that CuPy works on.

    Raises RuntimeError for a GPU that is not there.
    """
    index = current_device() if index is None else index
    if device_count() > 1 or index:
        cp.cuda.Device(_checked(index)).use()
