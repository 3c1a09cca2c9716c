"""Where the time goes: every operation, forward and backward, by name, by module and by node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Self
from weakref import WeakKeyDictionary

from tinyattn import backends
from tinyattn.debug.describe import array_of
from tinyattn.debug.flops import Shape, backward_flops, forward_flops
from tinyattn.debug.profile_report import ProfileEvent, ProfileReport
from tinyattn.engine.modes import Site, call_site, current_walk, module_stack
from tinyattn.engine.node import Node, Saved
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.tensors import Tensor

__all__ = ["Profile", "profile"]


@dataclass(slots=True)
class _Open:
    """A call in progress."""

    key: object
    options: dict[str, Any]
    start: int = 0
    walk: object = None  # the walk that it is part of
    inside: int = 0  # nanoseconds of calls within it, and of the profile's own work there


class _Thread(threading.local):
    """What is going on in one thread."""

    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.walk: object = None  # the walk that was last heard of,
        self.mark = 0  # when that was,
        self.event: ProfileEvent | None = None  # and the rules that had run


class Profile(Observer, ProfileReport):
    """What `profile()` gives. events: a ProfileEvent for each call, in the order in which they ended."""

    in_threads = True

    def __init__(self, wait: Callable[[], object] | None = None) -> None:
        self.wait = wait
        self.events: list[ProfileEvent] = []
        self.wall = self.overhead_ns = 0
        self._entered: list[int] = []
        self._here = _Thread()
        self._shapes: dict[int, Sequence[Shape | None]] = {}  # of the inputs of each node, for the way back
        self._names: WeakKeyDictionary[Any, tuple[str, dict[int, str]]] = WeakKeyDictionary()  # by outermost module

    def __enter__(self) -> Self:
        super().__enter__()
        self._entered.append(perf_counter_ns())
        return self

    def __exit__(self, *exception: object) -> None:
        started = self._entered.pop()
        if not self._entered:
            self.wall += perf_counter_ns() - started
            self._here.open.clear()
            self._shapes.clear()
        super().__exit__(*exception)

    # --- what it observes ---

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._begin(op, options)

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        now = self._now()
        call = self._end(op, now)
        if call is not None:
            shapes = [getattr(x, "shape", () if x is not None else None) for x in inputs]
            moved = 0 if op.view and out._is_view else _nbytes(out, *inputs)
            flops = forward_flops(op.name, shapes, tuple(out.shape), {**op.options, **call.options})
            if node is not None:
                self._shapes[node.id] = shapes
            where = (node.site, node.modules) if node is not None else (call_site(), module_stack.get())
            self._note("forward", op.name, call, now, moved, flops, shapes, node, where)
        self._close(now)

    def failed_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any], error: Exception) -> None:
        now = self._now()
        self._end(op, now)
        self._close(now)

    def before_backward(self, node: Node, g: Any) -> None:
        here, now = self._here, self._now()
        here.event = None
        if node.op is not None:
            self._begin(node, node.options, now)
            return
        if here.walk is not None and here.walk is current_walk.get():  # a leaf: g has just been added to its .grad
            self._note("backward", "accumulate", _Open(node, {}, here.mark), now, _nbytes(g), 0, [node.shape], node)
        self._close(now)

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        now = self._now()
        call = self._end(node, now)
        if call is not None and node.op is not None:
            shapes, options = self._shapes.get(node.id) or _saved_shapes(node), {**node.op.options, **node.options}
            needed = [edge is not None for edge in node.edges]
            flops = backward_flops(node.op.name, shapes, tuple(node.shape), options, needed)
            moved = 0 if node.op.view else _nbytes(g, *gradients, *(node.saved or {}).values())
            where = node.site, node.modules
            self._here.event = self._note("backward", node.op.name, call, now, moved, flops, shapes, node, where)
        self._close(now)

    def received(self, edge: Node, node: Node, gradient: Any, total: Any) -> None:
        self._went_on(node)

    def freed(self, node: Node) -> None:
        self._went_on(node)

    def before_step(self, optimizer: Any) -> None:
        self._begin(optimizer, {})

    def after_step(self, optimizer: Any) -> None:
        now = self._now()
        call = self._end(optimizer, now)
        if call is not None:
            moved = sum(_nbytes(p, p, p.grad) for group in optimizer.param_groups for p in group["params"])
            moved += 2 * sum(_nbytes(*state.values()) for state in optimizer.state.values())
            self._note("step", f"{type(optimizer).__name__}.step", call, now, moved, None, [])
        self._close(now)

    # --- what is kept of it ---

    def _note(
        self, phase: str, name: str, call: _Open, now: int, moved: int, flops: int | None,
        shapes: Sequence[Shape | None], node: Node | None = None,
        where: tuple[Site | None, tuple[Any, ...]] = (None, ()),
    ) -> ProfileEvent:  # fmt: skip
        """Keep a call that ended `now`: numbers and names, no array, node or module."""
        (module, root), number = self._place(where[1]), None if node is None else node.id
        took, thread, depth = now - call.start, threading.get_ident(), len(self._here.open)
        event = ProfileEvent(phase, name, module, number, call.start, took, took - call.inside, thread, moved, flops,
                             shapes, where[0], depth, root)  # fmt: skip
        self.events.append(event)
        return event

    def _place(self, modules: tuple[Any, ...]) -> tuple[str | None, str]:
        """The path of the last of nested modules, and what it begins with in other outermost modules than the first."""
        if not modules:
            return None, ""
        root, last = modules[0], modules[-1]
        if root not in self._names:
            start = type(root).__name__ if self._names else ""
            paths = {id(m): ".".join(filter(None, (start, name))) for name, m in root.named_modules()}
            self._names[root] = start, paths
        start, paths = self._names[root]
        return paths.get(id(last), type(last).__name__), start

    # --- the clock ---

    def _now(self) -> int:
        """The time when all that was begun is done."""
        if self.wait is not None:
            self.wait()
        return perf_counter_ns()

    def _begin(self, key: object, options: dict[str, Any], now: int | None = None) -> None:
        """A call begins when this returns; what came before is the profile's own time."""
        came = self._now() if now is None else now
        call, stack = _Open(key, options, walk=current_walk.get()), self._here.open
        while stack and call.walk is None and stack[-1].walk is not None:
            stack.pop()  # a rule that raised an error
        stack.append(call)
        call.start = perf_counter_ns()
        self._own(call.start - came, stack[:-1])

    def _end(self, key: object, now: int) -> _Open | None:
        """The call that has ended; those begun within it and not ended have failed."""
        stack = self._here.open
        while stack:
            call = stack.pop()
            if call.key is key:
                if stack:
                    stack[-1].inside += now - call.start
                return call
        return None

    def _close(self, now: int) -> None:
        """The profile's own work since `now` is done."""
        here = self._here
        here.walk, here.mark = current_walk.get(), perf_counter_ns()
        self._own(here.mark - now, here.open)

    def _own(self, nanoseconds: int, around: Sequence[_Open]) -> None:
        self.overhead_ns += nanoseconds
        if around:
            around[-1].inside += nanoseconds

    def _went_on(self, node: Node) -> None:
        """Handing a gradient on, which may mean to sum it up and to add it, is time of the rules that gave it."""
        now, here = self._now(), self._here
        if here.event is not None and here.event.node == node.id:
            here.event.duration += now - here.mark
            here.event.own += now - here.mark
            if here.open:
                here.open[-1].inside += now - here.mark
            self._close(now)


