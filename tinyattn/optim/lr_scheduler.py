"""Learning-rate schedules, as in torch.optim.lr_scheduler.

A schedule sets `param_groups[i]["lr"]` of its optimizer: at construction, and at every `step()`, which is called after
`optimizer.step()`. Each computes the next rate from the current one, so several schedules can be stepped together:
their factors multiply.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from tinyattn import backends
from tinyattn.optim.cycles import CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR
from tinyattn.optim.decays import (
    ByFunction,
    ExponentialLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    ReduceLROnPlateau,
)
from tinyattn.optim.optimizer import Optimizer
from tinyattn.optim.schedule import OUTSIDE, LRScheduler, count, share

__all__ = [
    "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR",
    "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR",
    "ReduceLROnPlateau", "SequentialLR", "StepLR",
]  # fmt: skip

LRFunction: TypeAlias = Callable[[int], float]
_LRScheduler = LRScheduler  # PyTorch's earlier name


class LambdaLR(ByFunction):
    """Set the rate to the initial rate times `lr_lambda(last_epoch)`. As torch.optim.lr_scheduler.LambdaLR.

    lr_lambda: one function, or one for each group. `state_dict` does not contain them, because they are code.

    >>> schedule = optim.LambdaLR(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), lambda epoch: 0.9**epoch)
    >>> for _ in range(5):
    ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
    ...     schedule.step()
    1.0 0.9 0.81 0.729 0.6561
    """

    def get_lr(self) -> list[float]:
        pairs = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [base * function(self.last_epoch) for base, function in pairs]


class StepLR(LRScheduler):
    """Multiply the rate by `gamma` every `step_size` epochs. As torch.optim.lr_scheduler.StepLR.

    >>> schedule = optim.StepLR(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), step_size=2, gamma=0.5)
    >>> for _ in range(5):
    ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
    ...     schedule.step()
    1.0 1.0 0.5 0.5 0.25
    """

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1, verbose: Any = False
    ) -> None:
        self.step_size, self.gamma = count("step_size", step_size), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        drops = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return [rate * self.gamma if drops else rate for rate in self._current_lr()]


class ConstantLR(LRScheduler):
    """Multiply the rate by `factor` for the first `total_iters` epochs. As torch.optim.lr_scheduler.ConstantLR.

    >>> schedule = optim.ConstantLR(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), factor=0.5, total_iters=2)
    >>> for _ in range(5):
    ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
    ...     schedule.step()
    0.5 0.5 1.0 1.0 1.0
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1,
        verbose: Any = False,
    ) -> None:  # fmt: skip
        self.factor, self.total_iters = share("factor", factor), count("total_iters", total_iters, least=0)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        change = {self.total_iters: 1 / self.factor, 0: self.factor}.get(self.last_epoch, 1.0)
        return [rate * change for rate in self._current_lr()]


