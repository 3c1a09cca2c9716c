"""A step recorded once more, by the definitions of its operations, without a trace in what it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinyattn.engine.modes import Mode, definition_mode, grad_mode
from tinyattn.program.arguments import flat, reachable
from tinyattn.program.makers import RECORDING
from tinyattn.program.trace import Trace
from tinyattn.tensors import Tensor


class Example:
    """A call of a function, kept to record it again."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, found: list[Any]) -> None:
        self.function, self.args, self.kwargs, self.found = function, args, kwargs, found
        self.gradients = grad_mode.get()

    def by_definition(
        self, leaves: Sequence[Tensor], touched: Iterable[Tensor], optimizers: Sequence[Any], generators: Sequence[Any]
    ) -> tuple[Trace, Any]:
        """Record the call by definitions; returns the trace and the values of the results.

        What it does to these tensors, optimizers and generators, and to tensors that it names, is undone.
        """
        tensors, _ = flat((self.args, self.kwargs))
        trace = Trace(tensors, self.found, leaves)
        everything = {id(t): t for t in (*leaves, *touched, *reachable(self.found), *tensors)}
        modes = RECORDING, Mode(grad_mode, self.gradients), Mode(definition_mode, True)
        with modes[0], modes[1], modes[2], _undone([*everything.values()], optimizers, generators):
            with trace:
                result = self.function(*self.args, **self.kwargs)
            return trace, trace.finish(flat(result)[0])


@contextmanager
def _undone(tensors: list[Tensor], optimizers: Sequence[Any], generators: Sequence[Any]) -> Iterator[None]:
    """Put back, after the block, numbers and gradients of tensors, states of optimizers, and random numbers."""
    states = [x for o in optimizers for state in o.state.values() for x in state.values() if isinstance(x, Tensor)]
    gradients = [(t, t._grad) for t in tensors]
    written = [*tensors, *states, *(grad for _, grad in gradients if grad is not None)]
    saved = [(t, t.array, t.array.copy()) for t in written]
    drawn = [(generator, generator.bookmark()) for generator in generators]
    try:
        yield
    finally:
        for tensor, array, numbers in saved:
            tensor.array = array
            np.copyto(array, numbers)
        for tensor, grad in gradients:
            tensor._grad = grad
        for generator, state in drawn:
            generator.go_to(state)
