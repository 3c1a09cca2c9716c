"""`attention()`: the attention maps of a model, as one object."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyattn.ops.creation import as_tensor, from_numpy
from tinyattn.tensors import Tensor
from tinyattn.viz.graphs.arrays import host_array
from tinyattn.viz.maps.figures import heads_figure
from tinyattn.viz.maps.grid import grid_of, pictures
from tinyattn.viz.maps.page import attention_page
from tinyattn.viz.maps.record import AttentionFlow, AttentionLayer, Score, record, softmax_only
from tinyattn.viz.page import framed

Target = int | Sequence[int] | Callable[[Tensor], Tensor] | None


class NoAttentionError(ValueError):
    """The model ran without any attention."""


class AttentionMaps(AttentionFlow):
    """The result of `viz.attention`. All arrays are NumPy arrays.

    Attributes:
        layers: an AttentionLayer for each call of attention between tokens, in the order of the calls.
        pooling: the AttentionLayer that makes a single vector of the tokens, or None.
        scores: (batch, classes), or None if the model returns anything else.
        target: (batch,), the class whose score was differentiated, or None.
        labels: (batch,), the right classes, or None.
        images: (batch, height, width), or with 3 colours in the last axis, from 0 to 1; None for words.
        grid: where the tokens lie on the images; None for words.
        words: (batch, tokens), the text of the tokens; None for images.
        read_from: the token that the output is computed from if nothing pools, or "mean" of all.
        title: above figures and pages.

    Example:
        >>> maps = ta.viz.attention(ta.models.AttentionClassifier(12, 3, hidden_dim=8, num_heads=2), ta.rand(1, 12, 12))
        >>> maps.scores.shape, maps.rollout().shape
        ((1, 10), (1, 16, 16))
    """

    def figure(self, item: int = 0, token: int | tuple[int, int] | None = None, what: str = "attention") -> Any:
        """Draw one input: every head of every layer, rollout, pooling and relevance.

        Args:
            item: the number of the image or text.
            token: the query, by number or as the (row, column) of its patch; None: the mean of all queries.
            what: "attention", or "gradient" for gradient x attention in every head.

        Returns a matplotlib Figure. Raises ImportError without matplotlib, IndexError for an unknown item or token,
        and ValueError for an unknown `what` or gradients that were not recorded.
        """
        return heads_figure(self, item, token, what)

    @property
    def html(self) -> str:
        """The page: one file, without network, to go through every image, token, layer and head."""
        return attention_page(self)

    def save(self, path: str | os.PathLike[str], **how: Any) -> Path:
        """Write the page if `path` ends in .html, else the figure with the arguments `how`; return the path."""
        path = Path(path)
        if path.suffix.lower() in (".html", ".htm"):
            if how:
                raise TypeError(f"attention: the page shows everything; {', '.join(how)} is for pictures only")
            path.write_text(self.html, encoding="utf-8")
        else:
            self.figure(**how).savefig(path)
        return path

    def _repr_html_(self) -> str:
        return framed(self.html, 760)


def attention(
    model: Any, inputs: Any, *more: Any, labels: Any = None, target: Target = None,
    words: Sequence[Any] | None = None, grid: tuple[int, int] | None = None, read_from: int | str | None = None,
    gradients: bool = True, title: str = "",
) -> AttentionMaps:  # fmt: skip
    """Record the attention of `model` for each of `inputs`, one by one in evaluation mode.

    Leaves the model and every `.grad` unchanged and keeps no graph.

    Args:
        model: a Module or function that attends by tinyattn's attention or by a softmax along the last axis.
        inputs: images (batch, height, width), (batch, 1 or 3, height, width) or flattened squares, uint8 or float;
            with `words`, anything that the model takes, one row for each text.
        more: further arguments of the model; those with a row for each input are cut in the same way.
        labels: the right classes, for captions.
        target: the class whose score is differentiated, one for all or one for each; by default that with the
            highest score; or a function of the output that returns a number.
        words: the text of the tokens, a list for each input or one list for all.
        grid: (rows, columns) of the patches; by default those of the model's `patch_index`, else a square.
        read_from: the token that the output is computed from if nothing pools, a number or "mean"; by default the
            class token if there is one more token than patches, else the mean.
        gradients: False records the weights alone.
        title: above figures and pages.

    Returns AttentionMaps. Raises ValueError if no attention ran, or tokens do not fit the image or the words.

    Example:
        >>> model = ta.models.AttentionClassifier(12, 3, hidden_dim=8, num_heads=2)
        >>> ta.viz.attention(model, ta.rand(2, 12, 12)).layers[0].weights.shape  # (batch, heads, queries, keys)
        (2, 2, 16, 16)
    """
    model = softmax_only(model, "attention")
    rows = [_as_rows(x) for x in (inputs, *more)]
    count = len(rows[0])
    maps = _recorded(model, rows, _each(target, count) if gradients else None)
    maps.labels, maps.title = _labels(labels, count), title
    if words is None:
        maps.images = pictures(rows[0], getattr(model, "image_size", None))
        maps.grid = grid_of(model, maps.images.shape[1:3], maps.tokens, grid)
        maps.read_from = "mean" if maps.grid.extra == 0 else 0
    else:
        maps.words = _words(words, count, maps.tokens)
    maps.read_from = maps.read_from if read_from is None else read_from
    return maps


def _each(target: Target, count: int) -> list[Any]:
    """Return a target for each input."""
    if target is None or callable(target):
        return [target] * count
    targets = host_array(target)
    if targets.shape not in ((), (count,)) or targets.dtype.kind not in "iu":
        raise ValueError(
            f"attention: target={target!r}; expected a class, one for each of the {count} inputs, or a function"
        )
    return np.broadcast_to(targets, count).tolist()


def _recorded(model: Any, rows: list[Any], targets: list[Any] | None) -> AttentionMaps:
    """Run the inputs one by one; return their maps without images, words and labels."""
    count = len(rows[0])
    if count == 0:
        raise ValueError("attention: got no inputs; expected at least one")
    found: list[list[AttentionLayer]] = []
    outputs: list[Any] = []
    chosen: list[int] = []
    for i in range(count):
        row = [x[i : i + 1] if hasattr(x, "ndim") and x.ndim and len(x) == count else x for x in rows]
        output, layers = record(model, row, None if targets is None else _score(targets[i], chosen))
        found.append(layers)
        outputs.append(output)
    are_scores = all(isinstance(x, Tensor) and x.ndim == 2 for x in outputs)
    return AttentionMaps(
        _of_tokens(_stacked(found)),
        scores=np.concatenate([x.numpy() for x in outputs]) if are_scores else None,
        target=np.array(chosen) if chosen else None,
    )


def _score(target: Any, chosen: list[int]) -> Score:
    """Return the function that picks the target score from an output and adds its class to `chosen`."""

    def score(output: Any) -> Tensor:
        if callable(target):
            return target(output)
        if not isinstance(output, Tensor) or output.ndim != 2 or output.dtype.kind != "f":
            shape = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(
                f"attention: the model returns {shape}, not scores (batch, classes); pass target=a function of the "
                "output that returns the number to differentiate, or gradients=False"
            )
        which = int(output.array[0].argmax()) if target is None else int(target)
        if not 0 <= which < output.shape[1]:
            raise ValueError(f"attention: target={which}; the model has classes 0 to {output.shape[1] - 1}")
        chosen.append(which)
        return output[0, which]

    return score


def _stacked(runs: list[list[AttentionLayer]]) -> list[AttentionLayer]:
    """Concatenate the layers of all inputs."""
    if not runs[0]:
        raise NoAttentionError(
            "attention: the model ran without any attention; recorded are scaled_dot_product_attention, "
            "packed_attention and softmax along the last axis"
        )
    shapes = [[(layer.name, layer.weights.shape) for layer in run] for run in runs]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(f"attention: input {i} ran through other layers than input 0; record them one at a time")
    layers = []
    for calls in zip(*runs, strict=True):
        gradients = None if calls[0].gradients is None else np.concatenate([call.gradients for call in calls])
        weights = np.concatenate([call.weights for call in calls])
        layers.append(AttentionLayer(calls[0].name, weights, gradients, calls[0].by_softmax))
        if not all(np.isfinite(x).all() for x in (weights, gradients) if x is not None):
            raise ValueError(f"attention: NaN or infinities in {calls[0].name}; ta.detect_anomaly finds their origin")
    return layers


def _of_tokens(layers: list[AttentionLayer]) -> list[AttentionLayer]:
    """Drop each softmax over something else than tokens, such as experts or classes."""
    sure = [layer for layer in layers if not layer.by_softmax] or layers
    tokens = max(layer.weights.shape[3] for layer in sure)
    return [layer for layer in layers if not layer.by_softmax or layer.weights.shape[3] == tokens]


def _as_rows(x: Any) -> Any:
    return x if isinstance(x, Tensor) or x is None else from_numpy(x) if isinstance(x, np.ndarray) else as_tensor(x)


def _labels(labels: Any, count: int) -> Any:
    if labels is None:
        return None
    labels = host_array(labels)
    if labels.shape != (count,):
        raise ValueError(f"attention: labels have shape {labels.shape}; expected one for each of the {count} inputs")
    return labels


def _words(words: Sequence[Any], count: int, tokens: int) -> list[list[str]]:
    lists = [words] * count if words and isinstance(words[0], str) else words
    texts = [[str(word) for word in text] for text in lists]
    if [len(text) for text in texts] != [tokens] * count:
        raise ValueError(
            f"attention: words for {[len(text) for text in texts]} tokens; expected {count} lists of {tokens} each"
        )
    return texts
