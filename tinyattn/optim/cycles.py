"""Schedules in cycles: warm restarts, triangles, and the one cycle of "super-convergence"."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tinyattn.optim.optimizer import Optimizer
from tinyattn.optim.schedule import LRScheduler, checked, choice, count, for_each_group

Rates = float | Sequence[float]


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half a cosine from the initial rate to `eta_min`, again and again (Loshchilov and Hutter 2017, "SGDR").

    T_0: epochs of the first cosine; each is `T_mult` times as long as the one before. `step(epoch)` also takes a
    fraction, such as epoch + batch / batches. As torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.

    >>> schedule = optim.CosineAnnealingWarmRestarts(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), T_0=2)
    >>> for _ in range(5):
    ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
    ...     schedule.step()
    1.0 0.5 1.0 0.5 1.0
    """

    _jumps = True

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1,
        verbose: Any = False,
    ) -> None:  # fmt: skip
        self.T_0, self.T_mult, self.eta_min = count("T_0", T_0), count("T_mult", T_mult), eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        low, share = self.eta_min, 1 + math.cos(math.pi * self.T_cur / self.T_i)
        return [low + (base - low) * share / 2 for base in self.base_lrs]

    def _go_to(self, epoch: float) -> None:
        if not epoch >= 0:
            raise ValueError(f"CosineAnnealingWarmRestarts: epoch {epoch}; expected at least 0")
        self.T_cur, self.T_i = (epoch % self.T_0 if self.T_mult == 1 else epoch), self.T_0
        while self.T_cur >= self.T_i:
            self.T_cur, self.T_i = self.T_cur - self.T_i, self.T_i * self.T_mult
        super()._go_to(math.floor(epoch))


class _WithMomentum(LRScheduler):
    """A schedule that moves the momentum (beta1 of Adam) against the rate, if `cycle_momentum`."""

    cycle_momentum: bool
    use_beta1: bool

    def _set_up_momentum(self, cycle: bool, low: Rates, high: Rates, begin: bool) -> None:
        optimizer, self.cycle_momentum = self.optimizer, cycle
        if not cycle:
            return
        self.use_beta1 = "betas" in optimizer.defaults
        if not self.use_beta1 and "momentum" not in optimizer.defaults:
            raise ValueError(
                f"{type(self).__name__}: {type(optimizer).__name__} has neither momentum nor betas to cycle; "
                "pass cycle_momentum=False."
            )
        self.base_momentums = for_each_group(optimizer, "base_momentum", low)
        self.max_momentums = for_each_group(optimizer, "max_momentum", high)
        limits = zip(optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True)
        for group, least, most in limits if begin else ():
            group["base_momentum"], group["max_momentum"] = least, most
            self._set_momentum(group, most)

    def _set_momentum(self, group: dict[str, Any], momentum: float) -> None:
        if self.use_beta1:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            group["momentum"] = momentum


