"""Which operation keeps which memory, from when to when."""

from __future__ import annotations

import threading
import tracemalloc
import weakref
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from tinyattn import backends
from tinyattn.debug.describe import array_of, arrays_in, input_names, saved_by, shares, size, table, trace
from tinyattn.engine.modes import Site, call_site
from tinyattn.engine.node import Node
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.locks import fork_safe
from tinyattn.tensors import Tensor

__all__ = ["MemoryLedger", "MemoryMoment", "MemoryRow", "memory_ledger"]


@dataclass(slots=True)
class MemoryRow:
    """One reason why memory is held, from one call of the timeline to another.

    kind: "saved" for backward; "output" of an operation; "gradient"; "leaf gradient", which becomes a `.grad`;
    "state" of an optimizer; "outside": an input that no operation made; "scratch": the most that a kernel needed
    beside its results while it ran.
    name: of the input, output, option or state; of scratch, the phase. bytes: of the whole memory, of which the array
    may be a view. start: the call that made or saved it. end: the last call that it outlived or served, None if it
    outlived the ledger. memory: a number that all rows of one memory share. shared: the index in `rows` of the row
    that saved it first, if this is not the first. given: it existed before the ledger, and is not counted.
    """

    kind: str
    operation: str
    module: str
    site: Site | None
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    memory: int
    start: int
    end: int | None = None
    shared: int | None = None
    given: bool = False

    @property
    def line(self) -> str:
        """The line of the user's program, "file.py:12"; "" if there is none."""
        return "" if self.site is None else str(self.site)


class MemoryMoment(NamedTuple):
    """One call: "forward", "backward" or "step" of what; the bytes held after it, and the most during it."""

    phase: str
    operation: str
    module: str
    live: int
    high: int


class _About(NamedTuple):
    """The operation, module path and line of a row."""

    operation: str
    module: str
    site: Site | None


@dataclass(slots=True)
class _Memory:
    """One allocation, identified by a weak reference to the array that owns it."""

    number: int
    bytes: int
    given: bool
    key: int
    ref: weakref.ref[Any] | None = None
    row: MemoryRow | None = None  # of the call that made it
    saved: int | None = None  # the index of the row that saved it first


@dataclass(slots=True)
class _Call:
    """A call in progress: bytes held and traced when it began, and the most bytes since."""

    key: object
    live: int = 0
    traced: int = 0
    high: int = 0


