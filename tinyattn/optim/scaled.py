"""RMSprop and Adagrad: gradients divided by the root of an average, or of the sum, of their squares."""

from __future__ import annotations

from typing import Any, ClassVar

from tinyattn.optim.formula import Formula
from tinyattn.optim.optimizer import Group, Params
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


class RMSprop(Formula):
    """RMSprop, `rmsprop_definition` above for every parameter. As torch.optim.RMSprop.

    alpha: share of the average of squares that a step keeps. eps: added to the root. weight_decay: added to the
    gradient, times the parameter (L2). momentum: share of the last step that is kept. centered: divide by the standard
    deviation of the gradients. maximize: ascend instead of descend. All else as for `Optimizer`.

    >>> w = ta.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = ta.optim.RMSprop([w], lr=0.01, alpha=0.99)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([ 0.9, -1.9], requires_grad=True)
    """

    kept: ClassVar = {"square_avg": "", "momentum_buffer": "momentum", "grad_avg": "centered"}
    apart = ("centered",)

    def __init__(
        self, params: Params, lr: float | Tensor = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
        weight_decay: float = 0, momentum: float = 0, centered: bool = False, *, maximize: bool = False,
        **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def formula(self, param: Any, grad: Any, *state_and_step: Any, **options: Any) -> tuple[Any, ...]:
        *state, _ = state_and_step
        return rmsprop_definition(param, grad, *state, **options)


class Adagrad(Formula):
    """Adagrad, `adagrad_definition` above for every parameter. As torch.optim.Adagrad.

    lr_decay: the rate of step t is lr / (1 + (t - 1) lr_decay). weight_decay: added to the gradient, times the
    parameter (L2). initial_accumulator_value: the sum of squares before the first step. eps: added to the root.
    maximize: ascend instead of descend. All else as for `Optimizer`.

    >>> w = ta.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = ta.optim.Adagrad([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([ 0.9, -1.9], requires_grad=True)
    """

    kept: ClassVar = {"sum": ""}
    first: ClassVar = {"sum": "initial_accumulator_value"}
    apart = ("initial_accumulator_value",)
    formula = staticmethod(adagrad_definition)

    def __init__(
        self, params: Params, lr: float | Tensor = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
        initial_accumulator_value: float = 0, eps: float = 1e-10, *, maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:  # in PyTorch too, the sums exist before the first step
            self._fill(param, self.state[param], self.param_groups[-1])
