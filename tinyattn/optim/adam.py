"""Adam and AdamW: steps scaled by running averages of the gradient and of its square."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tinyattn import backends
from tinyattn.dtypes import float32, float64
from tinyattn.engine.modes import definitions_enabled
from tinyattn.ops import creation
from tinyattn.optim.optimizer import Group, Optimizer, Params, State, check_betas, check_number
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
    """Step number t (from 1), as a formula: the new (param, exp_avg, exp_avg_sq, max_exp_avg_sq).

    Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1; decoupled weight
    decay: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2;
    max_exp_avg_sq (or None): Reddi, Kale and Kumar 2018, "On the convergence of Adam and beyond".
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


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015); the update itself is `adam_definition`, ten lines above.

    params: tensors, (name, tensor) pairs, or parameter groups; see `Optimizer`.
    lr: learning rate, about the size of one step. betas: how much of the running averages of the
    gradient and of its square each step keeps. eps: added to the root, outside the bias correction.
    weight_decay: added to the gradient, times the parameter (L2); taken off the parameter itself
    with decoupled_weight_decay, which is AdamW. amsgrad: divide by the largest average so far.
    maximize: climb instead of descend.
    Raises ValueError for a negative or non-finite option, or betas outside [0, 1).
    As torch.optim.Adam.
    """

    elementwise = True  # so many small parameters may be updated as one

    def __init__(
        self,
        params: Params | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def check(self, options: Group) -> None:
        super().check(options)
        for name in ("eps", "weight_decay"):
            check_number(options, name)
        check_betas(options)

    def state_names(self, group: Group) -> tuple[str, ...]:
        names = ("step", "exp_avg", "exp_avg_sq")
        return (*names, "max_exp_avg_sq") if group["amsgrad"] else names

    def update(self, param: Tensor, grad: Any, state: State, group: Group) -> None:
        p, m, v, v_max = self._arrays(param, state, group)
        library, options = backends.of(p), _arguments(group)
        step, options["lr"] = library.counted(state["step"].array), library.live(group, "lr")
        if not definitions_enabled():
            library.adam_step(p, grad, m, v, v_max, step, **options)
            return
        step = step if isinstance(step, int) else library.cast(step, float64)  # counted on a GPU
        with library.quiet():
            news = adam_definition(p, grad, m, v, v_max, step, **options)
        for old, new in zip((p, m, v, v_max), news, strict=True):
            if old is not None:
                old[...] = new

    def update_together(self, params: Sequence[Tensor], group: Group) -> None:
        if definitions_enabled():
            super().update_together(params, group)
            return
        p, m, v, v_max = zip(*(self._arrays(param, self.state[param], group) for param in params), strict=True)
        library = backends.of(*p)
        grads = [param.grad.array for param in params if param.grad is not None]
        steps = [library.counted(self.state[param]["step"].array) for param in params]
        options = {**_arguments(group), "lr": library.live(group, "lr")}
        library.adam_steps(p, grads, m, v, v_max if group["amsgrad"] else None, steps, **options)

    def _arrays(self, param: Tensor, state: State, group: Group) -> tuple[Any, Any, Any, Any]:
        """The parameter, its two moments and the largest second one (or None); zeros for those not there yet."""
        for name in self.state_names(group):
            if name not in state:
                counter = name == "step"
                shape = () if counter else param.shape
                state[name] = creation.zeros(shape, dtype=float32 if counter else param.dtype, device=param.device)
        v_max = state["max_exp_avg_sq"].array if group["amsgrad"] else None
        return param.array, state["exp_avg"].array, state["exp_avg_sq"].array, v_max


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): p = (1 - lr wd) p.

    Arguments as for `Adam`. As torch.optim.AdamW.
    """

    def __init__(
        self,
        params: Params | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)

    def check(self, options: Group) -> None:
        super().check(options)
        if not options["decoupled_weight_decay"]:
            raise ValueError("AdamW decouples its weight decay; a state saved by Adam goes into Adam.")


def _arguments(group: Group) -> dict[str, Any]:
    """A parameter group's options under the names of the definition and the kernel."""
    return {
        "lr": group["lr"],
        "beta1": group["betas"][0],
        "beta2": group["betas"][1],
        "eps": group["eps"],
        "weight_decay": group["weight_decay"],
        "decoupled": group["decoupled_weight_decay"],
        "maximize": group["maximize"],
    }
