"""Where the time goes: every operation, forward and backward, by name, by module and by node."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Self
from weakref import WeakKeyDictionary

from tinyattn.debug.describe import array_of, input_names, saved_by
from tinyattn.debug.flops import Shape, backward_flops, forward_flops
from tinyattn.debug.profile_report import ProfileEvent, ProfileReport
from tinyattn.engine.modes import Site, call_site, current_walk, module_stack
from tinyattn.engine.node import Node
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
    walk: object = None  # the backward pass that it is part of
    inside: int = 0  # nanoseconds of the calls within it, and of the profile itself there


class _Thread(threading.local):
    """The state of one thread."""

    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.walk: object = None  # the backward pass when the clock was last read,
        self.mark = 0  # the time of that,
        self.event: ProfileEvent | None = None  # and the rules that had run


class Profile(Observer, ProfileReport):
    """What `profile()` returns. events: a ProfileEvent for each call, in the order in which they ended.

    >>> with ta.profile() as p:
    ...     y = ta.ones(2, 3) @ ta.ones(3, 4)
    >>> p.by_operation["matmul"].calls, p.by_operation["matmul"].flops
    (1, 48)
    """

    in_threads = True

    def __init__(self, wait: Callable[[], object] | None = None) -> None:
        self.wait = wait
        self.events: list[ProfileEvent] = []
        self.wall = self.overhead_ns = 0
        self._entered: list[int] = []
        self._here = _Thread()
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
        super().__exit__(*exception)

    # --- what it observes ---

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._begin(op, options, self._now())

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        now = self._now()
        if call := self._end(op, now):
            shapes = [getattr(x, "shape", () if x is not None else None) for x in inputs]
            moved = 0 if op.view and out._base is not None else _nbytes(out, *inputs)
            flops = forward_flops(op, shapes, tuple(out.shape), {**op.options, **call.options})
            self._note("forward", op.name, call, now, moved, flops, shapes, node)
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
        call, op = self._end(node, now), node.op
        if call is not None and op is not None:
            shapes, options = _known_shapes(node), {**op.options, **node.options}
            needed = [edge is not None for edge in node.edges]
            flops = backward_flops(op, shapes, tuple(node.shape), options, needed)
            moved = 0 if op.view else _nbytes(g, *gradients, *(saved.array for _, saved in saved_by(node)))
            self._here.event = self._note("backward", op.name, call, now, moved, flops, shapes, node)
        self._close(now)

    def received(self, edge: Node, node: Node, gradient: Any, total: Any) -> None:
        self._extend(node)

    def freed(self, node: Node) -> None:
        self._extend(node)

    def before_step(self, optimizer: Any) -> None:
        self._begin(optimizer, {}, self._now())

    def after_step(self, optimizer: Any) -> None:
        now = self._now()
        if call := self._end(optimizer, now):
            moved = sum(_nbytes(p, p, p.grad) for group in optimizer.param_groups for p in group["params"])
            moved += 2 * sum(_nbytes(*state.values()) for state in optimizer.state.values())
            name = f"{type(optimizer).__name__}.step"
            self._note("step", name, call, now, moved, None, [], None, (None, ()))
        self._close(now)

    # --- what it keeps: numbers and names, no array, node or module ---

    def _note(
        self, phase: str, name: str, call: _Open, now: int, moved: int, flops: int | None,
        shapes: Sequence[Shape | None], node: Node | None, where: tuple[Site | None, tuple[Any, ...]] | None = None,
    ) -> ProfileEvent:  # fmt: skip
        """Keep a call that ended `now`. where: its line and modules, if they are not those of `node` or of here."""
        if where is None:
            where = (node.site, node.modules) if node is not None else (call_site(), module_stack.get())
        (module, root), took = self._place(where[1]), now - call.start
        event = ProfileEvent(
            phase, name, module, node.id if node else None, call.start, took, took - call.inside,
            threading.get_ident(), moved, flops, shapes, where[0], len(self._here.open), root,
        )  # fmt: skip
        self.events.append(event)
        return event

    def _place(self, modules: tuple[Any, ...]) -> tuple[str | None, str]:
        """The path of the innermost of `modules`, and its first name if the outermost is not the first one seen."""
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
        """The time, once the device is done."""
        if self.wait is not None:
            self.wait()
        return perf_counter_ns()

    def _begin(self, key: object, options: dict[str, Any], now: int) -> None:
        """A call begins when this returns; the time since `now` is the profile's own."""
        call, stack = _Open(key, options, walk=current_walk.get()), self._here.open
        while stack and call.walk is None and stack[-1].walk is not None:
            stack.pop()  # a rule that raised an error
        stack.append(call)
        call.start = perf_counter_ns()
        self._own(call.start - now, stack[:-1])

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
        """The time since `now` is the profile's own."""
        here = self._here
        here.walk, here.mark = current_walk.get(), perf_counter_ns()
        self._own(here.mark - now, here.open)

    def _own(self, nanoseconds: int, around: Sequence[_Open]) -> None:
        self.overhead_ns += nanoseconds
        if around:
            around[-1].inside += nanoseconds

    def _extend(self, node: Node) -> None:
        """Summing and adding a gradient after the rules of `node` is time of these rules."""
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
    forward and backward, bytes read and written, and FLOPs (counted as `tinyattn/debug/flops.py` says; None for a
    custom operation). Times are exclusive: a call has what it does itself, without the calls within it; a module
    includes its submodules. Each thread (`nn.DataParallel`) measures the time that passes, waiting included. The
    profile's own time is left out of all of these; it is `p.overhead`. Retains no array.

    wait: called before the clock is read, for an asynchronous device: its `synchronize`.

    >>> with ta.profile() as p:
    ...     y = ta.ones(2) * 2
    >>> str(p).startswith("profile: ")
    True
    """
    return Profile(wait)


def _nbytes(*values: Any) -> int:
    return sum(getattr(array_of(x), "nbytes", 0) for x in values)


def _known_shapes(node: Node) -> list[Shape | None]:
    """The shapes of a node's inputs, as far as it has them: of those with a gradient, and of those that were saved."""
    assert node.op is not None
    known = {name: tuple(saved.array.shape) for name, saved in saved_by(node)}
    names = input_names(node.op, len(node.edges))
    return [tuple(edge.shape) if edge else known.get(name) for name, edge in zip(names, node.edges, strict=False)]
