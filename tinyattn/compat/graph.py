"""What programs ask of a `grad_fn`: its name, and the nodes of its inputs."""

from __future__ import annotations

from typing import Any

from tinyattn.autograd.function import _Call
from tinyattn.engine.node import Node


def name_of(node: Node) -> str:
    """PyTorch's name of its kind: MulBackward0; AccumulateGrad for a leaf."""
    if node.op is None:
        return "AccumulateGrad"
    if isinstance(node.op, _Call):  # of a Function of the program
        return f"{node.op.name}Backward"
    return "".join(part.capitalize() for part in node.op.name.split("_")) + "Backward0"


def _next_functions(node: Node) -> tuple[tuple[Any, int], ...]:
    return tuple((edge, 0) for edge in node.edges)


def _variable(node: Node) -> Any:
    if node.op is not None or node.tensor is None:
        raise AttributeError(f"{name_of(node)} has no variable; only leaves have")
    return node.tensor()


def extend() -> None:
    """Give nodes `name()`, `next_functions`, PyTorch's repr and, to leaves, `variable`."""
    own = {"name": name_of, "next_functions": property(_next_functions), "variable": property(_variable),
           "__repr__": lambda node: f"<{name_of(node)} object at {id(node):#x}>"}  # fmt: skip
    for name, value in own.items():
        setattr(Node, name, value)
