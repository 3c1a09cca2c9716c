"""The graph as DOT text, and drawn by the program `dot`."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterator

from tinyattn.extras import require
from tinyattn.viz.figure import shown
from tinyattn.viz.graphs.labels import (
    Lines,
    contents_text,
    few_numbers,
    lines_of,
    lines_of_box,
    only_operation,
    shape_text,
    times_text,
    type_text,
)  # fmt: skip
from tinyattn.viz.graphs.model import Box, Item, Trace, Vertex, View, Wire, chain, frame_of, name_of

# Fill, line and text of each kind. The hues are those of Okabe and Ito, which colour-blind readers can tell apart;
# shape and stroke repeat the information.
COLOURS = {
    "operation": ("#ffffff", "#475569", "#0f172a"),
    "parameter": ("#fdf0d0", "#c77700", "#5c3700"),
    "leaf": ("#fdf0d0", "#c77700", "#5c3700"),
    "input": ("#dff0fb", "#0072b2", "#003f63"),
    "constant": ("#f1f5f9", "#94a3b8", "#334155"),
    "output": ("#d9f2e8", "#00795a", "#004232"),
    "failed": ("#fde5d8", "#d55e00", "#7a2f00"),
    "box": ("#eef2f7", "#475569", "#0f172a"),
}
_STYLES = {
    "name": "<b>{}</b>", "times": '<font color="#7377b8"><b>{}</b></font>', "formula": "<i>{}</i>",
    "quiet": '<font point-size="9">{}</font>',
}  # fmt: skip
GET_DOT = (
    "pictures of graphs need the program `dot`: apt-get install graphviz, brew install graphviz, or "
    "graphviz.org/download. Files ending in .dot or .html need nothing."
)
FONT = "Helvetica,Arial,sans-serif"
_HEAD = f"""digraph {{
  graph [rankdir=TB, bgcolor="white", fontname="{FONT}", fontsize=12, fontcolor="#334155", nodesep=0.3, ranksep=0.42, pad=0.2, labeljust=l, splines=true];
  node [fontname="{FONT}", fontsize=11, shape=box, margin="0.14,0.07", height=0.3];
  edge [fontname="{FONT}", fontsize=9, color="#64748b", fontcolor="#64748b", arrowsize=0.6];
"""  # noqa: E501


def dot_text(trace: Trace, seen: View, stats: bool = False, times: bool = False) -> str:
    """Return DOT text for what is visible. The same graph gives the same text, byte for byte."""
    children: defaultdict[int, list[Item]] = defaultdict(list)
    for item, box in seen.items.items():
        children[box].append(item)
    lines, spent = [_HEAD], _spent(trace, seen) if times else {}
    most = max(map(sum, spent.values()), default=0)
    if trace.error:
        colour = _quote(COLOURS["failed"][1])
        lines.append(f"  label=<<b>{_escape(trace.error)}</b>>; labelloc=b; fontcolor={colour};\n")
    sub: defaultdict[int, list[int]] = defaultdict(list)
    for box in seen.open:
        sub[frame_of(trace.boxes, trace.boxes[box].parent)].append(box)

    def inside(box: int, indent: str) -> Iterator[str]:
        for item in children[box]:
            time = spent.get(item, (0, 0))
            share = sum(time) / most if most else 0  # from white to orange
            warm = "".join(f"{round(255 + (full - 255) * share**0.7):02x}" for full in (0xFF, 0xA8, 0x5C))
            fill = f', fillcolor="#{warm}"' if share else ""
            yield f"{indent}{_name(item)} [{_label(trace, item, stats, times_text(*time))}{fill}];\n"
        for inner in sub[box]:
            margin = "  " * len(chain(trace.boxes, inner))
            yield from (
                _cluster(trace.boxes, trace.boxes[inner], margin),
                *inside(inner, margin + "  "),
                margin + "}\n",
            )

    return "".join((*lines, *inside(-1, "  "), *(_wire(trace, wire) for wire in seen.wires), "}\n"))


def _cluster(boxes: list[Box], box: Box, indent: str) -> str:
    repeated = name_of(boxes, box)[1] > 0
    fill, line = ("#eef0fc", "#7377b8") if repeated else ("#f6f8fb", "#b6c2d1")
    dashed = ",dashed" if repeated or box.kind == "definition" else ""
    heading = _html([_heading(boxes, box, type_text(box))])
    return (
        f"{indent}subgraph cluster_{box.index} {{\n"
        f'{indent}  label=<{heading}>; style="rounded,filled{dashed}"; fillcolor="{fill}"; color="{line}"; '
        f'fontcolor="#0f172a"; labelloc=t; margin=10;\n'
    )


def _label(trace: Trace, item: Item, stats: bool, time: str) -> str:
    if item.kind == "box":
        box = trace.boxes[item.number]
        members = [v for v in trace.vertices if box.index in chain(trace.boxes, v.box)]
        beside, lines = lines_of_box(trace, box, members, time)
        style = _style("output" if any(v.output for v in members) else "box", True)
        own = only_operation(members) is not None
        counts = contents_text(members).partition(", ")[2] if own else ""
        lines += [[("quiet", counts)]] * bool(counts)
        return f"label=<{_html([_heading(trace.boxes, box, beside), *lines])}>, {style}{', peripheries=2' * (not own)}"
    vertex = trace.vertices[item.number]
    look = "output" if vertex.output and vertex.kind == "operation" else vertex.kind
    lines = lines_of(trace, vertex, time) + [[("quiet", text)] for text in (_stats(trace, vertex) if stats else ())]
    return f"label=<{_html(lines)}>, {_style(look, vertex.recorded or not vertex.is_operation)}"


def _heading(boxes: list[Box], box: Box, beside: str) -> list[tuple[str, str]]:
    name, times = name_of(boxes, box)
    return [("name", name), ("times", f"×{times}" if times else ""), ("quiet", beside)]


def _html(lines: Lines) -> str:
    """Return lines as an HTML-like label."""
    return "<br/>".join("  ".join(_STYLES[style].format(_escape(text)) for style, text in row if text) for row in lines)


def _spent(trace: Trace, seen: View) -> dict[Item, tuple[float, float]]:
    """Return the seconds forward and back of each item, with all that it stands for."""
    spent: dict[Item, tuple[float, float]] = {}
    for vertex in trace.vertices:
        if vertex.is_operation:
            forward, back = spent.get(item := seen.of[vertex.index], (0.0, 0.0))
            spent[item] = forward + vertex.seconds, back + vertex.seconds_back
    return spent


def _style(look: str, recorded: bool) -> str:
    fill, line, text = COLOURS[look]
    corners = "" if look in ("parameter", "leaf") else "rounded,"
    dashed = ",dashed" if look == "constant" or not recorded else ""
    width = {"failed": 2.4, "output": 2.0, "input": 1.6}.get(look, 1.0)
    return f'style="{corners}filled{dashed}", fillcolor="{fill}", color="{line}", fontcolor="{text}", penwidth={width}'


def _wire(trace: Trace, wire: Wire) -> str:
    leaf = wire.source.kind == "vertex" and not trace.vertices[wire.source.number].is_operation
    text = ("" if leaf else shape_text(wire.shape)) + (f" ({wire.edges} edges)" if wire.edges > 1 else "")
    attributes = ([f"label={_quote(f' {text} ')}"] if text else []) + ([] if leaf else ["weight=6"])
    listed = f" [{', '.join(attributes)}]" if attributes else ""
    return f"  {_name(wire.source)} -> {_name(wire.target)}{listed};\n"


def _stats(trace: Trace, vertex: Vertex) -> list[str]:
    if numbers := few_numbers(trace, vertex):
        return numbers
    arrays = (vertex.value, vertex.gradient)
    value, gradient = ({} if i is None else trace.gallery.entries[i] for i in arrays)
    rows = []
    if "min" in value:
        rows.append(" ".join(f"{name} {float(value[name]):.3g}" for name in ("min", "mean", "max")))
    return rows + ([f"gradient norm {float(gradient['norm']):.3g}"] if "norm" in gradient else [])


def _name(item: Item) -> str:
    return f"{item.kind[0]}{item.number}"


def _escape(text: str) -> str:
    """Escape markup, replace characters that XML forbids, and shorten: `dot` reads no label above 16,384 bytes."""
    return html.escape(shown("".join(c if c.isprintable() else " " for c in text), 400))


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- drawn ---


def rendered(dot: str, kind: str) -> bytes:
    """Return the picture of DOT text: "svg", "png" or "pdf".

    Raises ImportError without the graphviz package and RuntimeError without the program.
    """
    graphviz = require("graphviz", "a picture of a graph", "viz")
    wide = dot.replace(FONT, "DejaVu Sans") if kind == "svg" else dot  # room for the widest font that a reader may have
    source = graphviz.Source(wide, engine="dot")
    try:
        return bytes(source.pipe(format=kind)).replace(b'font-family="DejaVu Sans"', f'font-family="{FONT}"'.encode())
    except graphviz.ExecutableNotFound:
        raise RuntimeError(GET_DOT) from None
    except graphviz.CalledProcessError as error:
        raise RuntimeError(f"dot failed on this graph: {error.stderr.decode(errors='replace').strip()}") from None
