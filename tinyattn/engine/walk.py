"""The walk, which is the backward pass: from the outputs back through the graph, newest node first.

Who owns an array? The walk writes into a gradient, or gives it away as a `.grad`, only if it made that array
itself (by a sum, a reduction to a shape, a cast) or the operation promises that its rules make new ones
(`fresh`). Everything else that a rule returns is only read, and copied where it leaves the engine: it may be
a saved input, a view of one, or an array that the rule keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any

from tinyattn import backends
from tinyattn.backends import Placed
from tinyattn.engine.fork import Fork
from tinyattn.engine.hooks import RemovableHandle
from tinyattn.engine.modes import Mode, current_walk, observers
from tinyattn.engine.node import Node
from tinyattn.engine.opmath import cast, opmath_dtype, widened
from tinyattn.engine.threads import side_by_side
from tinyattn.engine.variable import Variable, check_gradient, recording_namespace


class Pending:
    """The gradients that have arrived so far, by node.

    A gradient may come as `Placed`: zero but for the part that indexing took, and added to the others in place.
    Rules return one only where nothing is recorded.
    floor: in a branch of a Fork, only newer nodes are taken; older ones and leaves, which branches may share,
    stay until the branch is done. None outside of branches.
    """

    def __init__(self, create_graph: bool, floor: int | None = None) -> None:
        self.create_graph, self.floor = create_graph, floor
        self.arrived: dict[int, tuple[Node, Any, bool]] = {}  # node, gradient, whether the walk owns it
        self.heap: list[int] = []  # negative ids: the newest first

    def receive(self, node: Node, g: Any, owned: bool) -> None:
        """Add `g` to the gradient of `node`; `owned` if only the walk refers to `g`."""
        before = self.arrived.get(node.id)
        if before is not None:
            g, owned = self.add(before[1], g, before[2]), True
        else:
            if self.floor is None or (node.id > self.floor and node.op is not None):
                heappush(self.heap, -node.id)
            if type(g) is Placed:
                g, owned = g.dense(), True
        self.arrived[node.id] = node, g, owned

    def add(self, total: Any, g: Any, writable: bool) -> Any:
        """Return total + g, in the array of `total` if that is writable."""
        if type(g) is Placed:
            total = total if writable else total.copy()
            g.add_into(total)
            return total
        if writable and not self.create_graph:
            total += g
            return total
        total = total + g
        return total if self.create_graph else backends.of(g).asarray(total)  # of 0-d arrays: a scalar

    def part(self, fork: Fork) -> list[Pending]:
        """The gradients of each branch of `fork`, taken out of here.

        An empty list if a gradient came in elsewhere than at the outputs, since its branch is unknown: then `run`
        goes on through all branches as one.
        """
        inside = [key for key in self.arrived if key > fork.floor]
        if not all(key in fork.branch_of for key in inside):
            return []
        parts = [Pending(self.create_graph, fork.floor) for _ in range(fork.count)]
        for key in inside:
            parts[fork.branch_of[key]].receive(*self.arrived.pop(key))
        self.heap = sorted(key for key in self.heap if -key in self.arrived)  # a sorted list is a heap
        return parts


class Walk:
    """One backward pass.

    create_graph: whether the walk is recorded itself, so that gradients have gradients.
    wanted: the nodes whose gradients are returned; None to add every leaf's to its `.grad`.
    useful: ids of the nodes that lead to wanted ones; None for all.
    retain: keep the saved arrays.
    """

    def __init__(self, create_graph: bool, wanted: set[Node] | None, useful: set[int] | None, retain: bool) -> None:
        self.create_graph, self.wanted, self.useful, self.retain = create_graph, wanted, useful, retain
        self.found: dict[Node, Any] = {}
        self.complete: dict[int, list[Node]] = {}  # see `_completed`

    def run(self, pending: Pending) -> Pending:
        """Take node after node, apply its rules, and hand the gradients on to its edges, until none is left.

        The newest node has its complete gradient, since everything that consumed it is newer still: one heap
        of ids is the whole schedule.
        """
        while pending.heap:
            node, g, owned = pending.arrived.pop(-heappop(pending.heap))  # the newest
            if type(node) is Fork:
                self.branch(node, pending)
                continue
            xp = recording_namespace() if self.create_graph else backends.of(g)  # branches may lie on several devices
            g = self.arrive(xp, node, g, owned)
            if node.op is None or not self.leads_on(node):
                continue
            for edge, gi in zip(node.edges, self.apply_rules(xp, node, g), strict=False):
                if gi is not None and edge is not None and (self.useful is None or edge.id in self.useful):
                    gi = gi if type(gi) is type(g) else _as_gradient(node, gi, self.create_graph)
                    is_new = node.op.fresh and gi is not g  # `g` may go to several edges, so none may write into it
                    self.hand_on(xp, node, gi, edge, pending, is_new)
            for leaf in self.complete.get(node.id, ()):
                self.take_early(xp, leaf, pending)
            if not self.retain and node.saved:
                self.free(node)
        return pending

    def arrive(self, xp: Any, node: Node, g: Any, owned: bool) -> Any:
        """The gradient of `node` is complete: run its hooks, and store it if it is wanted."""
        if node.hooks:
            g, owned = _run_hooks(xp, node, g, self.create_graph), False
        tensor = None if self.wanted is not None and node.op is None else node.tensor and node.tensor()
        if tensor is not None and tensor.node is not None:  # it still exists, and still requires a gradient
            accumulate(xp, node, tensor, g, owned, self.create_graph)
            owned = False
        if self.wanted is not None and node in self.wanted:
            self.found[node] = _given(xp, node, g, owned, self.create_graph)
        return g

    def leads_on(self, node: Node) -> bool:
        """Whether the rules of `node` are needed. If not, it keeps what it saved for another backward pass."""
        return self.useful is None or any(edge is not None and edge.id in self.useful for edge in node.edges)

    def take_early(self, xp: Any, leaf: Node, pending: Pending) -> None:
        """The gradient of `leaf` is complete: its hooks run now, so that they can use it or free it early."""
        if leaf.id in pending.arrived:
            pending.heap.remove(-leaf.id)
            heapify(pending.heap)
            self.arrive(xp, *pending.arrived.pop(leaf.id))

    def apply_rules(self, xp: Any, node: Node, g: Any) -> Sequence[Any]:
        """The gradient at each edge of `node`, None where none is required.

        An operation may have more inputs than the node has edges: optional ones that were left out.
        """
        op, create_graph, useful = node.op, self.create_graph, self.useful
        if op.backward is not None:
            if create_graph and op.definition is not None:
                return _through_definition(xp, node, g)
            gradients = op.backward(xp, g, *node.read(op.backward_asks, create_graph))
            _check_number(node, gradients)
            return gradients
        found: list[Any] = []
        for (rule, asks), edge in zip(op.steps, node.edges, strict=False):
            if rule is None or edge is None or (useful is not None and edge.id not in useful):
                found.append(None)
            else:
                found.append(rule(xp, g, *node.read(asks, create_graph)) if asks else rule(xp, g))
        return found

    def hand_on(self, xp: Any, node: Node, g: Any, edge: Node, pending: Pending, owned: bool) -> Any:
        """Give `g` the shape and dtype of `edge`, once for all rules: this is where broadcasting is undone."""
        if g.shape != edge.shape:
            _check_broadcast(node, g, edge)
            g, owned = xp.sum_to(g, edge.shape), True  # a new array in every library, also where only 1s are added
        if g.dtype != edge.dtype:
            carried = opmath_dtype(edge.dtype)
            if g.dtype != carried:
                g, owned = xp.cast(g, carried), True
        pending.receive(edge, g, owned)
        return g

    def free(self, node: Node) -> bool:
        """Free what `node` had saved; whether there was an array."""
        return node.free()

    def branch(self, fork: Fork, pending: Pending) -> None:
        """Walk the branches of `fork` side by side."""
        branches = [partial(self.run, part) for part in pending.part(fork)]
        for part in side_by_side(branches, threads=not self.create_graph):
            for key in part.arrived:  # leaves, and nodes older than the branches
                pending.receive(*part.arrived[key])


class WatchedWalk(Walk):
    """A walk that notifies the observers."""

    def arrive(self, xp: Any, node: Node, g: Any, owned: bool) -> Any:
        g = super().arrive(xp, node, g, owned)
        seen = g if g.dtype == node.dtype else cast(g, node.dtype)
        for observer in observers.get():
            observer.before_backward(node, seen)
        return g

    def apply_rules(self, xp: Any, node: Node, g: Any) -> Sequence[Any]:
        found = super().apply_rules(xp, node, g)
        gradients = [None if gi is None else _as_gradient(node, gi, self.create_graph) for gi in found]
        for observer in observers.get():
            observer.after_backward(node, g, gradients)
        return gradients

    def hand_on(self, xp: Any, node: Node, g: Any, edge: Node, pending: Pending, owned: bool) -> Any:
        g = super().hand_on(xp, node, g, edge, pending, owned)
        for observer in observers.get():
            observer.received(edge, node, g, pending.arrived[edge.id][1])
        return g

    def free(self, node: Node) -> bool:
        freed = super().free(node)
        for observer in observers.get() if freed else ():
            observer.freed(node)
        return freed


@backends.keeps_gpu
def walk(
    roots: Sequence[tuple[Node, Any]],
    *,
    create_graph: bool,
    inputs: Sequence[Node] | None = None,
    retain_graph: bool = False,
) -> dict[Node, Any]:
    """Carry gradients from `roots` (pairs of a node and its seed) back through the graph.

    Returns the gradients of `inputs` if given; otherwise adds them to `.grad` of the leaves. Variables that retain
    their gradients get them either way.
    """
    pending = Pending(create_graph)
    for node, seed in roots:
        pending.receive(node, widened(seed), False)
    wanted = None if inputs is None else set(inputs)
    useful = None if inputs is None else leading_to(inputs, [node for node, _ in roots])
    kind = WatchedWalk if observers.get() else Walk
    this = kind(create_graph, wanted, useful, retain_graph)
    if wanted is None and not create_graph and Node.any_after:
        this.complete = _completed([node for node, _ in roots])
    at_end: list[Callable[[], None]] = []
    with Mode(current_walk, at_end):
        this.run(pending)
        for function in at_end:
            function()
    return this.found


def after_accumulation(node: Node | None, hook: Callable[[Any], None]) -> RemovableHandle:
    """Register a hook on a leaf; see Tensor.register_post_accumulate_grad_hook."""
    if node is None or node.op is not None:
        raise RuntimeError("register_post_accumulate_grad_hook: expected a leaf that requires a gradient")
    if node.after is None:
        node.after, Node.any_after = {}, True
    return RemovableHandle(node.after, hook)


def at_end_of_backward(function: Callable[[], None]) -> None:
    """In a hook: call `function` when the backward pass that runs now has done everything else."""
    if current_walk.get() is None:
        raise RuntimeError("at_end_of_backward: no backward pass is running; call it in a hook")
    current_walk.get().append(function)


def reached_from(roots: Sequence[Node], oldest: int = 0) -> dict[int, Node]:
    """The nodes from `roots` on back that are no older than the id `oldest`, by id."""
    reached = {node.id: node for node in roots}
    stack = list(reached.values())
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and edge.id >= oldest and edge.id not in reached:
                reached[edge.id] = edge
                stack.append(edge)
    return reached


def leading_to(inputs: Sequence[Node], roots: Sequence[Node]) -> set[int]:
    """Ids of the nodes from which one of `inputs` can be reached: the walk passes no others.

    A Fork leads nowhere (it has no edges), and must be passed for its branches.
    """
    useful = {node.id for node in inputs}
    reached = reached_from(roots, min(useful, default=0))
    for key in sorted(reached):
        if any(edge is not None and edge.id in useful for edge in reached[key].edges):
            useful.add(key)
    return useful | {key for key, node in reached.items() if type(node) is Fork}


def _completed(roots: Sequence[Node]) -> dict[int, list[Node]]:
    """The leaves with hooks `after`, by the id of the oldest node that uses them, after which their gradients are
    complete; none where there are branches, which keep leaves back."""
    reached = reached_from(roots)
    last: dict[Node, int] = {}
    for key in sorted(reached, reverse=True):
        last |= {edge: key for edge in reached[key].edges if edge is not None and edge.after}
    found: dict[int, list[Node]] = {}
    for leaf, key in last.items():
        found.setdefault(key, []).append(leaf)
    return {} if any(type(node) is Fork for node in reached.values()) else found


def _through_definition(ops: Any, node: Node, g: Any) -> Sequence[Any]:
    """Differentiate the definition instead of the kernel, which can be done any number of times.

    Every input gets a node of its own, so that attention(x, x, x) counts each once.
    """
    op, required = node.op, [edge is not None for edge in node.edges]
    inputs = node.read(op.inputs, create_graph=True)
    inputs = [ops.alias(x) if require else x for x, require in zip(inputs, required, strict=False)]
    out = op.definition(ops, *inputs, **node.options)
    nodes = [x.node if require else None for x, require in zip(inputs, required, strict=False)]
    if out.node is None:  # the definition depends on none of them, as a sign does
        return [None] * len(nodes)
    found = walk([(out.node, g)], create_graph=True, inputs=[n for n in nodes if n is not None], retain_graph=True)
    return [None if n is None else found.get(n) for n in nodes]


def _check_number(node: Node, found: Any) -> None:
    """A `backward` returns a gradient, or None, for each input; those of optional ones left out have no edge."""
    several, given = isinstance(found, tuple | list), len(node.edges)
    if not several or not given <= len(found) <= max(given, len(node.op.inputs)):
        gave = f"{len(found)} gradients" if several else f"a {type(found).__name__}"
        raise RuntimeError(f"{node}: its backward gave {gave}; expected a tuple of {given}, one for each input.")


def _as_gradient(node: Node, g: Any, create_graph: bool) -> Any:
    """What a rule gave, as the backward pass carries it: NumPy's functions of 0-d arrays return scalars."""
    recorded = isinstance(g, Variable)
    if type(g) is Placed or (recorded and create_graph):
        return g
    if recorded or not hasattr(g, "dtype"):
        raise TypeError(f"{node}: its rule gave a {type(g).__name__}; expected an array, or None for no gradient.")
    g = backends.of(g).asarray(g)
    return Variable._from(g) if create_graph else g


