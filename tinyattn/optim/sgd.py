"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tinyattn import backends
from tinyattn.engine.modes import definitions_enabled
from tinyattn.ops import creation
from tinyattn.optim.optimizer import Group, Optimizer, Params, State, check_number
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
    """One step, as a formula: the new parameter and the new momentum buffer (None at first).

    Sutskever, Martens, Dahl and Hinton 2013, "On the importance of initialization and momentum in
    deep learning", with torch's convention that lr multiplies the buffer, not the gradient in it.
    """
    g = -grad if maximize else grad
    g = g + weight_decay * param  # g = df/dp + wd p
    if momentum:
        b = g if buffer is None else momentum * buffer + (1 - dampening) * g  # b = mu b + (1 - tau) g
        g = g + momentum * b if nesterov else b  # look ahead: g + mu b
        buffer = b
    return param - lr * g, buffer  # p = p - lr g


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Nesterov's if asked) and L2 weight decay.

    params: tensors, (name, tensor) pairs, or parameter groups; see `Optimizer`.
    lr: learning rate. momentum: share of the last step kept, 0 for none.
    dampening: share of the new gradient left out of the momentum.
    weight_decay: added to the gradient, times the parameter. maximize: climb instead of descend.
    Raises ValueError for a negative or non-finite option, or nesterov without momentum.
    As torch.optim.SGD.
    """

    elementwise = True  # so many small parameters may be updated as one

    def __init__(
        self,
        params: Params | Iterable[Group],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, options: Group) -> None:
        super().check(options)
        for name in ("momentum", "weight_decay"):
            check_number(options, name)
        check_number(options, "dampening", least=float("-inf"))
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            raise ValueError(
                "nesterov needs a momentum above 0 and no dampening, but got "
                f"momentum={options['momentum']} and dampening={options['dampening']}."
            )

    def state_names(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def update(self, param: Tensor, grad: Any, state: State, group: Group) -> None:
        array = param.array
        buffer, first = self._buffer(param, state, group)
        library = backends.of(array)
        options = {**self._options(group), "lr": library.live(group, "lr")}
        if not definitions_enabled():
            library.sgd_step(array, grad, buffer, first=first, **options)
            return
        with library.quiet():
            array[...], b = sgd_definition(array, grad, None if first else buffer, **options)
        if buffer is not None:
            buffer[...] = b

    def update_together(self, params: Sequence[Tensor], group: Group) -> None:
        if definitions_enabled():
            super().update_together(params, group)
            return
        arrays = [param.array for param in params]
        library = backends.of(*arrays)
        grads = [param.grad.array for param in params if param.grad is not None]
        buffers, first = zip(*(self._buffer(param, self.state[param], group) for param in params), strict=True)
        options = {**self._options(group), "lr": library.live(group, "lr")}
        library.sgd_steps(arrays, grads, buffers if group["momentum"] else None, first=first, **options)

    def _options(self, group: Group) -> dict[str, Any]:
        return {name: group[name] for name in self.defaults}

    def _buffer(self, param: Tensor, state: State, group: Group) -> tuple[Any, bool]:
        """The momentum of a parameter, or None, and whether there is nothing in it yet."""
        if not group["momentum"]:
            return None, False
        first = "momentum_buffer" not in state
        if first:
            state["momentum_buffer"] = creation.zeros_like(param)
        return state["momentum_buffer"].array, first
