"""`graph()`: the picture of a computation, as one object."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from tinyattn.debug.profile_report import ProfileReport
from tinyattn.engine.modes import Mode, definition_mode
from tinyattn.nn import Module
from tinyattn.random import current_generator
from tinyattn.tensors import Tensor
from tinyattn.viz.graphs import boxes, fold, walk
from tinyattn.viz.graphs.build import Builder, Stack, names_in
from tinyattn.viz.graphs.dot import dot_text, rendered
from tinyattn.viz.graphs.model import Edge, Step, Trace, Vertex
from tinyattn.viz.graphs.page import graph_page
from tinyattn.viz.graphs.record import Recorder, add_failure, from_nodes
from tinyattn.viz.graphs.source import PACKAGE, variables_of
from tinyattn.viz.page import framed

FORMATS = ("svg", "png", "pdf", "dot", "html")
MOST_AT_FIRST = 60  # visible before anybody unfolds
MOST_IN_PAGE = 1000  # when it opens; then it folds until everything fits the window
MOST_FOR_DOT = 1000  # beyond, `dot` takes minutes, and nobody can read it


class Graph:
    """The picture of a computation: `.dot`, `.svg`, `.html`, `.save(path)`, and itself in a notebook.

    Keeps no tensor and no array alive. error: what stopped the forward, "" if nothing did.
    """

    def __init__(self, trace: Trace, mode: str, depth: int | None, stats: bool, times: bool) -> None:
        self.trace, self._stats, self._times = trace, stats, times
        self._mode, self._depth = mode, depth
        self._folded = fold.folds(trace, mode, depth, MOST_AT_FIRST)

    @property
    def vertices(self) -> list[Vertex]:
        """Operations and what went into them, in the order of the forward."""
        return self.trace.vertices

    @property
    def edges(self) -> list[Edge]:
        """What went into what."""
        return self.trace.edges

    @property
    def steps(self) -> list[Step]:
        """The nodes that the walk backward takes, in its order."""
        return self.trace.steps

    @property
    def error(self) -> str:
        """What stopped the forward; "" if nothing did."""
        return self.trace.error

    @cached_property
    def dot(self) -> str:
        """DOT text. Raises ValueError if too much is visible for `dot`, with what to fold."""
        seen = fold.view(self.trace, self._folded)
        if len(seen.items) > MOST_FOR_DOT:
            raise ValueError(_too_many(self.trace, len(seen.items)))
        return dot_text(self.trace, seen, self._stats, self._times)

    @cached_property
    def svg(self) -> str:
        """SVG by `dot`. Raises ImportError or RuntimeError, each saying what to install, where that is missing."""
        return rendered(self.dot, "svg").decode("utf-8")

    @cached_property
    def html(self) -> str:
        """A page that needs nothing else: fold, search, and walk forward and backward step by step."""
        folded = self._folded if self._depth is not None else fold.folds(self.trace, self._mode, None, MOST_IN_PAGE)
        return graph_page(self.trace, folded, self._depth is None, self._times)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write .svg, .png, .pdf, .dot or .html, as the name ends. Raises ValueError for another ending."""
        path = Path(path)
        kind = path.suffix[1:].lower()
        if kind not in FORMATS:
            known = ", ".join(f".{name}" for name in FORMATS)
            raise ValueError(f"save: {path.name!r} ends in none of {known}; the ending says what to write")
        if kind in ("dot", "html"):
            data = (self.dot if kind == "dot" else self.html).encode("utf-8")
        else:
            data = rendered(self.dot, kind)
        path.write_bytes(data)
        return path

    def __repr__(self) -> str:
        operations = sum(vertex.is_operation for vertex in self.vertices)
        parameters = sum(vertex.kind == "parameter" for vertex in self.vertices)
        counts = f"{operations} operations, {parameters} parameters, {len(self.edges)} edges, "
        counts += f"{len(self.steps)} steps back"
        return f"<graph of {self.trace.title}: {counts}{f'; stopped by {self.error}' if self.error else ''}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        bundle = {"text/plain": repr(self)}
        try:
            bundle["image/svg+xml"] = self.svg
        except (ImportError, RuntimeError, ValueError):  # no `dot`: the page lays itself out
            bundle["text/html"] = framed(self.html, 640)
        return bundle


