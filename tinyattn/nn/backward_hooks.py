"""Backward hooks of a module: functions that see, and may replace, the gradients of its inputs and outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tinyattn.engine.modes import current_walk
from tinyattn.files.nested import alike
from tinyattn.grad_mode import is_grad_enabled
from tinyattn.ops import alias
from tinyattn.ops.creation import zeros_like
from tinyattn.tensors import Tensor

Gradients = tuple[Tensor | None, ...]


class Gate:
    """Passes several tensors on; in the backward pass, collects all their gradients before any goes on.

    Each tensor passes two identity operations. The backward pass takes newer nodes first, and the outer identities
    are newer than all inner ones. So when it reaches the first inner one, the outer ones have all their gradients, and
    None remains where there is none.
    """

    def __init__(self, then: Callable[[Gradients], Gradients]) -> None:
        self.then = then
        self.walk: object = None  # the backward pass that the gradients below belong to
        self.arrived: list[Tensor | None] = []
        self.size, self.open = 0, False  # number of values, and whether one of them requires a gradient
        self.replaced: Gradients | None = None  # the results of `then`, once this backward pass has called it

    def let_through(self, values: Sequence[Any]) -> list[Any]:
        """Return `values` behind the gate, which does not store them: it lives as long as their nodes."""
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
        if self.walk is not current_walk.get():  # a new backward pass
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
        self.walk: object = None  # the backward pass that has come through the outputs
        self.arguments, self.waits = 0, False  # their number, and whether one of them requires a gradient

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments to pass to `forward`."""
        gate = Gate(self._on_inputs)
        values = gate.let_through(args)
        self.arguments, self.waits = len(args), gate.open
        return tuple(values)

    def leave(self, output: Any) -> Any:
        """Return the output to pass to the caller."""
        if isinstance(output, Tensor):
            return Gate(self._on_outputs).let_through([output])[0]
        if not isinstance(output, tuple | list):
            warnings.warn(
                f"{type(self.module).__name__} returned a {type(output).__name__}, so its backward hooks will not be "
                "called; return a Tensor, or a tuple or list of Tensors.",
                stacklevel=4,
            )
            return output
        values = Gate(self._on_outputs).let_through(output)
        return alike(output, values)

    def _on_outputs(self, grad_output: Gradients) -> Gradients:
        for hook in self.pre_hooks:
            grad_output = self._replace(grad_output, hook(self.module, grad_output), "grad_output")
        self.grad_output, self.walk = grad_output, current_walk.get()
        if not self.waits:  # no argument requires a gradient, so no gate will call it
            self._on_inputs((None,) * self.arguments)
        return grad_output

    def _on_inputs(self, grad_input: Gradients) -> Gradients:
        if self.walk is not current_walk.get():  # from a gradient's own graph (double backward), past the outputs
            return grad_input
        for hook in self.hooks:
            grad_input = self._replace(grad_input, hook(self.module, grad_input, self.grad_output), "grad_input")
        return grad_input

    def _replace(self, old: Gradients, new: Any, what: str) -> Gradients:
        if new is None:
            return old
        given = new if isinstance(new, tuple | list) else (new,)
        fits = [
            x is None or (isinstance(x, Tensor) and (g is None or (x.shape, x.dtype) == (g.shape, g.dtype)))
            for g, x in zip(old, given, strict=False)
        ]
        if len(given) != len(old) or not all(fits):
            raise RuntimeError(
                f"a backward hook of {type(self.module).__name__} returned {_shapes(given)} for {what}; expected None, "
                f"or {_shapes(old)}"
            )
        return tuple(zeros_like(g) if g is not None and x is None else x for g, x in zip(old, given, strict=True))


def _shapes(gradients: Iterable[Any]) -> str:
    listed = (f"shape {tuple(g.shape)} {g.dtype}" if isinstance(g, Tensor) else str(g) for g in gradients)
    return f"a tuple ({', '.join(listed)})"
