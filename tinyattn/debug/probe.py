"""One walk back with its gradients kept: how much each operation passed on towards a parameter."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from tinyattn.debug.describe import array_of, fitted, input_names
from tinyattn.engine.node import Node, Saved
from tinyattn.engine.observer import Observer


class Passed(NamedTuple):
    """What the rules of one node made of the gradient that reached it, on the way to the parameter."""

    node: Node
    g: Any  # the complete gradient of its output
    name: str  # the input on the way to the parameter
    edge: Node
    gradient: Any  # of that input, None if no rule gives one
    spread: float  # the sum of its absolute values, before it was summed over what broadcasting added

    @property
    def operation(self) -> str:
        """The name of what passed it."""
        return self.node.op.name if self.node.op else "leaf"

    @property
    def nothing(self) -> bool:
        """Whether nothing at all was passed on."""
        return self.gradient is None or not bool(self.gradient.any())

    @property
    def share(self) -> float:
        """How much was passed on, by the sums of absolute values."""
        return 0.0 if self.gradient is None else total(self.gradient) / max(total(self.g), 1e-300)

    @property
    def growth(self) -> float:
        """The factor by which the largest element grew."""
        return 0.0 if self.gradient is None else largest(self.gradient) / max(largest(self.g), 1e-300)

    @property
    def saved(self) -> list[tuple[str, Any]]:
        """The arrays that its rules used, by name."""
        return [(name, x.array) for name, x in (self.node.saved or {}).items() if type(x) is Saved]


def total(x: Any) -> float:
    """The sum of the absolute values."""
    return float(abs(x).sum(dtype="float64"))


def largest(x: Any) -> float:
    """The largest absolute value."""
    return float(abs(x).max()) if x.size else 0.0


class Probe(Observer):
    """Keeps, for each node that the walk passes, its gradient and what its rules made of it; newest first.

    useful: the ids of the nodes on the way to the parameter.
    """

    def __init__(self, useful: set[int]) -> None:
        self._useful = useful
        self.gradients: dict[Node, Any] = {}
        self.passed: dict[Node, list[Passed]] = {}
        self.consumers: dict[Node, list[Node]] = {}

    def before_backward(self, node: Node, g: Any) -> None:
        self.gradients[node] = g.copy()

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        assert node.op is not None
        names, kept = input_names(node.op, len(node.edges)), self.passed.setdefault(node, [])
        for name, edge, gradient in zip(names, node.edges, gradients, strict=False):
            if edge is not None and edge.id in self._useful:
                spread = 0.0 if gradient is None else total(array_of(gradient))
                array = None if gradient is None else fitted(gradient, edge).copy()
                kept.append(Passed(node, self.gradients[node], name, edge, array, spread))
                self.consumers.setdefault(edge, []).append(node)


def graph_of(root: Node | None) -> dict[Node, None]:
    """Every node that `root` was computed from, and itself."""
    found = {} if root is None else {root: None}
    stack = list(found)
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and edge not in found:
                found[edge] = None
                stack.append(edge)
    return found


def shortest_way(start: Node, end: Node) -> list[Node]:
    """From `start` back to `end`, both included; empty if no way leads there."""
    came: dict[Node, Node] = {}
    queue = deque([start])
    while queue and end is not start and end not in came:
        node = queue.popleft()
        for edge in node.edges:
            if edge is not None and edge not in came and edge.id >= end.id:
                came[edge] = node
                queue.append(edge)
    if end is not start and end not in came:
        return []
    way = [end]
    while way[-1] is not start:
        way.append(came[way[-1]])
    return way[::-1]