class CyclicLR(_WithMomentum):
    """The rate goes up and down between two limits (Smith 2017, "Cyclical learning rates for training networks").

    base_lr, max_lr: the limits, numbers or one for each group. step_size_up, step_size_down: steps of a way up and
    down (as many if left out).
    mode: "triangular"; "triangular2" halves the height each cycle; "exp_range" multiplies it by gamma each step.
    scale_fn: a function of the cycle, or with scale_mode="iterations" of the step, which replaces these; it is not in
    `state_dict`. cycle_momentum: move the momentum against the rate. As torch.optim.lr_scheduler.CyclicLR.

    >>> optimizer = optim.SGD([ta.ones(1, requires_grad=True)], momentum=0.9)
    >>> schedule = optim.CyclicLR(optimizer, base_lr=0.0, max_lr=1.0, step_size_up=2)
    >>> for _ in range(5):
    ...     print(schedule.get_last_lr()[0], end=" ")
    ...     schedule.step()
    0.0 0.5 1.0 0.5 0.0
    """

    _no_state = ("optimizer", "scale_fn")

    def __init__(
        self, optimizer: Optimizer, base_lr: Rates, max_lr: Rates, step_size_up: int = 2000,
        step_size_down: int | None = None, mode: str = "triangular", gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle", cycle_momentum: bool = True,
        base_momentum: Rates = 0.8, max_momentum: Rates = 0.9, last_epoch: int = -1, verbose: Any = False,
    ) -> None:  # fmt: skip
        self.optimizer, begin = checked(optimizer), last_epoch == -1
        base_lrs = for_each_group(optimizer, "base_lr", base_lr)
        self.max_lrs = for_each_group(optimizer, "max_lr", max_lr)
        for group, rate in zip(optimizer.param_groups, base_lrs, strict=True) if begin else ():
            group["lr"] = rate
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size = float(step_size_up) + float(down)
        self.step_ratio = step_size_up / self.total_size
        self.mode, self.gamma, self.scale_fn = mode, gamma, scale_fn
        if scale_fn is None:
            choice("mode", mode, ("triangular", "triangular2", "exp_range"))
            scale_mode = "iterations" if mode == "exp_range" else "cycle"
        self.scale_mode = choice("scale_mode", scale_mode, ("cycle", "iterations"))
        self._set_up_momentum(cycle_momentum, base_momentum, max_momentum, begin)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def get_lr(self) -> list[float]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle  # the share of the cycle that has passed
        share = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        scale = self._scale(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            limits = zip(self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True)
            for group, low, high in limits:
                self._set_momentum(group, high - (high - low) * share * scale)
        return [low + (high - low) * share * scale for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]

    def _scale(self, x: float) -> float:
        if self.scale_fn is not None:
            return self.scale_fn(x)
        return {"triangular": 1.0, "triangular2": 1 / 2.0 ** (x - 1), "exp_range": self.gamma**x}[self.mode]


class OneCycleLR(_WithMomentum):
    """The rate goes up to `max_lr` and then far down, once (Smith and Topin 2018, "Super-convergence").

    total_steps, or epochs and steps_per_epoch: the length; `step()` is called after every batch.
    pct_start: share of the steps on the way up. anneal_strategy: "cos" or "linear".
    div_factor: max_lr over the initial rate; final_div_factor: the initial rate over the last one.
    three_phase: go down to the initial rate as fast as up, and then to the last one.
    cycle_momentum: move the momentum, or beta1, between its two limits against the rate.
    Raises ValueError for a step after the last. As torch.optim.lr_scheduler.OneCycleLR.

    >>> optimizer = optim.Adam([ta.ones(1, requires_grad=True)])
    >>> schedule = optim.OneCycleLR(optimizer, max_lr=1.0, total_steps=5, pct_start=0.4)
    >>> for _ in range(5):
    ...     print(round(schedule.get_last_lr()[0], 4), end=" ")
    ...     schedule.step()
    0.04 1.0 0.75 0.25 0.0
    """

    _no_state = ("optimizer", "base_momentums", "max_momentums")  # they are in the parameter groups

    def __init__(
        self, optimizer: Optimizer, max_lr: Rates, total_steps: int | None = None, epochs: int | None = None,
        steps_per_epoch: int | None = None, pct_start: float = 0.3, anneal_strategy: str = "cos",
        cycle_momentum: bool = True, base_momentum: Rates = 0.85, max_momentum: Rates = 0.95,
        div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False, last_epoch: int = -1,
        verbose: Any = False,
    ) -> None:  # fmt: skip
        self.optimizer, begin = checked(optimizer), last_epoch == -1
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR needs its length; pass total_steps, or epochs and steps_per_epoch.")
            total_steps = count("epochs", epochs) * count("steps_per_epoch", steps_per_epoch)
        self.total_steps = count("total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"pct_start must be a share from 0 to 1, but got {pct_start}.")
        self._anneal_func_type = choice("anneal_strategy", anneal_strategy, ("cos", "linear"))
        self._schedule_phases = _phases(float(pct_start * total_steps), total_steps, three_phase)
        rates = for_each_group(optimizer, "max_lr", max_lr)
        for group, rate in zip(optimizer.param_groups, rates, strict=True) if begin else ():
            initial = rate / div_factor
            group.update(initial_lr=initial, max_lr=rate, min_lr=initial / final_div_factor)
        self._set_up_momentum(cycle_momentum, base_momentum, max_momentum, begin)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        step, start = self.last_epoch, 0.0
        if step > self.total_steps:
            raise ValueError(f"OneCycleLR: step {step} is after the last of total_steps={self.total_steps}.")
        *before, phase = self._schedule_phases
        for earlier in before:
            if step <= earlier["end_step"]:
                phase = earlier
                break
            start = earlier["end_step"]
        share = (step - start) / (phase["end_step"] - start)
        for group in self.optimizer.param_groups if self.cycle_momentum else ():
            self._set_momentum(group, self._between(group, phase, "momentum", share))
        return [self._between(group, phase, "lr", share) for group in self.optimizer.param_groups]

    def _between(self, group: dict[str, Any], phase: dict[str, Any], what: str, share: float) -> float:
        start, end = group[phase[f"start_{what}"]], group[phase[f"end_{what}"]]
        if self._anneal_func_type == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)


def _phases(up: float, steps: int, three: bool) -> list[dict[str, Any]]:
    """The ways of OneCycleLR: the step at which each ends, and the names of its limits in a parameter group."""
    ends: list[tuple[float, str, str]] = [(up - 1, "max_lr", "base_momentum")]
    ends += [(2 * up - 2, "initial_lr", "max_momentum")] if three else []
    ends += [(steps - 1, "min_lr", "max_momentum")]
    found, rate, momentum = [], "initial_lr", "max_momentum"
    for end, end_lr, end_momentum in ends:
        limits = {"start_lr": rate, "end_lr": end_lr, "start_momentum": momentum, "end_momentum": end_momentum}
        found.append({"end_step": end, **limits})
        rate, momentum = end_lr, end_momentum
    return found
