"""A model from outside: its scores over a data set, and the gradient and update norms of its layers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyattn.files.texts import table
from tinyattn.files.whole import open_own
from tinyattn.grad_mode import no_grad
from tinyattn.nn import Module
from tinyattn.ops.creation import as_tensor
from tinyattn.ops.joins import cat
from tinyattn.optim import Optimizer
from tinyattn.tensors import Tensor

COLUMNS = ("step", "layer", "gradient_norm", "parameter_norm", "update_norm", "update_ratio")


def predict(model: Module, images: Any, batch_size: int = 500) -> Any:
    """Compute the scores of the classes for every image: a NumPy array (images, classes).

    images: an array or a Tensor (images, ...); each batch is moved to the device of the model's parameters.
    Runs in evaluation mode without recording, and restores the mode of each module.

    >>> ta.train.predict(nn.Linear(4, 3), ta.rand(7, 4)).shape
    (7, 3)
    """
    device = next((parameter.device for parameter in model.parameters()), None)
    with evaluating(model), no_grad():
        starts = range(0, len(images), batch_size)
        scores = cat([model(as_tensor(images[i : i + batch_size], device=device)) for i in starts])
    return scores.cpu().numpy()


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Switch a model to evaluation mode, and restore the mode of each of its modules at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class LayerStats:
    """Take the optimizer's steps and measure one in `every`: `stats.step()` instead of `optimizer.step()`.

    rows: a dict for each layer and measured step: the number of the step (from 1), the path of the layer, the
        Euclidean norms of its gradient, of its parameters before the step and of their update, and the ratio of the
        last two. About 1e-3 is healthy; the ratio is NaN if the parameters were all zero. A layer is a module with
        parameters of its own, or a parameter of the outermost module; frozen ones are left out.
    file: append the rows to this CSV file too. steps: taken before, by a run that is continued.

    A step that is measured copies the parameters once; the others cost nothing.
    Raises ValueError for `every` below 1; `step` raises OSError if the file cannot be written or is a symbolic link.

    >>> layer = nn.Linear(2, 1)
    >>> stats = ta.train.LayerStats(nn.Sequential(layer), optim.SGD(layer.parameters(), lr=0.1), every=10)
    >>> layer(ta.ones(1, 2)).sum().backward()
    >>> stats.step()
    >>> [row["layer"] for row in stats.rows]
    ['0']
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        every: int = 50,
        file: str | os.PathLike[str] | None = None,
        steps: int = 0,
    ) -> None:
        if every < 1:
            raise ValueError(f"LayerStats: every={every}; expected at least 1 step")
        self.optimizer, self.every, self.steps = optimizer, every, steps
        self.file = None if file is None else Path(file)
        self.rows: list[dict[str, Any]] = []
        self.layers: dict[str, list[Tensor]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.layers.setdefault(name.rpartition(".")[0] or name, []).append(parameter)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Call optimizer.step(closure), and measure the first step and then one in `every`."""
        self.steps += 1
        if (self.steps - 1) % self.every:
            return self.optimizer.step(closure)
        before = {layer: [p.array.copy() for p in own] for layer, own in self.layers.items()}
        result = self.optimizer.step(closure)
        rows = [self._row(layer, own, before[layer]) for layer, own in self.layers.items()]
        self.rows += rows
        if self.file is not None:
            with open(self.file, "ab", opener=open_own) as file:
                file.write(table(COLUMNS, rows, header=file.tell() == 0))
        return result

    def _row(self, layer: str, parameters: list[Tensor], before: list[Any]) -> dict[str, Any]:
        size = _norm(before)
        change = _norm(p.array - old for p, old in zip(parameters, before, strict=True))
        ratio = change / size if size else math.nan
        gradient = _norm(p.grad.array for p in parameters if p.grad is not None)
        return dict(zip(COLUMNS, (self.steps, layer, gradient, size, change, ratio), strict=True))


def _norm(arrays: Iterable[Any]) -> float:
    """The Euclidean norm of all arrays end to end."""
    return math.sqrt(sum(float((array.astype("float64") ** 2).sum()) for array in arrays))
