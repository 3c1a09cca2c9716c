"""Adadelta, Adamax, NAdam, RAdam, ASGD and Rprop: other averages, and steps by the sign alone."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tinyattn import backends
from tinyattn.optim.checks import check_number
from tinyattn.optim.formula import Formula
from tinyattn.optim.optimizer import Group, Params
from tinyattn.tensors import Tensor


class _Variant(Formula):
    """Base of these: `average` is the formula of a gradient whose sign and weight decay have been taken care of."""

    def formula(self, param: Any, grad: Any, *state_and_step: Any, **options: Any) -> tuple[Any, ...]:
        p, g, decay = param, -grad if options["maximize"] else grad, options.get("weight_decay")
        if options.get("decoupled_weight_decay"):
            p = p * (1 - options["lr"] * decay)
        elif decay:
            g = g + decay * p
        return self.average(p, g, *state_and_step, **options)

    def average(self, p: Any, g: Any, *state_and_step: Any, **options: Any) -> tuple[Any, ...]:
        """Compute the new parameter and averages; the last of `state_and_step` is the number t of the step, from 1."""
        raise NotImplementedError


class Adadelta(_Variant):
    """Steps as long as the root of the average of earlier steps' squares. As torch.optim.Adadelta (Zeiler 2012).

    rho: share of the averages that a step keeps. eps: added under both roots. weight_decay: added to the gradient,
    times the parameter. maximize: ascend. All else as for `Optimizer`.

    >>> w = ta.tensor([1.0], requires_grad=True)
    >>> optimizer = ta.optim.Adadelta([w])
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9968
    """

    kept: ClassVar = {"square_avg": "", "acc_delta": ""}

    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0,
        *, maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def average(
        self, p: Any, g: Any, square: Any, moved: Any, t: Any, *, lr: Any, rho: float, eps: float, **other: Any
    ) -> tuple[Any, ...]:
        square = rho * square + (1 - rho) * g * g
        delta = (moved + eps) ** 0.5 / (square + eps) ** 0.5 * g
        return p - lr * delta, square, rho * moved + (1 - rho) * delta * delta


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

    kept: ClassVar = {"exp_avg": "", "exp_inf": ""}

    def __init__(
        self, params: Params, lr: float | Tensor = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, *, maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def average(
        self, p: Any, g: Any, mean: Any, most: Any, t: Any, *, lr: Any, betas: Any, eps: float, **other: Any
    ) -> tuple[Any, ...]:
        xp, (first, second) = backends.of(p), betas
        mean = first * mean + (1 - first) * g
        most = xp.maximum(second * most, xp.abs(g) + eps)
        return p - lr / (1 - first**t) * mean / most, mean, most


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

    kept: ClassVar = {"mu_product": "", "exp_avg": "", "exp_avg_sq": ""}
    numbers = ("mu_product",)
    first: ClassVar = {"mu_product": 1.0}

    def __init__(
        self, params: Params, lr: float | Tensor = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False, *,
        maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def average(
        self, p: Any, g: Any, product: Any, mean: Any, square: Any, t: Any, *, lr: Any, betas: Any, eps: float,
        momentum_decay: float, **other: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        xp, (first, second) = backends.of(p), betas
        now, then = (first * (1 - 0.5 * 0.96 ** ((t + i) * momentum_decay)) for i in (0, 1))
        # In its dtype, also where t is an array of a GPU; the quotients below in float64, as in PyTorch.
        product = product * xp.cast(xp.asarray(now), product.dtype)
        exact = xp.cast(product, np.float64)
        mean, square = first * mean + (1 - first) * g, second * square + (1 - second) * g * g
        root = (square / (1 - second**t)) ** 0.5 + eps
        p = p - lr * (1 - now) / (1 - exact) * g / root
        return p - lr * then / (1 - exact * then) * mean / root, product, mean, square


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

    kept: ClassVar = {"exp_avg": "", "exp_avg_sq": ""}

    def __init__(
        self, params: Params, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, decoupled_weight_decay: bool = False, *, maximize: bool = False,
        **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def average(
        self, p: Any, g: Any, mean: Any, square: Any, t: Any, *, lr: Any, betas: Any, eps: float, **other: Any
    ) -> tuple[Any, ...]:
        xp, (first, second) = backends.of(p), betas
        mean, square = first * mean + (1 - first) * g, second * square + (1 - second) * g * g
        left = 1 - second**t
        limit = 2 / (1 - second) - 1
        length = limit - 2 * t * second**t / left  # of the average that estimates the variance
        known = (length > 5) * 1.0  # else nothing may be divided by the limit, which is 4 or 2 of some betas
        ratio = xp.abs((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length * known + (1 - known)))
        scale = known * (ratio * left) ** 0.5 / (square**0.5 + eps) + (1 - known)
        return p - lr * scale * mean / (1 - first**t), mean, square


class ASGD(_Variant):
    """Gradient descent with a falling learning rate, which also averages the parameters. As torch.optim.ASGD.

    The rate of step t + 1 is lr / (1 + lambd * lr * t) ** alpha. lambd: decay term; each step also shrinks the
    parameter by the factor 1 - lambd * rate. alpha: power of the decay. t0: the step after which parameters are
    averaged, in `state[param]["ax"]`, of the parameter's shape; before it, "ax" is the parameter. weight_decay: added
    to the gradient, times the parameter (L2). maximize: ascend. All else as for `Optimizer`.
    Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging".

    >>> w = ta.tensor([1.0], requires_grad=True)
    >>> optimizer = ta.optim.ASGD([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.8
    """

    kept: ClassVar = {"eta": "", "mu": "", "ax": ""}
    numbers = ("eta", "mu")
    first: ClassVar = {"eta": "lr", "mu": 1.0}

    def __init__(
        self, params: Params, lr: float | Tensor = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
        weight_decay: float = 0, *, maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def average(
        self, p: Any, g: Any, eta: Any, mu: Any, mean: Any, t: Any, *, lr: Any, lambd: float, alpha: float, t0: float,
        **other: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        xp = backends.of(p)
        now = xp.cast(eta, np.float64)  # a number, as in PyTorch: its products are not rounded to its dtype
        p = p * (1 - lambd * now) - now * g
        eta = lr / (1 + lambd * lr * t) ** alpha
        return p, eta, 1 / xp.maximum(xp.asarray(t - t0), xp.asarray(1.0)), mean + (p - mean) * mu


class Rprop(_Variant):
    """Step by the sign of the gradient alone; each element has a step size of its own. As torch.optim.Rprop.

    lr: initial step size. etas: factors of the step size, the first where the sign of the gradient has changed, the
    second where it has not. After a change, the element stays for one step. step_sizes: smallest and largest step
    size. maximize: ascend. Raises ValueError unless 0 < etas[0] < 1 < etas[1] and 0 <= step_sizes[0] <= step_sizes[1].
    For whole-batch gradients: the noise of small batches changes signs. Riedmiller and Braun 1993, "A direct adaptive
    method for faster backpropagation learning: the RPROP algorithm".

    >>> w = ta.tensor([1.0], requires_grad=True)
    >>> optimizer = ta.optim.Rprop([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.9
    """

    kept: ClassVar = {"prev": "", "step_size": ""}
    first: ClassVar = {"step_size": "lr"}
    apart = ("lr",)

    def __init__(
        self, params: Params, lr: float | Tensor = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50), *, maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def check(self, options: Group) -> None:
        check_number(options, "lr")
        (less, more), (low, high) = options["etas"], options["step_sizes"]
        if not 0 < less < 1 < more or not 0 <= low <= high:
            raise ValueError(
                f"Rprop: etas={(less, more)} and step_sizes={(low, high)}; expected one of 0 to 1 and one above 1, and "
                "the shorter step first"
            )

    def average(
        self, p: Any, g: Any, before: Any, size: Any, t: Any, *, etas: Any, step_sizes: Any, **other: Any
    ) -> tuple[Any, ...]:
        xp, same = backends.of(p), backends.of(p).sign(g * before)
        size = xp.clamp(xp.where(same > 0, size * etas[1], xp.where(same < 0, size * etas[0], size)), *step_sizes)
        g = xp.where(same < 0, g * 0, g)
        return p - xp.sign(g) * size, g, size
