"""Where the graph comes from: the nodes behind a tensor, or a run that is watched."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from tinyattn.debug.describe import input_names
from tinyattn.engine.fork import Fork
from tinyattn.engine.modes import call_site, module_stack
from tinyattn.engine.node import Node, Saved, SavedValues
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.nn import Module
from tinyattn.tensors import Tensor
from tinyattn.viz.graphs.build import Builder, Stack, named_inputs
from tinyattn.viz.graphs.model import Edge, Vertex
from tinyattn.viz.graphs.source import PACKAGE, line_at, line_of, local_tensors, model_line, variables_of

# --- from nodes alone ---


def nodes_behind(roots: Sequence[Node]) -> list[Node]:
    """Everything that `roots` were computed from, oldest first."""
    found = {node.id: node for node in roots}
    stack = list(found.values())
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and type(edge) is not Fork and edge.id not in found:
                found[edge.id] = edge
                stack.append(edge)
    return [found[key] for key in sorted(found)]


def from_nodes(builder: Builder, outputs: Sequence[Tensor], around: Sequence[Tensor] = ()) -> None:
    """The graph of tensors that were computed before anybody watched. around: others that may be part of it."""
    roots = [x.node for x in outputs if x.node is not None]
    values = {x.node: x.array for x in (*around, *outputs) if x.node is not None}
    nodes = nodes_behind(roots)
    for node in nodes:  # what somebody saved as an input tells the value of where it came from
        for saved in (node.saved or {}).values():
            for one in saved if isinstance(saved, tuple) else (saved,):
                if type(one) is Saved and one.node is not None and one.version == one.storage.version:
                    values.setdefault(one.node, one.array)
    for node in nodes:
        if node.op is None:
            continue
        if node.modules:
            builder.know_names_of(node.modules[0])
        inputs = _inputs_of(builder, node)
        vertex = builder.operation(node.op, node, node, Stack(node.modules), node.options)
        builder.connect(
            vertex, [(slot, x._replace(target=vertex.index) if isinstance(x, Edge) else x) for slot, x in inputs]
        )
        own = (node.saved or SavedValues()).get("out")
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
        if type(edge) is Fork:
            continue
        if edge is not None:
            source = builder.nodes[edge] if edge in builder.nodes else builder.leaf(edge)
            found.append((slot, Edge(source, -1, slot, True)))
            continue
        saved = (node.saved or SavedValues()).get(slot)
        if type(saved) is Saved:
            found.append((slot, Edge(builder.constant(saved.array, slot), -1, slot, False)))
        elif isinstance(saved, int | float):
            found.append((slot, saved))
    return found


# --- from a run ---


class Recorder(Observer):
    """Adds every operation that runs to `builder`. Holds what passes until it is forgotten, so that tensors are
    known again by their identity."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self._held: list[Any] = []
        self._definitions: list[_Definition] = []
        self._options: list[dict[str, Any]] = []
        self._started: list[float] = []

    def before_definition(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._definitions.append(_Definition(op.name))

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
            self.builder.know_names_of(stack.modules[0])
        for _, x in named:  # leaves come before what uses them
            if isinstance(x, Tensor):
                self.builder.source(x)
        vertex = self.builder.operation(op, out, node, stack, self._options.pop())
        self.builder.connect(vertex, named)
        self.builder.know(out, vertex.index)
        vertex.value, vertex.seconds = self.builder.gallery.add(out.array), seconds
        vertex.site = vertex.site or line_of(call_site())
        inner = model_line()
        vertex.inner = inner if inner != vertex.site else None
        for name, tensor in local_tensors():
            self.builder.baptise(tensor, name)

    def failed_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any], error: Exception) -> None:
        self._options.pop()
        self._started.pop()

    def detached(self, tensor: Tensor, out: Tensor) -> None:
        self._held.append((tensor, out))
        source = self.builder.source(tensor)
        vertex = self.builder.operation(_DETACH, out, None, self._stack(), {})
        vertex.inputs = [Edge(source, vertex.index, "x", False)]
        vertex.value, vertex.site = self.builder.gallery.add(out.array), line_of(call_site())
        self.builder.know(out, vertex.index)

    def _stack(self) -> Stack:
        return Stack(module_stack.get(), tuple(self._definitions))


class _Definition:
    """One call of a fused operation that runs as its definition."""

    def __init__(self, name: str) -> None:
        self.name = name


_DETACH = Operation(lambda xp, x: x, name="detach", x=lambda xp, g: None)


# --- a run that failed ---


def add_failure(builder: Builder, error: Exception) -> Vertex:
    """A vertex for what raised `error`: the function of this package that the user or a model called, with the
    tensors it was given; or a line of the user's own."""
    frames = [(entry.tb_frame, entry.tb_lineno) for entry in _entries(error.__traceback__)]
    operations = PACKAGE + "ops"
    place = next((i for i, (f, _) in enumerate(frames) if f.f_code.co_filename.startswith(operations)), None)
    if place is None:  # an Operation called as it is, `a @ b`; or no operation at all
        place = next((i for i, (f, _) in enumerate(frames) if f.f_code is Operation.__call__.__code__), None)
    modules = [variables_of(f)["self"] for f, _ in frames if f.f_code is Module.__call__.__code__]
    inputs: list[tuple[str, Any]] = []
    name = type(error).__name__
    if place is not None:
        frame = frames[place][0]
        code, values = frame.f_code, variables_of(frame)
        if code is Operation.__call__.__code__:
            name, inputs = values["self"].name, named_inputs(values["self"], values["inputs"])
        else:
            name = code.co_name.strip("_")
            inputs = [(key, values[key]) for key in code.co_varnames[: code.co_argcount] if key in values]
    if modules:
        builder.know_names_of(modules[0])
    sources = [(slot, builder.source(x)) for slot, x in inputs if isinstance(x, Tensor)]
    vertex = Vertex(len(builder.vertices), "failed", name, name, (), "", 0, recorded=False)
    builder.vertices.append(vertex)
    builder.stacks[vertex.index] = Stack(tuple(modules))
    vertex.inputs = [Edge(source, vertex.index, slot, False) for slot, source in sources]
    vertex.error, vertex.rule = f"{type(error).__name__}: {error}", name
    own = [frame for frame in frames[:place] if _is_a_model_or_the_user(frame[0].f_code.co_filename)]
    if own:
        vertex.site = line_at(own[-1][0].f_code.co_filename, own[-1][1])
    return vertex


def _entries(traceback: TracebackType | None) -> list[TracebackType]:
    found = []
    while traceback is not None:
        found.append(traceback)
        traceback = traceback.tb_next
    return found


def _is_a_model_or_the_user(file: str) -> bool:
    return not file.startswith(PACKAGE) or file == PACKAGE + "models.py"
