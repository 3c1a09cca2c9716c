"""One way to watch the engine at work: anomaly detection, ledgers, profiles and pictures are observers."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

    from tinyattn.graph import Node, Operation

observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())


class Observer:
    """Is told of every operation that runs inside `with observer:`. Subclass it and override.

    Arrays are the live ones: look, do not write. Observers nest; each is told in order of entering.
    """

    in_threads = False  # whether several threads may tell it at once; else DataParallel uses one while it watches

    _tokens: list[Token[tuple[Observer, ...]]]

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        """`op` is about to compute; inputs are Tensors, numbers or None."""

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Any, node: Node | None) -> None:
        """`op` gave the Tensor `out`; `node` is what was recorded, None if nothing was."""

    def failed_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any], error: Exception) -> None:
        """`op` raised `error`, which goes on to the caller."""

    def before_definition(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        """Under `definitions()`: `op` is about to run as the operations that define it."""

    def after_definition(self, op: Operation) -> None:
        """It has, or one of them has raised an error."""

    def detached(self, tensor: Any, out: Any) -> None:
        """`tensor.detach()` gave the Tensor `out`."""

    def before_backward(self, node: Node, g: Any) -> None:
        """The walk has reached `node`, an operation's or a leaf (`node.op` is None), whose complete
        gradient is `g` (an array, or a recorded Tensor)."""

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        """The rules of `node` gave `gradients`, one for each edge, None where nobody needs one."""

    def received(self, edge: Node, node: Node, gradient: Any, total: Any) -> None:
        """The walk has handed `gradient`, which a rule of `node` gave, on to `edge` (in its shape and dtype);
        with what had come there before it makes `total`."""

    def freed(self, node: Node) -> None:
        """The walk has dropped what `node` had saved."""

    def before_step(self, optimizer: Any) -> None:
        """`optimizer` is about to update its parameters."""

    def after_step(self, optimizer: Any) -> None:
        """It has updated them."""

    def __enter__(self) -> Self:
        tokens = self.__dict__.setdefault("_tokens", [])
        tokens.append(observers.set((*observers.get(), self)))
        return self

    def __exit__(self, *exception: object) -> None:
        observers.reset(self._tokens.pop())
