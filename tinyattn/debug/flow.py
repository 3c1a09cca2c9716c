"""Every operation that ran, with the edges that gradients do not follow: what `explain` searches.

The graph of nodes does not contain detach(), operations under no_grad(), or integers; the recorder does. A value
that comes back without its history, as a raw array or a number, is recognised by its memory or its bytes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tinyattn.debug.describe import array_of, checksum, made, owner, trace
from tinyattn.engine.node import Node
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.grad_mode import is_grad_enabled
from tinyattn.tensors import Tensor

DETACH = Operation(lambda xp, x: x, name="detach")


@dataclass(eq=False, slots=True)
class Call:
    """One operation that ran, or one detach()."""

    op: Operation
    inputs: Sequence[Any]
    out: Tensor
    node: Node  # what was recorded; if nothing was, a stand-in with the line and modules
    recorded: bool
    recording: bool  # whether gradients were enabled
    fault: str  # "NaN" or "infinity" if the operation made one

    @property
    def cut(self) -> str:
        """The verdict on why no gradient passes to an input that has one; "" if it passes or no input has one."""
        if self.recorded or not any(isinstance(x, Tensor) and x.node is not None for x in self.inputs):
            return ""
        if self.op is DETACH:
            return "detached"
        if not (self.op.rules or self.op.backward):
            return "integers" if self.out.dtype.kind != "f" else "no_rule"
        return "" if self.recording else "no_grad"


class Recorder(Observer):
    """Keep every operation with its inputs and output alive."""

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


class Step(NamedTuple):
    """One edge, from the loss towards the parameter."""

    source: Call | None  # the call that made the value; None: it is the parameter
    user: Call | None  # the call that took it; None: it is the loss
    lost: bool  # it came without its history


class Flow:
    """The calls on which `loss` depends, and the edges between them.

    reached: each of these calls, and None for the parameter -> the edge on the path from the loss with the
    fewest cuts.
    """

    def __init__(self, calls: Sequence[Call], parameter: Tensor, loss: Tensor) -> None:
        self._parameter = parameter
        self._nodes: dict[Node, Call] = {}
        self._tensors: dict[int, Call] = {}
        self._places: dict[Any, Call | None] = dict.fromkeys(_marks(parameter))
        edges: dict[Call | None, list[Step]] = {None: []}
        for call in calls:
            edges[call] = self._edges(call.inputs, call)
            self._nodes[call.node] = self._tensors[id(call.out)] = call
            self._places |= dict.fromkeys(_marks(call.out), call)
        self.reached: dict[Call | None, Step] = {}
        fewest: dict[Call | None, float] = {}
        queue = deque((0, step) for step in self._edges([loss], None))
        while queue:
            cuts, step = queue.popleft()
            cuts += step.lost + bool(step.source is not None and step.source.cut)
            if cuts < fewest.get(step.source, math.inf):
                fewest[step.source], self.reached[step.source] = cuts, step
                queue.extend((cuts, following) for following in edges[step.source])

    def path(self) -> list[Step]:
        """The path from the loss to the parameter with the fewest cuts; empty if there is none."""
        steps = [self.reached[None]] if None in self.reached else []
        while steps and steps[-1].user is not None:
            steps.append(self.reached[steps[-1].user])
        return steps[::-1]

    def _edges(self, inputs: Sequence[Any], user: Call | None) -> list[Step]:
        return [Step(source, user, lost) for x in inputs for source, lost in self._origin(x)]

    def _origin(self, x: Any) -> list[tuple[Call | None, bool]]:
        """The call that made `x`, and whether its history was lost; empty if unknown."""
        if isinstance(x, Tensor):
            if x.node is not None and x.node is self._parameter.node:
                return [(None, False)]
            if x.node is not None and x.node.op is not None:
                return [(self._nodes[x.node], False)] if x.node in self._nodes else []
            if id(x) in self._tensors:
                return [(self._tensors[id(x)], False)]
        for mark in _marks(x):
            if mark in self._places:
                call = self._places[mark]
                return [(call, call is None or call.recorded)]
        return []


def _marks(x: Any) -> Iterator[Any]:
    """What identifies a value: its memory, then its bytes; for a number, itself.

    Values that are likely to occur twice by chance have none: small whole numbers, arrays of one value.
    """
    array = array_of(x)
    number = array if isinstance(array, float) else array.item() if getattr(array, "size", 0) == 1 else None
    if isinstance(number, float) and math.isfinite(number) and not (number * 4).is_integer():
        yield number
    if hasattr(array, "dtype") and array.size:
        yield "memory", id(owner(array))
        if bool((array != array.flat[0]).any()):
            yield "bytes", str(array.dtype), array.nbytes, checksum(array)
