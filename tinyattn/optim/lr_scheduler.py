"""Learning-rate schedules, as in torch.optim.lr_scheduler.

A schedule writes `param_groups[i]["lr"]` of its optimizer: once when it is made, and once at every
`step()`, which is called after `optimizer.step()`. Each computes the next rate from the present
one, so that several schedules can be stepped together and multiply each other's factors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, TypeAlias

from tinyattn import backends
from tinyattn.optim.optimizer import Optimizer

_OUTSIDE = "a schedule's step() belongs outside of the compiled step: learning rates are read at each call"
LRFunction: TypeAlias = Callable[[int], float]


class LRScheduler(ABC):
    """Base of all schedules. `last_epoch` counts the calls of `step()`, whatever they stand for.

    A schedule of your own says in `get_lr` what the rates of the groups are at `last_epoch`.
    """

    _no_state: tuple[str, ...] = ("optimizer",)

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        """last_epoch: -1 to begin, or the last epoch of the run to continue, whose optimizer state
        was loaded before (`load_state_dict` here is the simpler way)."""
        for i, group in enumerate(_checked(optimizer).param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"last_epoch={last_epoch} continues a run, but param_groups[{i}] has no "
                    "'initial_lr'; load the optimizer's state_dict of that run first."
                )
        self.optimizer = optimizer
        self.base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    @abstractmethod
    def get_lr(self) -> list[float]:
        """The learning rate of each group at `last_epoch`, from those at the epoch before."""

    def step(self) -> None:
        """Go on to the next epoch (or batch: one call, one unit of the schedule)."""
        backends.refuse_in_capture(_OUTSIDE)
        self._go_to(self.last_epoch + 1)

    def get_last_lr(self) -> list[float]:
        """The learning rate of each parameter group that this schedule set last."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer (and functions), as plain numbers and lists."""
        state = {key: value for key, value in vars(self).items() if key not in self._no_state}
        return {key: _copied(value) for key, value in state.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same kind of schedule, this package's or torch's.

        The rates themselves are in the optimizer's state. Raises ValueError where it does not fit.
        """
        mine = self.state_dict()
        missing = [key for key in mine if key not in state_dict]
        if missing:
            raise ValueError(f"the loaded state has no {missing[0]!r}; it was not saved by a {type(self).__name__}.")
        groups = len(self.optimizer.param_groups)
        if len(state_dict["_last_lr"]) != groups:
            raise ValueError(
                f"the loaded state has {len(state_dict['_last_lr'])} learning rates, but the "
                f"optimizer has {groups} parameter groups."
            )
        vars(self).update({k: _copied(state_dict[k]) for k in mine if k not in self._no_state})

    def _present_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _begin(self) -> None:
        """Go to epoch 0, from the present rates."""
        self._go_to(0)

    def _go_to(self, epoch: int) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise ValueError(
                f"the schedule was made for {len(self.base_lrs)} parameter groups, but the "
                f"optimizer now has {len(groups)}; add the groups first and make the schedule afterwards."
            )
        self.last_epoch = epoch
        for group, rate in zip(groups, self.get_lr(), strict=True):
            group["lr"] = float(rate)
        self._last_lr = self._present_lr()


class LambdaLR(LRScheduler):
    """The initial rate times `lr_lambda(last_epoch)`; one function, or one for each group.

    The functions are code and no part of `state_dict`: make the schedule with the same ones again.
    """

    _no_state = ("optimizer", "lr_lambdas")

    def __init__(
        self, optimizer: Optimizer, lr_lambda: LRFunction | Sequence[LRFunction], last_epoch: int = -1
    ) -> None:
        groups = len(_checked(optimizer).param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            raise ValueError(
                f"lr_lambda has {len(self.lr_lambdas)} functions, but the optimizer has {groups} "
                "parameter groups; pass one function, or one for each group."
            )
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [base * function(self.last_epoch) for base, function in pairs]


class StepLR(LRScheduler):
    """The rate times `gamma` after every `step_size` epochs."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = _count("step_size", step_size)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        drops = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return [rate * self.gamma if drops else rate for rate in self._present_lr()]


class ConstantLR(LRScheduler):
    """The rate times `factor` for the first `total_iters` epochs, then the full rate."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        self.factor = _share("factor", factor)
        self.total_iters = _count("total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        change = {0: self.factor, self.total_iters: 1 / self.factor}.get(self.last_epoch, 1.0)
        return [rate * change for rate in self._present_lr()]


class LinearLR(LRScheduler):
    """The rate times a factor that goes in a line from `start_factor` to `end_factor` over
    `total_iters` epochs and stays there: warm-up with start_factor < end_factor."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor = _share("start_factor", start_factor)
        self.end_factor = _share("end_factor", end_factor, zero=True)
        self.total_iters = _count("total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        rise = self.end_factor - self.start_factor
        if self.last_epoch == 0:
            change = self.start_factor
        elif self.last_epoch > self.total_iters:
            change = 1.0
        else:  # the quotient of two neighbours on the line, start + rise * epoch / total
            before = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
            change = 1.0 + rise / before
        return [rate * change for rate in self._present_lr()]


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial rate down to `eta_min` at epoch `T_max`, and up again after:

        eta_min + (initial - eta_min) * (1 + cos(pi * epoch / T_max)) / 2

    Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = _count("T_max", T_max)
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        rates, low, epoch = self._present_lr(), self.eta_min, self.last_epoch
        if epoch == 0:
            return rates
        before = 1 + math.cos(math.pi * (epoch - 1) / self.T_max)
        if (epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # coming from eta_min: no quotient
            rise = (1 - math.cos(math.pi / self.T_max)) / 2
            pairs = zip(rates, self.base_lrs, strict=True)
            return [rate + (base - low) * rise for rate, base in pairs]
        change = (1 + math.cos(math.pi * epoch / self.T_max)) / before
        return [change * (rate - low) + low for rate in rates]


class _Combined(LRScheduler):
    """A schedule made of others."""

    _no_state = ("optimizer", "_schedulers")

    def __init__(self, optimizer: Optimizer | None, schedulers: Sequence[LRScheduler]) -> None:
        if not schedulers or optimizer is None:
            raise ValueError(f"{type(self).__name__} needs at least one schedule, but got none.")
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"schedulers[{i}] is no schedule but {type(scheduler).__name__}.")
            if scheduler.optimizer is not optimizer:
                raise ValueError(
                    f"schedulers[{i}], a {type(scheduler).__name__}, belongs to another optimizer; "
                    f"all schedules of a {type(self).__name__} set the rates of one."
                )
        self.optimizer = optimizer
        self._schedulers = list(schedulers)

    def get_lr(self) -> list[float]:
        return self._present_lr()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        parts = state_dict.get("_schedulers", ())
        if len(parts) != len(self._schedulers):
            raise ValueError(
                f"the loaded state has {len(parts)} schedules inside, but this "
                f"{type(self).__name__} has {len(self._schedulers)}."
            )
        super().load_state_dict(state_dict)
        for scheduler, part in zip(self._schedulers, parts, strict=True):
            scheduler.load_state_dict(part)


class SequentialLR(_Combined):
    """One schedule after another: schedulers[i + 1] begins, at its epoch 0, at epoch milestones[i].

    Warm-up and then a cosine, for `steps` batches:

        warmup = LinearLR(optimizer, start_factor=0.01, total_iters=200)
        cosine = CosineAnnealingLR(optimizer, T_max=steps - 200)
        schedule = SequentialLR(optimizer, [warmup, cosine], milestones=[200])
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]) -> None:
        super().__init__(optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1 or list(milestones) != sorted({*milestones}):
            raise ValueError(
                f"milestones must be {len(schedulers) - 1} epochs in rising order, one for each of "
                f"the {len(schedulers)} schedules but the first, and not {list(milestones)}."
            )
        self._milestones = [_count("a milestone", milestone) for milestone in milestones]
        self._reset_lr()
        self._begin()

    def step(self) -> None:
        backends.refuse_in_capture(_OUTSIDE)
        self.last_epoch += 1
        part = self._schedulers[bisect_right(self._milestones, self.last_epoch)]
        if self.last_epoch in self._milestones:
            self._reset_lr()
            part._begin()
        else:
            part.step()
        self._last_lr = self._present_lr()

    def _begin(self) -> None:
        self.last_epoch = 0
        self._schedulers[0]._begin()
        self._last_lr = self._present_lr()

    def _reset_lr(self) -> None:
        """Undo what the schedules, each in its turn, have done to the rates."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"]


class ChainedScheduler(_Combined):
    """Several schedules at once: each `step()` steps them all, and their factors multiply."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        if optimizer is None and schedulers:
            optimizer = schedulers[0].optimizer
        super().__init__(optimizer, schedulers)
        self._last_lr = self._present_lr()

    def step(self) -> None:
        backends.refuse_in_capture(_OUTSIDE)
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self._present_lr()

    def _begin(self) -> None:
        for scheduler in self._schedulers:
            scheduler._begin()
        self._last_lr = self._present_lr()


def _checked(optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"a schedule needs an Optimizer, but got {type(optimizer).__name__}.")
    return optimizer


def _count(name: str, value: Any) -> int:
    if not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number of epochs, but got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but got {value}.")
    return int(value)


def _share(name: str, value: float, zero: bool = False) -> float:
    if not (0.0 < value <= 1.0 or (zero and value == 0.0)):
        limit = "at least" if zero else "above"
        raise ValueError(f"{name} must be {limit} 0 and at most 1, but got {value}.")
    return value


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
