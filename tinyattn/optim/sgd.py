"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tinyattn import backends
from tinyattn.engine.modes import definitions_enabled
from tinyattn.engine.opmath import opmath_dtype, widened
from tinyattn.ops import creation
from tinyattn.optim import fused
from tinyattn.optim.formula import Formula
from tinyattn.optim.optimizer import Group, Params, State, overwrite
from tinyattn.tensors import Tensor


def sgd_definition(
    param: Any,
    grad: Any,
    buffer: Any,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> tuple[Any, Any]:
    """Compute one step: the new parameter and the new momentum buffer, arrays or tensors of one shape.

    buffer: None at the first step.
    Sutskever, Martens, Dahl and Hinton 2013, "On the importance of initialization and momentum in
    deep learning", with torch's convention that lr multiplies the buffer, not the gradient in it.

    >>> optim.sgd_definition(1.0, 2.0, None, lr=0.25)
    (0.5, None)
    """
    g = -grad if maximize else grad
    g = g + weight_decay * param  # g = df/dp + wd p
    if momentum:
        b = g if buffer is None else momentum * buffer + (1 - dampening) * g  # b = mu b + (1 - tau) g
        g = g + momentum * b if nesterov else b  # look ahead: g + mu b
        buffer = b
    return param - lr * g, buffer  # p = p - lr g


class SGD(Formula):
    """Stochastic gradient descent, `sgd_definition` above for every parameter. As torch.optim.SGD.

    lr: learning rate. momentum: share of the last step that is kept, 0 for none. dampening: share of the new gradient
    left out of the momentum. weight_decay: added to the gradient, times the parameter (L2). nesterov: Nesterov's
    momentum. maximize: ascend instead of descend. All else, and errors, as for `Optimizer`; ValueError for nesterov
    without momentum.

    >>> w = ta.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = ta.optim.SGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([ 0.8, -1.6], requires_grad=True)
    """

    kept: ClassVar = {"momentum_buffer": "momentum"}
    formula = staticmethod(sgd_definition)

    def __init__(
        self, params: Params, lr: float | Tensor = 1e-3, momentum: float = 0, dampening: float = 0,
        weight_decay: float = 0, nesterov: bool = False, *, maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def check(self, options: Group) -> None:
        super().check(options)
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            raise ValueError(
                "nesterov needs a momentum above 0 and no dampening, but got "
                f"momentum={options['momentum']} and dampening={options['dampening']}."
            )

    def state_names(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def update(self, param: Tensor, grad: Any, state: State, group: Group) -> None:
        p = param.array
        buffer, first = self._buffer(param, state, group)
        xp, options = backends.of(p), self._options(group, p)
        if definitions_enabled():
            with xp.quiet():
                overwrite((p, buffer), self.formula(*widened((p, grad, None if first else buffer)), **options))
        else:
            xp.sgd_step(p, grad, buffer, first=first, **options)

    def update_all(self) -> None:
        fused.update_all(self, SGD.update)

    def update_together(self, params: Sequence[Tensor], group: Group) -> None:
        """Update parameters on one GPU by one launch."""
        p = [param.array for param in params]
        grads = [param.grad.array for param in params if param.grad is not None]
        buffers, first = zip(*(self._buffer(param, self.state[param], group) for param in params), strict=True)
        kept = buffers if group["momentum"] else None
        backends.of(*p).sgd_steps(p, grads, kept, first=first, **self._options(group, p[0]))

    def _buffer(self, param: Tensor, state: State, group: Group) -> tuple[Any, bool]:
        """The momentum buffer of a parameter (or None), and whether it is new."""
        if not group["momentum"]:
            return None, False
        first = "momentum_buffer" not in state
        if first:
            state["momentum_buffer"] = creation.zeros_like(param, dtype=opmath_dtype(param.dtype))
        return state["momentum_buffer"].array, first
