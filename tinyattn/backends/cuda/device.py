"""Which GPU: the user's current one, and the one that CuPy must work on for a given array; and its memory.

CuPy computes on its own current device, whichever the arrays lie on. Every way into this library leads through
`select`, which sets that to the device of the arrays, so that users need not choose a GPU. Every way out of tinyattn
leads through `return_to`, so that the arrays a user makes with CuPy lie where they would without tinyattn.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from functools import cache
from typing import Any

import cupy as cp

from tinyattn.backends.cuda.graphs import free_cached_memory, pools
from tinyattn.backends.devices import device

__all__ = [
    "current_device", "device_count", "device_of", "driver_memory", "memory_in_use", "memory_reserved", "peak_memory",
    "release_memory", "reset_peak_memory", "return_to", "runtime", "select", "set_device", "users_gpu",
]  # fmt: skip

runtime = cp.cuda.runtime
_own = threading.local()


@cache
def device_count() -> int:
    """How many GPUs there are."""
    return int(runtime.getDeviceCount())


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
    """Make GPU `index` (None: the one that "cuda" means) the one that CuPy works on in this thread, until `return_to`.

    Raises RuntimeError for a GPU that is not there.
    """
    index = current_device() if index is None else index
    if device_count() > 1 or index:
        cp.cuda.Device(_checked(index)).use()


def users_gpu() -> int:
    """The number of the GPU that CuPy works on in this thread."""
    return int(runtime.getDevice()) if device_count() > 1 else 0


def return_to(index: int) -> None:
    """Have CuPy work on GPU `index` again."""
    if device_count() > 1:
        runtime.setDevice(index)


# --- memory: in use, kept for later, and the most that was in use ---


def _pools() -> list[Any]:
    return [cp.get_default_memory_pool(), *pools]


def memory_in_use() -> int:
    """Bytes of the current GPU."""
    return sum(pool.used_bytes() for pool in _pools())


def memory_reserved() -> int:
    """Bytes of the current GPU, those kept for later included."""
    return sum(pool.total_bytes() for pool in _pools())


def release_memory() -> None:
    """Return to the GPU what is kept for later, except where graphs compute."""
    free_cached_memory()


def driver_memory() -> tuple[int, int]:
    """Free and total bytes of the current GPU."""
    return cp.cuda.Device().mem_info


class _Peak(cp.cuda.MemoryHook):
    """Keeps, of each GPU, the most bytes that were in use."""

    name = "tinyattn-peak"

    def __init__(self) -> None:
        self.most: defaultdict[int, int] = defaultdict(int)

    def malloc_postprocess(self, **what: Any) -> None:
        """Memory was taken from a pool, on the current GPU; CuPy passes the number of another one, and failures too."""
        device = cp.cuda.Device().id
        self.most[device] = max(self.most[device], memory_in_use())


_peak: list[_Peak] = []  # one, after the first `reset_peak_memory`


def reset_peak_memory() -> None:
    """Count from here on."""
    if not _peak:
        hook = _Peak()
        hook.__enter__()  # for as long as this thread lives
        _peak.append(hook)
    _peak[0].most[cp.cuda.Device().id] = memory_in_use()


def peak_memory() -> int:
    """The most bytes in use since `reset_peak_memory`, or else that were reserved."""
    return _peak[0].most[cp.cuda.Device().id] if _peak else memory_reserved()
