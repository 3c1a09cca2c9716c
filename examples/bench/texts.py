"""Models of texts, written once for tinyattn and PyTorch: a GPT, and an encoder-decoder that translates."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

SIZES: dict[str, dict[str, int]] = {
    "gpt": {"batch": 8, "tokens": 128, "characters": 96, "dim": 128, "heads": 4, "layers": 4},
    # of examples/translate_dates.py
    "translation": {"batch": 64, "tokens": 40, "characters": 96, "dim": 64, "heads": 2, "layers": 1, "written": 10},
}
POOL = 8  # batches, taken in turn


def make(library: Any, kind: str, sizes: dict[str, int]) -> Any:
    """The model of a kind in a library (tinyattn or torch), with the same weights in each."""
    model = {"gpt": _gpt, "translation": _translation}[kind](library, **sizes)
    random = np.random.default_rng(0)
    with library.no_grad():
        for name, p in sorted(model.named_parameters()):
            if p.ndim > 1:
                p.copy_(library.from_numpy(random.normal(0, 0.05, tuple(p.shape)).astype(np.float32)))
            elif name.endswith("bias"):
                p.zero_()
    return model


def batches(library: Any, kind: str, sizes: dict[str, int]) -> list[tuple[Any, ...]]:
    """What the model takes, and the characters it shall score highest: integers (batch, tokens)."""
    random, shape = np.random.default_rng(1), (sizes["batch"], sizes["tokens"])
    shapes = [shape] * 2 if kind == "gpt" else [shape, *2 * [(sizes["batch"], sizes["written"])]]
    drawn = [[random.integers(1, sizes["characters"], each) for each in shapes] for _ in range(POOL)]
    if kind == "translation":
        for texts, *_ in drawn:  # of several lengths, filled up with 0
            texts[np.arange(shape[1]) >= random.integers(shape[1] // 2, shape[1] + 1, (shape[0], 1))] = 0
    return [tuple(map(library.from_numpy, arrays)) for arrays in drawn]


def step(
    library: Any, optimizer: Any, loss_of: Callable[..., Any], data: list[tuple[Any, ...]], wrap: Callable[[Any], Any]
) -> Callable[[], Any]:
    """A training step; `wrap` compiles it, or returns it as it is."""

    def train(*arrays: Any) -> Any:
        loss = loss_of(*arrays)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    numbers, take = count(), wrap(train)
    return lambda: take(*data[next(numbers) % POOL])


def loss(library: Any, model: Any) -> Callable[..., Any]:
    """The mean cross-entropy of all characters; the last argument holds the right ones."""
    cross_entropy = library.nn.functional.cross_entropy
    return lambda *arrays: cross_entropy(model(*arrays[:-1]).flatten(0, 1), arrays[-1].flatten())


def _gpt(library: Any, batch: int, tokens: int, characters: int, dim: int, heads: int, layers: int) -> Any:
    nn = library.nn

    class GPT(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.read, self.place = nn.Embedding(characters, dim), nn.Parameter(library.zeros(tokens, dim))
            layer = nn.TransformerEncoderLayer(
                dim, heads, 4 * dim, 0.0, activation=_tanh_gelu(library), batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
            self.norm, self.scores = nn.LayerNorm(dim), nn.Linear(dim, characters)
            self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(tokens), persistent=False)

        def forward(self, x: Any) -> Any:
            x = self.blocks(self.read(x) + self.place, mask=self.causal, is_causal=True)
            return self.scores(self.norm(x))

    return GPT()


def _translation(
    library: Any, batch: int, tokens: int, characters: int, dim: int, heads: int, layers: int, written: int
) -> Any:
    nn = library.nn

    class Translation(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.read, self.write = nn.Embedding(characters, dim), nn.Embedding(characters, dim)
            self.places = nn.Parameter(library.zeros(tokens, dim))
            self.transformer = nn.Transformer(
                dim, heads, layers, layers, 2 * dim, 0.0, batch_first=True, norm_first=True
            )  # fmt: skip
            self.scores = nn.Linear(dim, characters)
            self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(written), persistent=False)

        def forward(self, texts: Any, before: Any) -> Any:
            hidden = texts == 0
            x = self.transformer(
                self.read(texts) + self.places, self.write(before) + self.places[:written], tgt_mask=self.causal,
                src_key_padding_mask=hidden, memory_key_padding_mask=hidden,
            )  # fmt: skip
            return self.scores(x)

    return Translation()


def _tanh_gelu(library: Any) -> Callable[[Any], Any]:
    return lambda x: library.nn.functional.gelu(x, approximate="tanh")
