"""GPUs: which there are, which one is current, and what their memory holds. As torch.cuda.

Importing this needs no GPU; what asks for one raises, in a sentence, what is missing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from tinyattn import backends
from tinyattn.backends.driver import why_not
from tinyattn.random import generator_for

__all__ = [
    "current_device", "device", "device_count", "empty_cache", "get_device_capability", "get_device_name",
    "is_available", "manual_seed", "max_memory_allocated", "mem_get_info", "memory_allocated", "memory_reserved",
    "reset_peak_memory_stats", "set_device", "synchronize", "why_not",
]  # fmt: skip


def is_available() -> bool:
    """Whether there is a GPU that can be used; `why_not()` says what is missing."""
    return not why_not()


def device_count() -> int:
    """How many GPUs can be used; 0 if none."""
    return backends.gpu().device_count() if is_available() else 0


def current_device() -> int:
    """The number of the GPU that "cuda" means in this thread: 0 unless `set_device` has said otherwise."""
    return int(backends.gpu().current_device())


def set_device(device: Any) -> None:
    """Have "cuda" mean another GPU in this thread, by number or by name."""
    backends.gpu().set_device(_index(device))


class device(AbstractContextManager[None]):  # noqa: N801 - torch's name
    """Have "cuda" mean another GPU inside of a `with` block."""

    def __init__(self, device: Any) -> None:
        self._index = _index(device)

    def __enter__(self) -> None:
        self._before = current_device()
        set_device(self._index)

    def __exit__(self, *exception: object) -> None:
        set_device(self._before)


def get_device_name(device: Any = None) -> str:
    """What the maker calls it."""
    name = _runtime().getDeviceProperties(_index(device))["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """Its compute capability: (8, 0) for an A100."""
    properties = _runtime().getDeviceProperties(_index(device))
    return int(properties["major"]), int(properties["minor"])


def synchronize(device: Any = None) -> None:
    """Wait until the GPU has done everything that it was given, and raise what it found wrong on the way."""
    library = backends.gpu().on(_index(device))
    library.refuse_in_capture("synchronize() waits for the GPU")
    _runtime().deviceSynchronize()
    backends.check()


def manual_seed(seed: int) -> None:
    """Seed the random numbers of the current GPU; `tinyattn.manual_seed` seeds those of all devices."""
    generator_for("cuda").manual_seed(seed)


# --- memory ---


def memory_allocated(device: Any = None) -> int:
    """Bytes in use by tensors, and by what graphs keep."""
    return int(backends.gpu().on(_index(device)).memory_in_use())


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes in use at once since `reset_peak_memory_stats`, which begins to count (that takes some time for
    each allocation); before it, the most that were reserved."""
    return int(backends.gpu().on(_index(device)).peak_memory())


def reset_peak_memory_stats(device: Any = None) -> None:
    """Have `max_memory_allocated` count from here on."""
    backends.gpu().on(_index(device)).reset_peak_memory()


def memory_reserved(device: Any = None) -> int:
    """Bytes taken from the GPU: those in use and those kept for later."""
    return int(backends.gpu().on(_index(device)).memory_reserved())


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Free and total bytes of the GPU, whoever uses them."""
    backends.gpu().on(_index(device))
    free, total = backends.gpu().driver_memory()
    return int(free), int(total)


def empty_cache() -> None:
    """Give back to the GPU what is kept for later."""
    backends.gpu().on(None).release_memory()


def _index(device: Any) -> int:
    """The number of a GPU that was given by number or name; the current one for None."""
    where = backends.full_name("cuda" if device is None else backends.device(device))
    if where.index is None:
        raise ValueError(f"{where!r} is no GPU")
    return where.index


def _runtime() -> Any:
    return backends.gpu().runtime