def graph(
    output_or_model: Tensor | Sequence[Tensor] | Callable[..., Any],
    *inputs: Any,
    mode: str = "modules",
    depth: int | None = None,
    stats: bool = False,
    times: bool = False,
    profile: ProfileReport | None = None,
    gradient: Tensor | Sequence[Tensor | None] | None = None,
    title: str | None = None,
    **kwargs: Any,
) -> Graph:
    """The picture of what led to a tensor, or of what a model does with `inputs`.

    output_or_model: a Tensor (or several) that was computed with gradients on; or a Module or function, which
        is then run and watched, so that what leaves no node behind is seen too: operations without gradients,
        the names of inputs, times, and how far a forward came that crashed (`.error`). kwargs go to it. A run
        uses no random numbers up; modules stay in the mode, training or not, that they are in.
    mode: "modules", each layer as one; "operations", layers unfolded into operations and parameters;
        "definitions", fused operations unfolded too, into first principles (a run only; a tensor shows what it
        was computed by).
    depth: modules show down to this depth, 0 for the outermost as one. Unless given, as deep as can be read.
    stats: min, mean, max and gradient norm in the picture (the page has them in any case).
    times: the time of each operation, forward and back, which also colours it: that of this one run, or, with
        profile=p, what `with ta.profile() as p:` has measured where the tensor was computed.
    gradient: what the walk backward starts from; ones unless given, the gradient of the outputs' sum.

    No `.grad` changes and nothing is freed. Raises TypeError for what is neither, ValueError for an unknown
    mode or a tensor that nothing was recorded for.

    >>> ta.viz.graph(model, images).save("model.html")
    """
    if mode not in fold.MODES:
        raise ValueError(f"graph: mode={mode!r}; expected one of {', '.join(fold.MODES)}")
    if depth is not None and (not isinstance(depth, int) or depth < 0):
        raise ValueError(f"graph: depth={depth!r}; expected how many levels of modules to show, 0 or more")
    if profile is not None and not isinstance(output_or_model, Tensor):
        raise TypeError("graph: a profile is about one run; give graph() the tensor that was computed in it")
    caller = _variables(sys._getframe(1))
    builder = Builder(names_in([], caller))
    if callable(output_or_model):
        trace = _of_a_run(builder, output_or_model, inputs, kwargs, mode, gradient)
    else:
        if inputs or kwargs:
            raise TypeError("graph: inputs are for a model or function, and the first argument is a tensor already")
        around = [x for x in caller.values() if isinstance(x, Tensor)]
        trace = _of_tensors(builder, output_or_model, around, gradient, profile)
    if title is not None:
        trace.title = title
    times = times or profile is not None
    return Graph(trace, mode, depth, stats, times)


def _of_tensors(builder: Builder, given: Any, around: list[Tensor], gradient: Any, profile: Any) -> Trace:
    """around: other tensors that the caller has, whose values may be known from there alone."""
    outputs = _tensors(given)
    if not outputs:
        raise TypeError(f"graph: expected a Tensor, a model or a function, got {type(given).__name__}")
    if all(x.node is None for x in outputs):
        raise ValueError(
            "graph: nothing was recorded for this tensor, since it requires no gradient. Give graph() the model and "
            "its inputs instead, or compute the tensor from something with requires_grad=True."
        )
    from_nodes(builder, outputs, around)
    name = next((builder.names[id(x.node)] for x in outputs if id(x.node) in builder.names), "")
    trace = Trace(name or f"a {type(given).__name__}", builder.vertices, [], [], builder.gallery, builder.rules)
    trace = _finished(trace, builder, outputs, gradient)
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
            "graph: this profile has seen none of these operations. Compute the tensor inside of `with ta.profile() "
            "as p:`, and give graph() that tensor."
        )


def _of_a_run(builder: Builder, function: Any, inputs: Any, kwargs: Any, mode: str, gradient: Any) -> Trace:
    _check_arguments(function, inputs, kwargs)
    _name_arguments(builder, function, inputs, kwargs)
    generator = current_generator()
    state = generator.get_state()
    recorder, result, failed = Recorder(builder), None, False
    try:
        with recorder, Mode(definition_mode, mode == "definitions" or definition_mode.get()):
            result = function(*inputs, **kwargs)
    except Exception as error:
        add_failure(builder, error)
        failed = True  # the error itself knows frames, and they everything that was computed
    finally:
        generator.set_state(state)
    name = type(function).__name__ if isinstance(function, Module) else getattr(function, "__name__", "function")
    trace = Trace("function" if name == "<lambda>" else name, builder.vertices, [], [], builder.gallery, builder.rules)
    if failed:
        trace.error = builder.vertices[-1].error
        trace.note = "The forward did not come to its end, so there is no way back."
        return _finished(trace, builder, [], None)
    outputs = _tensors(result)
    if not outputs:
        raise TypeError(f"graph: the function must return a Tensor, or several; it gave {type(result).__name__}")
    for x in outputs:
        builder.vertices[builder.source(x)].output = True
    return _finished(trace, builder, [x for x in outputs if x.node is not None], gradient)


