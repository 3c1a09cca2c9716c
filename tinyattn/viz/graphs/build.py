"""Vertices and edges, built from operations, tensors and nodes in the order of the forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyattn.debug.describe import arrays_in, input_names, saved_by
from tinyattn.engine.node import Node
from tinyattn.engine.operation import Operation
from tinyattn.nn import Module, Parameter
from tinyattn.tensors import Tensor
from tinyattn.viz.graphs.arrays import Gallery, host_array
from tinyattn.viz.graphs.model import Edge, Vertex
from tinyattn.viz.graphs.source import ROLES, line_of, rules_of


class Definition(NamedTuple):
    """One call of a fused operation that runs as its definition."""

    name: str


class Stack(NamedTuple):
    """Where an operation ran, outermost first. Two calls of one module have different tuples `modules`."""

    modules: tuple[Any, ...]
    definitions: tuple[Definition, ...] = ()


class Builder:
    """Collects vertices in the order of the forward pass. Keeps arrays alive as long as it lives.

    names: of tensors, by the id of the tensor, its node or its array.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.gallery = Gallery()
        self.vertices: list[Vertex] = []
        self.stacks: dict[int, Stack] = {}  # of operations
        self.nodes: dict[Node, int] = {}
        self.leaves: dict[Node, int] = {}  # those of `nodes` where a backward pass may end
        self.rules: dict[str, dict[str, str]] = {}
        self._operations: dict[int, tuple[Operation, str]] = {}  # by id, with the key of its rules
        self._roots: set[int] = set()  # modules whose names are known
        self._tensors: dict[int, tuple[Any, int]] = {}  # by id, with the array it had

    def add_names_of(self, root: Module) -> None:
        """Name the parameters and buffers of a module by their paths in it."""
        if id(root) not in self._roots:
            self._roots.add(id(root))
            self.names |= names_in([root], {})

    # --- tensors ---

    def source(self, x: Tensor, saved_as: str = "constant") -> int:
        """Return the vertex that made `x`; add one for a new leaf."""
        if x.node is not None and x.node in self.nodes:
            return self.nodes[x.node]
        for key, array in ((id(x), x.array), (id(x.array), x.array)):
            if x.node is None and key in self._tensors and self._tensors[key][0] is array:
                return self._tensors[key][1]
        vertex = self._vertex(self._kind(x, saved_as), "", x.array, recorded=x.node is not None)
        vertex.value = self.gallery.add(x.array)
        vertex.name = self._name(x)
        self.register(x, vertex.index)
        if x.node is not None:
            self.leaves[x.node] = vertex.index
        return vertex.index

    def leaf(self, node: Node) -> int:
        """Return the vertex of a leaf, given its node; add a new one."""
        tensor = node.tensor() if node.tensor is not None else None
        if tensor is not None:
            return self.source(tensor)
        if node not in self.nodes:
            vertex = self._vertex("leaf", "", node, recorded=True)
            vertex.name = self.names.get(id(node), "")
            self.nodes[node] = self.leaves[node] = vertex.index
        return self.nodes[node]

    def constant(self, array: Any, name: str) -> int:
        """Return the vertex of an array that nothing was recorded for; add a new one."""
        if id(array) not in self._tensors:
            vertex = self._vertex("constant", "", array, recorded=False)
            vertex.name, vertex.value = self.names.get(id(array)) or _constant(array, name), self.gallery.add(array)
            self._tensors[id(array)] = (array, vertex.index)
        return self._tensors[id(array)][1]

    def register(self, x: Tensor, index: int) -> None:
        """Store that the vertex `index` made `x`."""
        if x.node is not None:
            self.nodes[x.node] = index
        self._tensors[id(x)] = self._tensors[id(x.array)] = (x.array, index)

    def rename(self, x: Tensor, name: str) -> None:
        """Name `x` if an operation made it and it has no name yet."""
        array, index = self._tensors.get(id(x), (None, -1))
        if array is x.array and self.vertices[index].name == self.vertices[index].op:
            self.vertices[index].name = name

    # --- operations ---

    def operation(self, op: Operation, out: Any, node: Node | None, stack: Stack, options: dict[str, Any]) -> Vertex:
        """Add the vertex of an operation; `out` is its output or its node, for shape and dtype."""
        vertex = self._vertex("operation", op.name, out, recorded=node is not None)
        self.stacks[vertex.index] = stack
        for name, value in options.items():
            for i, array in enumerate(arrays_in(value)):
                slot = f"{name}[{i}]" if i else name
                vertex.inputs.append(Edge(self.constant(array, name), vertex.index, slot, False))
            vertex.options[name] = option_repr(value)
        vertex.rule = self._rule(op)
        if node is not None:
            self.nodes[node] = vertex.index
            vertex.site = line_of(node.site)
            vertex.saved = {name: self.gallery.add(saved.array) for name, saved in saved_by(node)}
        return vertex

    def _rule(self, op: Operation) -> str:
        """Return the key of an operation's rules: its name, and for operations of the user their module."""
        if id(op) not in self._operations:
            module = getattr(op.forward, "__module__", "")
            key = op.name if module.startswith("tinyattn.") else f"{op.name} of {module}"
            while key in self.rules and self.rules[key] != rules_of(op):
                key += "'"
            self._operations[id(op)] = op, key
            self.rules[key] = rules_of(op)
        return self._operations[id(op)][1]

    def connect(self, vertex: Vertex, op_inputs: Sequence[tuple[str, Any]]) -> None:
        """Set the inputs of a vertex: (slot, x), where x is a Tensor, an Edge without a target, or a plain number."""
        edges = []
        for slot, x in op_inputs:
            if isinstance(x, Tensor):
                edges.append(Edge(self.source(x), vertex.index, slot, vertex.recorded and x.node is not None))
            elif isinstance(x, Edge):
                edges.append(x._replace(target=vertex.index))
            elif x is not None:
                vertex.numbers[slot] = option_repr(x)
        vertex.inputs = edges + vertex.inputs

    def _vertex(self, kind: str, op: str, out: Any, recorded: bool) -> Vertex:
        shape, dtype = tuple(out.shape), out.dtype
        size = math.prod(shape) * dtype.itemsize
        vertex = Vertex(len(self.vertices), kind, op, op, shape, str(dtype), size, recorded)
        self.vertices.append(vertex)
        return vertex

    def _kind(self, x: Tensor, otherwise: str) -> str:
        if isinstance(x, Parameter):
            return "parameter"
        return otherwise if x.node is None else "leaf"

    def _name(self, x: Tensor) -> str:
        known = (self.names.get(id(key)) for key in (x.node, x, x.array) if key is not None)
        return next((name for name in known if name), "")


