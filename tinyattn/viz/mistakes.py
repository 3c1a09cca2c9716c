"""The worst mistakes of a classifier, and where it looked when it made them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.ops.creation import from_numpy
from tinyattn.tensors import Tensor
from tinyattn.train import predict
from tinyattn.viz.attention_figures import show_map
from tinyattn.viz.attention_grid import Grid
from tinyattn.viz.attention_maps import NoAttentionError, attention, pictures
from tinyattn.viz.attention_record import unwrapped
from tinyattn.viz.figure import new_figure


def worst_mistakes(scores: Any, labels: Any, count: int = 8) -> Any:
    """The places of the mistakes that cost most, by cross-entropy, worst first: at most `count` of them.

    scores (images, classes), labels (images,). NaN scores are the worst of all.
    """
    scores, labels = _array(scores), _array(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"mistakes: labels {labels.shape} for scores {scores.shape}; expected (images,), (images, classes)"
        )
    top = scores.max(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        loss = np.log(np.exp(scores - top).sum(1)) + top[:, 0] - scores[np.arange(len(labels)), labels]
    loss = np.where(np.isnan(loss), np.inf, loss)
    wrong = np.flatnonzero((scores.argmax(1) != labels) | np.isinf(loss))
    return wrong[np.argsort(-loss[wrong], kind="stable")][:count]


def mistakes_figure(model: Any, images: Any, labels: Any, count: int = 8, title: str = "") -> Any:
    """A column for each of the worst mistakes: the image, where the model looked, and what spoke for either class.

    images (count, height, width) as the model takes them, labels (count,). "looked" is attention rollout, "spoke
    for" the relevance by gradient x attention (`viz.AttentionMaps`); of a model without attention there are the images
    alone. Returns a matplotlib Figure. Raises ValueError where nothing was wrong, which is worth a look too.
    """
    images, labels = _array(images), _array(labels)
    scores = predict(model, images)
    worst = worst_mistakes(scores, labels, count)
    if len(worst) == 0:
        raise ValueError(f"mistakes: all {len(labels)} images were recognised; is this the data it was trained on?")
    said = scores[worst].argmax(1)
    grid, lines = _lines(model, images[worst], said, labels[worst])
    shown = pictures(from_numpy(images[worst]), getattr(unwrapped(model), "image_size", None))
    figure = new_figure(1.35 * len(worst) + 0.4, 1.4 * len(lines) + 0.75)
    axes = figure.subplots(len(lines), len(worst), squeeze=False)
    for column, place in enumerate(worst):
        e = np.exp(scores[place] - scores[place].max())
        sure = f"({100 * e[said[column]] / e.sum():.0f} %)"
        axes[0, column].set_title(f"no. {place}: a {labels[place]},\nsaid {said[column]} {sure}", fontsize=8)
        for (name, values, classes), ax in zip(lines, axes[:, column], strict=True):
            show_map(ax, shown[column], grid, None if values is None else values[column])
            if column == 0:
                ax.set_ylabel(name, fontsize=8)
            if classes is not None:
                ax.set_title(f"for {classes[column]}", fontsize=7, pad=2)
    wrong = int((scores.argmax(1) != labels).sum())
    figure.suptitle(": ".join(filter(None, (title, f"the worst of {wrong} mistakes in {len(labels)}"))), fontsize=10)
    return figure


def _lines(model: Any, images: Any, said: Any, labels: Any) -> tuple[Grid | None, list[tuple[str, Any, Any]]]:
    """What stands below each other: a name, the values of the tokens (None: the image alone), and for which classes."""
    image = ("", None, None)
    try:
        of_said = attention(model, images, target=said)
    except NoAttentionError:
        return None, [image]
    of_true = attention(model, images, target=labels)
    return of_said.grid, [
        image,
        ("looked", of_said.where_it_looked(), None),
        ("spoke for its answer", of_said.relevance(), said),
        ("spoke for the truth", of_true.relevance(), labels),
    ]


def _array(x: Any) -> Any:
    return np.asarray(x.numpy() if isinstance(x, Tensor) else x)
