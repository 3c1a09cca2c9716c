"""Backward hooks of a module: functions that see, and may replace, the gradients of what it took and gave."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tinyattn.engine.modes import current_walk, is_grad_enabled
from tinyattn.ops import alias
from tinyattn.ops.creation import zeros_like
from tinyattn.tensors import Tensor

Gradients = tuple[Tensor | None, ...]


class Gate:
    """Lets several tensors through, and on the way back waits for all of their gradients.

    Each tensor passes two identities. The walk takes newer nodes first, and the outer identities
    are newer than all inner ones: when the first inner one is reached, what has arrived at the
    outer ones is complete, and None is left where nothing will.
    """

    def __init__(self, then: Callable[[Gradients], Gradients]) -> None:
        self.then = then
        self.walk: object = None  # the one that the gradients below belong to
        self.arrived: list[Tensor | None] = []
        self.size, self.open = 0, False  # how many values, and whether one of them will see a gradient
        self.replaced: Gradients | None = None  # what `then` made of them, once this walk has called it

    def let_through(self, values: Sequence[Any]) -> list[Any]:
        """`values`, which the gate does not keep: it lives as long as their nodes, and would never let go of them."""
        self.size, on = len(values), is_grad_enabled()
        places = [i for i, x in enumerate(values) if on and isinstance(x, Tensor) and x.node is not None]
        inner = {i: alias(values[i]) for i in places}
        outer = {i: alias(x) for i, x in inner.items()}
        for i in places:
            inner[i].register_hook(lambda g, i=i: self._leave(i))
            outer[i].register_hook(lambda g, i=i: self._arrive(i, g))
        self.open = bool(places)
        return [outer.get(i, x) for i, x in enumerate(values)]

    def _arrive(self, i: int, g: Tensor) -> None:
        if self.walk is not current_walk.get():  # another walk begins
            self.walk, self.arrived, self.replaced = current_walk.get(), [None] * self.size, None
        self.arrived[i] = g

    def _leave(self, i: int) -> Tensor | None:
        if self.replaced is None:
            self.replaced = self.then(tuple(self.arrived))
        return self.replaced[i]


class BackwardHooks:
    """One call of `module`, with its backward hooks around it."""

    def __init__(self, module: Any, pre_hooks: Iterable[Any], hooks: Iterable[Any]) -> None:
        self.module, self.pre_hooks, self.hooks = module, tuple(pre_hooks), tuple(hooks)
        self.grad_output: Gradients = ()
        self.arguments, self.waits = 0, False  # how many there are, and whether one of them will see a gradient

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, as `forward` shall see them."""
        gate = Gate(self._on_inputs)
        values = gate.let_through(args)
        self.arguments, self.waits = len(args), gate.open
        return tuple(values)

    def leave(self, output: Any) -> Any:
        """The output, as the caller shall see it."""
        if isinstance(output, Tensor):
            return Gate(self._on_outputs).let_through([output])[0]
        if not isinstance(output, tuple | list):
            warnings.warn(
                f"{type(self.module).__name__} returned a {type(output).__name__}, and its backward hooks will not be "
                "called: they see the gradients of a Tensor, or of a tuple or list of Tensors.",
                stacklevel=4,
            )
            return output
        values = Gate(self._on_outputs).let_through(output)
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)  # a namedtuple

    def _on_outputs(self, grad_output: Gradients) -> Gradients:
        for hook in self.pre_hooks:
            grad_output = self._replace(grad_output, hook(self.module, grad_output), "grad_output")
        self.grad_output = grad_output
        if not self.waits:  # no argument will see a gradient: this is all there is
            self._on_inputs((None,) * self.arguments)
        return grad_output

    def _on_inputs(self, grad_input: Gradients) -> Gradients:
        for hook in self.hooks:
            grad_input = self._replace(grad_input, hook(self.module, grad_input, self.grad_output), "grad_input")
        return grad_input

    def _replace(self, old: Gradients, new: Any, what: str) -> Gradients:
        if new is None:
            return old
        given = new if isinstance(new, tuple | list) else (new,)
        fits = [
            g is None or x is None or (isinstance(x, Tensor) and x.shape == g.shape)
            for g, x in zip(old, given, strict=False)
        ]
        if len(given) != len(old) or not all(fits):
            raise RuntimeError(
                f"a backward hook of {type(self.module).__name__} returned {_shapes(given)} for {what}; expected None, "
                f"or {_shapes(old)}"
            )
        return tuple(zeros_like(g) if g is not None and x is None else x for g, x in zip(old, given, strict=True))


def _shapes(gradients: Iterable[Any]) -> str:
    listed = (f"shape {tuple(g.shape)}" if isinstance(g, Tensor) else str(g) for g in gradients)
    return f"a tuple ({', '.join(listed)})"