class LinearLR(LRScheduler):
    """Multiply the rate by a factor that changes linearly, for warm-up. As torch.optim.lr_scheduler.LinearLR.

    The factor goes from start_factor (above 0) to end_factor in `total_iters` epochs and stays there; both at most 1.

    >>> schedule = optim.LinearLR(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), start_factor=0.25, total_iters=3)
    >>> for _ in range(5):
    ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
    ...     schedule.step()
    0.25 0.5 0.75 1.0 1.0
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5,
        last_epoch: int = -1, verbose: Any = False,
    ) -> None:  # fmt: skip
        self.start_factor = share("start_factor", start_factor)
        self.end_factor = share("end_factor", end_factor, zero=True)
        self.total_iters = count("total_iters", total_iters, least=0)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            change = self.start_factor
        elif self._is_initial or self.last_epoch > self.total_iters:
            change = 1.0
        else:  # the quotient of two neighbours on the line
            change = self._on_the_line(self.last_epoch) / self._on_the_line(self.last_epoch - 1)
        return [rate * change for rate in self._current_lr()]

    def _on_the_line(self, epoch: int) -> float:
        """total_iters times the factor: a sum without cancellation, so never below 0, and 0 exactly at an end of 0."""
        return (self.total_iters - epoch) * self.start_factor + epoch * self.end_factor


class CosineAnnealingLR(LRScheduler):
    """Decrease the rate along half a cosine. As torch.optim.lr_scheduler.CosineAnnealingLR.

    From the initial rate to `eta_min` at epoch `T_max`, and up again after it:

        eta_min + (initial - eta_min) * (1 + cos(pi * epoch / T_max)) / 2

    Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".

    >>> schedule = optim.CosineAnnealingLR(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), T_max=4)
    >>> for _ in range(5):
    ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
    ...     schedule.step()
    1.0 0.8536 0.5 0.1464 0.0
    """

    def __init__(
        self, optimizer: Optimizer, T_max: float, eta_min: float = 0.0, last_epoch: int = -1, verbose: Any = False
    ) -> None:
        part = isinstance(T_max, float) and T_max > 0 and not T_max.is_integer()  # of an epoch
        self.T_max, self.eta_min = T_max if part else count("T_max", T_max), eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        rates, low, epoch = self._current_lr(), self.eta_min, self.last_epoch
        if self._is_initial or epoch == 0:
            return rates
        before, now = self._height(epoch - 1), self._height(epoch)
        if before == 0.0:  # coming from eta_min: no quotient
            pairs = zip(rates, self.base_lrs, strict=True)
            return [rate + (base - low) * now for rate, base in pairs]
        return [(rate - low) * (now / before) + low for rate in rates]

    def _height(self, epoch: int) -> float:
        """(1 + cos(pi * epoch / T_max)) / 2 as the square of a sine: no cancellation, and 0 exactly at the bottom."""
        after_bottom = (epoch - self.T_max) % (2 * self.T_max)
        return math.sin(math.pi * after_bottom / (2 * self.T_max)) ** 2


class _Combined(LRScheduler):
    """A schedule composed of other schedules of the same optimizer."""

    _no_state = ("optimizer", "_schedulers")

    def __init__(self, optimizer: Optimizer | None, schedulers: Sequence[LRScheduler]) -> None:
        if not schedulers or optimizer is None:
            raise ValueError(f"{type(self).__name__} needs at least one schedule, but got none.")
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"schedulers[{i}] is a {type(scheduler).__name__}; expected a schedule.")
            if scheduler.optimizer is not optimizer:
                raise ValueError(
                    f"schedulers[{i}], a {type(scheduler).__name__}, belongs to another optimizer; "
                    f"all schedules of a {type(self).__name__} set the rates of one."
                )
        self.optimizer = optimizer
        self._schedulers = list(schedulers)

    def get_lr(self) -> list[float]:
        return self._current_lr()

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
    """Run one schedule after another. As torch.optim.lr_scheduler.SequentialLR.

    schedulers[i + 1] begins, at its epoch 0, at epoch milestones[i].

    Example, warm-up and then a cosine:
        >>> optimizer = optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0)
        >>> warmup = optim.LinearLR(optimizer, start_factor=0.5, total_iters=2)
        >>> cosine = optim.CosineAnnealingLR(optimizer, T_max=4)
        >>> schedule = optim.SequentialLR(optimizer, [warmup, cosine], milestones=[2])
        >>> for _ in range(6):
        ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
        ...     schedule.step()
        0.5 0.75 1.0 0.8536 0.5 0.1464
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
        verbose: Any = False,
    ) -> None:
        super().__init__(optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1 or list(milestones) != sorted({*milestones}):
            raise ValueError(
                f"milestones must be {len(schedulers) - 1} epochs in rising order, one for each of "
                f"the {len(schedulers)} schedules but the first, and not {list(milestones)}."
            )
        self._milestones = [count("a milestone", milestone) for milestone in milestones]
        self._reset_lr()
        self._begin()

    def step(self, epoch: Any = None) -> None:
        backends.refuse_in_capture(OUTSIDE)
        self.last_epoch += 1
        part = self._schedulers[bisect_right(self._milestones, self.last_epoch)]
        if self.last_epoch in self._milestones:
            self._reset_lr()
            part._begin()
        else:
            part.step()
        self._last_lr = self._current_lr()

    def _begin(self) -> None:
        self.last_epoch = 0
        self._schedulers[0]._begin()
        self._last_lr = self._current_lr()

    def _reset_lr(self) -> None:
        """Undo the changes that the schedules have made to the rates."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"]


class ChainedScheduler(_Combined):
    """Step several schedules at once; their factors multiply. As torch.optim.lr_scheduler.ChainedScheduler.

    optimizer: theirs, if given.

    >>> optimizer = optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0)
    >>> schedule = optim.ChainedScheduler([optim.StepLR(optimizer, 2, 0.5), optim.ConstantLR(optimizer, 0.1, 1)])
    >>> for _ in range(5):
    ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
    ...     schedule.step()
    0.1 1.0 0.5 0.5 0.25
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        if optimizer is None and schedulers:
            optimizer = schedulers[0].optimizer
        super().__init__(optimizer, schedulers)
        self._last_lr = self._current_lr()

    def step(self, epoch: Any = None) -> None:
        backends.refuse_in_capture(OUTSIDE)
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self._current_lr()

    def _begin(self) -> None:
        for scheduler in self._schedulers:
            scheduler._begin()
        self._last_lr = self._current_lr()
