"""Who keeps which memory, from when to when."""

from __future__ import annotations

import threading
import tracemalloc
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from tinyattn.debug.describe import array_of, input_names, trace
from tinyattn.graph import Node, Operation, Saved
from tinyattn.modes import Site
from tinyattn.observer import Observer
from tinyattn.tensor import Tensor

__all__ = ["MemoryLedger", "MemoryMoment", "MemoryRow", "memory_ledger"]


@dataclass(slots=True)
class MemoryRow:
    """One reason why memory is held, from one place in the ledger's timeline to another.

    kind: "saved" for backward; "output" of an operation; "gradient" on its way; "leaf gradient", which
    becomes a `.grad`; "state" of an optimizer; "outside": made by no operation, but the input of one;
    "scratch": the most that a kernel needed beside its result, while it ran.
    name: of the input, output or state. bytes: of the whole memory, of which the array may be a view.
    start: the call that made or saved it. end: the last call that still needed it, None if that was
    after the ledger. memory: the same number for the same memory. shared: the place in `rows` of the
    row that had saved it already, or None. given: it was there before the ledger, which counts it not.
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
    """One call: "forward", "backward" or "step" of what, bytes held after it, and most bytes during it."""

    phase: str
    operation: str
    module: str
    live: int
    high: int


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


class MemoryLedger(Observer):
    """What `memory_ledger()` gives. It holds weak references to arrays, and reports when entered again anew.

    rows: a MemoryRow for every reason to hold memory, in the order of their start. timeline: a
    MemoryMoment for every call, in order. measured: the peak of tracemalloc over the whole block, to
    compare `peak` with, which is not made from it.
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

    # --- what came out ---

    @property
    def peak(self) -> int:
        """The most bytes at once above those from before: all known arrays, and the scratch of one kernel."""
        return max((moment.high for moment in self.timeline), default=0)

    @property
    def saved(self) -> list[MemoryRow]:
        """The rows of what was saved for backward."""
        return [row for row in self.rows if row.kind == "saved"]

    def held(self, call: int) -> list[MemoryRow]:
        """A row for each memory held during that call of the timeline: who saved it, or else who made it."""
        rows: dict[int, MemoryRow] = {}
        for row in self.rows:
            if row.given or row.kind == "scratch" or row.start > call or (row.end is not None and row.end < call):
                continue
            if row.memory not in rows or (row.kind == "saved" and rows[row.memory].kind != "saved"):
                rows[row.memory] = row
        return list(rows.values())

    def at_peak(self, by: str = "kind") -> dict[str, int]:
        """What the peak is made of, by "kind", "operation" or "module": bytes, most first, which add up to it."""
        if not self.timeline:
            return {}
        moment, totals = self.timeline[self._top()], Counter[str]()
        for row in self.held(self._top()):
            totals[getattr(row, by)] += row.bytes
        totals["scratch" if by == "kind" else getattr(moment, by)] += moment.high - totals.total()
        return dict(totals.most_common())

    def table(self, rows: int = 12) -> str:
        """The peak, what it is made of, and the largest memories then held, as text."""
        if not self.timeline:
            return "memory ledger: no operation ran"
        moment = self.timeline[self._top()]
        lines = [
            f"memory ledger: peak {_size(moment.high)} (tracemalloc: {_size(self.measured)}) in call {self._top()} "
            f"of {len(self.timeline)}, {moment.phase} of {_place(moment.operation, moment.module)}"
        ]
        for by in ("kind", "operation", "module"):
            parts = [f"{name or 'none'} {_size(n)}" for name, n in self.at_peak(by).items() if n]
            lines.append(f"  by {by}: " + ", ".join(parts[:rows]) + ", ..." * (len(parts) > rows))
        held = sorted(self.held(self._top()), key=lambda row: -row.bytes)
        cells = [("bytes", "kind", "operation", "name", "shape", "dtype", "calls", "line")]
        cells += [_cells(row) for row in held[:rows]]
        lines += _columns(cells)
        if held[rows:]:
            lines.append(f"  and {len(held) - rows} more, {_size(sum(row.bytes for row in held[rows:]))}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def _top(self) -> int:
        return max(range(len(self.timeline)), key=lambda i: self.timeline[i].high)

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
        with self._account():
            self._active.remove(self)
            for memory in self._memories.values():
                memory.ref = None
            for forgotten in (self._memories, self._nodes, self._leaves, self._calls, self._gone):
                forgotten.clear()
        if not self._active:
            tracemalloc.stop()

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        with self._account():
            for name, x in zip(input_names(op, len(inputs)), inputs, strict=False):
                if isinstance(x, Tensor):
                    self._note(x, "outside", _About(op.name, "", None), name, len(self.timeline) - 1)
            self._begin(op)

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        with self._account():
            about = _about(node or trace(op, out))
            fresh = self._note(out, "output", about, "out")
            if node is not None:
                for name, array in _saved_arrays(node):
                    fresh += self._note(array, "output", about, name)
                    self._save(array, node, about, name)
            self._end(op, "forward", about, fresh)

    def failed_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any], error: Exception) -> None:
        with self._account():
            self._pop(op)

    def before_backward(self, node: Node, g: Any) -> None:
        with self._account():
            # the walk may have summed several gradients: that array is new here
            self._note(g, "gradient", _about(node), "out", len(self.timeline) - 1)
            self._begin(node.id)

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        with self._account():
            about, fresh = _about(node), 0
            names = input_names(node.op, len(node.edges)) if node.op else []
            for name, edge, gradient in zip(names, node.edges, gradients, strict=False):
                if edge is None or gradient is None:
                    continue
                leaf = edge.op is None and gradient.shape == edge.shape
                fresh += self._note(gradient, "leaf gradient" if leaf else "gradient", about, name)
                tensor = edge.tensor() if edge.op is None and edge.tensor is not None else None
                if tensor is not None and tensor.grad is None:
                    self._leaves[edge.id] = (edge.tensor, about, name)
            self._end(node.id, "backward", about, fresh)

    def freed(self, node: Node) -> None:
        with self._account():
            self._release(node.id)

    def before_step(self, optimizer: Any) -> None:
        with self._account():
            self._begin(optimizer)

    def after_step(self, optimizer: Any) -> None:
        with self._account():
            about, fresh = _About(f"{type(optimizer).__name__}.step", "", None), 0
            for state in optimizer.state.values():
                for name, x in state.items():
                    fresh += self._note(x, "state", about, name) if isinstance(x, Tensor) else 0
            self._end(optimizer, "step", about, fresh)

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
            MemoryLedger._own += tracemalloc.get_traced_memory()[0] - traced
            if calls := self._calls.get(threading.get_ident()):
                calls[-1].live, calls[-1].traced = self._live, traced - self._own

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

    def _note(self, x: Any, kind: str, about: _About, name: str, start: int | None = None) -> int:
        """Know the memory of `x`; how many bytes that adds."""
        array = array_of(x)
        owner = _owner(array)
        memory = self._memories.get(id(owner))
        if memory is not None and memory.ref is not None and memory.ref() is owner:
            return 0
        memory = self._know(owner, given=tracemalloc.get_object_traceback(owner) is None)
        if memory.given:
            return 0
        start = len(self.timeline) if start is None else start
        kept = (tuple(array.shape), str(array.dtype), memory.bytes, memory.number)
        memory.row = MemoryRow(kind, *about, name, *kept, start)
        self.rows.append(memory.row)
        self._live += memory.bytes
        return memory.bytes

    def _know(self, owner: Any, given: bool) -> _Memory:
        self._count += 1
        # an array that does not own its memory shows that of another library, which was there before
        memory = _Memory(self._count, owner.nbytes, given or not owner.flags.owndata, id(owner))
        memory.ref = weakref.ref(owner, lambda _, gone=self._gone, memory=memory: gone.append(memory))
        self._memories[id(owner)] = memory
        return memory

    def _save(self, array: Any, node: Node, about: _About, name: str) -> None:
        """A row for an array that `node` has saved."""
        memory = self._memories[id(_owner(array))]
        kept = (tuple(array.shape), str(array.dtype), memory.bytes, memory.number)
        row = MemoryRow("saved", *about, name, *kept, len(self.timeline), given=memory.given)
        if memory.saved is None or self.rows[memory.saved].end is not None:
            memory.saved = len(self.rows)
        else:
            row.shared = memory.saved
        self.rows.append(row)
        if node.id not in self._nodes:
            ref = weakref.ref(node, lambda _, gone=self._gone, key=node.id: gone.append(key))
            self._nodes[node.id] = (ref, [])
        self._nodes[node.id][1].append(row)

    def _release(self, key: int) -> None:
        """A node has dropped what it had saved."""
        for row in self._nodes.pop(key, (None, ()))[1]:
            row.end = len(self.timeline) - 1

    def _begin(self, key: object) -> None:
        self._calls.setdefault(threading.get_ident(), []).append(_Call(key))

    def _pop(self, key: object) -> _Call:
        """The call in progress; those above it never came back."""
        calls = self._calls.get(threading.get_ident(), [])
        while calls:
            call = calls.pop()
            if call.key == key:
                return call
        return _Call(key, self._live)

    def _end(self, key: object, phase: str, about: _About, fresh: int) -> None:
        call = self._pop(key)
        high = max(call.high, self._live)
        scratch = high - max(call.live + fresh, self._live)
        row = self._scratch.get((about.operation, phase))
        if row is None and scratch > 0:
            row = MemoryRow("scratch", *about, phase, (), "", 0, 0, 0)
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


def _owner(array: Any) -> Any:
    """The array whose memory this one shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _saved_arrays(node: Node) -> Iterator[tuple[str, Any]]:
    for name, value in (node.saved or {}).items():
        several = type(value) is tuple
        for i, saved in enumerate(value if several else (value,)):
            if type(saved) is Saved:
                yield f"{name}[{i}]" if several else name, saved.array


# --- as text ---


def _size(n: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"


def _place(operation: str, module: str) -> str:
    return f"{operation} in {module}" if module else operation


def _cells(row: MemoryRow) -> tuple[str, ...]:
    calls = f"{row.start}-{'' if row.end is None else row.end}"
    where = _place(row.operation, row.module)
    return (_size(row.bytes), row.kind, where, row.name, str(row.shape), row.dtype, calls, row.line)


def _columns(cells: Iterable[tuple[str, ...]]) -> list[str]:
    """Cells in columns, the first to the right."""
    cells = list(cells)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join([line[0].rjust(widths[0]), *map(str.ljust, line[1:], widths[1:])]).rstrip() for line in cells
    ]
