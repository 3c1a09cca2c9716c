"""The data of a picture: vertices, edges, boxes, and the steps of the backward pass.

Nothing here refers to an array, a Tensor or a Node, so a picture keeps nothing alive. Arrays are indices into the
`Gallery`, which holds what is shown of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

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
