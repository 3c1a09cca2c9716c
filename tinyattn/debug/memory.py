"""Who keeps which memory, from when to when."""

from __future__ import annotations

import threading
import tracemalloc
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from tinyattn.debug.describe import array_of, input_names, trace
from tinyattn.debug.memory_report import MemoryMoment, MemoryReport, MemoryRow
from tinyattn.engine.modes import Site, call_site
from tinyattn.engine.node import Node, Saved
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.tensors import Tensor

__all__ = ["MemoryLedger", "memory_ledger"]


class _About(NamedTuple):
    """What a row is about."""

    operation: str
    module: str
    site: Site | None


@dataclass(slots=True)
class _Memory:
    """One allocation, known by a weak reference to the array that owns it."""

    number: int
    bytes: int
    given: bool
    key: int
    ref: weakref.ref[Any] | None = None
    row: MemoryRow | None = None  # where it came from
    saved: int | None = None  # the place of the row that saved it first


@dataclass(slots=True)
class _Call:
    """A call in progress: bytes held and traced when it began, and the most bytes since."""

    key: object
    live: int = 0
    traced: int = 0
    high: int = 0


class MemoryLedger(Observer, MemoryReport):
    """What `memory_ledger()` gives: an account of memory by weak references, which keep nothing alive.

    measured: tracemalloc's own peak of the block, to compare `peak` with, which is not made from it.
    """

    _active: ClassVar[list[MemoryLedger]] = []
    _own: ClassVar[int] = 0  # bytes traced that ledgers use themselves
    _lock = threading.RLock()

    def __init__(self) -> None:
        self.rows: list[MemoryRow] = []
        self.timeline: list[MemoryMoment] = []
        self.measured = self._live = self._base = self._count = 0
        self._memories: dict[int, _Memory] = {}  # by the identity of the array that owns it
        self._nodes: dict[int, tuple[weakref.ref[Node], list[MemoryRow]]] = {}  # what they saved
        self._leaves: dict[int, tuple[Any, _About, str]] = {}  # tensors whose .grad will come
        self._calls: dict[int, list[_Call]] = {}  # by thread, the innermost last
        self._gone: deque[_Memory | int] = deque()  # memories and nodes that have died, to be noted
        self._scratch: dict[tuple[str, str], MemoryRow] = {}

    # --- what it observes ---

    def __enter__(self) -> Self:
        with self._lock:
            if not self._active:
                if tracemalloc.is_tracing():
                    raise RuntimeError(
                        "memory_ledger: tracemalloc is running already, and the ledger would reset its peak, for it "
                        "measures the scratch of kernels with it. Call tracemalloc.stop() first."
                    )
                MemoryLedger._own = 0
                tracemalloc.start()
            for memory in [memory for other in self._active for memory in other._memories.values()]:
                if memory.ref is not None and (owner := memory.ref()) is not None:
                    self._know(owner, given=True)  # this one was there before
            self._active.append(self)
            tracemalloc.reset_peak()
            self._base = tracemalloc.get_traced_memory()[0] - self._own
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        with self._lock:
            with self._account():
                for memory in self._memories.values():
                    memory.ref = None
                for forgotten in (self._memories, self._nodes, self._leaves, self._calls, self._gone):
                    forgotten.clear()
            self._active.remove(self)
            if not self._active:
                tracemalloc.stop()

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        with self._account():
            about = _About(op.name, "", call_site())
            for name, x in [*zip(input_names(op, len(inputs)), inputs, strict=False), *options.items()]:
                for array in _arrays(x):
                    self._note(array, "outside", about, name, len(self.timeline) - 1)
            self._begin(op)

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        with self._account():
            about = _about(node or trace(op, out))
            self._note(out, "output", about, "out")
            if node is not None:
                for name, array in _saved_arrays(node):
                    self._note(array, "output", about, name)
                    self._save(array, node, about, name)
            self._end(op, "forward", about)

    def before_backward(self, node: Node, g: Any) -> None:
        if node.op is None:
            return
        with self._account():
            # the walk may have summed several gradients: that array is new here
            self._note(g, "gradient", _about(node), "out", len(self.timeline) - 1)
            self._begin(node.id)

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        with self._account():
            about = _about(node)
            names = input_names(node.op, len(node.edges)) if node.op else []
            for name, edge, gradient in zip(names, node.edges, gradients, strict=False):
                if edge is None or gradient is None:
                    continue
                leaf = edge.op is None and gradient.shape == edge.shape
                self._note(gradient, "leaf gradient" if leaf else "gradient", about, name)
                tensor = edge.tensor() if edge.op is None and edge.tensor is not None else None
                if tensor is not None and tensor.grad is None:
                    self._leaves[edge.id] = (edge.tensor, about, name)
            self._end(node.id, "backward", about)

    def freed(self, node: Node) -> None:
        with self._account():
            self._release(node.id)

    def before_step(self, optimizer: Any) -> None:
        with self._account():
            self._begin(optimizer)

    def after_step(self, optimizer: Any) -> None:
        with self._account():
            about = _About(f"{type(optimizer).__name__}.step", "", None)
            for name, x in [item for state in optimizer.state.values() for item in state.items()]:
                if isinstance(x, Tensor):
                    self._note(x, "state", about, name)
            self._end(optimizer, "step", about)

    # --- the account ---

    @contextmanager
    def _account(self) -> Iterator[None]:
        """Whatever is allocated inside is the ledger's own; what has died meanwhile is noted first."""
        with self._lock:
            traced, peak = tracemalloc.get_traced_memory()
            for ledger in self._active:
                ledger.measured = max(ledger.measured, peak - self._own - ledger._base)
                for call in (calls[-1] for calls in ledger._calls.values() if calls):
                    call.high = max(call.high, call.live + peak - self._own - call.traced)
            self._settle()
            yield
            tracemalloc.reset_peak()
            now = tracemalloc.get_traced_memory()[0]
            MemoryLedger._own += now - traced
            if calls := self._calls.get(threading.get_ident()):  # its own memory counts from here
                calls[-1].live, calls[-1].traced = self._live, now - self._own

    def _settle(self) -> None:
        """Note what has died, and the gradients that have arrived at leaves."""
        while self._gone:
            gone = self._gone.popleft()
            if isinstance(gone, int):
                self._release(gone)
                continue
            gone.ref = None
            if self._memories.get(gone.key) is gone:
                del self._memories[gone.key]
            if gone.row is not None:
                gone.row.end = len(self.timeline) - 1
                self._live -= gone.bytes
        for key, (ref, about, name) in list(self._leaves.items()):
            tensor = ref()
            if tensor is None or tensor.grad is not None:
                del self._leaves[key]
            if tensor is not None and tensor.grad is not None:
                self._note(tensor.grad, "leaf gradient", about, name, len(self.timeline) - 1)

    def _note(self, x: Any, kind: str, about: _About, name: str, start: int | None = None) -> None:
        """Account for the memory of `x`, unless it is known."""
        array = array_of(x)
        owner = _owner(array)
        memory = self._memories.get(id(owner))
        if memory is not None and memory.ref is not None and memory.ref() is owner:
            return
        memory = self._know(owner, given=tracemalloc.get_object_traceback(owner) is None)
        if not memory.given:
            memory.row = _row(kind, about, name, array, memory, len(self.timeline) if start is None else start)
            self.rows.append(memory.row)
            self._live += memory.bytes

    def _know(self, owner: Any, given: bool) -> _Memory:
        self._count += 1
        # an array that does not own its memory shows that of another library, which was there before
        memory = _Memory(self._count, owner.nbytes, given or not owner.flags.owndata, id(owner))
        memory.ref = self._mourned(owner, memory)
        self._memories[id(owner)] = memory
        return memory

    def _mourned(self, x: Any, what: _Memory | int) -> weakref.ref[Any]:
        """A reference to `x` that does not keep it; when it dies, `what` joins those who have gone."""
        gone = self._gone
        return weakref.ref(x, lambda _: gone.append(what))

    def _save(self, array: Any, node: Node, about: _About, name: str) -> None:
        """A row for an array that `node` has saved."""
        memory = self._memories[id(_owner(array))]
        row = _row("saved", about, name, array, memory, len(self.timeline))
        if memory.saved is None or self.rows[memory.saved].end is not None:
            memory.saved = len(self.rows)
        else:
            row.shared = memory.saved
        self.rows.append(row)
        if node.id not in self._nodes:
            self._nodes[node.id] = (self._mourned(node, node.id), [])
        self._nodes[node.id][1].append(row)

    def _release(self, key: int) -> None:
        """A node has dropped what it had saved."""
        for row in self._nodes.pop(key, (None, ()))[1]:
            row.end = len(self.timeline) - 1

    def _begin(self, key: object) -> None:
        self._calls.setdefault(threading.get_ident(), []).append(_Call(key))

    def _pop(self, key: object) -> _Call:
        """The call in progress; those begun after it have failed."""
        calls = self._calls.get(threading.get_ident(), [])
        while calls:
            call = calls.pop()
            if call.key == key:
                return call
        return _Call(key, self._live)

    def _end(self, key: object, phase: str, about: _About) -> None:
        high = max(self._pop(key).high, self._live)
        scratch = high - self._live  # its results are in the account
        row = self._scratch.get((about.operation, phase))
        if row is None and scratch > 0:
            row = MemoryRow("scratch", *about, phase, (), "", bytes=0, memory=0, start=0)
            self._scratch[about.operation, phase] = row
            self.rows.append(row)
        if row is not None and scratch > row.bytes:
            row.bytes, row.module, row.site, row.start = scratch, about.module, about.site, len(self.timeline)
            row.end = row.start
        self.timeline.append(MemoryMoment(phase, about.operation, about.module, self._live, high))


