"""What `explain` searches: every operation that ran, and how much of a gradient each passed on.

The graph of nodes does not contain detach(), operations under no_grad(), or integers; the recorder does. A value
that comes back without its history, as a raw array or a number, is recognised by its memory or its bytes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tinyattn import backends
from tinyattn.debug.describe import array_of, checksum, fitted, made, saved_by, shares, trace, value
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
        yield "memory", id(backends.owner(array))
        if bool((array != array.flat[0]).any()):
            yield "bytes", str(array.dtype), array.nbytes, checksum(array)


# --- backward ---


class Passed(NamedTuple):
    """What the rules of one node made of the gradient of its output, for one input."""

    op: Operation
    node: Node
    g: Any  # the complete gradient of its output
    name: str  # the input on the path to the parameter
    edge: Node
    gradient: Any  # of that input; None if there is no rule
    spread: float  # sum of its absolute values before the reduction that undoes broadcasting

    @property
    def nothing(self) -> bool:
        """Whether the gradient is None or zero."""
        return self.gradient is None or not bool(self.gradient.any())

    @property
    def share(self) -> float:
        """The ratio of the sums of absolute values, out to in."""
        return 0.0 if self.gradient is None else total(self.gradient) / max(total(self.g), 1e-300)

    @property
    def growth(self) -> float:
        """The ratio of the largest absolute values, out to in."""
        return 0.0 if self.gradient is None else largest(self.gradient) / max(largest(self.g), 1e-300)

    @property
    def saved(self) -> list[tuple[str, Any]]:
        """The arrays that the rules used, by name."""
        return [(name, saved.array) for name, saved in saved_by(self.node)]


def total(x: Any) -> float:
    """The sum of the absolute values."""
    return float(abs(x).sum(dtype="float64"))


def largest(x: Any) -> float:
    """The largest absolute value."""
    return float(abs(x).max()) if x.size else 0.0


class Probe(Observer):
    """Keep, for each node of a backward pass, its gradient and what its rules made of it; newest first.

    useful: the nodes on the paths to the parameter.
    """

    def __init__(self, useful: Collection[Node]) -> None:
        self._useful = useful
        self.gradients: dict[Node, Any] = {}
        self.passed: dict[Node, list[Passed]] = {}
        self.consumers: dict[Node, list[Node]] = {}

    def before_backward(self, node: Node, g: Any) -> None:
        self.gradients[node] = g.copy()

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        assert node.op is not None
        kept = self.passed.setdefault(node, [])
        for name, edge, gradient in shares(node, gradients):
            if edge in self._useful:
                spread = 0.0 if gradient is None else total(array_of(gradient))
                array = None if gradient is None else fitted(gradient, edge).copy()
                kept.append(Passed(node.op, node, self.gradients[node], name, edge, array, spread))
                self.consumers.setdefault(edge, []).append(node)

    def end_of(self, passed: Passed) -> Node:
        """The first operation, from the loss, that passes nothing to what `passed.edge` feeds, though its own gradient
        is not zero; `passed.node` if none is found. Found by following the elements that depend on the edge."""
        node, edge = passed.node, passed.edge
        region = image(node, backends.of(passed.g).full(edge.shape, True, bool), edge)
        while region is not None and not bool((self.gradients[node][region] != 0).any()):
            user = next(iter(self.consumers.get(node, ())), None)
            if user is None:
                break
            region, node = image(user, region, node), user
            if region is not None and not bool(region.any()):
                break  # the user takes none of these elements
        return node


def image(node: Node, region: Any, edge: Node) -> Any:
    """The elements of `node`'s output that depend on `region`, a mask over its input `edge`; None if unknown."""
    op, xp = node.op, backends.of(region)
    assert op is not None
    if "moves" in op.traits:  # its forward moves a mask as it moves the elements
        if op.variadic:
            masks = [xp.zeros(shape, bool) for shape in value(node, f"{op.inputs[0]}_shapes")]
        else:  # a second input is an index, which has no edge
            masks = [None if source else value(node, name) for name, source in zip(op.inputs, node.edges, strict=True)]
        masks = [region if source is edge else mask for source, mask in zip(node.edges, masks, strict=True)]
        return op.forward(xp, *masks, **node.options) != 0
    if "rows" in op.traits:
        region = region.any(node.options.get("dim", -1), keepdims=True)
    return xp.broadcast_to(region, node.shape) if {"maps", "rows"} & op.traits else None


def graph_of(root: Node | None) -> dict[Node, Node | None]:
    """Every node that `root` was computed from, and itself -> the node before it on the shortest path from `root`."""
    came: dict[Node, Node | None] = {} if root is None else {root: None}
    queue = deque(came)
    while queue:
        node = queue.popleft()
        for edge in node.edges:
            if edge is not None and edge not in came:
                came[edge] = node
                queue.append(edge)
    return came


def shortest_path(start: Node | None, end: Node | None) -> list[Node]:
    """From `start` back to `end`, both included; empty if no path leads there."""
    came, path = graph_of(start), []
    node = end if end in came else None
    while node is not None:
        path.append(node)
        node = came[node]
    return path[::-1]
