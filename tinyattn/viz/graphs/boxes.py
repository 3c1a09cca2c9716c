"""Boxes around operations: modules, definitions, repeated blocks and loops, lists too long to show.

The operations of one call are consecutive, which makes a box convex: nothing outside both depends on it and feeds
it. So any box can be folded into one item without making a cycle.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from tinyattn.nn import Module
from tinyattn.viz.graphs.build import Stack
from tinyattn.viz.graphs.model import Box, Vertex, chain

Item = tuple[str, int]  # ("vertex", index) or ("box", index): what a box contains, in order

LONGEST_PASS = 40  # operations in one iteration of a loop
SHORTEST_LOOP = 12  # operations in all iterations of a loop
MANY = 300  # more items in one box are split into parts ...
PART = 100  # ... of at least so many


@dataclass
class Boxes:
    """The boxes of a graph, and what each contains (-1: outside of all)."""

    vertices: list[Vertex]
    boxes: list[Box] = field(default_factory=list)
    inside: defaultdict[int, list[Item]] = field(default_factory=lambda: defaultdict(list))
    paths: dict[int, dict[int, str]] = field(default_factory=dict)  # by root, then by module

    def add(self, parent: int, kind: str, name: str, **more: Any) -> Box:
        """Add an empty box."""
        box = Box(len(self.boxes), parent, kind, name, **more)
        self.boxes.append(box)
        return box

    def wrap(self, items: list[Item], box: Box) -> Item:
        """Move `items` into `box`; return what replaces them."""
        for kind, index in items:
            if kind == "box":
                self.boxes[index].parent = box.index
            else:
                self.vertices[index].box = box.index
        self.inside[box.index] = items
        return "box", box.index

    def operations(self, box: int) -> Iterator[int]:
        """Iterate over all operations in a box, in order. Recurses as deep as modules are nested."""
        for kind, index in self.inside[box]:
            if kind == "box":
                yield from self.operations(index)
            else:
                yield index

    def contents(self, box: int) -> list[int]:
        """Return operations and leaves in a box, each leaf before the first operation that uses it."""
        found: dict[int, None] = {}
        for index in self.operations(box):
            for edge in self.vertices[index].inputs:
                leaf = self.vertices[edge.source]
                if not leaf.is_operation and box in chain(self.boxes, leaf.box):
                    found.setdefault(leaf.index)
            found[index] = None
        return list(found)


def make_boxes(vertices: list[Vertex], stacks: dict[int, Stack]) -> list[Box]:
    """Return the boxes of `vertices` and set their `box`; stacks: where each operation ran."""
    boxes = Boxes(vertices)
    _calls(boxes, stacks)
    _place_leaves(boxes)
    for parent in [-1, *range(len(boxes.boxes))]:
        _group_blocks(boxes, parent)
        _group_loops(boxes, parent)
        _part(boxes, parent)
    _place_leaves(boxes)
    for box in boxes.boxes:
        if box.kind == "repeat":
            box.members = [boxes.contents(index) for _, index in boxes.inside[box.index]]
        for place, member in enumerate(box.members):
            for vertex, twin in zip(member, box.members[0], strict=True):
                vertices[vertex].turns[box.index] = place, twin
    return boxes.boxes


# --- calls of modules and definitions ---


def _calls(boxes: Boxes, stacks: dict[int, Stack]) -> None:
    open_frames: list[tuple[Any, int]] = []  # (module or definition, its box)
    last: Stack | None = None
    for vertex in boxes.vertices:
        if not vertex.is_operation:
            continue
        stack = stacks[vertex.index]
        frames = [*stack.modules, *stack.definitions]
        common = 0
        while common < min(len(frames), len(open_frames)) and frames[common] is open_frames[common][0]:
            common += 1
        if last is not None and _called_again(last, stack):
            common = min(common, len(stack.modules) - 1)
        del open_frames[common:]
        for frame in frames[common:]:
            parent = open_frames[-1][1] if open_frames else -1
            box = _box_of(boxes, parent, frame, stack)
            boxes.inside[parent].append(("box", box.index))
            open_frames.append((frame, box.index))
        vertex.box = open_frames[-1][1] if open_frames else -1
        boxes.inside[vertex.box].append(("vertex", vertex.index))
        last = stack


def _called_again(last: Stack, stack: Stack) -> bool:
    """Whether a module without children was called twice in a row."""
    again = last.modules is not stack.modules and len(last.modules) == len(stack.modules) > 0
    return again and last.modules[-1] is stack.modules[-1] and not any(True for _ in stack.modules[-1].children())


def _box_of(boxes: Boxes, parent: int, frame: Any, stack: Stack) -> Box:
    if not isinstance(frame, Module):
        return boxes.add(parent, "definition", frame.name)
    root = stack.modules[0]
    if id(root) not in boxes.paths:
        boxes.paths[id(root)] = {id(module): path for path, module in root.named_modules()}
    path = boxes.paths[id(root)].get(id(frame), "")
    around = boxes.boxes[parent].path if parent >= 0 else ""
    name = path[len(around) + 1 :] if around and path.startswith(around + ".") else path
    kind = type(frame).__name__
    return boxes.add(parent, "module", name or kind, type=kind, path=path)


def _place_leaves(boxes: Boxes) -> None:
    """Put each parameter and constant into the innermost module that contains all its users; inputs stay outside."""
    users: defaultdict[int, dict[int, None]] = defaultdict(dict)
    for vertex in boxes.vertices:
        for edge in vertex.inputs:
            users[edge.source][vertex.box] = None
    for vertex in boxes.vertices:
        if vertex.is_operation or vertex.kind == "input":
            continue
        chains = [chain(boxes.boxes, box) for box in users[vertex.index]]
        shared = [box for box, *others in zip(*chains, strict=False) if all(other == box for other in others)]
        # inputs of a definition are beside it, and so are tensors that repeated boxes share
        beside = ("repeat",) if vertex.kind == "constant" else ("repeat", "definition")
        while shared and boxes.boxes[shared[-1]].kind in beside:
            shared.pop()
        vertex.box = shared[-1] if shared else -1


# --- repeated blocks ---


def _group_blocks(boxes: Boxes, parent: int) -> None:
    """Group consecutive boxes of one structure whose names differ only in numbers."""
    grouped: list[Item] = []
    for _, run in groupby(boxes.inside[parent], lambda item: _likeness(boxes, item[1]) if item[0] == "box" else item):
        items = list(run)
        if len(items) > 1:
            first, last = (boxes.boxes[items[i][1]] for i in (0, -1))
            repeat = boxes.add(parent, "repeat", _common_name(first.name, last.name), type=first.type)
            items = [boxes.wrap(items, repeat)]
        grouped += items
    boxes.inside[parent] = grouped


def _common_name(first: str, last: str) -> str:
    """Return "blocks.0-11" for blocks.0 and blocks.11."""
    if first == last:
        return first
    parts = [re.split(r"(\d+)", name) for name in (first, last)]
    return "".join(a if a == b else f"{a}–{b}" for a, b in zip(*parts, strict=True))


def _likeness(boxes: Boxes, box: int) -> Any:
    """Return a key, equal for boxes that can be shown as one: kind, name without numbers, contents and wiring."""
    order = {index: i for i, index in enumerate(boxes.contents(box))}
    depth = len(chain(boxes.boxes, box))
    signs: list[Any] = [boxes.boxes[box].kind, boxes.boxes[box].type, re.sub(r"\d+", "#", boxes.boxes[box].name)]
    for index in order:
        vertex = boxes.vertices[index]
        around = tuple(boxes.boxes[b].name for b in chain(boxes.boxes, vertex.box)[depth:])
        signs.append((_sign(vertex), around, *((e.slot, order.get(e.source, -1)) for e in vertex.inputs)))
    return tuple(signs)


def _sign(vertex: Vertex) -> Any:
    return vertex.kind, vertex.op, vertex.shape, vertex.dtype, tuple(vertex.options.items())


# --- loops ---


def _group_loops(boxes: Boxes, parent: int) -> None:
    """Group the iterations of a loop, which have no module of their own around them."""
    items = boxes.inside[parent]
    if len(items) < SHORTEST_LOOP:
        return
    signs = _signs(boxes, items)
    grouped: list[Item] = []
    start = 0
    while start < len(items):
        period, turns = _period(signs, start)
        stop = start + period * turns
        if turns > 1:
            first = next(boxes.operations(items[start][1])) if items[start][0] == "box" else items[start][1]
            loop = boxes.add(parent, "repeat", "loop", type=str(boxes.vertices[first].site or ""))
            passes = []
            for turn, at in enumerate(range(start, stop, period), 1):
                one = boxes.add(loop.index, "pass", f"pass {turn}")
                passes.append(boxes.wrap(items[at : at + period], one))
            grouped.append(boxes.wrap(passes, loop))
        else:
            grouped.append(items[start])
        start = stop
    boxes.inside[parent] = grouped


def _signs(boxes: Boxes, items: Sequence[Item]) -> list[int]:
    """Return a number for each item, equal for items that do the same with items equally far before them."""
    inside = [boxes.contents(index) if kind == "box" else [index] for kind, index in items]
    place = {vertex: i for i, vertices in enumerate(inside) for vertex in vertices}
    known: dict[Any, int] = {}
    signs = []
    for i, (kind, index) in enumerate(items):
        vertices = [boxes.vertices[v] for v in inside[i]]
        wires = tuple((k, e.slot, i - place.get(e.source, i + 1)) for k, v in enumerate(vertices) for e in v.inputs)
        what = _likeness(boxes, index) if kind == "box" else (_sign(vertices[0]), vertices[0].site)
        signs.append(known.setdefault((what, wires), len(known)))
    return signs


def _period(signs: Sequence[int], start: int) -> tuple[int, int]:
    """Return the length and the number of the iterations that begin at `start`; (1, 1): no loop."""
    best = (1, 1)
    for period in range(1, LONGEST_PASS + 1):
        same = 0
        while start + same + period < len(signs) and signs[start + same] == signs[start + same + period]:
            same += 1
        turns = same // period + 1
        if turns >= 4 and period * turns >= max(SHORTEST_LOOP, best[0] * best[1] + 1):
            best = (period, turns)
    return best


# --- lists too long to show ---


def _part(boxes: Boxes, parent: int) -> None:
    items = boxes.inside[parent]
    if len(items) <= MANY:
        return
    size = max(PART, -(-len(items) // PART))
    parts = []
    for start in range(0, len(items), size):
        stop = min(start + size, len(items))
        box = boxes.add(parent, "part", f"{start + 1}–{stop} of {len(items)}")
        parts.append(boxes.wrap(items[start:stop], box))
    boxes.inside[parent] = parts
