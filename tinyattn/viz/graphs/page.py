"""The page of a graph, with the program of a compiled step beside it."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict
from typing import Any

from tinyattn.debug.describe import size
from tinyattn.ops import attention
from tinyattn.viz.graphs import labels
from tinyattn.viz.graphs.formulas import filled_in, formula
from tinyattn.viz.graphs.model import Trace, Vertex, chain, contents, is_bookkeeping, levels
from tinyattn.viz.graphs.source import rule_source
from tinyattn.viz.page import html_page

PARTS = ["graph.css", *(f"graph-{name}.js" for name in ("model", "layout", "draw", "panel", "program", "eye", "main"))]
CELLS = 900_000  # of all heat maps together: 1.2 MB as text
FEW = 40  # vertices of a graph whose boxes show their numbers too
_PLAIN = (  # attributes of a Vertex that the page takes as they are
    "index", "kind", "op", "rule", "dtype", "recorded", "box", "turns", "options", "numbers", "value", "gradient",
    "saved", "site", "inner", "error", "output", "letters",
)  # fmt: skip


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
    title, shape, path = labels.title(vertex), labels.shape_text(vertex.shape), _path(trace, vertex.box)
    kind = "" if vertex.is_operation else f"{vertex.kind} "
    time = labels.times_text(vertex.seconds, vertex.seconds_back) if times else ""
    return {name: getattr(vertex, name) for name in _PLAIN} | {
        "operation": vertex.is_operation,
        "origin": origin_of(trace, vertex) if trace.program and vertex.is_operation else "",
        "bookkeeping": is_bookkeeping(vertex),
        "title": title,
        "formula": labels.formula_text(vertex),
        "rules": {
            slot: text
            for slot, rule in formula(vertex.rule).rules.items()
            if (text := filled_in(rule, labels.letters_of(vertex))) != rule
        },
        "path": path,
        "shape": shape,
        "size": math.prod(vertex.shape),
        "about": f"{shape} {vertex.dtype}, {size(vertex.bytes)}" + f", {time}" * bool(time),
        "lines": labels.lines_of(trace, vertex, time)
        + [[("quiet", row)] for row in (labels.few_numbers(trace, vertex) if len(trace.vertices) <= FEW else ())],
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


def _boxes(trace: Trace, times: bool) -> list[dict[str, Any]]:
    """Return the boxes; `label` and `lines` are the texts beside and below the name of a folded one."""
    inside = contents(trace)
    single = [labels.only_operation(members) for members in inside]
    boxes = []
    for box, own, members, level in zip(
        trace.boxes, single, inside, levels(trace.boxes, [own is not None for own in single]), strict=True
    ):
        time = labels.times_text(own.seconds, own.seconds_back) if times and own is not None else ""
        label, lines = labels.lines_of_box(trace, box, members, time)
        boxes.append(asdict(box) | {
            "level": level,
            "type": labels.type_text(box),
            "label": label,
            "output": any(v.output for v in members),
            "lines": lines,
            "spoken": f"{box.path or box.name}, folded, {labels.contents_text(members)}",
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


def blocks_of(step: Any) -> list[tuple[str, str]]:
    """Return (origin, lines) for the program of `step`, a function of `ta.compile`.

    The origin is that of the comment above the lines: "module: operation", after "d " for the backward pass; "" for
    lines of no operation. Raises TypeError for another function, and ValueError if no program was recorded.
    """
    if not hasattr(step, "program"):
        raise TypeError(f"graph: program= is a {type(step).__name__}; expected a function compiled by ta.compile")
    program = step.program
    if program is None:
        why = f"it runs without one ({step.why_not})" if step.why_not else "call it twice first, on the CPU"
        raise ValueError(f"graph: program= has no program; {why}")
    found: list[tuple[str, list[str]]] = []
    for line in program.text.splitlines():
        text = line.strip()
        if text.startswith("# "):
            found.append((text[2:], []))
        elif not found or not text or text.startswith(("def ", "side_by_side(")):
            found.append(("", [line] * bool(text)))
        else:
            found[-1][1].append(line)
    found.append(("", str(program)[len(program.text) :].splitlines()))  # the steps of optimizers
    return [(origin, textwrap.dedent("\n".join(lines)).strip()) for origin, lines in found if any(lines)]


def origin_of(trace: Trace, vertex: Vertex) -> str:
    """Return the origin of the lines that compute an operation: "blocks.0.norm1: layer_norm"."""
    around = [trace.boxes[box] for box in chain(trace.boxes, vertex.box)]
    modules = [box.path or box.type for box in around if box.kind == "module"]
    defined = next((box.name for box in around if box.kind == "definition"), "")
    name = f"{defined} ({vertex.op})" if defined else vertex.op
    return f"{modules[-1]}: {name}" if modules else name
