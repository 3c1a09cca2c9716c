"""From a tensor or a run to a Trace: the graph, its backward pass and its boxes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FrameType
from typing import Any

from tinyattn.debug.profile_report import ProfileReport
from tinyattn.engine.modes import Mode, definition_mode
from tinyattn.nn import Module
from tinyattn.random import current_generator
from tinyattn.tensors import Tensor
from tinyattn.viz.graphs.boxes import make_boxes
from tinyattn.viz.graphs.build import Builder, Stack, names_in
from tinyattn.viz.graphs.formulas import LETTERS
from tinyattn.viz.graphs.model import Trace
from tinyattn.viz.graphs.record import Recorder, add_failure, backward_steps, from_nodes
from tinyattn.viz.graphs.source import PACKAGE, variables_of

# --- from a tensor ---


def trace_of_tensors(given: Any, variables: dict[str, Any], gradient: Any, profile: ProfileReport | None) -> Trace:
    """Return the trace behind tensors; `variables` give names, and values that were not saved."""
    outputs = _tensors(given)
    if not outputs:
        raise TypeError(f"graph: expected a Tensor, a model or a function, got {type(given).__name__}")
    if all(x.node is None for x in outputs):
        raise ValueError(
            "graph: nothing was recorded for this tensor, since it requires no gradient. Give graph() the model and "
            "its inputs instead, or compute the tensor from something with requires_grad=True."
        )
    builder = Builder(names_in([], variables))
    from_nodes(builder, outputs, [x for x in variables.values() if isinstance(x, Tensor)])
    name = next((builder.names[id(x.node)] for x in outputs if id(x.node) in builder.names), "")
    trace = _finished(builder, name or f"a {type(given).__name__}", outputs, gradient)
    if profile is not None:
        _take_times(builder, profile)
    return trace


def _take_times(builder: Builder, profile: ProfileReport) -> None:
    rows, known = profile.by_node, 0
    for node, index in builder.nodes.items():
        row, vertex = rows.get(node.id), builder.vertices[index]
        known += row is not None
        vertex.seconds, vertex.seconds_back = (row.forward, row.backward) if row is not None else (0.0, 0.0)
    if not known:
        raise ValueError(
            "graph: this profile contains none of the tensor's operations. Compute the tensor inside of "
            "`with ta.profile() as p:`, and give graph() that tensor."
        )


# --- from a run ---


def trace_of_run(
    function: Callable[..., Any], inputs: Any, kwargs: Any, variables: dict[str, Any], mode: str, gradient: Any
) -> Trace:
    """Run a model or function and return the trace; an error ends the trace and is not raised."""
    arguments = _arguments(function, inputs, kwargs)
    builder = Builder(names_in([], variables))
    for module in (x for x in (function, *arguments.values()) if isinstance(x, Module)):
        builder.add_names_of(module)
    for name, x in arguments.items():
        for i, tensor in enumerate(parts := _tensors(x)):
            builder.names.setdefault(id(tensor), f"{name}[{i}]" if len(parts) > 1 else name)
            builder.source(tensor, "input")
    generator = current_generator()
    state = generator.get_state()
    result = failed = None
    try:
        with Recorder(builder), Mode(definition_mode, mode == "definitions" or definition_mode.get()):
            result = function(*inputs, **kwargs)
    except Exception as error:
        failed = add_failure(builder, error)  # the error itself is not kept: its frames hold every tensor
    finally:
        generator.set_state(state)
    name = type(function).__name__ if isinstance(function, Module) else getattr(function, "__name__", "function")
    name = "function" if name == "<lambda>" else name
    if failed is not None:
        return _finished(builder, name, [], None, failed.error)
    outputs = _tensors(result)
    if not outputs:
        raise TypeError(f"graph: the function must return a Tensor, or several; it returned {type(result).__name__}")
    for x in outputs:
        builder.vertices[builder.source(x)].output = True
    return _finished(builder, name, [x for x in outputs if x.node is not None], gradient)


def _arguments(function: Any, inputs: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a call by name. Raises for one that cannot start, which is no failed forward pass."""
    try:
        signature = inspect.signature(function.forward if isinstance(function, Module) else function)
        bound = signature.bind(*inputs, **kwargs).arguments
        named = (name for name in bound if signature.parameters[name].kind is not inspect.Parameter.VAR_KEYWORD)
        return {name: bound[name] for name in named} | kwargs
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"graph: {name}: {error}; the inputs follow the model: graph(model, images)") from None
    except ValueError:  # a function without a signature
        return {f"input {i}": x for i, x in enumerate(inputs)} | kwargs


