"""Schedules that decrease the rate by a factor: at milestones, every epoch, or when a metric stops improving."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tinyattn import backends
from tinyattn.optim.optimizer import Optimizer
from tinyattn.optim.schedule import OUTSIDE, LRScheduler, checked, choice, count, for_each_group


class MultiStepLR(LRScheduler):
    """Multiply the rate by `gamma` at each of the epochs `milestones`. As torch.optim.lr_scheduler.MultiStepLR.

    >>> schedule = optim.MultiStepLR(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), [1, 3], gamma=0.5)
    >>> for _ in range(5):
    ...     print(schedule.get_last_lr()[0], end=" ")
    ...     schedule.step()
    1.0 0.5 0.5 0.25 0.25
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1,
        verbose: Any = False,
    ) -> None:  # fmt: skip
        self.milestones, self.gamma = list(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        drops = Counter(self.milestones)[self.last_epoch]  # an epoch may be listed twice
        return [rate * self.gamma**drops if drops else rate for rate in self._current_lr()]


class ExponentialLR(LRScheduler):
    """Multiply the rate by `gamma` every epoch. As torch.optim.lr_scheduler.ExponentialLR.

    >>> schedule = optim.ExponentialLR(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), gamma=0.5)
    >>> for _ in range(4):
    ...     print(schedule.get_last_lr()[0], end=" ")
    ...     schedule.step()
    1.0 0.5 0.25 0.125
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1, verbose: Any = False) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        change = self.gamma if self.last_epoch and not self._is_initial else 1.0
        return [rate * change for rate in self._current_lr()]


class ByFunction(LRScheduler):
    """Base of the schedules by functions of the epoch, one for all groups or one for each."""

    _no_state = ("optimizer", "lr_lambdas")

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1, verbose: Any = False) -> None:
        self.lr_lambdas = for_each_group(optimizer, "lr_lambda", lr_lambda)
        super().__init__(optimizer, last_epoch)


class MultiplicativeLR(ByFunction):
    """Multiply the rate by `lr_lambda(last_epoch)` every epoch. As torch.optim.lr_scheduler.MultiplicativeLR.

    lr_lambda: one function, or one for each group. `state_dict` does not contain them, because they are code.

    >>> schedule = optim.MultiplicativeLR(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), lambda epoch: 1 / epoch)
    >>> for _ in range(4):
    ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
    ...     schedule.step()
    1.0 1.0 0.5 0.1667
    """

    def get_lr(self) -> list[float]:
        pairs = zip(self._current_lr(), self.lr_lambdas, strict=True)
        changes = self.last_epoch and not self._is_initial
        return [rate * function(self.last_epoch) if changes else rate for rate, function in pairs]


class PolynomialLR(LRScheduler):
    """Decrease the rate to 0 in `total_iters` epochs, as a power. As torch.optim.lr_scheduler.PolynomialLR.

        initial * (1 - epoch / total_iters) ** power

    >>> schedule = optim.PolynomialLR(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), total_iters=4, power=2)
    >>> for _ in range(5):
    ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
    ...     schedule.step()
    1.0 0.5625 0.25 0.0625 0.0
    """

    def __init__(
        self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1,
        verbose: Any = False,
    ) -> None:  # fmt: skip
        self.total_iters, self.power = count("total_iters", total_iters, least=0), power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        epoch, total = self.last_epoch, self.total_iters
        if self._is_initial or not 0 < epoch <= total:
            return self._current_lr()
        change = ((1.0 - epoch / total) / (1.0 - (epoch - 1) / total)) ** self.power
        return [rate * change for rate in self._current_lr()]


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rate by `factor` when a metric stops improving. As torch.optim.lr_scheduler.ReduceLROnPlateau.

    `step(metric)` takes the metric, a number or a tensor of one element, such as the validation loss.
    mode: "min" if the metric should fall, "max" if it should rise.
    patience: epochs without improvement that are tolerated. cooldown: epochs after a reduction that do not count.
    threshold: the least improvement; threshold_mode: relative to the best metric ("rel") or as it is ("abs").
    min_lr: the lower limit, a number or one for each group. eps: smaller changes of the rate are left out.

    >>> schedule = optim.ReduceLROnPlateau(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.step(loss)
    >>> schedule.get_last_lr()
    [0.1]
    """

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
        threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8, verbose: Any = False,
    ) -> None:  # fmt: skip
        if factor >= 1.0:
            raise ValueError(f"ReduceLROnPlateau: factor is {factor}, but it must be below 1.")
        self.mode = choice("mode", mode, ("min", "max"))
        self.threshold_mode = choice("threshold_mode", threshold_mode, ("rel", "abs"))
        self.optimizer = checked(optimizer)
        self.min_lrs = for_each_group(optimizer, "min_lr", min_lr)
        self.factor, self.patience, self.threshold, self.cooldown = factor, patience, threshold, cooldown
        self.eps, self.best = eps, math.inf if mode == "min" else -math.inf
        self.cooldown_counter = self.num_bad_epochs = self.last_epoch = 0
        self._last_lr = self._current_lr()

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take the metric of an epoch; reduce the rates if it has not improved for more than `patience` epochs."""
        backends.refuse_in_capture(OUTSIDE)
        current = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        better = self._is_better(current)
        self.best = current if better else self.best
        self.num_bad_epochs = 0 if better else self.num_bad_epochs + 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                reduced = max(group["lr"] * self.factor, least)
                group["lr"] = reduced if group["lr"] - reduced > self.eps else group["lr"]
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = self._current_lr()

    def _is_better(self, metric: float) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        relative = self.threshold_mode == "rel"
        least = self.best * (1.0 + sign * self.threshold) if relative else self.best + sign * self.threshold
        return metric > least if self.mode == "max" else metric < least
