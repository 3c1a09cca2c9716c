"""Adadelta, Adamax, NAdam and RAdam: other averages of gradients and of their squares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.engine.opmath import widened
from tinyattn.optim.checks import check_number
from tinyattn.optim.optimizer import Group, Params, State, overwrite
from tinyattn.optim.scaled import _Scaled


class _Variant(_Scaled):
    """An optimizer whose step is one formula of the parameter, its gradient, the averages and the step's number."""

    _kept: tuple[str, ...]  # the state, beside the step

    def _start(self, params: Params | Iterable[Group], options: Group, without_effect: dict[str, Any]) -> None:
        self._options = tuple(name for name in options if name != "lr")
        super().__init__(params, options, **without_effect)

    def check(self, options: Group) -> None:
        super().check(options)
        for name in {"rho", "eps", "weight_decay", "momentum_decay"} & {*options}:
            check_number(options, name)
        if "betas" in options and not all(0 <= beta < 1 for beta in options["betas"]):
            raise ValueError(f"betas={options['betas']}; expected two numbers of at least 0 and below 1")

    def state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", *self._kept)

    def _step(self, param: Any, grad: Any, state: State, step: Any, options: dict[str, Any]) -> None:
        kept = [state[name].array for name in self._kept]
        p, g, t, *more = widened((param, grad, step, *kept))
        g = -g if options["maximize"] else g
        decay = options["weight_decay"]
        if options.get("decoupled_weight_decay"):
            p = p * (1 - options["lr"] * decay)
        elif decay:
            g = g + decay * p
        overwrite((param, *kept), self._formula(backends.of(param), p, g, t, *more, options))

    def _formula(self, xp: Any, p: Any, g: Any, t: Any, *kept: Any) -> tuple[Any, ...]:
        """The new parameter and averages."""
        raise NotImplementedError


class Adadelta(_Variant):
    """Steps as long as the root of the average of earlier steps' squares. As torch.optim.Adadelta (Zeiler 2012).

    rho: share of the averages that a step keeps. eps: added under both roots. weight_decay: added to the gradient,
    times the parameter. maximize: ascend. foreach and its like: without effect.

    >>> w = ta.tensor([1.0], requires_grad=True)
    >>> optimizer = ta.optim.Adadelta([w])
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9968
    """

    _kept = ("square_avg", "acc_delta")

    def __init__(
        self, params: Params | Iterable[Group], lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
        weight_decay: float = 0, *, maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        self._start(params, options, without_effect)

    def _formula(self, xp: Any, p: Any, g: Any, t: Any, square: Any, moved: Any, o: Any) -> tuple[Any, ...]:
        square = o["rho"] * square + (1 - o["rho"]) * g * g
        delta = (moved + o["eps"]) ** 0.5 / (square + o["eps"]) ** 0.5 * g
        return p - o["lr"] * delta, square, o["rho"] * moved + (1 - o["rho"]) * delta * delta


class Adamax(_Variant):
    """Adam by the largest of the decaying gradients. As torch.optim.Adamax (Kingma and Ba 2015).

    betas: shares of the average and of the maximum that a step keeps; all else as Adadelta's.

    >>> w = ta.tensor([1.0], requires_grad=True)
    >>> optimizer = ta.optim.Adamax([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9
    """

    _kept = ("exp_avg", "exp_inf")

    def __init__(
        self, params: Params | Iterable[Group], lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, *, maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        self._start(params, options, without_effect)

    def _formula(self, xp: Any, p: Any, g: Any, t: Any, mean: Any, most: Any, o: Any) -> tuple[Any, ...]:
        first, second = o["betas"]
        mean = first * mean + (1 - first) * g
        most = xp.maximum(second * most, xp.abs(g) + o["eps"])
        return p - o["lr"] / (1 - first**t) * mean / most, mean, most


class NAdam(_Variant):
    """Adam with Nesterov's momentum. As torch.optim.NAdam (Dozat 2016).

    momentum_decay: how fast the momentum grows to betas[0]. decoupled_weight_decay: shrink the parameter instead, as
    AdamW; all else as Adamax's.

    >>> w = ta.tensor([1.0], requires_grad=True)
    >>> optimizer = ta.optim.NAdam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.8944
    """

    _kept = ("mu_product", "exp_avg", "exp_avg_sq")
    numbers = ("mu_product",)

    def __init__(
        self, params: Params | Iterable[Group], lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False, *, maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        more = {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        self._start(params, {**options, **more, "maximize": maximize}, without_effect)

    def _first(self, name: str, group: Group) -> float:
        return 1.0 if name == "mu_product" else 0.0

    def _formula(
        self, xp: Any, p: Any, g: Any, t: Any, product: Any, mean: Any, square: Any, o: Any
    ) -> tuple[Any, ...]:
        first, second = o["betas"]
        now, then = (first * (1 - 0.5 * 0.96 ** ((t + i) * o["momentum_decay"])) for i in (0, 1))
        # In its dtype, also where t is an array of a GPU; the quotients below in float64, as in PyTorch.
        product = product * xp.cast(xp.asarray(now), product.dtype)
        exact = xp.cast(product, np.float64)
        mean, square = first * mean + (1 - first) * g, second * square + (1 - second) * g * g
        root = (square / (1 - second**t)) ** 0.5 + o["eps"]
        p = p - o["lr"] * (1 - now) / (1 - exact) * g / root
        return p - o["lr"] * then / (1 - exact * then) * mean / root, product, mean, square


class RAdam(_Variant):
    """Adam whose first steps, too few to know the variance, are those of momentum. As torch.optim.RAdam.

    Options as NAdam's, without momentum_decay. Liu et al. 2020, "On the variance of the adaptive learning rate".

    >>> w = ta.tensor([1.0], requires_grad=True)
    >>> optimizer = ta.optim.RAdam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.8
    """

    _kept = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, params: Params | Iterable[Group], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, decoupled_weight_decay: bool = False, *,
        maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        more = {"decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize}
        self._start(params, {**options, **more}, without_effect)

    def _formula(self, xp: Any, p: Any, g: Any, t: Any, mean: Any, square: Any, o: Any) -> tuple[Any, ...]:
        first, second = o["betas"]
        mean, square = first * mean + (1 - first) * g, second * square + (1 - second) * g * g
        left = 1 - second**t
        limit = 2 / (1 - second) - 1
        length = limit - 2 * t * second**t / left  # of the average that estimates the variance
        known = (length > 5) * 1.0
        ratio = xp.abs((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))
        scale = known * (ratio * left) ** 0.5 / (square**0.5 + o["eps"]) + (1 - known)
        return p - o["lr"] * scale * mean / (1 - first**t), mean, square
