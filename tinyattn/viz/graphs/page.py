"""The page of a graph."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tinyattn.viz.graphs.dot import formula_text, is_brief, option_text, times_text, title
from tinyattn.viz.graphs.formulas import formula
from tinyattn.viz.graphs.model import Trace, Vertex
from tinyattn.viz.page import html_page

SCRIPTS = ("model", "layout", "draw", "panel", "eye", "main")
CELLS = 900_000  # of all heat maps together: 1.2 MB as text
_PLAIN = (  # attributes of a Vertex that the page takes as they are
    "index", "kind", "op", "rule", "shape", "dtype", "bytes", "recorded", "box", "options", "numbers", "value",
    "gradient", "saved", "site", "inner", "error", "output",
)  # fmt: skip


def graph_page(trace: Trace, folded: set[int], auto: bool, times: bool) -> str:
    """Return the page as text. The same trace gives the same text, byte for byte."""
    scripts = [f"graph-{name}.js" for name in SCRIPTS]
    return html_page("graph", scripts, trace.title, _content(trace, folded, auto, times))


def _content(trace: Trace, folded: set[int], auto: bool, times: bool) -> dict[str, Any]:
    rules = sorted({vertex.rule for vertex in trace.vertices})
    return {
        "title": trace.title,
        "error": trace.error,
        "note": trace.note,
        "unused": trace.unused,
        "vertices": [_vertex(trace, vertex, times) for vertex in trace.vertices],
        "boxes": [asdict(box) for box in trace.boxes],
        "steps": [asdict(step) for step in trace.steps],
        "arrays": trace.gallery.shrunk(CELLS),
        "formulas": {key: formula(key).rules for key in rules},
        "sources": {key: trace.rules.get(key, {}) for key in rules},
        "folded": sorted(folded),
        "auto": auto,  # whether the page may fold more, to fit the window
    }


def _vertex(trace: Trace, vertex: Vertex, times: bool) -> dict[str, Any]:
    return {name: getattr(vertex, name) for name in _PLAIN} | {
        "operation": vertex.is_operation,
        "title": title(vertex),
        "formula": formula_text(vertex),
        "details": option_text(vertex),
        "brief": is_brief(vertex),
        "path": _path(trace, vertex.box),
        "inputs": [[edge.source, edge.slot, edge.recorded] for edge in vertex.inputs],
        "time": times_text(vertex.seconds, vertex.seconds_back) if times else "",
        "seconds": vertex.seconds + vertex.seconds_back if times else 0,
    }


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
