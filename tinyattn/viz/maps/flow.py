"""The recorded attention of a batch of inputs, and how it flows through the layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.viz.maps.grid import Grid
from tinyattn.viz.maps.record import AttentionLayer


class AttentionFlow:
    """The numbers of `viz.AttentionMaps`, which describes the attributes; this class draws nothing."""

    labels: Any = None
    images: Any = None
    grid: Grid | None = None
    words: list[list[str]] | None = None
    read_from: int | str = "mean"
    title = ""

    def __init__(self, layers: list[AttentionLayer], scores: Any = None, target: Any = None) -> None:
        self.pooling = layers[-1] if layers[-1].is_pooling else None
        self.layers = layers[:-1] if self.pooling else layers
        self.scores, self.target = scores, target

    def __repr__(self) -> str:
        shapes = ["{} {} x {} x {}".format(layer.name, *layer.weights.shape[1:]) for layer in self.every_layer]
        return f"<attention of {len(self)} inputs, heads x queries x keys: {', '.join(shapes)}>"

    def __len__(self) -> int:
        return len(self.every_layer[0].weights)

    @property
    def tokens(self) -> int:
        """The number of keys: the largest of all layers."""
        return max(int(layer.weights.shape[-1]) for layer in self.every_layer)

    @property
    def has_gradients(self) -> bool:
        """Whether the gradients of the weights were recorded."""
        return all(layer.gradients is not None for layer in self.every_layer)

    @property
    def every_layer(self) -> list[AttentionLayer]:
        """The layers, followed by the pooling if there is one."""
        return [*self.layers, *([self.pooling] if self.pooling else [])]

    @property
    def probabilities(self) -> Any:
        """The softmax of the scores, (batch, classes)."""
        return softmax(self.scores)

    @property
    def can_follow(self) -> bool:
        """Whether all layers attend over the same tokens, which rollout and relevance require."""
        square = all(layer.weights.shape[2] == self.tokens for layer in self.layers)
        return square and all(layer.weights.shape[3] == self.tokens for layer in self.every_layer)

    def rollout(self) -> Any:
        """Return the share of each token in each token after all layers: (batch, tokens, tokens), rows sum to 1.

        The product of the layers' weights, averaged over the heads and with the identity, which stands for the
        residual connection: Abnar and Zuidema 2020, "Quantifying attention flow in transformers". Raises
        ValueError if the layers do not attend over the same tokens.
        """
        self._check_can_follow()
        product = np.tile(np.eye(self.tokens), (len(self), 1, 1))
        for layer in self.layers:
            mixed = layer.weights.mean(1) + np.eye(self.tokens)
            product = mixed / mixed.sum(-1, keepdims=True) @ product
        return product

    def where_it_looked(self) -> Any:
        """Return the share of each token in the output by rollout: (batch, tokens), rows sum to 1."""
        return self._read(self.rollout(), None if self.pooling is None else self.pooling.weights)

    def relevance(self) -> Any:
        """Return how much each token adds to the target score through attention: (batch, tokens), never negative.

        In each layer, the positive part of gradient x attention weights what attention moves between tokens:
        R = R + (mean over heads of (attention * gradient)+) R. Chefer, Gur and Wolf 2021, "Generic
        attention-model explainability". What a token keeps through the residual connections is left out. Raises
        ValueError if the gradients were not recorded or the layers do not attend over the same tokens.
        """
        self._check_can_follow()
        product = np.tile(np.eye(self.tokens), (len(self), 1, 1))
        for layer in self.layers:
            product = product + np.maximum(layer.gradient_x_attention, 0).mean(1) @ product
        moved = product - np.eye(self.tokens) if self.layers else product
        return self._read(moved, None if self.pooling is None else np.maximum(self.pooling.gradient_x_attention, 0))

    def _read(self, product: Any, pooling: Any) -> Any:
        if pooling is not None:  # (batch, heads, 1, tokens)
            return (pooling.mean(1) @ product)[:, 0]
        return product.mean(1) if self.read_from == "mean" else product[:, self.read_from]

    def _check_can_follow(self) -> None:
        if not self.can_follow:
            shapes = ", ".join("{} {} x {}".format(layer.name, *layer.weights.shape[2:]) for layer in self.every_layer)
            raise ValueError(
                f"attention: the layers have queries x keys {shapes}, but rollout and relevance need {self.tokens} x "
                f"{self.tokens} in all; look at the layers one by one"
            )


def softmax(scores: Any) -> Any:
    """Return the probabilities of scores (..., classes)."""
    return np.exp(scores - np.logaddexp.reduce(scores, -1, keepdims=True))
