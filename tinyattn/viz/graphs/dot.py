"""The graph as DOT text, and drawn by the program `dot`."""

from __future__ import annotations

import html
import math
import textwrap
from collections import defaultdict
from collections.abc import Iterator

from tinyattn.viz.figure import shown
from tinyattn.viz.graphs.arrays import summary
from tinyattn.viz.graphs.fold import Item, View, Wire, chain, frame_of, name_of
from tinyattn.viz.graphs.formulas import filled_in, formula
from tinyattn.viz.graphs.model import Box, Trace, Vertex

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
_STORED = ("parameter", "constant")
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
            warm = f', fillcolor="{_warm(sum(time) / most)}"' if sum(time) else ""
            yield f"{indent}{_name(item)} [{_label(trace, item, stats, times_text(*time))}{warm}];\n"
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
    return (
        f"{indent}subgraph cluster_{box.index} {{\n"
        f'{indent}  label=<{heading(boxes, box)}>; style="rounded,filled{dashed}"; fillcolor="{fill}"; color="{line}"; '
        f'fontcolor="#0f172a"; labelloc=t; margin=10;\n'
    )


def heading(boxes: list[Box], box: Box) -> str:
    """Return the name of a box, how many it stands for, and its type, as an HTML-like label."""
    name, times = name_of(boxes, box)
    count = f' <font color="#7377b8"><b>×{times}</b></font>' if times else ""
    kind = type_text(box)
    return f"<b>{_escape(name)}</b>{count}" + (f'  <font color="#64748b">{_escape(kind)}</font>' if kind else "")


def _label(trace: Trace, item: Item, stats: bool, time: str) -> str:
    if item.kind == "box":
        return _box_label(trace, item.number, time)
    vertex = trace.vertices[item.number]
    look = "output" if vertex.output and vertex.kind == "operation" else vertex.kind
    if is_brief(vertex) and not stats and not time:
        words = [f"<b>{vertex.op}</b>", *_small(option_text(vertex)), *_small(shape_text(vertex.shape))]
        return f"label=<{'  '.join(words)}>, {_style(look, vertex.recorded)}"
    rows = [f"<b>{_escape(name_inside(trace.boxes, vertex))}</b>"]
    if vertex.is_operation:
        rows += [_formula_row(vertex)] if formula_text(vertex) + option_text(vertex) else []
    if vertex.kind == "failed":
        sources = [f"{e.slot} {shape_text(trace.vertices[e.source].shape)}" for e in vertex.inputs]
        rows += [_escape("✗ " + ", ".join(sources))] + [_escape(part) for part in wrapped(vertex.error, 61)]
    else:
        rows += _small(f"{flow_text(trace, [vertex])} {vertex.dtype}, {size_text(vertex.bytes)}")
    rows += [row for text in _stats(trace, vertex) for row in _small(text)] if stats else []
    rows += _small(time)
    return f"label=<{'<br/>'.join(rows)}>, {_style(look, vertex.recorded or not vertex.is_operation)}"


def _box_label(trace: Trace, index: int, time: str) -> str:
    members = [v for v in trace.vertices if index in chain(trace.boxes, v.box)]
    rows, own = [heading(trace.boxes, trace.boxes[index])], only_operation(members)
    counts = contents_text(members)
    if own is not None:
        rows += [_formula_row(own)] if formula_text(own) + option_text(own) else []
        counts = counts.replace("1 operation, ", "").replace("1 operation", "")
    rows += [*_small(", ".join(filter(None, (flow_text(trace, members), counts)))), *_small(time)]
    style = _style("output" if any(v.output for v in members) else "box", True)
    return f"label=<{'<br/>'.join(rows)}>, {style}{', peripheries=2' * (own is None)}"


def _spent(trace: Trace, seen: View) -> dict[Item, tuple[float, float]]:
    """Return the seconds forward and back of each item, with all that it stands for."""
    spent: dict[Item, tuple[float, float]] = {}
    for vertex in trace.vertices:
        if vertex.is_operation:
            forward, back = spent.get(item := seen.of[vertex.index], (0.0, 0.0))
            spent[item] = forward + vertex.seconds, back + vertex.seconds_back
    return spent


def _warm(share: float) -> str:
    """Return a colour from white (0) to orange (1)."""
    return "#" + "".join(f"{round(255 + (full - 255) * share**0.7):02x}" for full in (0xFF, 0xA8, 0x5C))


def _formula_row(vertex: Vertex) -> str:
    parts = [f"<i>{_escape(formula_text(vertex))}</i>"] if formula_text(vertex) else []
    return "  ".join(parts + _small(option_text(vertex)))


def _small(text: str) -> list[str]:
    return [f'<font point-size="9">{_escape(text)}</font>'] if text else []


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
    value, gradient = ({} if i is None else summary(trace.gallery.entries[i]) for i in arrays)
    rows = []
    if "min" in value:
        rows.append(" ".join(f"{name} {float(value[name]):.3g}" for name in ("min", "mean", "max")))
    return rows + ([f"gradient norm {float(gradient['norm']):.3g}"] if "norm" in gradient else [])


# --- texts, also of the page ---


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


def name_inside(boxes: list[Box], vertex: Vertex) -> str:
    """Return the title, for a parameter inside its module without the path."""
    path = boxes[vertex.box].path if vertex.box >= 0 else ""
    return title(vertex).removeprefix(f"{path}.") if path else title(vertex)


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


def is_brief(vertex: Vertex) -> bool:
    """Whether one line is enough: an operation that only moves elements, without a name."""
    return vertex.op in _MOVES and vertex.name == vertex.op and vertex.kind == "operation" and not vertex.output


_MOVES = {
    "alias", "broadcast_to", "cast", "cat", "clone", "detach", "flip", "getitem", "pad", "permute", "reshape", "roll",
    "stack",
}  # fmt: skip


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


def size_text(size: int) -> str:
    """Return bytes with a unit: 12.5 kB."""
    unit, scale = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1)) if size >= s or s == 1)
    return f"{size / scale:.3g} {unit}"


def times_text(forward: float, back: float) -> str:
    """Return seconds with a unit: "12.5 µs, 30 µs back"; "" for no time."""
    parts = [_time(forward)] * (forward > 0) + [f"{_time(back)} back"] * (back > 0)
    return ", ".join(parts)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} µs" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text, which break only between words."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


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
    try:
        import graphviz
    except ImportError:
        raise ImportError('pictures of graphs need the graphviz package: pip install "tinyattn[viz]"') from None
    wide = dot.replace(FONT, "DejaVu Sans") if kind == "svg" else dot  # room for the widest font that a reader may have
    source = graphviz.Source(wide, engine="dot")
    try:
        return bytes(source.pipe(format=kind)).replace(b'font-family="DejaVu Sans"', f'font-family="{FONT}"'.encode())
    except graphviz.ExecutableNotFound:
        raise RuntimeError(GET_DOT) from None
    except graphviz.CalledProcessError as error:
        raise RuntimeError(f"dot failed on this graph: {error.stderr.decode(errors='replace').strip()}") from None
