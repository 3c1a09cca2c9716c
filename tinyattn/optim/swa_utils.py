"""Averages of a model's weights. As torch.optim.swa_utils."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tinyattn.grad_mode import no_grad
from tinyattn.nn.module import Module
from tinyattn.nn.normalization import _BatchNorm
from tinyattn.ops import creation
from tinyattn.optim.optimizer import Optimizer
from tinyattn.optim.schedule import LRScheduler, choice, for_each_group

__all__ = ["SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "update_bn"]


def get_ema_avg_fn(decay: float = 0.999) -> Callable[[Any, Any, Any], Any]:
    """Return the function by which `AveragedModel` keeps an exponential moving average.

    >>> optim.swa_utils.get_ema_avg_fn(0.75)(ta.tensor(4.0), ta.tensor(0.0), 1).item()
    3.0
    """
    return lambda averaged, now, count: decay * averaged + (1 - decay) * now


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[[Any, Any, Any], None]:
    """Return the `multi_avg_fn` by which `AveragedModel` keeps an exponential moving average of a list of tensors.

    >>> weights = [ta.tensor(4.0)]
    >>> optim.swa_utils.get_ema_multi_avg_fn(0.75)(weights, [ta.tensor(0.0)], 1)
    >>> weights[0].item()
    3.0
    """

    def average(averaged: Any, now: Any, count: Any) -> None:
        for a, b in zip(averaged, now, strict=True):
            a.copy_(get_ema_avg_fn(decay)(a, b, count))

    return average


class AveragedModel(Module):
    """A copy of `model` with averaged weights (Izmailov et al. 2018). As torch.optim.swa_utils.AveragedModel.

    avg_fn: avg_fn(averaged, now, count of averages so far); the mean of all if left out. multi_avg_fn: the same for
        lists of tensors, which it changes in place.
    use_buffers: average the buffers too, which are copied otherwise.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> mean = optim.swa_utils.AveragedModel(model)
    >>> for value in (1.0, 2.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     mean.update_parameters(model)
    >>> mean.module.weight.item()
    1.5
    """

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Callable[[Any, Any, Any], Any] | None = None,
        multi_avg_fn: Callable[[Any, Any, Any], None] | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        self.module = copy.deepcopy(model) if device is None else copy.deepcopy(model).to(device)
        self.register_buffer("n_averaged", creation.zeros((), dtype="int64"))
        self.avg_fn = avg_fn or (lambda averaged, now, count: averaged + (now - averaged) / (count + 1))
        self.multi_avg_fn, self.use_buffers = multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute with the averaged weights."""
        return self.module(*args, **kwargs)

    @no_grad()
    def update_parameters(self, model: Module) -> None:
        """Include the current weights of `model` in the average."""
        count = int(self.n_averaged)
        buffers = {id(b) for b in self.module.buffers()} if not self.use_buffers else set()
        for averaged, now in zip(
            self.module.state_dict(keep_vars=True).values(), model.state_dict().values(), strict=True
        ):
            value = now.to(averaged.device)
            if count == 0 or id(averaged) in buffers or averaged.dtype.kind != "f":
                averaged.copy_(value)
            elif self.multi_avg_fn is not None:
                self.multi_avg_fn([averaged], [value], count)
            else:
                averaged.copy_(self.avg_fn(averaged, value, count))
        self.n_averaged += 1


@no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of the model's batch normalisation anew, as those of all batches.

    loader: batches, of which the first item of a list or tuple is the input. As torch.optim.swa_utils.update_bn.

    >>> layer = nn.BatchNorm1d(1)
    >>> optim.swa_utils.update_bn([ta.tensor([[1.0], [3.0]])], layer)
    >>> layer.running_mean.item()
    2.0
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    training = model.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    model.train()
    for batch in loader if layers else ():
        x = batch[0] if isinstance(batch, list | tuple) else batch
        model(x if device is None else x.to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.train(training)


class SWALR(LRScheduler):
    """Move the rate to `swa_lr` in anneal_epochs epochs, then keep it. As torch.optim.swa_utils.SWALR.

    swa_lr: one rate, or one for each group. anneal_strategy: "cos" or "linear".

    >>> schedule = optim.swa_utils.SWALR(optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), 0.5, 2, "linear")
    >>> for _ in range(4):
    ...     print(schedule.get_last_lr()[0], end=" ")
    ...     schedule.step()
    1.0 0.75 0.5 0.5
    """

    def __init__(
        self, optimizer: Optimizer, swa_lr: float | Sequence[float], anneal_epochs: int = 10,
        anneal_strategy: str = "cos", last_epoch: int = -1,
    ) -> None:  # fmt: skip
        for group, rate in zip(optimizer.param_groups, for_each_group(optimizer, "swa_lr", swa_lr), strict=True):
            group["swa_lr"] = rate
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be an integer of at least 0, but got {anneal_epochs}.")
        self.anneal_epochs = anneal_epochs
        self.anneal_strategy = choice("anneal_strategy", anneal_strategy, ("cos", "linear"))
        super().__init__(optimizer, last_epoch)

    def _share(self, epoch: int) -> float:
        """The part of the way to `swa_lr` at an epoch."""
        t = max(0.0, min(1.0, epoch / max(1, self.anneal_epochs)))
        return t if self.anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def get_lr(self) -> list[float]:
        epoch = self.last_epoch if self.anneal_epochs else max(1, self.last_epoch)
        before, now = self._share(epoch - 1), self._share(epoch)
        rates = []
        for group in self.optimizer.param_groups:
            rate, goal = group["lr"], group["swa_lr"]
            begin = goal if before == 1 else (rate - before * goal) / (1 - before)
            rates.append(goal * now + begin * (1 - now))
        return rates
