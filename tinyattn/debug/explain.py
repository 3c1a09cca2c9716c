"""Why is this gradient None, zero, NaN or huge?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tinyattn import autograd, backends
from tinyattn.debug.describe import array_of, count, describe, fault, fitted, input_names
from tinyattn.debug.flow import Call, Flow, Recorder, Step
from tinyattn.debug.reasons import CHOOSING, CURES, Passed, why_zero, zero_source
from tinyattn.debug.regions import where_it_ends
from tinyattn.graph import Node, Saved
from tinyattn.observer import Observer
from tinyattn.tensor import Tensor

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; `str()` of it is the whole story.

    verdict: one of VERDICTS. culprit: the operation to blame, or None. site: its line, "file:line".
    module: the path of the module it ran in. message: what happened and what to do.
    path: the operations from the loss to the parameter, with the culprit marked.
    """

    verdict: str
    message: str
    culprit: str | None = None
    site: str | None = None
    module: str = ""
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join([self.message, *self.path])


VERDICTS = {
    "healthy": "the gradient is there, finite, neither tiny nor huge",
    "frozen": "the parameter does not ask for a gradient",
    "not_a_leaf": "it was computed, and .grad is filled for leaves alone",
    "unused": "the loss does not depend on it",
    "unrecorded": "nothing recorded connects it with the loss; give explain a function to learn why",
    "detached": "detach(), .data, .numpy(), .item() or a copy cut the history off",
    "no_grad": "an operation ran under no_grad()",
    "integers": "a cast to integers, a comparison or argmax, which have no slope",
    "no_rule": "an operation without a rule for this input",
    "dead_relu": "ReLU gave zeros alone",
    "saturated": "sigmoid, tanh, softmax ... far out, where they are flat",
    "masked": "a mask hides everything",
    "clamped": "all inputs lie outside of the limits",
    "not_selected": "where, maximum, an index ... took the other side",
    "overwritten": "an assignment replaced it",
    "times_zero": "it is multiplied by zero",
    "dropped": "dropout dropped everything",
    "flat": "a staircase",
    "stationary": "the slope at this very point is zero",
    "cancelled": "the contributions add up to nothing",
    "hook": "a hook replaced the gradient",
    "zero": "zero for another reason",
    "vanishing": "many steps make it smaller and smaller",
    "huge": "one operation multiplied it more than all others",
    "overflow": "an infinity was made",
    "nan": "a NaN was made",
}


def explain(
    parameter: Tensor, loss: Tensor | Callable[[], Tensor], *, tiny: float = 1e-7, huge: float = 1e3
) -> Explanation:
    """Why the gradient of `parameter` is None, zero, NaN or huge: the first culprit, from the loss on.

    loss: a function without arguments that computes the loss, and does not call backward(): it is run
    and watched, so that also what leaves no trace in the graph is found (detach, no_grad, integers).
    Or the loss itself, before backward(): then only what the graph has recorded can be told.
    tiny, huge: the largest element of a gradient that counts as nothing, and the smallest that counts
    as too large. No `.grad` changes. Raises TypeError for other arguments, RuntimeError for a loss
    that is not a single number or whose graph is freed.

    >>> print(ta.explain(model.fc.weight, lambda: loss_function(model(x), y)))
    """
    if not isinstance(parameter, Tensor):
        raise TypeError(f"explain: expected a parameter (a Tensor), got {type(parameter).__name__}")
    recorder = Recorder()
    if not isinstance(loss, Tensor):
        if not callable(loss):
            raise TypeError(f"explain: expected a loss or a function that computes it, got {type(loss).__name__}")
        with recorder:
            loss = loss()
        if not isinstance(loss, Tensor):
            raise TypeError(f"explain: the function must return the loss, a Tensor; it gave {type(loss).__name__}")
    return _Case(parameter, loss, recorder.calls, tiny, huge).explanation()


class _Probe(Observer):
    """Keeps, for each node that the walk passes, its gradient and what its rules made of it."""

    def __init__(self, useful: set[int]) -> None:
        self.useful = useful
        self.gradients: dict[Node, Any] = {}
        self.passed: dict[Node, list[Passed]] = {}
        self.consumers: dict[Node, list[Node]] = {}

    def before_backward(self, node: Node, g: Any) -> None:
        self.gradients[node] = g.copy()

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        assert node.op is not None
        names, kept = input_names(node.op, len(node.edges)), self.passed.setdefault(node, [])
        for name, edge, gradient in zip(names, node.edges, gradients, strict=False):
            if edge is None or edge.id not in self.useful:
                continue
            size = 0.0 if gradient is None else float(abs(array_of(gradient)).sum())
            array = None if gradient is None else fitted(gradient, edge).copy()
            kept.append(Passed(node, self.gradients[node], name, edge, array, size))
            self.consumers.setdefault(edge, []).append(node)


class _Case:
    """One question: what stands between this parameter and this loss."""

    def __init__(self, parameter: Tensor, loss: Tensor, calls: list[Call], tiny: float, huge: float) -> None:
        self.parameter, self.loss, self.calls, self.tiny, self.huge = parameter, loss, calls, tiny, huge
        self.watched = bool(calls)
        self.flow = Flow(calls, parameter)

    def explanation(self) -> Explanation:
        """The first of the questions below that has an answer."""
        if self.parameter.node is None:
            return self._say("frozen", "does not ask for a gradient (requires_grad is False).")
        if self.loss.node is None or not self._connected():
            return self._no_path()
        probe = self._walk()
        return self._numbers(probe)