def _check_broadcast(node: Node, g: Any, edge: Node) -> None:
    """A rule may return a gradient of the shape that the input was broadcast to, and of no other."""
    ahead = len(g.shape) - len(edge.shape)
    if ahead < 0 or any(n not in (1, m) for n, m in zip(edge.shape, g.shape[ahead:], strict=True)):
        raise RuntimeError(
            f"{node}: its rule gave a gradient of shape {tuple(g.shape)} for an input of shape {tuple(edge.shape)}; "
            "it must have that shape, or one that the input broadcasts to."
        )


def _run_hooks(xp: Any, node: Node, g: Any, create_graph: bool) -> Any:
    g = g if g.dtype == node.dtype else xp.cast(g, node.dtype)
    tensor = g if create_graph else Variable._from(xp.asarray(g))
    for hook in list((node.hooks or {}).values()):
        replaced = hook(tensor)
        if replaced is not None:
            check_gradient(replaced, tensor, "the result of hook", getattr(hook, "__name__", hook), "on", node)
            tensor = replaced
    return widened(tensor if create_graph else tensor.array)


def _given(xp: Any, node: Node, g: Any, owned: bool, create_graph: bool) -> Any:
    """`g` as it may leave the engine: an array that nothing else refers to.

    The gradient of an inner node goes to that node's rules as well, which may keep it: it is copied. With
    `create_graph` it need not be, since the version counter reports a write into it when the saved value is read.
    """
    if g.dtype != node.dtype:
        return xp.cast(g, node.dtype)
    return g if owned and (create_graph or node.op is None) else xp.clone(g)


def accumulate(xp: Any, node: Node, tensor: Any, g: Any, owned: bool, create_graph: bool) -> None:
    """Add `g` to the `.grad` of the node's tensor, and run the hooks that wait for that."""
    if tensor.grad is None:
        g = _given(xp, node, g, owned, create_graph)
        tensor.grad = g if create_graph else Variable._from(xp.asarray(g))
    elif create_graph:
        tensor.grad = cast(tensor.grad + g, node.dtype)
    else:
        check_gradient(tensor.grad, tensor, "the .grad of", node)
        backends.check_accumulation(tensor.grad.array)
        tensor.grad.array += g
        tensor.grad._wrote("backward")
    for hook in list((node.after or {}).values()):
        hook(tensor)