def profile(wait: Callable[[], object] | None = None) -> Profile:
    """Measure what runs: `with ta.profile() as p: ...`, then `print(p)` or `p.save_trace("trace.json")`.

    `p.by_operation`, `p.by_module` and `p.by_node` map names, module paths and ids of nodes to calls, seconds
    forward and backward, bytes read and written, and FLOPs (`tinyattn/debug/flops.py` says how they are counted;
    None for an operation of your own). Times are exclusive: a call counts what it does itself, not the calls
    within it; a module counts those of its submodules too. Threads (`nn.DataParallel`) stay side by side, and
    each measures the time that passes, waiting for the others included. The profile's own time is left out of
    all of these and told as `p.overhead`. Retains no array.

    wait: called whenever a time is taken, for a device that computes on its own: its `synchronize`.
    """
    return Profile(wait)


def _nbytes(*values: Any) -> int:
    total = 0
    for x in values:
        if type(x) is Saved:
            x = x.array
        elif isinstance(x, tuple):
            total += _nbytes(*x)
            continue
        x = array_of(x)
        if isinstance(x, backends.Placed):
            x = x.values
        total += getattr(x, "nbytes", 0)
    return total


def _saved_shapes(node: Node) -> list[Shape | None]:
    """The shapes of the inputs of a node that was made before the profile began, as far as it knows them."""
    assert node.op is not None
    names = node.op.inputs if not node.op.variadic else [""] * len(node.edges)
    shapes: list[Shape | None] = []
    for name, edge in zip(names, node.edges, strict=False):
        saved = (node.saved or {}).get(name)
        shapes.append(
            tuple(edge.shape) if edge is not None else tuple(saved.array.shape) if type(saved) is Saved else None
        )
    return shapes
