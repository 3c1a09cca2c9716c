"""Averages of a model's weights. As torch.optim.swa_utils."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tinyattn.engine.modes import no_grad
from tinyattn.nn.module import Module
from tinyattn.ops import creation

__all__ = ["AveragedModel", "get_ema_avg_fn"]


def get_ema_avg_fn(decay: float = 0.999) -> Callable[[Any, Any, Any], Any]:
    """Return the function by which `AveragedModel` keeps an exponential moving average.

    >>> optim.swa_utils.get_ema_avg_fn(0.75)(ta.tensor(4.0), ta.tensor(0.0), 1).item()
    3.0
    """
    return lambda averaged, now, count: decay * averaged + (1 - decay) * now


class AveragedModel(Module):
    """A copy of `model` with averaged weights (Izmailov et al. 2018). As torch.optim.swa_utils.AveragedModel.

    avg_fn: avg_fn(averaged, now, count of averages so far); the mean of all if left out.
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
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        self.module = copy.deepcopy(model) if device is None else copy.deepcopy(model).to(device)
        self.register_buffer("n_averaged", creation.zeros((), dtype="int64"))
        self.avg_fn = avg_fn or (lambda averaged, now, count: averaged + (now - averaged) / (count + 1))
        self.use_buffers = use_buffers

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
            first = count == 0 or id(averaged) in buffers or averaged.dtype.kind != "f"
            averaged.copy_(now.to(averaged.device) if first else self.avg_fn(averaged, now.to(averaged.device), count))
        self.n_averaged += 1
