"""What a picture is made of: vertices, the edges between them, the boxes around them, the steps of the walk.

Nothing here holds an array, a Tensor or a Node: a picture keeps nothing alive. Arrays appear as numbers into
the `Gallery` that has looked at them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tinyattn.viz.graphs.arrays import Gallery


class Line(NamedTuple):
    """A line of somebody's program."""

    file: str
    number: int
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


class Edge(NamedTuple):
    """`source` goes into `target` as its input `slot`. recorded: gradients come back along it."""

    source: int
    target: int
    slot: str
    recorded: bool


@dataclass(slots=True)
class Vertex:
    """An operation, or something that went into one.

    kind: "operation"; "failed", one that raised an error; "parameter" of a module; "leaf", another tensor that
    asks for gradients; "input", an argument; "constant".
    recorded: whether the engine has a node for it, which a gradient of the output can reach. numbers: inputs that
    are plain numbers, not tensors. value, gradient, saved: their places in the gallery, None for what is not known.
    """

    index: int
    kind: str
    op: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    recorded: bool
    rule: str = ""  # under which its formula and the source of its rules are found
    box: int = -1  # the innermost, -1 for none
    inputs: list[Edge] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    value: int | None = None
    gradient: int | None = None
    saved: dict[str, int] = field(default_factory=dict)
    site: Line | None = None  # the user's line
    inner: Line | None = None  # the line of the model, where that is not the user's
    seconds: float = 0.0  # forward, where that was timed
    seconds_back: float = 0.0
    error: str = ""
    output: bool = False

    @property
    def is_operation(self) -> bool:
        """Whether it computed something, or tried to."""
        return self.kind in ("operation", "failed")


@dataclass(slots=True)
class Box:
    """A part of the graph that can be folded into one: an unbroken run of operations.

    kind: "module"; "definition", a fused operation run by its definition; "repeat", boxes of one structure
    after one another; "pass", one turn of a loop; "part" of a list too long to show.
    members: of a "repeat", for each of its boxes the vertices inside, in one and the same order.
    """

    index: int
    parent: int
    kind: str
    name: str
    type: str = ""
    path: str = ""
    members: list[list[int]] = field(default_factory=list)


class Arrival(NamedTuple):
    """What a rule gave for one input, and what has come there so far with it: places in the gallery."""

    vertex: int
    slot: str
    gradient: int
    total: int


@dataclass(slots=True)
class Step:
    """One node that the walk backward has taken: the gradient that had come there, and where it went on."""

    vertex: int
    gradient: int
    arrivals: list[Arrival] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """A graph and the walk through it.

    vertices: in the order of the forward. steps: of the walk backward, in its order. error: what stopped the
    forward, "" if nothing did. note: why there is no walk. unused: operations that ran and lead nowhere.
    """

    title: str
    vertices: list[Vertex]
    boxes: list[Box]
    steps: list[Step]
    gallery: Gallery
    rules: dict[str, dict[str, str]] = field(default_factory=dict)
    error: str = ""
    note: str = ""
    unused: int = 0

    @property
    def edges(self) -> list[Edge]:
        """All edges, in the order of their targets."""
        return [edge for vertex in self.vertices for edge in vertex.inputs]