def callers_variables(frame: FrameType | None) -> dict[str, Any]:
    """Return the variables that the user's calling code sees, which name tensors."""
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return {} if frame is None else {**frame.f_globals, **variables_of(frame)}


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [x for part in value for x in _tensors(part)] if isinstance(value, tuple | list) else []


# --- both ---


def _finished(builder: Builder, title: str, outputs: list[Tensor], gradient: Any, error: str = "") -> Trace:
    """Run the backward pass, drop what leads to no output, and make the boxes."""
    trace = Trace(title, builder.vertices, [], [], builder.gallery, builder.rules, error)
    if error:
        trace.note = "The forward pass failed, so there is no backward pass."
    elif not outputs:
        trace.note = "Nothing was recorded for gradients, so there is no backward pass."
    else:
        _add_steps(trace, builder, outputs, [gradient] if isinstance(gradient, Tensor) else gradient)
    stacks = builder.stacks
    if not error:
        stacks = _prune(trace, stacks)
        _unrecord(trace)
    _name_letters(trace)
    trace.boxes = make_boxes(trace.vertices, stacks)
    return trace


def _add_steps(trace: Trace, builder: Builder, outputs: list[Tensor], gradients: Any) -> None:
    if gradients is not None and len(gradients) != len(outputs):
        raise ValueError(f"graph: {len(outputs)} outputs have gradients, and gradient= gives {len(gradients)}")
    try:
        trace.steps = backward_steps(builder, outputs, gradients)
    except RuntimeError as error:
        if gradients is not None:  # they may be the reason
            raise
        trace.known, trace.note = False, str(error)
        if any(node.saved is None for node in builder.nodes):
            trace.note = (
                "The backward pass is not shown: backward() has freed the saved values it would read. Draw the graph "
                "before backward(), or call backward(retain_graph=True)."
            )


def _prune(trace: Trace, stacks: dict[int, Stack]) -> dict[int, Stack]:
    """Drop vertices that lead to no output, and renumber the others."""
    needed = {vertex.index for vertex in trace.vertices if vertex.output}
    for vertex in reversed(trace.vertices):
        if vertex.index in needed:
            needed.update(edge.source for edge in vertex.inputs)
    new = {old: i for i, old in enumerate(sorted(needed))}
    trace.unused = sum(v.is_operation and v.index not in needed for v in trace.vertices)
    trace.vertices = [vertex for vertex in trace.vertices if vertex.index in needed]
    for vertex in trace.vertices:
        vertex.index = new[vertex.index]
        vertex.inputs = [e._replace(source=new[e.source], target=new[e.target]) for e in vertex.inputs]
    for step in trace.steps:
        step.vertex = new[step.vertex]
        step.arrivals = [a._replace(vertex=new[a.vertex]) for a in step.arrivals]
    return {new[old]: stack for old, stack in stacks.items() if old in new}


def _name_letters(trace: Trace) -> None:
    """Find names for letters of formulas: w ⊙ x, not a ⊙ x, beside a tensor b; ‹mul› + c, if a is another tensor."""
    named, stored = {vertex.name for vertex in trace.vertices}, ("parameter", "constant")
    variables = {vertex.name for vertex in trace.vertices if vertex.kind not in stored}
    for vertex in trace.vertices:
        inputs = {LETTERS.get(edge.slot, edge.slot): trace.vertices[edge.source] for edge in vertex.inputs}
        by_name = not variables.isdisjoint(inputs)
        vertex.letters = {
            letter: "out" if source is vertex else f"‹{source.op}›" if source.name == source.op else source.name
            for letter, source in {"y": vertex, **inputs}.items()
            if source.name != letter
            and (letter in named or (by_name and source is not vertex and source.kind not in stored))
        }


def _unrecord(trace: Trace) -> None:
    """Mark vertices with a node as not recorded if no gradient of an output can reach it."""
    reached = {vertex.index for vertex in trace.vertices if vertex.output and vertex.recorded}
    for vertex in reversed(trace.vertices):
        if vertex.index in reached:
            reached.update(edge.source for edge in vertex.inputs if edge.recorded)
        else:
            vertex.recorded = False
            vertex.inputs = [edge._replace(recorded=False) for edge in vertex.inputs]