class MemoryLedger(Observer):
    """What `memory_ledger()` returns: an account of memory by weak references, which keep nothing alive.

    rows: a MemoryRow for every reason to hold memory, in order. timeline: a MemoryMoment for each call.
    measured: the peak of tracemalloc, for comparison with `peak`, which is computed without it.

    >>> with ta.memory_ledger() as ledger:
    ...     y = ta.ones(1000).exp()
    >>> ledger.peak >= 4000
    True
    """

    _active: ClassVar[list[MemoryLedger]] = []
    _own: ClassVar[int] = 0  # traced bytes that belong to ledgers
    _lock = fork_safe(threading.RLock())

    def __init__(self) -> None:
        self.rows: list[MemoryRow] = []
        self.timeline: list[MemoryMoment] = []
        self.measured = self._live = self._base = self._count = 0
        self._memories: dict[int, _Memory] = {}  # by the id() of the array that owns it
        self._nodes: dict[int, tuple[weakref.ref[Node], list[MemoryRow]]] = {}  # what they saved
        self._leaves: dict[int, tuple[Any, _About, str]] = {}  # tensors whose .grad is about to be set
        self._calls: dict[int, list[_Call]] = {}  # by thread, the innermost last
        self._gone: deque[_Memory | int] = deque()  # memories and ids of nodes that have died
        self._scratch: dict[tuple[str, str], int] = {}  # the index of the largest of each operation and phase

    # --- what it has found ---

    @property
    def peak(self) -> int:
        """The most bytes at once above those from before: the arrays known to be alive, and one kernel's scratch."""
        return max((moment.high for moment in self.timeline), default=0)

    @property
    def peak_call(self) -> int:
        """The index in the timeline of the first call that reached the peak."""
        return max(range(len(self.timeline)), key=lambda i: self.timeline[i].high, default=0)

    @property
    def saved(self) -> list[MemoryRow]:
        """The rows of what was saved for backward."""
        return [row for row in self.rows if row.kind == "saved"]

    def held(self, call: int) -> list[MemoryRow]:
        """One row for each memory held during that call: the one that saved it first, or else that made it."""
        rows: dict[int, MemoryRow] = {}
        for row in sorted(self.rows, key=lambda row: row.kind != "saved"):
            if row.start <= call and (row.end is None or row.end >= call) and not row.given and row.kind != "scratch":
                rows.setdefault(row.memory, row)
        return list(rows.values())

    def at_peak(self, by: str = "kind") -> dict[str, int]:
        """The bytes at the peak by "kind", "operation" or "module", most first; their sum is `peak`."""
        if not self.timeline:
            return {}
        moment, totals = self.timeline[self.peak_call], Counter[str]()
        for row in self.held(self.peak_call):
            totals[getattr(row, by)] += row.bytes
        totals["scratch" if by == "kind" else getattr(moment, by)] += moment.high - totals.total()
        return dict(totals.most_common())

    def table(self, rows: int = 12) -> str:
        """The peak, what it consists of, and the `rows` largest memories held then, as text."""
        if not self.timeline:
            return "memory ledger: no operation ran"
        moment = self.timeline[self.peak_call]
        lines = [
            f"memory ledger: {size(moment.high)} at the peak (tracemalloc: {size(self.measured)}), in call "
            f"{self.peak_call} of {len(self.timeline)}, the {moment.phase} of {_place(moment)}"
        ]
        for by in ("kind", "operation", "module"):
            parts = [f"{name or 'no module'} {size(n)}" for name, n in self.at_peak(by).items() if n > self.peak / 1000]
            lines.append(f"  by {by}: " + ", ".join(parts[:6]) + ", ..." * (len(parts) > 6))
        held = sorted(self.held(self.peak_call), key=lambda row: -row.bytes)
        cells = [["bytes", "kind", "operation", "name", "shape", "dtype", "calls", "line"]]
        for row in held[:rows]:
            calls = f"{row.start}-{'' if row.end is None else row.end}"
            cells.append([size(row.bytes), row.kind, _place(row), row.name, str(row.shape), row.dtype, calls, row.line])
        lines += table(cells, left=range(1, 8))
        if held[rows:]:
            lines.append(f"  and {len(held) - rows} more with {size(sum(row.bytes for row in held[rows:]))}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    # --- what it observes ---

    def __enter__(self) -> Self:
        with self._lock:
            if not self._active:
                if tracemalloc.is_tracing():
                    text = "tracemalloc is running already, and the ledger must reset its peak; call tracemalloc.stop()"
                    raise RuntimeError(f"memory_ledger: {text}")
                MemoryLedger._own = 0
                tracemalloc.start()
            for memory in [memory for other in self._active for memory in other._memories.values()]:
                if memory.ref is not None and (array := memory.ref()) is not None:
                    self._know(array, given=True)
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
                for array in arrays_in(x):
                    self._note(array, "outside", about, name, len(self.timeline) - 1)
            self._begin(op)

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        with self._account():
            about = _about(node or trace(op, out))
            self._note(out, "output", about, "out")
            if node is not None:
                for name, saved in saved_by(node):
                    self._note(saved.array, "output", about, name)
                    self._save(saved.array, node, about, name)
            self._end(op, "forward", about)

    def before_backward(self, node: Node, g: Any) -> None:
        if node.op is None:
            return
        with self._account():
            # a sum of several gradients is a new array
            self._note(g, "gradient", _about(node), "out", len(self.timeline) - 1)
            self._begin(node.id)

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        with self._account():
            about = _about(node)
            for name, edge, gradient in shares(node, gradients):
                if gradient is None:
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
        """Note what has died; whatever is allocated inside of the `with` belongs to the ledger."""
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
        """Count the memory of `x`, unless it is known."""
        array = array_of(x)
        base = backends.owner(array)
        memory = self._memories.get(id(base))
        if memory is not None and memory.ref is not None and memory.ref() is base:
            return
        memory = self._know(base, given=tracemalloc.get_object_traceback(base) is None)
        if not memory.given:
            memory.row = self._row(kind, about, name, array, memory, len(self.timeline) if start is None else start)
            self._live += memory.bytes

    def _know(self, base: Any, given: bool) -> _Memory:
        self._count += 1
        # an array that does not own its memory has it from another library, from before
        memory = _Memory(self._count, base.nbytes, given or not base.flags.owndata, id(base))
        memory.ref = self._watched(base, memory)
        self._memories[id(base)] = memory
        return memory

    def _watched(self, x: Any, what: _Memory | int) -> weakref.ref[Any]:
        """A weak reference to `x` that adds `what` to `_gone` when `x` dies."""
        gone = self._gone
        return weakref.ref(x, lambda _: gone.append(what))

    def _save(self, array: Any, node: Node, about: _About, name: str) -> None:
        """Add a row for an array that `node` has saved."""
        memory = self._memories[id(backends.owner(array))]
        row = self._row("saved", about, name, array, memory, len(self.timeline))
        if memory.saved is None or self.rows[memory.saved].end is not None:
            memory.saved = len(self.rows) - 1
        else:
            row.shared = memory.saved
        if node.id not in self._nodes:
            self._nodes[node.id] = (self._watched(node, node.id), [])
        self._nodes[node.id][1].append(row)

    def _row(self, kind: str, about: _About, name: str, array: Any, memory: _Memory, start: int) -> MemoryRow:
        shape, dtype = tuple(array.shape), str(array.dtype)
        row = MemoryRow(kind, *about, name, shape, dtype, memory.bytes, memory.number, start, given=memory.given)
        self.rows.append(row)
        return row

    def _release(self, key: int) -> None:
        """The node with this id has freed what it had saved."""
        for row in self._nodes.pop(key, (None, ()))[1]:
            row.end = len(self.timeline) - 1

    def _begin(self, key: object) -> None:
        self._calls.setdefault(threading.get_ident(), []).append(_Call(key))

    def _end(self, key: object, phase: str, about: _About) -> None:
        calls, call = self._calls.get(threading.get_ident(), []), _Call(None)
        while calls and call.key != key:  # those begun after it have failed
            call = calls.pop()
        high = max(call.high if call.key == key else 0, self._live)
        scratch = high - self._live  # its results are in the account
        if scratch > 0:
            row = MemoryRow("scratch", *about, phase, (), "", scratch, 0, len(self.timeline), len(self.timeline))
            place = self._scratch.setdefault((about.operation, phase), len(self.rows))
            if place == len(self.rows) or scratch > self.rows[place].bytes:
                self.rows[place : place + 1] = [row]
        self.timeline.append(MemoryMoment(phase, about.operation, about.module, self._live, high))


def memory_ledger() -> MemoryLedger:
    """Account for memory: `with memory_ledger() as m: loss.backward()`, then `print(m)`.

    `m.rows` lists who saved which array for backward, from when to when, and which outputs, gradients and optimizer
    states were held; `m.peak` is the most bytes at once, `m.at_peak()` what they were. Memory is counted from the
    operation that made an array until the array dies; memory from before the `with`, and what NumPy allocates between
    operations, are not counted. The scratch of kernels is measured with tracemalloc, which makes everything slower and
    must not be running (RuntimeError); calls in several threads at once share theirs. Retains no array.

    >>> with ta.memory_ledger() as m:
    ...     y = ta.ones(2, requires_grad=True).exp()
    >>> m.saved[0].operation
    'exp'
    """
    return MemoryLedger()


def _about(node: Node) -> _About:
    return _About(node.op.name if node.op else "leaf", node.module, node.site)


def _place(x: MemoryRow | MemoryMoment) -> str:
    return f"{x.operation} in {x.module}" if x.module else x.operation
