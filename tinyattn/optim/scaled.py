"""RMSprop and Adagrad: gradients divided by the root of an average, or of the sum, of their squares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinyattn import backends
from tinyattn.dtypes import float32, float64, get_default_dtype
from tinyattn.engine.opmath import opmath_dtype, widened
from tinyattn.ops import creation
from tinyattn.optim.checks import check_number
from tinyattn.optim.optimizer import Group, Optimizer, Params, State, overwrite
from tinyattn.tensors import Tensor


def rmsprop_definition(
    param: Any,
    grad: Any,
    square_avg: Any,
    momentum_buffer: Any,
    grad_avg: Any,
    *,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    maximize: bool = False,
) -> tuple[Any, Any, Any, Any]:
    """Compute one step: the new (param, square_avg, momentum_buffer, grad_avg), arrays or tensors of one shape.

    momentum_buffer is None without momentum, grad_avg None unless centered.
    Tieleman and Hinton 2012, "Lecture 6.5: RMSprop"; centered: Graves 2013, "Generating sequences with recurrent
    neural networks".

    >>> p, v, _, _ = optim.rmsprop_definition(1.0, 2.0, 0.0, None, None, lr=0.5, alpha=0.75, eps=0.0)
    >>> p, v
    (0.0, 1.0)
    """
    g = (-grad if maximize else grad) + weight_decay * param
    v = alpha * square_avg + (1 - alpha) * g * g  # v = a v + (1 - a) g^2
    variance = v
    if grad_avg is not None:
        grad_avg = alpha * grad_avg + (1 - alpha) * g
        variance = v - grad_avg * grad_avg  # centered: the mean of squares minus the square of the mean
    step = g / (variance**0.5 + eps)
    if momentum_buffer is not None:
        step = momentum_buffer = momentum * momentum_buffer + step
    return param - lr * step, v, momentum_buffer, grad_avg


def adagrad_definition(
    param: Any,
    grad: Any,
    total: Any,
    step: Any,
    *,
    lr: float,
    lr_decay: float = 0.0,
    eps: float,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> tuple[Any, Any]:
    """Compute step number t (from 1): the new parameter and the new sum of squares, arrays or tensors of one shape.

    Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for online learning and stochastic optimization".

    >>> optim.adagrad_definition(1.0, 2.0, 0.0, 1, lr=0.5, eps=0.0)
    (0.5, 4.0)
    """
    g = (-grad if maximize else grad) + weight_decay * param
    total = total + g * g
    return param - lr / (1 + (step - 1) * lr_decay) * g / (total**0.5 + eps), total


class _Scaled(Optimizer):
    """An optimizer whose definition runs on every device; its state is made at the first step."""

    _options: tuple[str, ...] = ()  # of a group, beside lr, for the definition

    def update(self, param: Tensor, grad: Any, state: State, group: Group) -> None:
        self._fill(param, state, group)
        xp = backends.of(param.array)
        step = xp.counted(state["step"].array)
        options = {key: group[key] for key in self._options}
        with xp.quiet():
            self._step(param.array, grad, state, step, {**options, "lr": xp.live(group, "lr")})

    def _fill(self, param: Tensor, state: State, group: Group) -> None:
        """Make the entries that a parameter's state lacks."""
        for name in self.state_names(group):
            if name not in state:
                shape, dtype = ((), float32) if name == "step" else (param.shape, opmath_dtype(param.dtype))
                if name in self.numbers:  # in PyTorch's dtype
                    shape, dtype = (), float64 if get_default_dtype() == float64 else float32
                state[name] = creation.full(shape, self._first(name, group), dtype=dtype, device=param.device)

    def _first(self, name: str, group: Group) -> float:
        return 0.0

    def _step(self, param: Any, grad: Any, state: State, step: Any, options: dict[str, Any]) -> None:
        raise NotImplementedError


class RMSprop(_Scaled):
    """RMSprop, `rmsprop_definition` above for every parameter. As torch.optim.RMSprop.

    params: tensors, (name, tensor) pairs, or parameter groups; see `Optimizer`.
    alpha: share of the average of squares that a step keeps. eps: added to the root. weight_decay: added to the
    gradient, times the parameter (L2). momentum: share of the last step that is kept. centered: divide by the standard
    deviation of the gradients. maximize: ascend instead of descend. foreach and its like: without effect.

    >>> w = ta.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = ta.optim.RMSprop([w], lr=0.01, alpha=0.99)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([ 0.9, -1.9], requires_grad=True)
    """

    _options = ("alpha", "eps", "weight_decay", "momentum", "maximize")

    def __init__(
        self,
        params: Params | Iterable[Group],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
        **without_effect: Any,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered}
        super().__init__(params, {**defaults, "weight_decay": weight_decay, "maximize": maximize}, **without_effect)

    def check(self, options: Group) -> None:
        super().check(options)
        for name in ("eps", "weight_decay", "momentum", "alpha"):
            check_number(options, name)

    def state_names(self, group: Group) -> tuple[str, ...]:
        more = ("momentum_buffer",) * (group["momentum"] > 0) + ("grad_avg",) * bool(group["centered"])
        return ("step", "square_avg", *more)

    def _step(self, param: Any, grad: Any, state: State, step: Any, options: dict[str, Any]) -> None:
        kept = [state[name].array if name in state else None for name in ("square_avg", "momentum_buffer", "grad_avg")]
        overwrite((param, *kept), rmsprop_definition(*widened((param, grad, *kept)), **options))


class Adagrad(_Scaled):
    """Adagrad, `adagrad_definition` above for every parameter. As torch.optim.Adagrad.

    params: tensors, (name, tensor) pairs, or parameter groups; see `Optimizer`.
    lr_decay: the rate of step t is lr / (1 + (t - 1) lr_decay). weight_decay: added to the gradient, times the
    parameter (L2). initial_accumulator_value: the sum of squares before the first step. eps: added to the root.
    maximize: ascend instead of descend. foreach and its like: without effect.

    >>> w = ta.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = ta.optim.Adagrad([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([ 0.9, -1.9], requires_grad=True)
    """

    _options = ("lr_decay", "eps", "weight_decay", "maximize")

    def __init__(
        self,
        params: Params | Iterable[Group],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        **without_effect: Any,
    ) -> None:
        defaults = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        defaults["initial_accumulator_value"] = initial_accumulator_value
        super().__init__(params, defaults, **without_effect)

    def check(self, options: Group) -> None:
        super().check(options)
        for name in ("lr_decay", "weight_decay", "initial_accumulator_value", "eps"):
            check_number(options, name)

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:  # in PyTorch too, the sums exist before the first step
            self._fill(param, self.state[param], self.param_groups[-1])

    def state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", "sum")

    def _first(self, name: str, group: Group) -> float:
        return group["initial_accumulator_value"] if name == "sum" else 0.0

    def _step(self, param: Any, grad: Any, state: State, step: Any, options: dict[str, Any]) -> None:
        total = state["sum"].array
        overwrite((param, total), adagrad_definition(*widened((param, grad, total, step)), **options))
