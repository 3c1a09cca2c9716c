"""Where a model looks: the attention of every layer and head, what comes of it through the layers, and what counts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyattn.ops.creation import as_tensor, from_numpy
from tinyattn.tensors import Tensor
from tinyattn.viz.attention_grid import Grid, grid_of
from tinyattn.viz.attention_record import AttentionLayer, Score, record, unwrapped

Target = int | Sequence[int] | Callable[[Tensor], Tensor] | None


class NoAttentionError(ValueError):
    """The model ran without any attention."""


class AttentionMaps:
    """What `viz.attention` found. Arrays are NumPy's.

    layers: an AttentionLayer for each call of attention between tokens, in order, and `pooling` for the one
    that makes a single vector of them, or None. scores: (batch, classes), None if the model gives anything
    else. target: (batch,), the class whose score was differentiated. images: (batch, height, width) or with
    3 colours last, from 0 to 1, and `grid`, where the tokens lie on them; or words: (batch, tokens).
    read_from: the token whose vector the answer is made from where nothing pools, or "mean" of all.
    """

    def __init__(
        self,
        layers: list[AttentionLayer],
        *,
        scores: Any = None,
        target: Any = None,
        labels: Any = None,
        images: Any = None,
        grid: Grid | None = None,
        words: list[list[str]] | None = None,
        read_from: int | str = "mean",
        title: str = "",
    ) -> None:
        self.pooling = layers[-1] if layers[-1].is_pooling else None
        self.layers = layers[:-1] if self.pooling else layers
        self.scores, self.target, self.labels, self.read_from = scores, target, labels, read_from
        self.images, self.grid, self.words, self.title = images, grid, words, title

    def __repr__(self) -> str:
        shapes = ["{} {} x {} x {}".format(layer.name, *layer.weights.shape[1:]) for layer in self.every_layer]
        return f"<attention of {len(self)} inputs, heads x queries x keys: {', '.join(shapes)}>"

    def __len__(self) -> int:
        return len(self.every_layer[0].weights)

    @property
    def tokens(self) -> int:
        """How many tokens there are to look at: the most that any layer has."""
        return max(int(layer.weights.shape[-1]) for layer in self.every_layer)

    @property
    def has_gradients(self) -> bool:
        """Whether the gradients of the weights were recorded."""
        return all(layer.gradients is not None for layer in self.every_layer)

    @property
    def every_layer(self) -> list[AttentionLayer]:
        """The layers, and the pooling last."""
        return [*self.layers, *([self.pooling] if self.pooling else [])]

    @property
    def probabilities(self) -> Any:
        """The softmax of the scores, (batch, classes)."""
        e = np.exp(self.scores - self.scores.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    @property
    def can_follow(self) -> bool:
        """Whether one row of tokens goes from layer to layer, so that rollout and relevance mean something."""
        return all(layer.weights.shape[3] == self.tokens for layer in self.every_layer) and all(
            layer.weights.shape[2] == self.tokens for layer in self.layers
        )

    # --- through all layers ---

    def rollout(self) -> Any:
        """How much of each token has come into each, through all layers: (batch, tokens, tokens), rows sum to 1.

        The product of the layers' mean weights over the heads, each averaged with the identity, which stands
        for the residual: Abnar and Zuidema 2020, "Quantifying attention flow in transformers".
        """
        product = np.tile(np.eye(self.tokens), (len(self), 1, 1))
        for layer in self._square():
            mixed = layer.weights.mean(1) + np.eye(self.tokens)
            product = mixed / mixed.sum(-1, keepdims=True) @ product
        return product

    def where_it_looked(self) -> Any:
        """The share of each token in the answer by rollout: (batch, tokens), rows sum to 1."""
        return self._read(self.rollout(), None if self.pooling is None else self.pooling.weights)

    def relevance(self) -> Any:
        """How much each token spoke for the target class by way of attention: (batch, tokens), never negative.

        From layer to layer a token gains what attention brings it, weighed by gradient x attention as far as
        that is positive: R = R + (mean over heads of (attention * gradient)+) R. Chefer, Gur and Wolf 2021,
        "Generic attention-model explainability". What a token keeps for itself through the residuals, which
        no attention weighs, is left out.
        """
        product = np.tile(np.eye(self.tokens), (len(self), 1, 1))
        for layer in self._square():
            product = product + np.maximum(layer.gradient_x_attention, 0).mean(1) @ product
        brought = product - np.eye(self.tokens) if self.layers else product
        return self._read(brought, None if self.pooling is None else np.maximum(self.pooling.gradient_x_attention, 0))

    def _read(self, product: Any, pooling: Any) -> Any:
        if pooling is not None:  # (batch, heads, 1, tokens)
            return (pooling.mean(1) @ product)[:, 0]
        return product.mean(1) if self.read_from == "mean" else product[:, self.read_from]

    def _square(self) -> list[AttentionLayer]:
        if not self.can_follow:
            shapes = ", ".join("{} {} x {}".format(layer.name, *layer.weights.shape[2:]) for layer in self.every_layer)
            raise ValueError(
                f"attention: the layers have queries x keys {shapes}, and rollout follows one row of {self.tokens} "
                "tokens from layer to layer; look at them one by one"
            )
        return self.layers

    # --- pictures ---

    def figure(self, item: int = 0, token: int | tuple[int, int] | None = None, what: str = "attention") -> Any:
        """A matplotlib Figure of one image or text: every head of every layer, rollout, and what counted.

        token: whose attention to show, by number or (row, column) of its patch; None: what the tokens
        look at on average. what: "attention", or "gradient" for gradient x attention in every head.
        """
        from tinyattn.viz.attention_figures import heads_figure

        return heads_figure(self, item, token, what)

    @property
    def html(self) -> str:
        """The page: one file that needs no network, to click through every image, token, layer and head."""
        from tinyattn.viz.attention_page import page

        return page(self)

    def save(self, path: str | os.PathLike[str], **how: Any) -> Path:
        """Write the page to a name ending in .html, or else the figure, of which `how` gives the arguments."""
        path = Path(path)
        if path.suffix.lower() in (".html", ".htm"):
            if how:
                raise TypeError(f"attention: the page shows everything; {', '.join(how)} is for pictures only")
            path.write_text(self.html, encoding="utf-8")
        else:
            self.figure(**how).savefig(path)
        return path

    def _repr_html_(self) -> str:
        from tinyattn.viz.attention_page import framed

        return framed(self.html)


def attention(
    model: Any,
    inputs: Any,
    *more: Any,
    labels: Any = None,
    target: Target = None,
    words: Sequence[Any] | None = None,
    grid: tuple[int, int] | None = None,
    read_from: int | str | None = None,
    gradients: bool = True,
    title: str = "",
) -> AttentionMaps:
    """Record where `model` looks at each of `inputs`: `viz.attention(model, images).save("attention.html")`.

    model: a Module or any function that attends by tinyattn's attention or by a softmax along the last axis.
    inputs: images (batch, height, width), (batch, 1 or 3, height, width) or flattened squares, uint8 or
        float; or, with `words`, whatever the model takes, a row each. more: further arguments of the model;
        those with a row for each input are cut likewise.
    labels: the right classes, for captions. target: the class whose score is differentiated, one for all or
        one each; None: the class with the highest score; or a function of the output that gives a number.
    words: for each input the text of its tokens, or one list for all.
    grid: (rows, columns) of the patches, unless the model's `patch_index` says it or they make a square.
    read_from: the token that the answer is read from where nothing pools: a number, or "mean"; None: the
        class token if there is one more token than patches, else the mean.
    gradients: False records the weights alone.

    Runs row by row in evaluation mode, leaves model and `.grad` as they were, and keeps no graph. Raises
    ValueError where no attention was seen, or tokens do not fit the image.
    """
    model = unwrapped(model)
    rows = [_as_rows(x) for x in (inputs, *more)]
    count = len(rows[0])
    layers, outputs, chosen = _recorded(model, rows, _each(target, count) if gradients else None)
    plain = all(isinstance(x, Tensor) and x.ndim == 2 for x in outputs)
    maps = AttentionMaps(
        layers,
        scores=np.concatenate([x.numpy() for x in outputs]) if plain else None,
        target=np.array(chosen) if chosen else None,
        labels=_labels(labels, count),
        title=title,
    )
    if words is None:
        maps.images = pictures(rows[0], getattr(model, "image_size", None))
        maps.grid = grid_of(model, maps.images.shape[1:3], maps.tokens, grid)
        maps.read_from = "mean" if maps.grid.extra == 0 else 0
    else:
        maps.words = _words(words, count, maps.tokens)
    if read_from is not None:
        maps.read_from = read_from
    return maps


def _each(target: Target, count: int) -> list[Any]:
    """A target for each input."""
    if target is None or callable(target):
        return [target] * count
    targets = np.asarray(target.array if isinstance(target, Tensor) else target)
    if targets.shape not in ((), (count,)) or targets.dtype.kind not in "iu":
        raise ValueError(
            f"attention: target={target!r}; expected a class, one for each of the {count} inputs, or a function"
        )
    return np.broadcast_to(targets, count).tolist()


def _recorded(
    model: Any, rows: list[Any], targets: list[Any] | None
) -> tuple[list[AttentionLayer], list[Any], list[int]]:
    """Run each input by itself: the layers of all together, the outputs, and the classes that were differentiated."""
    count = len(rows[0])
    if count == 0:
        raise ValueError("attention: there are no inputs to look at")
    found: list[list[AttentionLayer]] = []
    outputs: list[Any] = []
    chosen: list[int] = []
    for i in range(count):
        row = [x[i : i + 1] if hasattr(x, "ndim") and x.ndim and len(x) == count else x for x in rows]
        output, layers = record(model, row, None if targets is None else _score(targets[i], chosen))
        found.append(layers)
        outputs.append(output)
    return _of_tokens(_stacked(found)), outputs, chosen


def _score(target: Any, chosen: list[int]) -> Score:
    """What to differentiate: the score of the target class, which is added to `chosen`."""

    def score(output: Any) -> Tensor:
        if callable(target):
            return target(output)
        if not isinstance(output, Tensor) or output.ndim != 2 or output.dtype.kind != "f":
            shape = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(
                f"attention: the model gives {shape}, not scores (batch, classes); pass target=a function of the "
                "output that gives the number to differentiate, or gradients=False"
            )
        which = int(output.array[0].argmax()) if target is None else int(target)
        if not 0 <= which < output.shape[1]:
            raise ValueError(f"attention: target={which}, but the model has the classes 0 to {output.shape[1] - 1}")
        chosen.append(which)
        return output[0, which]

    return score


def _stacked(runs: list[list[AttentionLayer]]) -> list[AttentionLayer]:
    """The layers of all inputs together."""
    if not runs[0]:
        raise NoAttentionError(
            "attention: the model ran without any attention; it is seen where scaled_dot_product_attention, "
            "packed_attention or a softmax along the last axis runs"
        )
    shapes = [[(layer.name, layer.weights.shape) for layer in run] for run in runs]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(f"attention: input {i} took other layers than input 0; record them one at a time")
    layers = []
    for calls in zip(*runs, strict=True):
        slopes = None if calls[0].gradients is None else np.concatenate([call.gradients for call in calls])
        weights = np.concatenate([call.weights for call in calls])
        layers.append(AttentionLayer(calls[0].name, weights, slopes, calls[0].by_softmax))
        if not all(np.isfinite(x).all() for x in (weights, slopes) if x is not None):
            raise ValueError(f"attention: NaN or infinities in {calls[0].name}; ta.detect_anomaly finds where from")
    return layers


def _of_tokens(layers: list[AttentionLayer]) -> list[AttentionLayer]:
    """Without softmaxes over something else, such as experts or classes."""
    sure = [layer for layer in layers if not layer.by_softmax] or layers
    tokens = max(layer.weights.shape[3] for layer in sure)
    return [layer for layer in layers if not layer.by_softmax or layer.weights.shape[3] == tokens]


def _as_rows(x: Any) -> Any:
    return x if isinstance(x, Tensor) or x is None else from_numpy(x) if isinstance(x, np.ndarray) else as_tensor(x)


def _labels(labels: Any, count: int) -> Any:
    if labels is None:
        return None
    labels = np.asarray(labels.array if isinstance(labels, Tensor) else labels)
    if labels.shape != (count,):
        raise ValueError(f"attention: labels have shape {labels.shape}; expected one for each of the {count} inputs")
    return labels


def pictures(inputs: Tensor, size: int | None) -> Any:
    """Images as numbers from 0 to 1: (batch, height, width), or with 3 colours in the last axis."""
    x = np.asarray(inputs.numpy())
    if x.ndim == 2 and (size or round(x.shape[1] ** 0.5)) ** 2 == x.shape[1]:
        x = x.reshape(len(x), -1, size or round(x.shape[1] ** 0.5))
    if x.ndim == 4 and x.shape[1] in (1, 3):
        x = x[:, 0] if x.shape[1] == 1 else np.moveaxis(x, 1, -1)
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] != 3):
        raise ValueError(
            f"attention: inputs of shape {tuple(inputs.shape)} are no images (batch, height, width) or (batch, 1 or 3, "
            "height, width); pass words= for tokens that are no patches"
        )
    if x.dtype.kind in "iu":
        return x / 255.0
    low, high = (float(np.nan_to_num(f(x))) for f in (np.min, np.max)) if x.size else (0.0, 1.0)
    return x if low >= 0 and high <= 1 else (x - low) / ((high - low) or 1.0)


def _words(words: Sequence[Any], count: int, tokens: int) -> list[list[str]]:
    lists = [words] * count if words and isinstance(words[0], str) else words
    texts = [[str(word) for word in text] for text in lists]
    if [len(text) for text in texts] != [tokens] * count:
        raise ValueError(
            f"attention: words for {[len(text) for text in texts]} tokens; expected {count} lists of {tokens} each"
        )
    return texts
