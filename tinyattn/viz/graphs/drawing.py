"""`graph()`: the picture of a computation, as one object."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tinyattn.debug.profile_report import ProfileReport
from tinyattn.tensors import Tensor
from tinyattn.viz.graphs.dot import dot_text, rendered
from tinyattn.viz.graphs.model import MODES, Trace, contents, folds, view
from tinyattn.viz.graphs.page import blocks_of, graph_page
from tinyattn.viz.graphs.tracing import callers_variables, trace_of_run, trace_of_tensors
from tinyattn.viz.page import framed

FORMATS = ("svg", "png", "pdf", "dot", "html")
MOST_AT_FIRST = 60  # visible items before the reader unfolds any
MOST_IN_PAGE = 1000  # when it opens; then it folds until everything fits the window
MOST_FOR_DOT = 1000  # more takes `dot` minutes and is unreadable


class Graph:
    """The picture of a computation: `.dot`, `.svg`, `.html`, `.save(path)`, and itself in a notebook.

    Keeps no tensor and no array alive.

    Attributes:
        vertices: operations and their inputs, in the order of the forward pass.
        edges: which vertex is an input of which.
        steps: the nodes of the backward pass, in its order.
        error: what stopped the forward pass; "" if it finished.

    Example:
        >>> picture = ta.viz.graph(lambda x: (x * x).sum(), ta.ones(2, requires_grad=True))
        >>> [vertex.op for vertex in picture.vertices if vertex.kind == "operation"], len(picture.steps)
        (['mul', 'sum'], 3)
    """

    def __init__(self, trace: Trace, mode: str, depth: int | None, stats: bool, times: bool) -> None:
        self.trace, self._stats, self._times = trace, stats, times
        self.vertices, self.edges, self.steps, self.error = trace.vertices, trace.edges, trace.steps, trace.error
        self._mode, self._depth = mode, depth
        self._folded = folds(trace, mode, depth, MOST_AT_FIRST)

    @cached_property
    def dot(self) -> str:
        """DOT text. Raises ValueError, with what to fold, if too many items are visible for `dot`."""
        seen = view(self.trace, self._folded, self._mode == "modules")
        if len(seen.items) > MOST_FOR_DOT:
            raise ValueError(_too_many(self.trace, len(seen.items)))
        return dot_text(self.trace, seen, self._stats, self._times)

    @cached_property
    def svg(self) -> str:
        """SVG by `dot`. Raises ImportError or RuntimeError, with what to install, if it is missing."""
        return rendered(self.dot, "svg").decode("utf-8")

    @cached_property
    def html(self) -> str:
        """A page without network or other files: fold, search, and step forward and backward."""
        folded = self._folded if self._depth is not None else folds(self.trace, self._mode, None, MOST_IN_PAGE)
        return graph_page(self.trace, folded, self._depth is None, self._mode == "modules", self._times)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write .svg, .png, .pdf, .dot or .html, by the ending of `path`; return the path.

        Raises ValueError for another ending, and ImportError or RuntimeError if `dot` is needed and missing.
        """
        path = Path(path)
        kind = path.suffix[1:].lower()
        if kind not in FORMATS:
            known = ", ".join(f".{name}" for name in FORMATS)
            raise ValueError(f"save: {path.name!r} ends in none of {known}; the ending selects the format")
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
        counts += self.trace.backward
        return f"<graph of {self.trace.title}: {counts}{f'; stopped by {self.error}' if self.error else ''}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        bundle = {"text/plain": repr(self)}
        try:
            bundle["image/svg+xml"] = self.svg
        except (ImportError, RuntimeError, ValueError):  # the page needs no `dot`
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
    program: Callable[..., Any] | None = None,
    title: str | None = None,
    **kwargs: Any,
) -> Graph:
    """Draw what a tensor was computed from, or what a model computes from `inputs`.

    A model or function is run, which shows more: operations without gradients, names of inputs, times, and what
    ran before an error (`.error`). No `.grad`, module or random stream changes, and nothing is freed.

    Args:
        output_or_model: a Tensor or several, computed with gradients on; or a Module or function.
        inputs, kwargs: of the model or function.
        mode: "modules": each layer as one item; "operations": layers unfolded into operations and parameters;
            "definitions": fused operations unfolded too (a run only).
        depth: levels of modules to show; 0: the outermost as one item. By default as many as can be read.
        stats: show min, mean, max and gradient norm; the page always has them.
        times: show the times of this run.
        profile: show the times that `with ta.profile() as profile:` measured while the tensor was computed.
        gradient: of the outputs; by default ones.
        program: a training step compiled by `ta.compile`, on the CPU; the page shows its lines beside the graph.
        title: of the picture.

    Returns a Graph. Raises TypeError for arguments that do not fit `output_or_model`, and ValueError for an unknown
    mode or depth, for a tensor that nothing was recorded for, and for a `program` that was not recorded.

    Example:
        >>> ta.viz.graph(ta.nn.Linear(3, 2), ta.rand(4, 3))
        <graph of Linear: 1 operations, 2 parameters, 3 edges, 3 backward steps>
    """
    _check(mode, depth, profile, output_or_model)
    variables = callers_variables(sys._getframe(1))
    if callable(output_or_model):
        trace = trace_of_run(output_or_model, inputs, kwargs, variables, mode, gradient)
    elif inputs or kwargs:
        raise TypeError("graph: a tensor takes no inputs; pass a model or function with them")
    else:
        trace = trace_of_tensors(output_or_model, variables, gradient, profile)
    trace.program = [] if program is None else blocks_of(program)
    trace.title = trace.title if title is None else title
    return Graph(trace, mode, depth, stats, times or profile is not None)


def _check(mode: str, depth: Any, profile: Any, output: Any) -> None:
    if mode not in MODES:
        raise ValueError(f"graph: mode={mode!r}; expected one of {', '.join(MODES)}")
    if depth is not None and (not isinstance(depth, int) or depth < 0):
        raise ValueError(f"graph: depth={depth!r}; expected the number of levels of modules to show, 0 or more")
    if profile is not None and not isinstance(output, Tensor):
        raise TypeError("graph: profile= needs the tensor that was computed while profiling, not a model or function")


def _too_many(trace: Trace, count: int) -> str:
    """Return the message for too many visible items, with what to fold."""
    held = [len(inside) for inside in contents(trace)]
    largest = sorted((b for b in trace.boxes if b.kind != "pass"), key=lambda b: -held[b.index])[:3]
    names = ", ".join(f"{b.path or b.name} ({held[b.index]})" for b in largest)
    return (
        f"graph: {count} vertices would be visible, and dot draws at most {MOST_FOR_DOT}. Fold with depth=1 or "
        f'mode="modules"{f"; most are in {names}" if names else ""}. The page (.html) folds and unfolds by itself.'
    )
