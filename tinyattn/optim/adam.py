"""Adam and AdamW: steps scaled by running averages of the gradient and of its square."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tinyattn import backends
from tinyattn.optim import fused
from tinyattn.optim.formula import Formula
from tinyattn.optim.optimizer import Group, Params
from tinyattn.tensors import Tensor


def adam_definition(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    max_exp_avg_sq: Any,
    step: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
) -> tuple[Any, Any, Any, Any]:
    """Compute step number t (from 1): the new (param, exp_avg, exp_avg_sq, max_exp_avg_sq).

    All are arrays or tensors of one shape; max_exp_avg_sq is None without AMSGrad.
    Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1; decoupled weight
    decay: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2;
    AMSGrad: Reddi, Kale and Kumar 2018, "On the convergence of Adam and beyond".

    Example, whose first step is about lr long, whatever the gradient:
        >>> p, m, v, _ = optim.adam_definition(1.0, 20.0, 0.0, 0.0, None, 1, lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8)
        >>> round(p, 6)
        0.9
    """
    p, m, v, v_max = param, exp_avg, exp_avg_sq, max_exp_avg_sq
    g = -grad if maximize else grad
    if decoupled:
        p = p - lr * weight_decay * p  # AdamW: p = (1 - lr wd) p
    else:
        g = g + weight_decay * p  # Adam: g = df/dp + wd p
    m = beta1 * m + (1 - beta1) * g  # m = b1 m + (1 - b1) g
    v = beta2 * v + (1 - beta2) * g * g  # v = b2 v + (1 - b2) g^2
    if v_max is not None:
        v_max = backends.of(v).maximum(v_max, v)  # AMSGrad: the largest v so far
    m_hat = m / (1 - beta1**step)  # m^ = m / (1 - b1^t): undo the start at zero
    v_hat = (v if v_max is None else v_max) / (1 - beta2**step)  # v^ = v / (1 - b2^t)
    p = p - lr * m_hat / (v_hat**0.5 + eps)  # p = p - lr m^ / (sqrt(v^) + eps)
    return p, m, v, v_max


class Adam(Formula):
    """Adam (Kingma and Ba 2015): `adam_definition`, above, for every parameter. As torch.optim.Adam.

    lr: learning rate, about the size of one step. betas: share of the running averages of the gradient and of its
    square that each step keeps, in [0, 1). eps: added to the root, outside the bias correction.
    weight_decay: added to the gradient, times the parameter (L2); with decoupled_weight_decay (AdamW) subtracted from
    the parameter instead. amsgrad: divide by the largest average so far. maximize: ascend instead of descend. All else,
    and errors, as for `Optimizer`.

    >>> w = ta.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = ta.optim.Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([ 0.9, -1.9], requires_grad=True)
    """

    kept: ClassVar = {"exp_avg": "", "exp_avg_sq": "", "max_exp_avg_sq": "amsgrad"}
    kernel = "adam_step"
    formula = staticmethod(adam_definition)

    def __init__(
        self, params: Params, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, amsgrad: bool = False, *, maximize: bool = False,
        decoupled_weight_decay: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def update_all(self) -> None:
        fused.update_all(self, Adam.update)

    def update_together(self, params: Sequence[Tensor], group: Group) -> None:
        """Update parameters on one GPU by one launch; their steps have been counted."""
        p, m, v, v_max = zip(*(self._arrays(param, self.state[param], group) for param in params), strict=True)
        grads = [param.grad.array for param in params if param.grad is not None]
        steps = [self.state[param]["step"].array for param in params]
        tops = v_max if group["amsgrad"] else None
        backends.of(*p).adam_steps(p, grads, m, v, tops, steps, **self._options(group, p[0]))

    def _options(self, group: Group, array: Any) -> dict[str, Any]:
        return {
            "lr": backends.of(array).live(group, "lr"),
            "beta1": group["betas"][0],
            "beta2": group["betas"][1],
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
            "decoupled": group["decoupled_weight_decay"],
            "maximize": group["maximize"],
        }


class AdamW(Adam):
    """Adam with decoupled weight decay, p = (1 - lr wd) p (Loshchilov and Hutter 2019). As torch.optim.AdamW.

    Arguments and errors as for `Adam`; weight_decay is 0.01 unless given.

    >>> w = ta.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = ta.optim.AdamW([w], lr=0.1, weight_decay=0.1)
    >>> (0 * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([ 0.99, -1.98], requires_grad=True)
    """

    fixed: ClassVar = {"decoupled_weight_decay": True}

    def __init__(
        self, params: Params, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False, **without_effect: Any,
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def check(self, options: Group) -> None:
        super().check(options)
        self._check_decoupled(options)

    def check_loaded(self, options: Group) -> None:
        super().check_loaded(options)
        self._check_decoupled(options)

    def _check_decoupled(self, options: Group) -> None:
        if not options["decoupled_weight_decay"]:
            raise ValueError("AdamW has decoupled weight decay; a state saved by Adam goes into Adam.")
