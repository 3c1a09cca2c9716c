"""The graph as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import html
import json
from importlib import resources
from string import Template
from typing import Any

from tinyattn.viz.graphs.dot import formula_text, is_brief, option_text, times_text, title
from tinyattn.viz.graphs.formulas import formula
from tinyattn.viz.graphs.model import Line, Trace, Vertex

SCRIPTS = (
    "graph-model.js", "graph-layout.js", "graph-draw.js", "graph-panel.js", "graph-eye.js", "graph-main.js",
)  # fmt: skip
CELLS = 900_000  # of all heat maps together: 1.2 MB as text


def html_page(trace: Trace, folded: set[int], auto: bool, times: bool) -> str:
    """The page as text. The same trace gives the same text, byte for byte."""
    folder = resources.files("tinyattn.viz") / "pages"
    read = {name: (folder / name).read_text(encoding="utf-8") for name in ("graph.html", "graph.css", *SCRIPTS)}
    data = json.dumps(page_data(trace, folded, auto, times), separators=(",", ":"), ensure_ascii=False)
    return Template(read["graph.html"]).substitute(
        title=html.escape(trace.title),
        style=read["graph.css"],
        script="\n".join(read[name] for name in SCRIPTS),
        data=data.replace("<", "\\u003c"),  # no text of the user's can end the script element
    )


def page_data(trace: Trace, folded: set[int], auto: bool, times: bool) -> dict[str, Any]:
    """What the page is about, ready for JSON."""
    rules = sorted({vertex.rule for vertex in trace.vertices})
    return {
        "title": trace.title,
        "error": trace.error,
        "note": trace.note,
        "unused": trace.unused,
        "vertices": [_vertex(trace, vertex, times) for vertex in trace.vertices],
        "boxes": [
            {"index": b.index, "parent": b.parent, "kind": b.kind, "name": b.name, "type": b.type, "path": b.path,
             "members": b.members} for b in trace.boxes
        ],
        "steps": [{"vertex": s.vertex, "gradient": s.gradient, "arrivals": s.arrivals} for s in trace.steps],
        "arrays": trace.gallery.shrunk(CELLS),
        "formulas": {key: formula(key).rules for key in rules},
        "sources": {key: trace.rules.get(key, {}) for key in rules},
        "folded": sorted(folded),
        "auto": auto,  # whether the page may fold more, to fit the window
    }  # fmt: skip


def _vertex(trace: Trace, vertex: Vertex, times: bool) -> dict[str, Any]:
    return {
        "index": vertex.index,
        "kind": vertex.kind,
        "operation": vertex.is_operation,
        "op": vertex.op,
        "rule": vertex.rule,
        "title": title(vertex),
        "formula": formula_text(vertex),
        "details": option_text(vertex),
        "brief": is_brief(vertex),
        "path": _path(trace, vertex.box),
        "shape": vertex.shape,
        "dtype": vertex.dtype,
        "bytes": vertex.bytes,
        "recorded": vertex.recorded,
        "box": vertex.box,
        "inputs": [[edge.source, edge.slot, edge.recorded] for edge in vertex.inputs],
        "options": vertex.options,
        "numbers": vertex.numbers,
        "value": vertex.value,
        "gradient": vertex.gradient,
        "saved": vertex.saved,
        "site": _line(vertex.site),
        "inner": _line(vertex.inner),
        "time": times_text(vertex.seconds, vertex.seconds_back) if times else "",
        "seconds": vertex.seconds + vertex.seconds_back if times else 0,
        "error": vertex.error,
        "output": vertex.output,
    }


def _path(trace: Trace, box: int) -> str:
    """The innermost module that has a path, and the definition inside of it."""
    inner = ""
    while box >= 0:
        if trace.boxes[box].kind == "module":
            return (trace.boxes[box].path or trace.boxes[box].name) + inner
        if trace.boxes[box].kind == "definition":
            inner = f" › {trace.boxes[box].name}{inner}"
        box = trace.boxes[box].parent
    return inner.removeprefix(" › ")


def _line(line: Line | None) -> list[Any] | None:
    return None if line is None else list(line)


def framed(page: str, height: int = 640) -> str:
    """The page inside of another one: for notebooks."""
    return (
        f'<iframe srcdoc="{html.escape(page)}" width="100%" height="{height}" style="border:1px solid #ccc"></iframe>'
    )