def _constant(array: Any, slot: str) -> str:
    """Return the name of a constant: that of its slot, or for a mere letter its value if all elements are equal."""
    if slot not in ROLES:
        return slot
    values = host_array(array).ravel()
    return f"all {values[0]:g}" if len(values) and (values == values[0]).all() else "constant"


def names_in(modules: Sequence[Any], variables: dict[str, Any]) -> dict[int, str]:
    """Return the names of tensors by the ids of tensors, nodes and arrays.

    The path of a parameter or buffer takes precedence over the name of a variable.
    """
    names: dict[int, str] = {}
    found = [(name, x) for name, x in variables.items() if isinstance(x, Tensor) and name[0].isalpha()]
    for module in modules:
        found += [*module.named_parameters(), *module.named_buffers()]
    for name, x in found:
        for key in (x, x.array, x.node):
            if key is not None:
                names[id(key)] = name
    return names


def named_inputs(op: Operation, inputs: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return (name, input) for each input of a call."""
    return list(zip(input_names(op, len(inputs)), inputs, strict=False))


def saved_in(node: Node) -> dict[str, Any]:
    """Return the values saved for the backward pass; none once they are freed."""
    return node.saved or {}


def option_repr(value: Any) -> str:
    """Return an option or a plain input as short text: -1, (0, 2), [:, 3], float32."""
    if isinstance(value, Tensor | np.ndarray):
        shape = "×".join(map(str, value.shape)) or "1"
        return f"{shape} {value.dtype}"
    if isinstance(value, slice):
        ends = ["" if x is None else str(x) for x in (value.start, value.stop)]
        return ":".join(ends) + (f":{value.step}" if value.step is not None else "")
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(option_repr, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "…" if value is Ellipsis else str(value)
