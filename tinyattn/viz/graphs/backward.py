"""The backward pass, watched: the order of the nodes, their gradients, and what each rule returned."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tinyattn import autograd
from tinyattn.debug.describe import input_names
from tinyattn.engine.node import Node
from tinyattn.engine.observer import Observer
from tinyattn.ops.creation import ones_like
from tinyattn.tensors import Tensor
from tinyattn.viz.graphs.build import Builder
from tinyattn.viz.graphs.model import Arrival, Step


class BackwardRecorder(Observer):
    """Records each step of a backward pass over the nodes that `builder` knows."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.steps: list[Step] = []
        self._slot = 0  # the next input of the last node
        self._started = 0.0

    def before_backward(self, node: Node, g: Any) -> None:
        index = self.builder.nodes.get(node)
        if index is not None:
            self.steps.append(Step(index, self.builder.gallery.add(g)))
        self._slot, self._started = 0, time.perf_counter()

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        if node in self.builder.nodes:
            self.builder.vertices[self.steps[-1].vertex].seconds_back = time.perf_counter() - self._started

    def received(self, edge: Node, node: Node, gradient: Any, total: Any) -> None:
        slot = self._slot
        while node.edges[slot] is not edge:
            slot += 1
        self._slot = slot + 1
        vertex = self.builder.nodes.get(edge)
        if vertex is None or node not in self.builder.nodes or node.op is None:
            return  # outside of the picture, or the Fork of a DataParallel
        name, add = input_names(node.op, len(node.edges))[slot], self.builder.gallery.add
        self.steps[-1].arrivals.append(Arrival(vertex, name, add(gradient), add(total)))


def backward_steps(
    builder: Builder, outputs: Sequence[Tensor], gradients: Sequence[Tensor | None] | None
) -> list[Step]:
    """Return the steps of `grad(outputs, all leaves)`. Changes no `.grad` and frees nothing.

    gradients: of the outputs; ones by default.
    """
    leaves = [Tensor._from(None, node) for node in builder.leaves]
    if not leaves or not outputs:
        return []
    given = [None] * len(outputs) if gradients is None else gradients
    seeds = [ones_like(x) if seed is None else seed for x, seed in zip(outputs, given, strict=True)]
    recorder = BackwardRecorder(builder)
    with recorder:
        autograd.grad(outputs, leaves, seeds, retain_graph=True, allow_unused=True)
    for step in recorder.steps:
        builder.vertices[step.vertex].gradient = step.gradient
    return recorder.steps