def _check_arguments(function: Any, inputs: Any, kwargs: Any) -> None:
    """A call that cannot even begin is no forward that crashed."""
    try:
        inspect.signature(function.forward if isinstance(function, Module) else function).bind(*inputs, **kwargs)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"graph: {name}: {error}; the inputs follow the model: graph(model, images)") from None
    except ValueError:
        pass  # a function that does not tell what it takes


def _finished(trace: Trace, builder: Builder, outputs: list[Tensor], gradient: Any) -> Trace:
    """The walk, and the boxes; without what leads nowhere."""
    if outputs:
        gradients = [gradient] if isinstance(gradient, Tensor) else gradient
        if gradients is not None and len(gradients) != len(outputs):
            raise ValueError(f"graph: {len(outputs)} outputs have gradients, and gradient= gives {len(gradients)}")
        try:
            trace.steps = walk.walk_back(builder, outputs, gradients)
        except RuntimeError as error:
            if gradients is not None:  # perhaps it is these that do not fit
                raise
            trace.note = str(error)
    elif not trace.note:
        trace.note = "Nothing was recorded for gradients, so there is no way back."
    stacks = builder.stacks
    if not trace.error:
        stacks = _prune(trace, stacks)
        _unrecord(trace)
    trace.boxes = boxes.make_boxes(trace.vertices, stacks)
    return trace


def _prune(trace: Trace, stacks: dict[int, Stack]) -> dict[int, Stack]:
    """Drop vertices that lead to no output, and number the others anew."""
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


def _unrecord(trace: Trace) -> None:
    """What has a node, but only such that no gradient comes there from an output, is as good as not recorded."""
    reached = {vertex.index for vertex in trace.vertices if vertex.output and vertex.recorded}
    for vertex in reversed(trace.vertices):
        if vertex.index in reached:
            reached.update(edge.source for edge in vertex.inputs if edge.recorded)
        else:
            vertex.recorded = False
            vertex.inputs = [edge._replace(recorded=False) for edge in vertex.inputs]


# --- names ---


def _variables(frame: FrameType | None) -> dict[str, Any]:
    """The variables that the caller sees: what tensors are called there is what a reader knows them by."""
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return {} if frame is None else {**frame.f_globals, **variables_of(frame)}


def _name_arguments(builder: Builder, function: Any, inputs: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Arguments get the names that the function has for them, parameters their paths, and inputs their vertices."""
    inner = function.forward if isinstance(function, Module) else function
    code = getattr(inner, "__code__", None)
    names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    names = names[1:] if names[:1] == ["self"] else names
    names += [f"input {i}" for i in range(len(names), len(inputs))]
    for module in (x for x in (function, *inputs, *kwargs.values()) if isinstance(x, Module)):
        builder.add_names_of(module)
    for name, x in [*zip(names, inputs, strict=False), *kwargs.items()]:
        for i, tensor in enumerate(parts := _tensors(x)):
            builder.names.setdefault(id(tensor), f"{name}[{i}]" if len(parts) > 1 else name)
            builder.source(tensor, "input")


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [x for part in value for x in _tensors(part)] if isinstance(value, tuple | list) else []


def _too_many(trace: Trace, count: int) -> str:
    """What to fold when too much is visible."""
    held = [0] * len(trace.boxes)
    for vertex in trace.vertices:
        for box in fold.chain(trace.boxes, vertex.box):
            held[box] += 1
    largest = sorted((b for b in trace.boxes if b.kind != "pass"), key=lambda b: -held[b.index])[:3]
    names = ", ".join(f"{b.path or b.name} ({held[b.index]})" for b in largest)
    return (
        f"graph: {count} vertices would be visible, and dot draws at most {MOST_FOR_DOT}. Fold with depth=1 or "
        f'mode="modules"{f"; most are in {names}" if names else ""}. The page (.html) folds and unfolds by itself.'
    )
