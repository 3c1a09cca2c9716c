"""The sizes that operations have in AttentionClassifier's defaults at batch 64, and arrays of them."""

from __future__ import annotations

import math

import numpy as np

BATCH, TOKENS, DIM, HIDDEN, HEADS, LAYERS, ROWS = 64, 49, 64, 256, 4, 2, 1000
SHAPES = {  # of the inputs that get gradients
    "linear": {"x": (BATCH, TOKENS, DIM), "w": (HIDDEN, DIM), "b": (HIDDEN,)},
    "layer_norm": {"x": (BATCH, TOKENS, DIM), "w": (DIM,), "b": (DIM,)},
    "gelu": {"x": (BATCH, TOKENS, HIDDEN)},
    "softmax": {"x": (BATCH, HEADS, TOKENS, TOKENS)},
    "attention": dict.fromkeys(("query", "key", "value"), (BATCH, HEADS, TOKENS, DIM // HEADS)),
    "cross_entropy": {"x": (BATCH, 10)},
    "embedding": {"w": (ROWS, DIM)},
    "dropout": {"x": (BATCH, TOKENS, DIM)},
}
OUTPUTS = {"linear": (BATCH, TOKENS, HIDDEN), "cross_entropy": (), "embedding": (BATCH, TOKENS, DIM)}
OPERATIONS = [*SHAPES, "adam"]


class Sizes:
    """Arrays for every operation, the same on every side."""

    def inputs(self, name: str) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        return {key: _noise(random, shape) for key, shape in SHAPES[name].items()}

    def seed(self, name: str) -> np.ndarray:
        """The gradient of the output, from which the way back starts."""
        first = next(iter(SHAPES[name].values()))
        return _noise(np.random.default_rng(1), OUTPUTS.get(name, first))

    def index(self, name: str) -> np.ndarray:
        """Classes or rows of a table, for the operations that take them."""
        shape, highest = ((BATCH,), 10) if name == "cross_entropy" else ((BATCH, TOKENS), ROWS)
        return np.random.default_rng(2).integers(0, highest, shape)

    def parameters(self) -> list[np.ndarray]:
        """Arrays of the shapes of all 104,970 parameters."""
        block = [(DIM,), (DIM,), (3 * DIM, DIM), (3 * DIM,), (DIM, DIM), (DIM,), (DIM,), (DIM,)]
        block += [(HIDDEN, DIM), (HIDDEN,), (DIM, HIDDEN), (DIM,)]
        shapes = [(DIM, 16), (DIM,), (TOKENS, DIM), *(LAYERS * block), (DIM,), (DIM,), (10, DIM), (10,)]
        random = np.random.default_rng(0)
        assert sum(map(math.prod, shapes)) == 104_970
        return [_noise(random, shape) for shape in shapes]

    def gradients(self) -> list[np.ndarray]:
        random = np.random.default_rng(1)
        return [_noise(random, p.shape) for p in self.parameters()]


def _noise(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(random.standard_normal(shape, dtype=np.float32), dtype=np.float32)
