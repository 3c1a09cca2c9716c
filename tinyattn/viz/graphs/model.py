"""The data of a picture: vertices, edges, boxes, the steps of the backward pass, and what is visible of them.

Nothing here refers to an array, a Tensor or a Node, so a picture keeps nothing alive. Arrays are indices into the
`Gallery`, which holds what is shown of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tinyattn.viz.graphs.arrays import Gallery


class Line(NamedTuple):
    """A line of source code."""

    file: str
    number: int
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


class Edge(NamedTuple):
    """`source` is the input `slot` of `target`. recorded: gradients flow back along it."""

    source: int
    target: int
    slot: str
    recorded: bool


@dataclass(slots=True)
class Vertex:
    """An operation, or one of its inputs.

    kind: "operation"; "failed", one that raised an error; "parameter" of a module; "leaf", another tensor that
    requires gradients; "input", an argument; "constant".
    """

    index: int
    kind: str
    op: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    recorded: bool  # whether it has a node that a gradient of the output can reach
    rule: str = ""  # the key of its formula and of the source of its rules
    box: int = -1  # the innermost, -1 for none
    turns: dict[int, tuple[int, int]] = field(default_factory=dict)  # repeat -> which of its boxes, twin in the first
    inputs: list[Edge] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)  # inputs that are plain numbers
    letters: dict[str, str] = field(default_factory=dict)  # of its formula, that would name another vertex -> the name
    value: int | None = None  # in the gallery, as gradient and saved; None: unknown
    gradient: int | None = None
    saved: dict[str, int] = field(default_factory=dict)
    site: Line | None = None  # the user's line
    inner: Line | None = None  # the line of the model, if that is another one
    seconds: float = 0.0  # forward
    seconds_back: float = 0.0
    error: str = ""
    output: bool = False

    @property
    def is_operation(self) -> bool:
        """Whether it is an operation, also one that failed."""
        return self.kind in ("operation", "failed")


@dataclass(slots=True)
class Box:
    """A part of the graph that can be folded into one item: consecutive operations.

    kind: "module"; "definition", a fused operation run by its definition; "repeat", consecutive boxes of one
    structure; "pass", one iteration of a loop; "part" of a list too long to show.
    members: the vertices in each box of a "repeat", in corresponding order.
    """

    index: int
    parent: int
    kind: str
    name: str
    type: str = ""
    path: str = ""
    members: list[list[int]] = field(default_factory=list)


class Arrival(NamedTuple):
    """The gradient that a rule returned for one input, and the sum of its gradients so far: gallery indices."""

    vertex: int
    slot: str
    gradient: int
    total: int


@dataclass(slots=True)
class Step:
    """One node of the backward pass: the gradient of its output, and those of its inputs."""

    vertex: int
    gradient: int
    arrivals: list[Arrival] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """A graph and its backward pass.

    vertices and steps: in the order in which they ran. error: what stopped the forward pass, or "". note: why no
    backward pass is shown. known: False if there is one, which could not run. unused: the number of operations that no
    output depends on.
    """

    title: str
    vertices: list[Vertex]
    boxes: list[Box]
    steps: list[Step]
    gallery: Gallery
    rules: dict[str, dict[str, str]] = field(default_factory=dict)
    error: str = ""
    note: str = ""
    known: bool = True
    program: list[tuple[str, str]] = field(default_factory=list)  # (origin, lines) of a compiled step
    unused: int = 0

    @property
    def backward(self) -> str:
        """The number of backward steps, as text."""
        return f"{len(self.steps)} backward step{'s' * (len(self.steps) != 1)}" if self.known else "backward not shown"

    @property
    def edges(self) -> list[Edge]:
        """All edges, in the order of their targets."""
        return [edge for vertex in self.vertices for edge in vertex.inputs]


# --- the visible part, given which boxes are folded ---

GROUPS = ("repeat", "pass")  # kinds of boxes that are no level of their own
MODES = ("modules", "operations", "definitions")


class Item(NamedTuple):
    """Something visible: a vertex, or a folded box."""

    kind: str  # "vertex" or "box"
    number: int  # its index there


class Wire(NamedTuple):
    """The edges between two items, drawn as one."""

    source: Item
    target: Item
    shape: tuple[int, ...]
    edges: int  # how many


@dataclass
class View:
    """A graph with some boxes folded."""

    items: dict[Item, int]  # in order, each with the box around it
    wires: list[Wire]
    open: list[int]  # the boxes that are visible and not folded
    of: list[Item]  # the item that each vertex is part of


def chain(boxes: list[Box], index: int) -> list[int]:
    """Return a box and those around it, outermost first."""
    found: list[int] = []
    while index >= 0:
        found.append(index)
        index = boxes[index].parent
    return found[::-1]


def contents(trace: Trace) -> list[list[Vertex]]:
    """Return the vertices in each box, however deep."""
    found: list[list[Vertex]] = [[] for _ in trace.boxes]
    for vertex in trace.vertices:
        for box in chain(trace.boxes, vertex.box):
            found[box].append(vertex)
    return found


def frame_of(boxes: list[Box], index: int) -> int:
    """Return the nearest box that has a frame: repeats have none, since their first box stands for all."""
    while index >= 0 and boxes[index].kind == "repeat":
        index = boxes[index].parent
    return index


def name_of(boxes: list[Box], box: Box) -> tuple[str, int]:
    """Return the name of a box and how many boxes it stands for: ("blocks.0-11", 12), or its own name and 0."""
    group = boxes[box.parent] if box.parent >= 0 else None
    return (group.name, len(group.members)) if group is not None and group.kind == "repeat" else (box.name, 0)


# --- what to fold ---


def depths(boxes: list[Box]) -> list[int]:
    """Return how many modules, definitions and parts are around each box."""
    return [sum(boxes[b].kind not in GROUPS for b in chain(boxes, i)[:-1]) for i in range(len(boxes))]


def folded_at(boxes: list[Box], depth: int) -> set[int]:
    """Return the boxes to fold so that modules show down to `depth`; 0: the outermost as one item each."""
    return {i for i, d in enumerate(depths(boxes)) if d >= depth and boxes[i].kind not in GROUPS}


def levels(boxes: list[Box], single: list[bool]) -> list[int]:
    """Return the highest level of the page at which each box is folded; -1: at none.

    Boxes with several operations unfold by their depth, those with a `single` one after all others.
    """
    found = [-1 if boxes[i].kind in GROUPS else depth for i, depth in enumerate(depths(boxes))]
    last = max((level for level, one in zip(found, single, strict=True) if not one), default=-1) + 1
    return [last if one and level >= 0 else level for level, one in zip(found, single, strict=True)]


def folded_in(boxes: list[Box], mode: str) -> set[int]:
    """Return the boxes to fold in a mode; MODES go from modules without children to definitions unfolded."""
    if mode == "definitions":
        return set()
    folded = {box.index for box in boxes if box.kind == "definition"}
    if mode == "modules":
        modules = {box.index for box in boxes if box.kind == "module"}
        folded |= modules - {around for index in modules for around in chain(boxes, index)[:-1]}
    return folded


def folds(trace: Trace, mode: str, depth: int | None, most: int) -> set[int]:
    """Return the boxes to fold at first: by mode and depth; without a depth, until at most `most` items are visible.

    Boxes around a failed operation stay open.
    """
    failed = {b for v in trace.vertices if v.kind == "failed" for b in chain(trace.boxes, v.box)}
    folded = folded_in(trace.boxes, mode)
    if depth is not None:
        return (folded | folded_at(trace.boxes, depth)) - failed
    for level in range(max(depths(trace.boxes), default=-1) + 1, -1, -1):
        chosen = (folded | folded_at(trace.boxes, level)) - failed
        if len(view(trace, chosen, mode == "modules").items) <= most:
            break
    return chosen


# --- what is visible ---


def view(trace: Trace, folded: set[int], tidy: bool = False) -> View:
    """Return the graph with `folded` boxes closed. The first of repeated boxes stands for all.

    tidy: a mere change of shape is part of the item that it reads from.
    """
    boxes, drawn = trace.boxes, [_exemplar(trace, vertex) for vertex in trace.vertices]
    of: list[Item] = []
    for vertex in drawn:
        closed = next((b for b in chain(boxes, vertex.box) if b in folded), None)
        own = Item("vertex", vertex.index) if closed is None else Item("box", closed)
        hidden = tidy and closed is None and is_bookkeeping(vertex)
        of.append(of[vertex.inputs[0].source] if hidden else own)  # a contraction that makes no cycle: it has one input
    items = {}
    for item in dict.fromkeys(of):
        box = trace.vertices[item.number].box if item.kind == "vertex" else boxes[item.number].parent
        items[item] = frame_of(boxes, box)
    framed = {b for box in items.values() for b in chain(boxes, box) if boxes[b].kind != "repeat"}
    wires: dict[tuple[Item, Item], tuple[tuple[int, ...], set[Any]]] = {}  # ends -> shape and different edges
    for edge in trace.edges:
        source, target = trace.vertices[edge.source], trace.vertices[edge.target]
        ends = of[edge.source], of[edge.target]
        if ends[0] == ends[1] or _in_different_turns(source, target):
            continue
        wires.setdefault(ends, (source.shape, set()))[1].add(
            (drawn[edge.source].index, drawn[edge.target].index, edge.slot)
        )
    listed = [Wire(*ends, shape, len(edges)) for ends, (shape, edges) in wires.items()]
    return View(items, listed, sorted(framed), of)


def is_bookkeeping(vertex: Vertex) -> bool:
    """Whether an operation only changes the shape of its one input, without a name of its own."""
    moves = vertex.op in ("alias", "permute", "reshape") and vertex.name == vertex.op
    return moves and vertex.kind == "operation" and len(vertex.inputs) == 1 and not vertex.output


def _exemplar(trace: Trace, vertex: Vertex) -> Vertex:
    """Return the vertex drawn in place of `vertex`: itself, or its twin in the first of repeated boxes."""
    while (twin := next((twin for place, twin in vertex.turns.values() if place > 0), None)) is not None:
        vertex = trace.vertices[twin]
    return vertex


def _in_different_turns(source: Vertex, target: Vertex) -> bool:
    """Whether an edge leads from one repeated box to another, while the first stands for both."""
    return any(box in target.turns and target.turns[box][0] != place for box, (place, _) in source.turns.items())
