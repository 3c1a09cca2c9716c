"""The problem that every side solves: sizes, initial weights and data, in one file that all of them read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

POOL = 4  # batches of images, taken in turn
LABELS = 97  # sets of labels, taken in turn: no model learns them by heart, so gradients keep their size


class Problem(NamedTuple):
    """A model with its initial weights, and its data."""

    weights: dict[str, np.ndarray]  # by the names of AttentionClassifier.state_dict()
    images: np.ndarray  # (POOL, batch, size, size), float32
    labels: np.ndarray  # (LABELS, batch), int64
    patch_index: np.ndarray  # (tokens, pixels of a patch)
    model: dict[str, Any]  # AttentionClassifier's arguments, all that matter here

    @property
    def heads(self) -> int:
        return self.model["num_heads"]

    @property
    def layers(self) -> int:
        return self.model["num_layers"]

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The images and labels of a step, counted from 0."""
        return self.images[step % POOL], self.labels[step % LABELS]

    def batches(self, put: Callable[[np.ndarray], Any]) -> Callable[[int], tuple[Any, Any]]:
        """`batch`, of what `put` makes of the arrays: a library's own, on its device, all of them at once."""
        images, labels = ([put(array) for array in arrays] for arrays in (self.images, self.labels))
        return lambda step: (images[step % POOL], labels[step % LABELS])

    def matmuls(self, batch: int | None = None) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The shapes of all matrix products of a training step, forward and backward."""
        batch = batch or self.images.shape[1]
        tokens, pixels = self.patch_index.shape
        dim, hidden = len(self.weights["norm.weight"]), self.model["mlp_dim"]
        rows, heads = batch * tokens, (batch, self.heads)

        def linear(rows: int, inputs: int, outputs: int) -> list[Any]:  # forward, to the input, to the weight
            return [((rows, inputs), (inputs, outputs)), ((rows, outputs), (outputs, inputs)),
                    ((inputs, rows), (rows, outputs))]  # fmt: skip

        wide, narrow = (*heads, tokens, tokens), (*heads, tokens, dim // self.heads)
        scores = (narrow, (*heads, dim // self.heads, tokens))  # q k^T; of the weights' gradient, g v^T
        mixed = (wide, narrow)  # A v; of the gradients of v, q and k
        block = [product for sizes in ((dim, 3 * dim), (dim, dim), (dim, hidden), (hidden, dim))
                 for product in linear(rows, *sizes)]  # fmt: skip
        block += 2 * [scores] + 4 * [mixed]
        embed = linear(rows, pixels, dim)
        return [embed[0], embed[2], *(self.layers * block), *linear(batch, dim, 10)]  # images need no gradient

    def arithmetic(self) -> float:
        """Multiplications and additions of those products."""
        return float(sum(2 * np.prod(a, dtype=float) * b[-1] for a, b in self.matmuls()))


def write(path: Path, batch: int = 64, seed: int = 0, **model: Any) -> Path:
    """Write a problem: AttentionClassifier(**model), initialised, and noise for images and labels."""
    import tinyattn as ta  # here, since the other sides' processes read problems without it
    from tinyattn import models

    model = {"image_size": 28, "patch_size": 4, "num_layers": 2, "num_heads": 4, "mlp_dim": 256, **model}
    ta.manual_seed(seed)
    made, random, size = models.AttentionClassifier(**model), np.random.default_rng(seed), model["image_size"]
    np.savez(
        path,
        images=random.random((POOL, batch, size, size), dtype=np.float32),
        labels=random.integers(0, 10, (LABELS, batch)),
        patch_index=made.patch_index.numpy(),
        model=json.dumps(model),
        **{f"weights/{name}": weight.numpy() for name, weight in made.state_dict().items()},
    )
    return path


def read(path: str | Path) -> Problem:
    """The problem that `write` wrote."""
    with np.load(path) as file:
        weights = {name.removeprefix("weights/"): file[name] for name in file.files if name.startswith("weights/")}
        model = json.loads(str(file["model"]))
        return Problem(weights, file["images"], file["labels"], file["patch_index"], model)
