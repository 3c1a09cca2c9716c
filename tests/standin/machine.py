"""The GPUs of the stand-in: their memory, what was launched on them, and what it cost.

A launch computes at once, as if the GPU were infinitely fast, unless launches are being captured: then it is only
written down, and its output holds garbage until the graph is launched, as on a GPU.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

GPUS = 2
counts: Counter[str] = Counter()  # launch, upload, download, synchronise, malloc, malloc in capture
_own = threading.local()


class CUDARuntimeError(RuntimeError):
    """What cupy.cuda.runtime raises."""


class OutOfMemoryError(MemoryError):
    """What cupy.cuda.memory raises."""


# --- what happens now: device, stream, allocator ---


def current_device() -> int:
    return getattr(_own, "device", 0)


def set_device(index: int) -> None:
    if not 0 <= index < GPUS:
        raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
    _own.device = index


def current_stream() -> Any:
    return getattr(_own, "stream", None) or null_stream


def set_stream(stream: Any) -> None:
    _own.stream = stream


def capturing() -> Any:
    """The stream whose launches are being captured in this thread, or None."""
    stream = current_stream()
    return stream if stream.captured is not None else None


def launch(body: Callable[[], None]) -> None:
    """`body` on the GPU: now, or later as a part of the graph."""
    counts["launch"] += 1
    stream = capturing()
    if stream is not None:
        stream.captured.append(body)
        return
    body()


def synchronise(why: str = "synchronise") -> None:
    """The processor waits for the GPU."""
    if capturing() is not None:
        raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")
    counts[why] += 1


@contextlib.contextmanager
def counting() -> Iterator[Counter[str]]:
    """What happens inside of the block."""
    before, found = counts.copy(), Counter[str]()
    yield found
    found.update({key: n - before[key] for key, n in counts.items() if n != before[key]})


# --- streams and graphs ---


class Graph:
    """Launches, to be done again."""

    def __init__(self, bodies: list[Callable[[], None]]) -> None:
        self._bodies = bodies

    def launch(self, stream: Any = None) -> None:
        counts["graph launch"] += 1
        for body in self._bodies:
            body()

    def upload(self, stream: Any = None) -> None:
        pass


class Stream:
    """An order of launches."""

    null: Stream
    _numbers = iter(range(1, 1 << 30))

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        self.ptr = 0 if null else 4096 + next(Stream._numbers)
        self.captured: list[Callable[[], None]] | None = None
        self.is_non_blocking = non_blocking

    def use(self) -> Stream:
        set_stream(self)
        return self

    def __enter__(self) -> Stream:
        self.__dict__.setdefault("before", []).append(current_stream())
        return self.use()

    def __exit__(self, *exception: object) -> None:
        set_stream(self.__dict__["before"].pop())

    def begin_capture(self, mode: Any = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.captured is not None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is capturing already")
        self.captured = []

    def end_capture(self) -> Graph:
        if self.captured is None:
            raise RuntimeError("the stream is not capturing")
        bodies, self.captured = self.captured, None
        return Graph(bodies)

    def is_capturing(self) -> bool:
        return self.captured is not None

    def synchronize(self) -> None:
        synchronise()

    def wait_event(self, event: Any) -> None:
        self.__dict__.setdefault("waited_for", []).append(event)

    def record(self, event: Any = None) -> Event:
        return event or Event()


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.done, self.recorded_on = True, []

    def record(self, stream: Any = None) -> None:
        self.recorded_on.append(stream)

    def synchronize(self) -> None:
        synchronise()


null_stream = Stream.null = Stream(null=True)


# --- memory ---


class MemoryHook:
    """Is told of what pools give and take, inside of a `with`."""

    active: list[MemoryHook] = []

    def __enter__(self) -> MemoryHook:
        MemoryHook.active.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        MemoryHook.active.remove(self)

    def malloc_postprocess(self, **what: Any) -> None:
        pass

    def free_postprocess(self, **what: Any) -> None:
        pass


class Memory:
    """A block of a pool, which gets it back when nobody holds this any more."""

    def __init__(self, pool: MemoryPool, size: int) -> None:
        self.pool, self.device_id, self.hooks = pool, current_device(), MemoryHook.active
        self.asked_for = size
        self.size = max((size + 511) // 512 * 512, 512)
        free = pool.free[self.device_id, self.size]
        if free:
            self.block = free.pop()
        else:
            pool.need(self.size)
            counts["malloc"] += 1
            if capturing() is not None:
                counts["malloc in capture"] += 1
            self.block = np.empty(self.size, np.uint8)
        pool.used[self.device_id] += self.size
        self.ptr = self.block.ctypes.data
        _memories[self.ptr] = self
        if capturing() is None:
            self.block[:] = 0xFF  # NaN, or -1: whoever reads it before writing shall notice
        for hook in self.hooks:
            hook.malloc_postprocess(device_id=0, size=size, mem_size=self.size, mem_ptr=self.ptr, pmem_id=0)

    def __del__(self) -> None:
        if not hasattr(self, "block"):  # refused
            return
        self.pool.used[self.device_id] -= self.size
        for hook in self.hooks:
            hook.free_postprocess(device_id=0, mem_size=self.size, mem_ptr=self.ptr, pmem_id=0)
        self.pool.free[self.device_id, self.size].append(self.block)


_memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()  # in use, by their addresses


def memory_at(address: int) -> Memory | None:
    """The memory in use that an address lies in."""
    found = _memories.get(address)
    inside = (m for m in [*_memories.values()] if m.ptr <= address < m.ptr + m.asked_for)
    return found or next(inside, None)


class MemoryPool:
    """Blocks that were used before, by size. As CuPy's, it gives hooks the number of the GPU where it was made, here 0,
    and those of a pool that is dropped are lost: no other pool can have their memory."""

    capacity = 8 << 30  # bytes of a GPU
    totals: Counter[int] = Counter()  # of each GPU, what pools have taken from it

    def __init__(self, allocator: Any = None) -> None:
        self.free: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
        self.used: Counter[int] = Counter()

    def need(self, size: int) -> None:
        """Take new memory; where there is none, that of this pool's free blocks, as CuPy does."""
        device = current_device()
        if self.totals[device] + size > self.capacity:
            self.free_all_blocks()
        if self.totals[device] + size > self.capacity:
            for hook in MemoryHook.active:
                hook.malloc_postprocess(device_id=0, size=size, mem_size=size, mem_ptr=0, pmem_id=0)
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
        self.totals[device] += size

    def malloc(self, size: int) -> Memory:
        return Memory(self, size)

    def used_bytes(self) -> int:
        return self.used[current_device()]

    def total_bytes(self) -> int:
        return self.used_bytes() + self.free_bytes()

    def free_bytes(self) -> int:
        device = current_device()
        return sum(size * len(blocks) for (index, size), blocks in self.free.items() if index == device)

    def n_free_blocks(self) -> int:
        return sum(map(len, self.free.values()))

    def free_all_blocks(self, stream: Any = None) -> None:
        device = current_device()
        self.totals[device] -= self.free_bytes()
        for key in [key for key in self.free if key[0] == device]:
            del self.free[key]


default_pool = MemoryPool()


@contextlib.contextmanager
def using_allocator(allocator: Any = None) -> Iterator[None]:
    """Another place to take memory from, in this thread."""
    before = getattr(_own, "allocator", None)
    _own.allocator = allocator
    try:
        yield
    finally:
        _own.allocator = before


_allocator: list[Any] = [default_pool.malloc]


def set_allocator(allocator: Any = None) -> None:
    _allocator[0] = allocator or default_pool.malloc


def get_allocator() -> Any:
    return getattr(_own, "allocator", None) or _allocator[0]


def allocate(size: int) -> Memory:
    return get_allocator()(size)


class PinnedMemory(bytearray):
    """Memory of the processor that a GPU can reach."""

    @property
    def ptr(self) -> int:
        return np.frombuffer(self, np.uint8).ctypes.data
