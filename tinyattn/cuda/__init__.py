"""GPUs: their number and properties, the current one, and their memory. As torch.cuda.

Importing this module needs no GPU. Functions that need one raise ImportError or RuntimeError with what is missing, and
ValueError for a device that is not a GPU. device: a number, a name, or None for the current GPU.

    >>> ta.cuda.is_available() == (ta.cuda.device_count() > 0)
    True
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from tinyattn import backends
from tinyattn.backends import why_not
from tinyattn.random import generator_for

__all__ = [
    "current_device", "device", "device_count", "empty_cache", "get_device_capability", "get_device_name",
    "is_available", "manual_seed", "manual_seed_all", "max_memory_allocated", "mem_get_info",
    "memory_allocated", "memory_reserved", "reset_peak_memory_stats", "set_device", "synchronize", "why_not",
]  # fmt: skip


def is_available() -> bool:
    """Return whether a GPU can be used; `why_not()` returns what is missing.

    >>> ta.cuda.is_available() == (ta.cuda.why_not() == "")
    True
    """
    return not why_not()


def device_count() -> int:
    """Return the number of GPUs that can be used.

    >>> ta.cuda.device_count() >= ta.cuda.is_available()
    True
    """
    return backends.gpu().device_count() if is_available() else 0


def current_device() -> int:
    """Return the number of the GPU that "cuda" means in this thread: 0 unless `set_device` has changed it."""
    return int(backends.gpu().current_device())


def set_device(device: Any) -> None:
    """Make "cuda" mean this GPU in the current thread."""
    backends.gpu().set_device(_index(device))


class device(AbstractContextManager[None]):  # noqa: N801 - torch's name
    """Make "cuda" mean this GPU inside a `with` block."""

    def __init__(self, device: Any) -> None:
        self._index = _index(device)

    def __enter__(self) -> None:
        self._before = current_device()
        set_device(self._index)

    def __exit__(self, *exception: object) -> None:
        set_device(self._before)


def get_device_name(device: Any = None) -> str:
    """Return the product name of a GPU."""
    name = _runtime().getDeviceProperties(_index(device))["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """Return the compute capability of a GPU: (8, 0) for an A100."""
    properties = _runtime().getDeviceProperties(_index(device))
    return int(properties["major"]), int(properties["minor"])


@backends.keeps_gpu
def synchronize(device: Any = None) -> None:
    """Wait until a GPU has finished all work, and raise the errors that it found, such as an index out of range."""
    library = backends.on_gpu(_index(device))
    library.refuse_in_capture("synchronize() waits for the GPU")
    _runtime().deviceSynchronize()
    backends.check()


@backends.keeps_gpu
def manual_seed(seed: int) -> None:
    """Seed the generator of the current GPU, if there is one; `tinyattn.manual_seed` seeds those of all devices.

    >>> ta.cuda.manual_seed(0)
    """
    if is_available():
        generator_for("cuda").manual_seed(seed)


@backends.keeps_gpu
def manual_seed_all(seed: int) -> None:
    """Seed the generators of all GPUs, if there are any.

    >>> ta.cuda.manual_seed_all(0)
    """
    for index in range(device_count()):
        generator_for(f"cuda:{index}").manual_seed(seed)


# --- memory ---


@backends.keeps_gpu
def memory_allocated(device: Any = None) -> int:
    """Return the bytes in use by tensors and recorded graphs."""
    return int(backends.on_gpu(_index(device)).memory_in_use())


@backends.keeps_gpu
def max_memory_allocated(device: Any = None) -> int:
    """Return the peak of the bytes in use since `reset_peak_memory_stats`; before it, the peak of those reserved."""
    return int(backends.on_gpu(_index(device)).peak_memory())


@backends.keeps_gpu
def reset_peak_memory_stats(device: Any = None) -> None:
    """Start counting for `max_memory_allocated`, which slows down each allocation a little."""
    backends.on_gpu(_index(device)).reset_peak_memory()


@backends.keeps_gpu
def memory_reserved(device: Any = None) -> int:
    """Return the bytes reserved: those in use and those cached."""
    return int(backends.on_gpu(_index(device)).memory_reserved())


@backends.keeps_gpu
def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Return the free and total bytes of a GPU, counting all processes."""
    backends.on_gpu(_index(device))
    free, total = backends.gpu().driver_memory()
    return int(free), int(total)


@backends.keeps_gpu
def empty_cache() -> None:
    """Release the cached memory of the current GPU, if there is one.

    >>> ta.cuda.empty_cache()
    """
    if is_available():
        backends.on_gpu(None).release_memory()


def _index(device: Any) -> int:
    """Return the number of a GPU given by number or name; of the current one for None."""
    where = backends.full_name("cuda" if device is None else backends.device(device))
    if where.index is None:
        raise ValueError(f"{where!r} is not a GPU; expected 'cuda', 'cuda:1' or a number")
    return where.index


def _runtime() -> Any:
    return backends.gpu().runtime
