"""Launches captured into a CUDA graph, which is launched as one afterwards.

A graph repeats launches with the arguments they had, addresses and numbers. So its memory comes from a pool of its own,
which no other code uses while the graph lives, and numbers that change from step to step are in that memory
(`live`). What cannot be part of a graph (waiting for the GPU, copying from the processor) raises CaptureError here.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.shared import CaptureError
from tinyattn.locks import fork_safe

__all__ = ["Graph", "Recorder", "capturing", "check_accumulation", "live", "refuse_in_capture"]

Array = Any
_own = threading.local()


def capturing() -> bool:
    """Whether launches of this thread are being captured."""
    return getattr(_own, "used", None) is not None


def refuse_in_capture(why: str) -> None:
    """Raise CaptureError with the message `why` while launches are being captured."""
    if capturing():
        raise CaptureError(why)


def check_accumulation(grad: Array) -> None:
    """Raise CaptureError if a gradient would be accumulated into one from before the capture: after a zero_grad()
    outside of the graph, a replay would accumulate into an array that is no longer the gradient."""
    if capturing() and grad.data.ptr not in _own.made:
        raise CaptureError("gradients are added to those from before: call zero_grad() inside of the step")


# --- numbers that change from step to step ---


class _Slot:
    """A number in the memory of the GPU, and what it is as far as the processor knows."""

    def __init__(self) -> None:
        self.array, self.value = cp.zeros((), np.float64), 0.0

    def write(self, value: float) -> None:
        if value != self.value:
            self.array.fill(value)  # a launch, not a copy
            self.value = value


_slots: dict[tuple[int, int, str], _Slot] = {}  # by GPU, by the id of the dict, and by the key in it


def live(group: dict[str, Any], name: str) -> Array:
    """The number `group[name]` in the memory of the GPU, float64 (): a graph reads there what it is by then."""
    key = cp.cuda.Device().id, id(group), name
    slot = _slots.get(key)
    if slot is None:
        refuse_in_capture(f"{name!r} of a parameter group is used for the first time")
        slot = _slots[key] = _Slot()
    if capturing():
        _own.used[id(group), name] = (group, name, slot)
    else:
        slot.write(float(group[name]))
    return slot.array


# --- capture and replay ---


class Graph:
    """What was captured: launch it with `replay`."""

    def __init__(self, graph: Any, used: dict[Any, tuple[dict[str, Any], str, _Slot]], recorder: Recorder) -> None:
        self._graph, self._used = graph, list(used.values())
        self._recorder = recorder  # whose memory is not given to another graph while this one lives
        self._options = [_frozen(group, name) for group, name, _ in self._used]

    def stale(self) -> bool:
        """Whether a number that is written into the graph itself (a weight decay, say) has changed since."""
        return any(_frozen(group, name) != was for (group, name, _), was in zip(self._used, self._options, strict=True))

    def replay(self) -> None:
        """All launches again, with the live numbers as they are now."""
        stream = cp.cuda.get_current_stream()
        with _lock:
            stream.wait_event(self._recorder.last)
            for group, name, slot in self._used:
                slot.write(float(group[name]))
            self._graph.launch()
            self._recorder.last.record(stream)


def _frozen(group: dict[str, Any], name: str) -> dict[str, Any]:
    """The options of a group but for the one that is live."""
    return {key: value for key, value in group.items() if key not in ("params", name)}


# Of each GPU, the stream that is captured, since the default stream cannot be; and an event after the last work that
# was issued on it or replayed from it: cuBLAS has one workspace for all that work, so none of it may overlap.
_streams: dict[int, tuple[Any, Any]] = {}
_lock = fork_safe(threading.RLock())  # one thread at a time issues such work; else it would end in another's graph
pools: list[Any] = []  # of recorders that live or have lived
_retired: list[Any] = []  # of those that have not: a dropped pool never returns its memory, from CuPy 14.1 on


class Recorder:
    """A function on its way to a graph: the stream to capture, and a pool of memory for this one graph.

    Nobody may take memory from the pool once the graph is there: what looks free in it is where the graph computes.
    """

    def __init__(self) -> None:
        device = cp.cuda.Device().id
        with _lock:
            if device not in _streams:
                _streams[device] = cp.cuda.Stream(non_blocking=True), cp.cuda.Event(disable_timing=True)
            if not _retired:
                _retired.append(cp.cuda.MemoryPool())
                pools.extend(_retired)
            self._stream, self.last = _streams[device]
            self._pool = _retired.pop()
        weakref.finalize(self, _retired.append, self._pool).atexit = False

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """On the stream, with memory of the pool; in order with what the caller's stream does before and after."""
        outside, before = cp.cuda.get_current_stream(), cp.cuda.Event(disable_timing=True)
        with _lock:
            before.record(outside)
            self._stream.wait_event(before)
            self._stream.wait_event(self.last)
            try:
                with cp.cuda.using_allocator(self._allocate), self._stream:
                    yield
            finally:
                self.last.record(self._stream)
                outside.wait_event(self.last)

    def _allocate(self, size: int) -> Any:
        try:
            memory = self._pool.malloc(size)
        except cp.cuda.memory.OutOfMemoryError:
            free_cached_memory()  # which may be most of the GPU's, after steps without a graph
            memory = self._pool.malloc(size)
        if capturing():
            _own.made.add(memory.ptr)
        return memory

    def run(self, function: Callable[[], Any]) -> Any:
        """Call it, as it will be captured but for the capture: what it needs memory for is in the pool afterwards."""
        with self._inside():
            return function()

    def capture(self, function: Callable[[], Any]) -> tuple[Any, Graph]:
        """Call it and keep its launches, which have not run yet. What it gives holds their results after a replay.

        Raises whatever `function` raises, CaptureError for what a graph cannot hold.
        """
        with self._inside():
            self._stream.begin_capture()
            _own.used, _own.made = {}, set()
            try:
                result = function()
            except BaseException:
                with contextlib.suppress(Exception):  # the capture is spoiled, and that is known
                    self._stream.end_capture()
                raise
            finally:
                used, _own.used = _own.used, None
            return result, Graph(self._stream.end_capture(), used, self)


def free_cached_memory() -> None:
    """Return to the GPU what pools keep for later, except where graphs compute."""
    for pool in (cp.get_default_memory_pool(), *_retired):
        pool.free_all_blocks()
