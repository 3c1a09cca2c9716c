"""Everything that ran, with the edges that gradients do not take: what `explain` searches.

A graph of nodes knows nothing of a `detach()`, of what ran under `no_grad()`, of integers. The
recorder sees these too; where a value comes back without its history, as a raw array or a number, it
is known again by its memory or by its bytes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tinyattn.debug.describe import array_of, checksum, made, trace
from tinyattn.engine.modes import is_grad_enabled
from tinyattn.engine.node import Node
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.tensors import Tensor


@dataclass(eq=False, slots=True)
class Call:
    """One operation that ran, or one detach()."""

    op: Operation
    inputs: Sequence[Any]
    out: Tensor
    node: Node  # what was recorded; a stand-in that says where it ran, if nothing was
    recorded: bool
    recording: bool  # whether the mode was to record
    fault: str  # "NaN" or "infinity" if it made one

    @property
    def cut(self) -> str:
        """Why the gradient of an input that has one goes no further; "" if it does go on, or there is none."""
        if self.recorded or not any(isinstance(x, Tensor) and x.node is not None for x in self.inputs):
            return ""
        if self.op is DETACH:
            return "detached"
        if not (self.op.rules or self.op.backward):
            return "integers" if self.out.dtype.kind != "f" else "no_rule"
        return "" if self.recording else "no_grad"


DETACH = Operation(lambda xp, x: x, name="detach")


class Recorder(Observer):
    """Keeps every operation with its inputs and output alive."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._options: list[Any] = []

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._options = [x for value in options.values() for x in (value if isinstance(value, tuple) else (value,))]

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        fault = made(out, [*inputs, *self._options])
        arrays = [x for x in self._options if hasattr(x, "dtype")]  # an index is an input too
        where = node or trace(op, out)
        self.calls.append(Call(op, [*inputs, *arrays], out, where, node is not None, is_grad_enabled(), fault))

    def detached(self, tensor: Tensor, out: Tensor) -> None:
        self.calls.append(Call(DETACH, [tensor], out, trace(DETACH, out), False, is_grad_enabled(), ""))


@dataclass(eq=False, slots=True)
class Step:
    """One edge of the flow, from the loss towards the parameter."""

    source: Call | None  # where the value came from; None is the parameter itself
    user: Call | None  # what took it; None is who asked for the loss
    lost: bool  # it came without its history


class Flow:
    """Which call took which values from which call, and what from `parameter`."""

    def __init__(self, calls: Sequence[Call], parameter: Tensor) -> None:
        self.parameter = parameter
        self.sources: dict[Call, list[Step]] = {}
        self._nodes: dict[Node, Call] = {}
        self._tensors: dict[int, Call] = {}
        self._places: dict[Any, Call | None] = dict.fromkeys(_marks(parameter))
        for call in calls:
            self.sources[call] = [step for x in call.inputs for step in self._steps(x, call)]
            self._nodes[call.node] = self._tensors[id(call.out)] = call
            self._places |= dict.fromkeys(_marks(call.out), call)

    def _origin(self, x: Any) -> tuple[Call | None, bool] | None:
        """The call `x` comes from and whether its history was lost; None if from none that is known."""
        if isinstance(x, Tensor):
            if x.node is not None and x.node is self.parameter.node:
                return None, False
            if x.node is not None and x.node.op is not None:
                return (self._nodes[x.node], False) if x.node in self._nodes else None
            if id(x) in self._tensors:
                return self._tensors[id(x)], False
        for mark in _marks(x):
            if mark in self._places:
                call = self._places[mark]
                return call, call is None or call.recorded
        return None

    def _steps(self, x: Any, user: Call | None) -> Iterator[Step]:
        found = self._origin(x)
        if found is not None:
            yield Step(found[0], user, found[1])

    def ancestors(self, loss: Tensor) -> set[Call]:
        """Every call that had a part in `loss`."""
        stack = [step.source for step in self._steps(loss, None)]
        seen = {call for call in stack if call is not None}
        while stack:
            call = stack.pop()
            for step in self.sources[call] if call is not None else ():
                if step.source is not None and step.source not in seen:
                    seen.add(step.source)
                    stack.append(step.source)
        return seen

    def path(self, loss: Tensor) -> list[Step]:
        """The way from `loss` to the parameter with the fewest cuts; empty if there is none."""
        best: dict[Call | None, float] = {}
        came: dict[Call | None, Step] = {}
        queue: deque[tuple[float, Step]] = deque((0, step) for step in self._steps(loss, None))
        while queue:
            cuts, step = queue.popleft()
            source = step.source
            cuts += step.lost + bool(source is not None and source.cut)
            if cuts < best.get(source, math.inf):
                best[source], came[source] = cuts, step
                queue.extend((cuts, after) for after in (self.sources[source] if source is not None else ()))
        steps = [came[None]] if None in came else []
        while steps and steps[-1].user is not None:
            steps.append(came[steps[-1].user])
        return steps[::-1]


def _marks(x: Any) -> Iterator[Any]:
    """What a value can be known again by: its memory, then its bytes; a number by itself.

    Not what is likely to occur twice by chance: small whole numbers, arrays of one value.
    """
    array = array_of(x)
    number = array if isinstance(array, float) else array.item() if getattr(array, "size", 0) == 1 else None
    if isinstance(number, float) and math.isfinite(number) and not (number * 4).is_integer():
        yield number
    if not hasattr(array, "dtype") or array.size == 0:
        return
    yield "memory", id(_owner(array))
    if bool((array != array.flat[0]).any()):
        yield "bytes", str(array.dtype), array.nbytes, checksum(array)


def _owner(array: Any) -> Any:
    """The array whose memory this one is a view of, or itself."""
    while type(array.base) is type(array):
        array = array.base
    return array
