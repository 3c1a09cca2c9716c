"""The memory of the GPU: what is in use, what is kept for later, and the most that was in use."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import cupy as cp

from tinyattn.backends.cuda.graphs import recorders

__all__ = [
    "driver_memory", "memory_in_use", "memory_reserved", "peak_memory", "release_memory", "reset_peak_memory",
    "runtime",
]  # fmt: skip

runtime = cp.cuda.runtime


def _pools() -> list[Any]:
    return [cp.get_default_memory_pool(), *(recorder.pool for recorder in recorders)]


def memory_in_use() -> int:
    """Bytes of the current GPU."""
    return sum(pool.used_bytes() for pool in _pools())


def memory_reserved() -> int:
    """Bytes of the current GPU, those kept for later included."""
    return sum(pool.total_bytes() for pool in _pools())


def release_memory() -> None:
    """Give back what is kept for later, except where graphs compute."""
    cp.get_default_memory_pool().free_all_blocks()


def driver_memory() -> tuple[int, int]:
    """Free and total bytes of the current GPU."""
    return cp.cuda.Device().mem_info


class _Peak(cp.cuda.MemoryHook):
    """Counts, on each GPU, the bytes in use and the most there were."""

    name = "tinyattn-peak"

    def __init__(self) -> None:
        self.now: defaultdict[int, int] = defaultdict(int)
        self.most: defaultdict[int, int] = defaultdict(int)

    def malloc_postprocess(self, **what: Any) -> None:
        """Memory was taken from a pool."""
        device = what["device_id"]
        self.now[device] += what["mem_size"]
        self.most[device] = max(self.most[device], self.now[device])

    def free_postprocess(self, **what: Any) -> None:
        """Memory went back to a pool."""
        self.now[what["device_id"]] -= what["mem_size"]


_peak: list[_Peak] = []  # one, after the first `reset_peak_memory`


def reset_peak_memory() -> None:
    """Count from here on."""
    if not _peak:
        hook = _Peak()
        hook.__enter__()  # for as long as this thread lives
        _peak.append(hook)
    device = cp.cuda.Device().id
    _peak[0].now[device] = _peak[0].most[device] = memory_in_use()


def peak_memory() -> int:
    """The most bytes in use since `reset_peak_memory`, or else that were reserved."""
    return _peak[0].most[cp.cuda.Device().id] if _peak else memory_reserved()
