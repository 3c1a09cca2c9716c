"""What of a graph is visible, given which boxes are folded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tinyattn.viz.graphs.model import Box, Trace

MODES = ("modules", "operations", "definitions")


class Item(NamedTuple):
    """Something visible: a vertex, or a folded box."""

    kind: str  # "vertex" or "box"
    number: int  # its index there


class Wire(NamedTuple):
    """Edges between the same two visible things, as one."""

    source: Item
    target: Item
    shape: tuple[int, ...]
    edges: int  # how many


@dataclass
class View:
    """A graph as it looks with some boxes folded.

    items: what is visible, in order, with the box that it stands in. open: the boxes that are visible
    unfolded. of: the item that each vertex is part of.
    """

    items: dict[Item, int]
    wires: list[Wire]
    open: list[int]
    of: list[Item]


def chain(boxes: list[Box], index: int) -> list[int]:
    """A box and those around it, outermost first."""
    found: list[int] = []
    while index >= 0:
        found.append(index)
        index = boxes[index].parent
    return found[::-1]


def frame_of(boxes: list[Box], index: int) -> int:
    """The nearest box that has a frame: repeats have none, since the first of their boxes stands for all."""
    while index >= 0 and boxes[index].kind == "repeat":
        index = boxes[index].parent
    return index


def name_of(boxes: list[Box], box: Box) -> tuple[str, int]:
    """What a box is called, and how many boxes it stands for: ("blocks.0-11", 12), or its own name and 0."""
    group = boxes[box.parent] if box.parent >= 0 else None
    return (group.name, len(group.members)) if group is not None and group.kind == "repeat" else (box.name, 0)


def depths(boxes: list[Box]) -> list[int]:
    """How many modules and definitions stand around each box."""
    found: list[int] = [-1] * len(boxes)
    for box in boxes:
        line = chain(boxes, box.index)
        found[box.index] = sum(boxes[b].kind in ("module", "definition", "part") for b in line[:-1])
    return found


def folded_at(boxes: list[Box], depth: int) -> set[int]:
    """The boxes to fold so that modules show down to `depth`: 0 leaves the outermost as one each."""
    return {i for i, d in enumerate(depths(boxes)) if d >= depth and boxes[i].kind not in ("repeat", "pass")}


def folded_in(boxes: list[Box], mode: str) -> set[int]:
    """The boxes to fold in a mode: "modules" shows modules without children as one each, "operations" fused
    operations, "definitions" what these are made of."""
    if mode == "definitions":
        return set()
    parents = {
        b for box in boxes if box.kind == "module" for b in chain(boxes, box.index)[:-1] if boxes[b].kind == "module"
    }
    return {
        box.index
        for box in boxes
        if box.kind == "definition" or (mode == "modules" and box.kind == "module" and box.index not in parents)
    }


def folds(trace: Trace, mode: str, depth: int | None, most: int) -> set[int]:
    """What to fold at first: what the mode says, and if not told a depth, more until at most `most` are visible.
    Never what the forward failed in."""
    failed = {b for v in trace.vertices if v.kind == "failed" for b in chain(trace.boxes, v.box)}
    folded = folded_in(trace.boxes, mode) - failed
    if depth is not None:
        return folded | (folded_at(trace.boxes, depth) - failed)
    deepest = max(depths(trace.boxes), default=-1) + 1
    for level in range(deepest, -1, -1):
        chosen = folded | (folded_at(trace.boxes, level) - failed)
        if len(view(trace, chosen).items) <= most:
            break
    return chosen


def view(trace: Trace, folded: set[int]) -> View:
    """The graph with `folded` boxes closed. Of boxes that repeat, the first stands for all."""
    exemplars = _exemplars(trace)
    of: list[Item] = []
    for vertex in trace.vertices:
        seen = exemplars.get(vertex.index, vertex.index)
        line = chain(trace.boxes, trace.vertices[seen].box)
        closed = next((b for b in line if b in folded), None)
        of.append(Item("vertex", seen) if closed is None else Item("box", closed))
    items = {}
    for item in of:
        if item not in items:
            box = trace.vertices[item.number].box if item.kind == "vertex" else trace.boxes[item.number].parent
            items[item] = frame_of(trace.boxes, box)
    framed = (b for box in items.values() for b in chain(trace.boxes, box) if trace.boxes[b].kind != "repeat")
    shown = sorted(set(framed))
    return View(items, list(_wires(trace, of)), shown, of)


def _wires(trace: Trace, of: list[Item]) -> Iterator[Wire]:
    member, exemplars = _members(trace), _exemplars(trace)
    found: dict[tuple[Item, Item], set[tuple[int, int, str]]] = {}
    shapes: dict[tuple[Item, Item], tuple[int, ...]] = {}
    for edge in trace.edges:
        ends = of[edge.source], of[edge.target]
        if ends[0] == ends[1] or _carried(member.get(edge.source, {}), member.get(edge.target, {})):
            continue
        drawn = exemplars.get(edge.source, edge.source), exemplars.get(edge.target, edge.target), edge.slot
        found.setdefault(ends, set()).add(drawn)
        shapes[ends] = trace.vertices[edge.source].shape
    return (Wire(*ends, shapes[ends], len(edges)) for ends, edges in found.items())


def _carried(source: dict[int, int], target: dict[int, int]) -> bool:
    """Whether an edge goes from one block to the next of the same kind, both of which the first stands for."""
    return any(group in target and target[group] != place for group, place in source.items())


def _members(trace: Trace) -> dict[int, dict[int, int]]:
    """For each vertex in boxes that repeat: group -> which of its boxes."""
    found: dict[int, dict[int, int]] = {}
    for box in trace.boxes:
        for place, member in enumerate(box.members):
            for vertex in member:
                found.setdefault(vertex, {})[box.index] = place
    return found


def _exemplars(trace: Trace) -> dict[int, int]:
    """For each vertex that another stands for, which: the one at its place in the first box of the group."""
    found: dict[int, int] = {}
    groups = [box for box in trace.boxes if box.members]
    for box in sorted(groups, key=lambda b: len(chain(trace.boxes, b.index)), reverse=True):  # innermost first
        for member in box.members[1:]:
            for vertex, stand_in in zip(member, box.members[0], strict=True):
                found[vertex] = stand_in
    for vertex, stand_in in list(found.items()):
        while stand_in in found:
            stand_in = found[stand_in]
        found[vertex] = stand_in
    return found
