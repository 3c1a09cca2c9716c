"""Fork: where branches that were recorded side by side come together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyattn.engine.node import Node


class Fork(Node):
    """Stands where branches that were recorded side by side come together again.

    Newer than every node of the branches and older than what consumes their outputs, which all have
    an edge to it: when a walk comes here, the gradients of all outputs are complete, and it goes on
    down each branch by itself.

        older nodes  <-  branch 0  <-  its output  <-.
                     <-  branch 1  <-  its output  <-  join  <-  loss
                                          Fork     <-'

    floor: nodes up to this id are older than the branches. outputs: of each branch, its last nodes.
    """

    __slots__ = ("branch_of", "branches", "floor")

    def __init__(self, floor: int, outputs: Sequence[Sequence[Node]], array: Any) -> None:
        super().__init__(None, (), array)
        self.floor, self.branches = floor, len(outputs)
        self.branch_of = {node.id: i for i, nodes in enumerate(outputs) for node in nodes}
