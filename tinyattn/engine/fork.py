"""Fork: where branches that were recorded side by side (DataParallel) come together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyattn.engine.node import Node


class Fork(Node):
    """A node newer than every node of the branches and older than what consumes their outputs. DataParallel makes it.

    Those consumers all have an edge to it; the gradient over it is a zero that only makes the backward pass arrive
    here. By then the gradients of all outputs are complete, and each branch can be walked by itself, in a thread of its
    own. A Fork inside a branch of another splits nothing: that branch is walked as one.

        older nodes  <-  branch 0  <-  its output  <-.
                     <-  branch 1  <-  its output  <-  join  <-  loss
                                          Fork     <-'

    floor: nodes up to this id are older than the branches.
    outputs: the last nodes of each branch.
    array: any array; the shape and dtype of the gradient that arrives here.
    """

    __slots__ = ("branch_of", "count", "floor")

    def __init__(self, floor: int, outputs: Sequence[Sequence[Node]], array: Any) -> None:
        super().__init__(None, (), array)
        self.floor, self.count = floor, len(outputs)
        self.branch_of = {node.id: i for i, nodes in enumerate(outputs) for node in nodes}
