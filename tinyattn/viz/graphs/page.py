"""The page of a graph."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from tinyattn.ops import attention
from tinyattn.viz.graphs import dot
from tinyattn.viz.graphs.fold import chain, contents, is_bookkeeping, levels
from tinyattn.viz.graphs.formulas import filled_in, formula
from tinyattn.viz.graphs.listing import origin_of
from tinyattn.viz.graphs.model import Trace, Vertex
from tinyattn.viz.graphs.source import rule_source
from tinyattn.viz.page import html_page

PARTS = ["graph.css", *(f"graph-{name}.js" for name in ("model", "layout", "draw", "panel", "program", "eye", "main"))]
CELLS = 900_000  # of all heat maps together: 1.2 MB as text
FEW = 40  # vertices of a graph whose boxes show their numbers too
_PLAIN = (  # attributes of a Vertex that the page takes as they are
    "index", "kind", "op", "rule", "dtype", "recorded", "box", "turns", "options", "numbers", "value", "gradient",
    "saved", "site", "inner", "error", "output", "letters",
)  # fmt: skip
Lines = list[list[tuple[str, str]]]  # of an item: (style, text)


def graph_page(trace: Trace, folded: set[int], auto: bool, tidy: bool, times: bool) -> str:
    """Return the page as text. The same trace gives the same text, byte for byte."""
    return html_page("graph", PARTS, trace.title, _content(trace, folded, auto, tidy, times))


def _content(trace: Trace, folded: set[int], auto: bool, tidy: bool, times: bool) -> dict[str, Any]:
    rules = sorted({vertex.rule for vertex in trace.vertices})
    return {
        "title": trace.title,
        "error": trace.error,
        "note": trace.note,
        "known": trace.known,
        "backward": trace.backward,
        "unused": trace.unused,
        "vertices": [_vertex(trace, vertex, times) for vertex in trace.vertices],
        "boxes": _boxes(trace, times),
        "program": trace.program,
        "steps": [{"vertex": s.vertex, "gradient": s.gradient, "arrivals": s.arrivals} for s in trace.steps],
        "arrays": trace.gallery.shrunk(CELLS),
        "formulas": {key: formula(key).rules for key in rules},
        "sources": {key: trace.rules.get(key, {}) for key in rules},
        "kernels": {key: rule_source(attention._gradients) for key in {"attention", "packed_attention"} & {*rules}},
        "folded": sorted(folded),
        "tidy": tidy,  # whether changes of shape are hidden at first
        "auto": auto and tidy,  # whether the page may fold more, to fit the window
    }


def _vertex(trace: Trace, vertex: Vertex, times: bool) -> dict[str, Any]:
    title, shape, path = dot.title(vertex), dot.shape_text(vertex.shape), _path(trace, vertex.box)
    kind = "" if vertex.is_operation else f"{vertex.kind} "
    time = dot.times_text(vertex.seconds, vertex.seconds_back) if times else ""
    return {name: getattr(vertex, name) for name in _PLAIN} | {
        "operation": vertex.is_operation,
        "origin": origin_of(trace, vertex) if trace.program and vertex.is_operation else "",
        "bookkeeping": is_bookkeeping(vertex),
        "title": title,
        "formula": dot.formula_text(vertex),
        "rules": {
            slot: text
            for slot, rule in formula(vertex.rule).rules.items()
            if (text := filled_in(rule, dot.letters_of(vertex))) != rule
        },
        "path": path,
        "shape": shape,
        "size": math.prod(vertex.shape),
        "about": f"{shape} {vertex.dtype}, {dot.size_text(vertex.bytes)}" + f", {time}" * bool(time),
        "lines": _lines(trace, vertex, time)
        + [[("quiet", row)] for row in (dot.few_numbers(trace, vertex) if len(trace.vertices) <= FEW else ())],
        "spoken": f"{kind}{title}{f' in {path}' if path else ''}, {shape}",
        "searched": _searched(trace, vertex, f"{title} {vertex.op} {path} {shape}"),
        "inputs": [[edge.source, edge.slot, edge.recorded] for edge in vertex.inputs],
        "seconds": vertex.seconds + vertex.seconds_back if times else 0,
    }


def _searched(trace: Trace, vertex: Vertex, text: str) -> str:
    """Return what a search looks through: also source lines, and formulas of the operation and its definitions."""
    around = [trace.boxes[box].name for box in chain(trace.boxes, vertex.box) if trace.boxes[box].kind == "definition"]
    lines = [f"{site} {site.code}" for site in (vertex.site, vertex.inner) if site]
    return " ".join([text, *lines, *(formula(name).forward for name in (vertex.rule, *around))]).lower()


def _lines(trace: Trace, vertex: Vertex, time: str) -> Lines:
    shape, options = _shape(vertex), dot.option_text(vertex)
    if not vertex.is_operation:
        return [[("name", dot.name_inside(trace.boxes, vertex)), ("quiet", shape)]]
    if vertex.kind == "failed":
        inputs = ",  ".join(f"{e.slot} {dot.shape_text(trace.vertices[e.source].shape)}" for e in vertex.inputs)
        rows = [inputs, *dot.wrapped(vertex.error, 53)]
        return [[("name", f"✗ {dot.title(vertex)}")], *([("quiet", row)] for row in rows)]
    if dot.is_brief(vertex):
        return [[("name", vertex.op), ("quiet", options), ("quiet", time or shape)]]
    return [[("name", dot.title(vertex)), ("quiet", _flow(trace, vertex))], *_formula_and_time(vertex, time)]


def _formula_and_time(vertex: Vertex, time: str) -> Lines:
    text, options = dot.formula_text(vertex), dot.option_text(vertex)
    lines = [[("formula", text), ("quiet", options)]] if text or options else []
    return lines + [[("quiet", time)]] * bool(time)


def _shape(vertex: Vertex) -> str:
    return dot.shape_text(vertex.shape) + _dtype(vertex)


def _flow(trace: Trace, vertex: Vertex) -> str:
    return dot.flow_text(trace, [vertex]) + _dtype(vertex)


def _flow_and_counts(trace: Trace, members: list[Vertex]) -> Lines:
    return [[("quiet", text)] for text in (dot.flow_text(trace, members), dot.contents_text(members)) if text]


def _dtype(vertex: Vertex) -> str:
    return "" if vertex.dtype in ("float32", "") else f" {vertex.dtype}"


def _boxes(trace: Trace, times: bool) -> list[dict[str, Any]]:
    """Return the boxes; `label` and `lines` are the texts beside and below the name of a folded one."""
    inside = contents(trace)
    single = [dot.only_operation(members) for members in inside]
    boxes = []
    for box, own, members, level in zip(
        trace.boxes, single, inside, levels(trace.boxes, [own is not None for own in single]), strict=True
    ):
        kind, counts = dot.type_text(box), dot.contents_text(members)
        time = dot.times_text(own.seconds, own.seconds_back) if times and own is not None else ""
        boxes.append(asdict(box) | {
            "level": level,
            "type": kind,
            "label": kind if own is None else f"{kind}  {_flow(trace, own)}",
            "output": any(v.output for v in members),
            "lines": _formula_and_time(own, time) if own is not None else _flow_and_counts(trace, members),
            "spoken": f"{box.path or box.name}, folded, {counts}",
        })  # fmt: skip
    return boxes


def _path(trace: Trace, box: int) -> str:
    """Return the path of the innermost module, followed by the definitions inside of it."""
    inner = ""
    while box >= 0:
        if trace.boxes[box].kind == "module":
            return (trace.boxes[box].path or trace.boxes[box].name) + inner
        if trace.boxes[box].kind == "definition":
            inner = f" › {trace.boxes[box].name}{inner}"
        box = trace.boxes[box].parent
    return inner.removeprefix(" › ")
