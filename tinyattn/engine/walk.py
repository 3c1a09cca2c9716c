"""The walk: backward through the recorded graph, newest node first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from heapq import heappop, heappush
from sys import getrefcount
from typing import Any

import tinyattn.tensors as _tensor
from tinyattn import backends
from tinyattn import ops as _ops
from tinyattn.backends import Placed
from tinyattn.engine.fork import Fork
from tinyattn.engine.modes import Mode, current_walk
from tinyattn.engine.node import Node
from tinyattn.engine.observer import observers
from tinyattn.engine.threads import side_by_side


class Pending:
    """Gradients on their way back: what has arrived at each node so far, to be taken newest first.

    floor: in a branch of a Fork, the id down to which to take; what branches may share, older nodes
    and leaves, stays until the branch is done.
    """

    def __init__(self, recording: bool, floor: int = 0) -> None:
        self.recording, self.floor = recording, floor
        self.gradients: dict[int, Any] = {}
        self.nodes: dict[int, Node] = {}
        self.heap: list[int] = []
        self.owned: set[int] = set()  # whose gradient is an array that nobody else holds

    def receive(self, node: Node, g: Any, fresh: bool) -> None:
        """Add `g` to what has arrived at `node`; `fresh` if nobody else holds it."""
        key, gradients = node.id, self.gradients
        if key not in gradients:
            self.nodes[key] = node
            if not self.floor or (key > self.floor and node.op is not None):
                heappush(self.heap, -key)
            if type(g) is Placed:
                g, fresh = g.dense(), True
            gradients[key] = g
            if fresh:
                self.owned.add(key)
            return
        if type(g) is Placed:  # a few rows: add them where they belong
            if key not in self.owned:
                gradients[key] = gradients[key].copy()
            g.add_into(gradients[key])
        elif key in self.owned and not self.recording:
            gradients[key] += g
        else:
            gradients[key] = gradients[key] + g
        self.owned.add(key)

    def take(self) -> tuple[Node, Any, bool]:
        """The newest node, its gradient, and whether nobody else holds that."""
        key = -heappop(self.heap)
        return self.nodes.pop(key), self.gradients.pop(key), key in self.owned

    def part(self, fork: Fork) -> list[Pending]:
        """What has arrived in each branch of `fork`, taken out of here. Nothing if a gradient came in elsewhere
        than at the outputs, since nobody knows of which branch that is: then one walk does for all of them."""
        inside = [key for key in self.nodes if key > fork.floor]
        if not all(key in fork.branch_of for key in inside):
            return []
        parts = [Pending(self.recording, fork.floor) for _ in range(fork.branches)]
        for key in inside:
            part = parts[fork.branch_of[key]]
            part.receive(self.nodes.pop(key), self.gradients.pop(key), key in self.owned)
        self.heap = sorted(key for key in self.heap if -key in self.nodes)  # what is sorted is a heap
        return parts

    def absorb(self, part: Pending) -> None:
        """Add what is left in a branch that is done, and leave nothing there."""
        while part.nodes:
            key, node = part.nodes.popitem()
            self.receive(node, part.gradients.pop(key), key in part.owned)


def walk(
    roots: Sequence[tuple[Node, Any]], xp: Any, *, inputs: Sequence[Node] | None = None, retain_graph: bool = False
) -> dict[Node, Any]:
    """Carry gradients from `roots` (pairs of a node and its seed) back through the graph.

    Returns the gradients of `inputs` if given; otherwise fills `.grad` of the leaves and of tensors
    that asked for it.
    """
    pending = Pending(xp is _ops)
    for node, seed in roots:
        pending.receive(node, seed, False)
    useful = None if inputs is None else _leading_to(inputs, [node for node, _ in roots])
    found: dict[Node, Any] = {}
    with Mode(current_walk, object()):
        _descend(pending, xp, None if inputs is None else set(inputs), useful, found, retain_graph)
    return found


def _descend(
    pending: Pending, xp: Any, wanted: set[Node] | None, useful: set[int] | None, found: dict[Node, Any], retain: bool
) -> Pending:
    """Take node after node, run its rules, and hand the gradients on to its edges, until none is left.

    The newest node left has its complete gradient, since everything that consumed it is newer
    still: one heap of ids is the whole schedule.
    """
    recording, watching = pending.recording, observers.get()
    while pending.heap:
        node, g, owned = pending.take()
        if type(node) is Fork:
            branches = [partial(_descend, part, xp, wanted, useful, found, retain) for part in pending.part(node)]
            for part in side_by_side(branches, threads=not recording):
                pending.absorb(part)
            continue
        if not recording:
            xp = backends.of(g)  # the walk may lead from one device to another
        if node.hooks:
            g, owned = _run_hooks(node, g, recording), False
        if wanted is None:
            if node.tensor is not None:
                _accumulate(node, g if owned else xp.clone(g), recording)
        elif node in wanted:
            found[node] = g if owned else xp.clone(g)  # what leaves the engine is nobody else's
        for observer in watching:
            observer.before_backward(node, g)
        if node.op is None:
            continue
        incoming = node.op.gradients(xp, node, g)
        for observer in watching:
            observer.after_backward(node, g, incoming)
        for edge, gi in zip(node.edges, incoming, strict=False):
            if gi is None or edge is None or (useful is not None and edge.id not in useful):
                continue
            if gi.shape != edge.shape:  # broadcasting and dtype are undone here, once for all rules
                _check_broadcast(node, gi, edge)
                gi = xp.sum_to(gi, edge.shape)
            if gi.dtype != edge.dtype:
                gi = xp.cast(gi, edge.dtype)
            pending.receive(edge, gi, gi is not g and _is_private(gi.array if recording else gi))
            for observer in watching:
                observer.received(edge, node, gi, pending.gradients[edge.id])
        if not retain and node.saved and node.free():  # as the walk passes
            for observer in watching:
                observer.freed(node)
    return pending


def _is_private(array: Any) -> bool:
    """Whether nobody else holds this memory: the array owns it, or is all of one that nobody else knows of."""
    base = array.base
    if base is None:
        return True
    alone = type(base) is type(array) and base.base is None and getrefcount(base) <= 3  # array.base, base, the argument
    return alone and base.size == array.size and getattr(array.flags, "writeable", True)  # CuPy has no such flag


def _check_broadcast(node: Node, g: Any, edge: Node) -> None:
    """A rule may give a gradient of the shape that the input was broadcast to, and of no other."""
    ahead = len(g.shape) - len(edge.shape)
    if ahead < 0 or any(n not in (1, m) for n, m in zip(edge.shape, g.shape[ahead:], strict=True)):
        raise RuntimeError(
            f"{node}: its rule gave a gradient of shape {tuple(g.shape)} for an input of shape {tuple(edge.shape)}; "
            "it must have that shape, or one that the input broadcasts to."
        )


def _leading_to(inputs: Sequence[Node], roots: Sequence[Node]) -> set[int]:
    """Ids of the nodes from which one of `inputs` can be reached: no other gradient is needed."""
    oldest = min((node.id for node in inputs), default=0)
    reached = {node.id: node for node in roots}
    stack = list(reached.values())
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and edge.id >= oldest and edge.id not in reached:
                reached[edge.id] = edge
                stack.append(edge)
    useful = {node.id for node in inputs}
    for key in sorted(reached):
        if any(edge is not None and edge.id in useful for edge in reached[key].edges):
            useful.add(key)
    return useful | {key for key, node in reached.items() if type(node) is Fork}


def _run_hooks(node: Node, g: Any, recording: bool) -> Any:
    tensor = g if recording else _tensor.Tensor._from(backends.of(g).asarray(g))
    for hook in list((node.hooks or {}).values()):
        replaced = hook(tensor)
        tensor = tensor if replaced is None else replaced
    return tensor if recording else tensor.array


def _accumulate(node: Node, g: Any, recording: bool) -> None:
    """Add `g` to the `.grad` of the node's tensor."""
    tensor = node.tensor() if node.tensor is not None else None
    if tensor is None:
        return  # nobody can see it any more
    if recording:
        tensor.grad = g if tensor.grad is None else tensor.grad + g
    elif tensor.grad is None:
        tensor.grad = _tensor.Tensor._from(backends.of(g).asarray(g))
    else:
        backends.check_accumulation(tensor.grad.array)
        tensor.grad.array += g
        tensor.grad._wrote("backward")