def memory_ledger() -> MemoryLedger:
    """Keep account of memory: `with memory_ledger() as m: loss.backward()`, then `print(m)`.

    `m.rows` says who saved which array for backward, from when to when, and what outputs, gradients
    and optimizer states were held; `m.peak` is the most bytes at once, `m.at_peak()` what they were.
    Memory is accounted from the operation that made an array to the array's death; memory from before
    the `with` is not counted, and what NumPy needs between operations is not seen. The scratch of
    kernels is measured with tracemalloc, which makes everything slower and must not be running; calls
    in several threads at once share theirs. Retains no array.
    """
    return MemoryLedger()


def _about(node: Node) -> _About:
    return _About(node.op.name if node.op else "leaf", node.module, node.site)


def _row(kind: str, about: _About, name: str, array: Any, memory: _Memory, start: int) -> MemoryRow:
    shape, dtype = tuple(array.shape), str(array.dtype)
    return MemoryRow(kind, *about, name, shape, dtype, memory.bytes, memory.number, start, given=memory.given)


def _owner(array: Any) -> Any:
    """The array whose memory this one shows."""
    while isinstance(array.base, type(array)):
        array = array.base
    return array


def _arrays(x: Any) -> Iterator[Any]:
    """The arrays in an input or option, which may be an index."""
    if isinstance(x, Tensor | np.ndarray):
        yield array_of(x)
    elif isinstance(x, tuple | list):
        for part in x:
            yield from _arrays(part)


def _saved_arrays(node: Node) -> Iterator[tuple[str, Any]]:
    for name, value in (node.saved or {}).items():
        several = isinstance(value, tuple)
        for i, saved in enumerate(value if several else (value,)):
            if type(saved) is Saved:
                yield f"{name}[{i}]" if several else name, saved.array
