"""A backward pass that keeps its gradients: how much of them each operation passed on towards a parameter."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from tinyattn import backends
from tinyattn.debug.describe import array_of, fitted, saved_by, shares, value
from tinyattn.engine.node import Node
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation


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
