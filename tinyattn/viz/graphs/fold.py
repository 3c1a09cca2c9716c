"""The visible part of a graph, given which boxes are folded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tinyattn.viz.graphs.model import Box, Trace

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
    counted = ("module", "definition", "part")
    return [sum(boxes[b].kind in counted for b in chain(boxes, i)[:-1]) for i in range(len(boxes))]


def folded_at(boxes: list[Box], depth: int) -> set[int]:
    """Return the boxes to fold so that modules show down to `depth`; 0: the outermost as one item each."""
    return {i for i, d in enumerate(depths(boxes)) if d >= depth and boxes[i].kind not in ("repeat", "pass")}


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
        if len(view(trace, chosen).items) <= most:
            break
    return chosen


# --- what is visible ---


def view(trace: Trace, folded: set[int]) -> View:
    """Return the graph with `folded` boxes closed. The first of repeated boxes stands for all."""
    boxes, exemplars = trace.boxes, _exemplars(trace)
    of: list[Item] = []
    for vertex in trace.vertices:
        seen = exemplars.get(vertex.index, vertex.index)
        closed = next((b for b in chain(boxes, trace.vertices[seen].box) if b in folded), None)
        of.append(Item("vertex", seen) if closed is None else Item("box", closed))
    items = {}
    for item in dict.fromkeys(of):
        box = trace.vertices[item.number].box if item.kind == "vertex" else boxes[item.number].parent
        items[item] = frame_of(boxes, box)
    framed = {b for box in items.values() for b in chain(boxes, box) if boxes[b].kind != "repeat"}
    return View(items, _wires(trace, of, exemplars), sorted(framed), of)


def _wires(trace: Trace, of: list[Item], exemplars: dict[int, int]) -> list[Wire]:
    places = _places(trace)
    found: dict[tuple[Item, Item], set[tuple[int, int, str]]] = {}
    shapes: dict[tuple[Item, Item], tuple[int, ...]] = {}
    for edge in trace.edges:
        ends = of[edge.source], of[edge.target]
        if ends[0] == ends[1] or _carried(places.get(edge.source, {}), places.get(edge.target, {})):
            continue
        drawn = exemplars.get(edge.source, edge.source), exemplars.get(edge.target, edge.target), edge.slot
        found.setdefault(ends, set()).add(drawn)
        shapes[ends] = trace.vertices[edge.source].shape
    return [Wire(*ends, shapes[ends], len(edges)) for ends, edges in found.items()]


def _carried(source: dict[int, int], target: dict[int, int]) -> bool:
    """Whether an edge leads from one repeated box to another, while the first stands for both."""
    return any(group in target and target[group] != place for group, place in source.items())


def _places(trace: Trace) -> dict[int, dict[int, int]]:
    """Return, for each vertex in repeated boxes, group -> which of its boxes."""
    found: dict[int, dict[int, int]] = {}
    for box in trace.boxes:
        for place, member in enumerate(box.members):
            for vertex in member:
                found.setdefault(vertex, {})[box.index] = place
    return found


def _exemplars(trace: Trace) -> dict[int, int]:
    """Return, for each vertex that another stands for, which: the corresponding one in the group's first box."""
    found: dict[int, int] = {}
    groups = [box for box in trace.boxes if box.members]
    for box in sorted(groups, key=lambda b: len(chain(trace.boxes, b.index)), reverse=True):  # innermost first
        for member in box.members[1:]:
            found.update(zip(member, box.members[0], strict=True))
    for vertex, stand_in in list(found.items()):
        while stand_in in found:
            stand_in = found[stand_in]
        found[vertex] = stand_in
    return found
