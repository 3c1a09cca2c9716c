"""Recording: the nodes behind a tensor, a run that is watched, its backward pass, and a run that failed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from traceback import walk_tb
from typing import Any

from tinyattn import autograd
from tinyattn.debug.describe import input_names, saved_by
from tinyattn.debug.flow import DETACH, graph_of
from tinyattn.engine.fork import Fork
from tinyattn.engine.modes import call_site, module_stack
from tinyattn.engine.node import Node, Saved
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.nn import Module
from tinyattn.ops.creation import ones_like
from tinyattn.tensors import Tensor
from tinyattn.viz.graphs.build import Builder, Definition, Stack, named_inputs, saved_in
from tinyattn.viz.graphs.model import Arrival, Edge, Step, Vertex
from tinyattn.viz.graphs.source import arguments_of, is_model, is_operation, line_at, line_of, local_tensors, model_line

# --- nodes ---


def from_nodes(builder: Builder, outputs: Sequence[Tensor], around: Sequence[Tensor] = ()) -> None:
    """Add the graph behind tensors that are computed already. around: other tensors whose values may be in it."""
    roots = [x.node for x in outputs if x.node is not None]
    values = {x.node: x.array for x in (*around, *outputs) if x.node is not None}
    behind = {node for root in roots for node in graph_of(root) if type(node) is not Fork}
    nodes = sorted(behind, key=lambda node: node.id)
    for node in nodes:  # a saved input is the output of another node
        for _, saved in saved_by(node):
            if saved.node is not None and saved.version == saved.storage.version:
                values.setdefault(saved.node, saved.array)
    for node in nodes:
        if node.op is None:
            continue
        if node.modules:
            builder.add_names_of(node.modules[0])
        inputs = _inputs_of(builder, node)
        vertex = builder.operation(node.op, node, node, Stack(node.modules), node.options)
        builder.connect(vertex, inputs)
        own = saved_in(node).get("out")
        value = own.array if type(own) is Saved else values.get(node)
        vertex.value = None if value is None else builder.gallery.add(value)
        vertex.name = builder.names.get(id(node), vertex.op)
    for root in roots:
        if root.op is None:
            builder.leaf(root)
        builder.vertices[builder.nodes[root]].output = True


def _inputs_of(builder: Builder, node: Node) -> list[tuple[str, Any]]:
    assert node.op is not None
    found: list[tuple[str, Any]] = []
    for slot, edge in zip(input_names(node.op, len(node.edges)), node.edges, strict=False):
        saved = saved_in(node).get(slot)
        if type(edge) is Fork:
            continue
        if edge is not None:
            source = builder.nodes[edge] if edge in builder.nodes else builder.leaf(edge)
            found.append((slot, Edge(source, -1, slot, True)))
        elif type(saved) is Saved:
            found.append((slot, Edge(builder.constant(saved.array, slot), -1, slot, False)))
        elif isinstance(saved, int | float):
            found.append((slot, saved))
    return found


# --- a run ---


class Recorder(Observer):
    """Adds every operation that runs to `builder`. Keeps all tensors alive until the end, since their ids name them."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self._held: list[Any] = []
        self._definitions: list[Definition] = []
        self._options: list[dict[str, Any]] = []
        self._started: list[float] = []

    def before_definition(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._definitions.append(Definition(op.name))

    def after_definition(self, op: Operation) -> None:
        self._definitions.pop()

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._options.append({**op.options, **options})
        self._started.append(time.perf_counter())

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        seconds = time.perf_counter() - self._started.pop()
        self._held.append((inputs, out))
        named, stack = named_inputs(op, inputs), self._stack()
        if stack.modules:
            self.builder.add_names_of(stack.modules[0])
        for _, x in named:  # leaves come before the operations that use them
            if isinstance(x, Tensor):
                self.builder.source(x)
        vertex = self.builder.operation(op, out, node, stack, self._options.pop())
        self.builder.connect(vertex, named)
        self.builder.register(out, vertex.index)
        vertex.value, vertex.seconds = self.builder.gallery.add(out.array), seconds
        vertex.site = vertex.site or line_of(call_site())
        inner = model_line()
        vertex.inner = inner if inner != vertex.site else None
        for name, tensor in local_tensors():
            self.builder.rename(tensor, name)

    def failed_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any], error: Exception) -> None:
        self._options.pop()
        self._started.pop()

    def detached(self, tensor: Tensor, out: Tensor) -> None:
        self._held.append((tensor, out))
        source = self.builder.source(tensor)
        vertex = self.builder.operation(DETACH, out, None, self._stack(), {})
        vertex.inputs = [Edge(source, vertex.index, "x", False)]
        vertex.value, vertex.site = self.builder.gallery.add(out.array), line_of(call_site())
        self.builder.register(out, vertex.index)

    def _stack(self) -> Stack:
        return Stack(module_stack.get(), tuple(self._definitions))


