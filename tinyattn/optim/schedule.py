"""The base of all learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from tinyattn import backends
from tinyattn.optim.optimizer import Optimizer

OUTSIDE = "a schedule's step() belongs outside of the compiled step: learning rates are read at each call"


class LRScheduler:
    """Base of all schedules; a subclass defines `get_lr`. As torch.optim.lr_scheduler.LRScheduler.

    last_epoch counts the calls of `step()`, whatever their unit. As an argument of every schedule: -1 to begin, or the
    last epoch that a run has ended, whose optimizer state has been loaded (`load_state_dict` is simpler): the rates in
    that state are those of the epoch after it. Schedules that multiply the current rates keep them then.
    Every schedule raises TypeError or ValueError for invalid arguments, KeyError if last_epoch continues a run but the
    optimizer has no 'initial_lr'.

    >>> class Inverse(optim.LRScheduler):
    ...     def get_lr(self):
    ...         return [lr / (1 + self.last_epoch) for lr in self.base_lrs]
    >>> schedule = Inverse(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0))
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.5]
    """

    _no_state: tuple[str, ...] = ("optimizer",)
    _jumps = False  # whether step(epoch) may go to any epoch
    _is_initial = False  # during construction, PyTorch's name

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1, verbose: Any = False) -> None:
        for i, group in enumerate(checked(optimizer).param_groups):
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
        self._is_initial = True
        self.step()
        del self._is_initial  # it is no state

    def get_lr(self) -> list[float]:
        """Return the learning rate of each group at `last_epoch`, given those of the epoch before."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_lr().")

    def step(self, epoch: Any = None) -> None:
        """Advance by one unit of the schedule, an epoch or a batch.

        epoch: the next one, or the current one, which does nothing; another is reached from the initial rates, epoch
        by epoch. Raises ValueError for one that is no whole number, or negative.
        """
        backends.refuse_in_capture(OUTSIDE)
        now = self.last_epoch
        if epoch is None or epoch == now + 1 or self._jumps:
            self._go_to(now + 1 if epoch is None else epoch)
        elif epoch != now:
            if epoch != int(epoch) or epoch < 0:
                raise ValueError(f"{type(self).__name__} is at epoch {now}, and cannot go to {epoch}; call step().")
            for group, rate in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
                group["lr"] = rate
            for each in range(int(epoch) + 1):
                self._go_to(each)

    @property
    def _step_count(self) -> int:
        """The calls of `step()`, the one at construction included; schedules written for PyTorch read it."""
        return self.last_epoch + 1

    def get_last_lr(self) -> list[float]:
        """Return the learning rate of each parameter group, as this schedule set it last."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimizer and functions, as plain numbers and lists."""
        state = {key: value for key, value in vars(self).items() if key not in self._no_state}
        return {key: _copied(value) for key, value in state.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same kind of schedule, of this package or of torch.

        The rates themselves are in the optimizer's state. Raises ValueError for a state that does not fit.
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

    def _current_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _begin(self) -> None:
        """Go to epoch 0, from the current rates."""
        self._go_to(0)

    def _go_to(self, epoch: Any) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise ValueError(
                f"the schedule was made for {len(self.base_lrs)} parameter groups, but the "
                f"optimizer now has {len(groups)}; add the groups first and make the schedule afterwards."
            )
        self.last_epoch = epoch
        rates = [float(rate) for rate in self.get_lr()]
        if not all(map(math.isfinite, rates)):
            raise ValueError(
                f"{type(self).__name__} gives the learning rates {rates} at epoch {epoch}; "
                "expected finite numbers, so check the factors of the schedule."
            )
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = self._current_lr()


def checked(optimizer: Any) -> Optimizer:
    """Return `optimizer`; raise TypeError unless it is one."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"a schedule needs an Optimizer, but got {type(optimizer).__name__}.")
    return optimizer


def for_each_group(optimizer: Any, name: str, value: Any) -> list[Any]:
    """Return a list of one value for each parameter group, of one value or of a sequence of so many."""
    groups = len(checked(optimizer).param_groups)
    values = list(value) if isinstance(value, Sequence) else [value] * groups
    if len(values) != groups:
        kind = "functions" if callable(values[0] if values else None) else "values"
        raise ValueError(
            f"{name} has {len(values)} {kind}, but the optimizer has {groups} parameter groups; "
            f"pass one, or one for each group."
        )
    return values


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """Return a word; raise ValueError unless it is allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, but got {value!r}.")
    return value


def count(name: str, value: Any, least: int = 1) -> int:
    """Return a number of epochs as an int; raise TypeError or ValueError unless it is whole and at least `least`."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value  # len(loader) * epochs / 2
    if not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number of epochs, but got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but got {value}.")
    return int(value)


def share(name: str, value: float, zero: bool = False) -> float:
    """Return a factor; raise ValueError unless it is above 0 (with zero: at least 0) and at most 1."""
    if not (0.0 < value <= 1.0 or (zero and value == 0.0)):
        limit = "at least" if zero else "above"
        raise ValueError(f"{name} must be {limit} 0 and at most 1, but got {value}.")
    return value


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
