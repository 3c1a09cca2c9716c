"""The words of a picture: what stands in the items of a graph, for DOT text and for the page."""

from __future__ import annotations

import math
import textwrap

from tinyattn.viz.graphs.formulas import filled_in, formula
from tinyattn.viz.graphs.model import Box, Trace, Vertex

Lines = list[list[tuple[str, str]]]  # (style, text): "name", "times", "formula" or "quiet"

_STORED = ("parameter", "constant")
_MOVES = {  # operations that only move elements
    "alias", "broadcast_to", "cast", "cat", "clone", "detach", "flip", "getitem", "pad", "permute", "reshape", "roll",
    "stack",
}  # fmt: skip


def lines_of(trace: Trace, vertex: Vertex, time: str = "") -> Lines:
    """Return the lines in the item of a vertex."""
    shape, options = shape_text(vertex.shape) + _dtype(vertex), option_text(vertex)
    if not vertex.is_operation:
        path = trace.boxes[vertex.box].path if vertex.box >= 0 else ""  # of the module that a parameter is inside of
        return [[("name", title(vertex).removeprefix(f"{path}." if path else "")), ("quiet", shape)]]
    if vertex.kind == "failed":
        inputs = ",  ".join(f"{e.slot} {shape_text(trace.vertices[e.source].shape)}" for e in vertex.inputs)
        rows = [inputs, *textwrap.wrap(vertex.error, 53, break_long_words=False, break_on_hyphens=False)]
        return [[("name", f"✗ {title(vertex)}")], *([("quiet", row)] for row in rows)]
    if vertex.op in _MOVES and vertex.name == vertex.op and not vertex.output:  # one line is enough
        return [[("name", vertex.op), ("quiet", options), ("quiet", time or shape)]]
    return [[("name", title(vertex)), ("quiet", _flow(trace, vertex))], *_computed(vertex, time)]


def lines_of_box(trace: Trace, box: Box, members: list[Vertex], time: str = "") -> tuple[str, Lines]:
    """Return what stands beside the name of a folded box, and the lines below it."""
    own, kind = only_operation(members), type_text(box)
    if own is not None:
        return f"{kind}  {_flow(trace, own)}", _computed(own, time)
    return kind, [[("quiet", text)] for text in (flow_text(trace, members), contents_text(members), time) if text]


def _computed(vertex: Vertex, time: str) -> Lines:
    lines = [[("formula", formula_text(vertex)), ("quiet", option_text(vertex))], [("quiet", time)]]
    return [line for line in lines if any(text for _, text in line)]


def _flow(trace: Trace, vertex: Vertex) -> str:
    return flow_text(trace, [vertex]) + _dtype(vertex)


def _dtype(vertex: Vertex) -> str:
    return "" if vertex.dtype in ("float32", "") else f" {vertex.dtype}"


def few_numbers(trace: Trace, vertex: Vertex) -> list[str]:
    """Return the value and the gradient of a vertex with at most four elements: ["1, 2.5", "gradient 1, 1"]."""
    places = {"": vertex.value, "gradient ": vertex.gradient}
    found = [(name, trace.gallery.entries[i].get("values", ())) for name, i in places.items() if i is not None]
    return [name + ", ".join(f"{float(x) + 0:.4g}" for x in values) for name, values in found if 0 < len(values) <= 4]


def title(vertex: Vertex) -> str:
    """Return the title of a vertex: its name, its operation, or both."""
    if not vertex.is_operation:
        return vertex.name or vertex.kind
    return vertex.op if vertex.name in ("", vertex.op) else f"{vertex.name} = {vertex.op}"


def only_operation(members: list[Vertex]) -> Vertex | None:
    """Return the operation of a box with a single one: a Linear layer is shown as its operation."""
    own = [vertex for vertex in members if vertex.is_operation]
    return own[0] if len(own) == 1 else None


def contents_text(members: list[Vertex]) -> str:
    """Return the numbers of operations and parameters in a box: "3 operations, 1,200 parameters"."""
    count = sum(vertex.is_operation for vertex in members)
    size = sum(math.prod(vertex.shape) for vertex in members if vertex.kind == "parameter")
    return f"{count} operation{'s' * (count != 1)}" + f", {size:,} parameters" * (size > 0)


def type_text(box: Box) -> str:
    """Return the type of a box, "" if its name says it already."""
    return "definition" if box.kind == "definition" else box.type if box.type != box.name else ""


def formula_text(vertex: Vertex) -> str:
    """Return what an operation computes, with numbers and names in place of letters."""
    return filled_in(formula(vertex.rule).forward, letters_of(vertex))


def letters_of(vertex: Vertex) -> dict[str, str]:
    """Return what stands in the formulas of a vertex in place of their letters: numbers, and names of inputs."""
    numbers = {name: f"({number})" if number.startswith("-") else number for name, number in vertex.numbers.items()}
    return vertex.letters | numbers


def option_text(vertex: Vertex) -> str:
    """Return the options that matter to a reader: "dim 0, heads 4"."""
    shown = [(k, v) for k, v in vertex.options.items() if k in _TELLING and v not in ("None", "False")]
    return ", ".join(f"{name} {value[1:-2] if value.endswith(',)') else value}" for name, value in shown)


_TELLING = (
    "approximate", "diagonal", "dim", "dims", "dtype", "equation", "heads", "index", "mode", "pad", "shifts",
)  # fmt: skip


def flow_text(trace: Trace, members: list[Vertex]) -> str:
    """Return the shapes of what enters and leaves, as 2×49×16 → 2×49×64.

    Parameters and constants do not count. Equal shapes are named once; where several shapes leave, the text is empty,
    and where several enter, it is the one that leaves.
    """
    within, sources = {v.index for v in members}, {e.source for v in members for e in v.inputs}
    entering = {v.shape for v in map(trace.vertices.__getitem__, sources - within) if v.kind not in _STORED}
    leaving = {v.shape for v in members if v.index not in sources and (v.is_operation or len(members) == 1)}
    if len(leaving) != 1:
        return ""
    ends = [*entering, *leaving] if len(entering) == 1 and entering != leaving else leaving
    return " → ".join(map(shape_text, ends))


def shape_text(shape: tuple[int, ...]) -> str:
    """Return 2×49×64 for (2, 49, 64), and "scalar" for ()."""
    return "×".join(map(str, shape)) if shape else "scalar"


def times_text(forward: float, back: float) -> str:
    """Return seconds with a unit: "12.5 µs, 30 µs back"; "" for no time."""
    parts = [_time(forward)] * (forward > 0) + [f"{_time(back)} back"] * (back > 0)
    return ", ".join(parts)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} µs" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"