# --- the backward pass ---


class BackwardRecorder(Observer):
    """Records each step of a backward pass over the nodes that `builder` knows."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.steps: list[Step] = []
        self._slot = 0  # the next input of the last node
        self._started = 0.0

    def before_backward(self, node: Node, g: Any) -> None:
        index = self.builder.nodes.get(node)
        if index is not None:
            self.steps.append(Step(index, self.builder.gallery.add(g)))
        self._slot, self._started = 0, time.perf_counter()

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        if node in self.builder.nodes:
            self.builder.vertices[self.steps[-1].vertex].seconds_back = time.perf_counter() - self._started

    def received(self, edge: Node, node: Node, gradient: Any, total: Any) -> None:
        slot = self._slot
        while node.edges[slot] is not edge:
            slot += 1
        self._slot = slot + 1
        vertex = self.builder.nodes.get(edge)
        if vertex is None or node not in self.builder.nodes or node.op is None:
            return  # outside of the picture, or the Fork of a DataParallel
        name, add = input_names(node.op, len(node.edges))[slot], self.builder.gallery.add
        self.steps[-1].arrivals.append(Arrival(vertex, name, add(gradient), add(total)))


def backward_steps(
    builder: Builder, outputs: Sequence[Tensor], gradients: Sequence[Tensor | None] | None
) -> list[Step]:
    """Return the steps of `grad(outputs, all leaves)`. Changes no `.grad` and frees nothing.

    gradients: of the outputs; ones by default.
    """
    leaves = [Tensor._from(None, node) for node in builder.leaves]
    if not leaves or not outputs:
        return []
    given = [None] * len(outputs) if gradients is None else gradients
    seeds = [ones_like(x) if seed is None else seed for x, seed in zip(outputs, given, strict=True)]
    recorder = BackwardRecorder(builder)
    with recorder:
        autograd.grad(outputs, leaves, seeds, retain_graph=True, allow_unused=True)
    for step in recorder.steps:
        builder.vertices[step.vertex].gradient = step.gradient
    return recorder.steps


# --- a run that failed ---


def add_failure(builder: Builder, error: Exception) -> Vertex:
    """Add a vertex for what raised `error`: the outermost call of an operation, with its inputs, or a user's line."""
    frames = list(walk_tb(error.__traceback__))
    call, run = Operation.__call__.__code__, Module.__call__.__code__
    place = next((i for i, (f, _) in enumerate(frames) if f.f_code is call or is_operation(f.f_code.co_filename)), None)
    name, inputs = type(error).__name__, []
    if place is not None:
        frame = frames[place][0]
        name, inputs = frame.f_code.co_name.strip("_"), arguments_of(frame)
        if frame.f_code is call:
            op, *given = (x for _, x in inputs)
            name, inputs = op.name, named_inputs(op, given)
    modules = [arguments_of(frame)[0][1] for frame, _ in frames if frame.f_code is run]
    if modules:
        builder.add_names_of(modules[0])
    tensors = [(slot, one) for slot, x in inputs for one in (x if isinstance(x, list | tuple) else (x,))]
    sources = [(slot, builder.source(x)) for slot, x in tensors if isinstance(x, Tensor)]
    vertex = Vertex(len(builder.vertices), "failed", name, name, (), "", 0, recorded=False)
    builder.vertices.append(vertex)
    builder.stacks[vertex.index] = Stack(tuple(modules))
    vertex.inputs = [Edge(source, vertex.index, slot, False) for slot, source in sources]
    vertex.error, vertex.rule = f"{type(error).__name__}: {error}", name
    for frame, line in frames[:place]:
        if is_model(frame.f_code.co_filename):
            vertex.site = line_at(frame.f_code.co_filename, line)  # the innermost
    return vertex
