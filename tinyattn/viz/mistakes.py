"""Figures of what a classifier gets wrong: the confusion matrix, and the worst mistakes with their attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyattn.ops.creation import from_numpy
from tinyattn.train import predict
from tinyattn.viz.figure import headed, new_figure
from tinyattn.viz.graphs.arrays import host_array
from tinyattn.viz.maps.attention import NoAttentionError, attention
from tinyattn.viz.maps.figures import EVEN, show_map
from tinyattn.viz.maps.grid import Grid, pictures
from tinyattn.viz.maps.record import softmax, unwrapped

# --- confusion ---


def confusion_matrix(labels: Any, predicted: Any, classes: int | None = None) -> Any:
    """Count how often class i (row) was predicted as class j (column).

    Args:
        labels: integers (count,).
        predicted: integers (count,), or scores (count, classes).
        classes: the number of classes; by default that of the scores, else one more than the largest class.

    Returns an int64 NumPy array (classes, classes). Raises TypeError for classes that are not integers, and
    ValueError for shapes that do not fit and classes out of range.

    Example:
        >>> ta.viz.confusion_matrix([0, 0, 1], [0, 1, 1]).tolist()
        [[1, 1], [0, 1]]
    """
    labels, predicted = host_array(labels), host_array(predicted)
    if predicted.ndim == 2:
        classes = predicted.shape[1] if classes is None else classes
        predicted = predicted.argmax(1)
    if labels.ndim != 1 or labels.shape != predicted.shape:
        raise ValueError(f"confusion: {labels.shape} labels for {predicted.shape} predictions; expected one for each")
    both = np.concatenate([labels, predicted])
    if both.size and both.dtype.kind not in "iub":
        raise TypeError(f"confusion: classes have dtype {both.dtype}; expected integers")
    both = both.astype(np.int64)
    most = int(both.max(initial=-1)) + 1
    classes = most if classes is None else classes
    if most > classes or both.min(initial=0) < 0:
        raise ValueError(f"confusion: classes from {both.min()} to {most - 1}; expected 0 to {classes - 1}")
    pairs = both[: len(labels)] * classes + both[len(labels) :]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def confusion_figure(labels: Any, predicted: Any, names: Sequence[str] | None = None, title: str = "") -> Any:
    """Draw the confusion matrix with every count: mistakes red, darker for more; hits grey.

    The column at the right is the recall of each class, the row at the bottom its precision.

    Args:
        labels, predicted: as for `confusion_matrix`.
        names: of the classes; by default their numbers.
        title: above the figure.

    Returns a matplotlib Figure. Raises ImportError without matplotlib, and as `confusion_matrix`.

    Example:
        >>> ta.viz.confusion_figure([0, 0, 1], [0, 1, 1]).savefig("confusion.png")
    """
    matrix = confusion_matrix(labels, predicted, None if names is None else len(names))
    n = len(matrix)
    if n == 0:
        raise ValueError("confusion: got no predictions; expected at least one")
    names = [str(k) for k in range(n)] if names is None else names
    side = 0.42 * min(n, 20) + 1.6  # above 20 classes only colours can be read
    figure = new_figure(side + 0.3, side)
    ax = figure.subplots()
    _counts(ax, matrix)
    recall, precision = (_percent(np.diag(matrix), matrix.sum(axis)) for axis in (1, 0))
    for k in range(n if n <= 20 else 0):
        ax.text(n - 0.35, k, recall[k], va="center", fontsize=8, color="0.4")
        ax.text(k, n - 0.35, precision[k], ha="center", va="top", fontsize=7 if n < 12 else 5, color="0.4")
    for set_ticks in (ax.set_xticks, ax.set_yticks):
        set_ticks(range(0, n, -(-n // 20)), names[:: -(-n // 20)], fontsize=9)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.set(xlabel="predicted class; below, its precision", ylabel="label", xlim=(-0.5, n + 0.6), ylim=(n + 0.1, -0.5))
    ax.xaxis.label.set_size(9)
    ax.spines[:].set_visible(False)
    right, whole = int(np.diag(matrix).sum()), int(matrix.sum())
    share = f", {100 * right / whole:.2f} % right" if whole else ""
    return headed(figure, title, f"{whole - right} mistakes in {whole}{share}")


def _counts(ax: Any, matrix: Any) -> None:
    """Draw the cells and, for up to 20 classes, their counts."""
    from matplotlib.patches import Rectangle

    wrong = matrix * (1 - np.eye(len(matrix), dtype=int))
    ax.imshow(np.sqrt(wrong), cmap="Reds", vmax=1.25 * max(np.sqrt(wrong).max(), 1.0))
    for (i, j), count in np.ndenumerate(matrix):
        if i == j:
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color="0.88", zorder=0.5))
        if count and len(matrix) <= 20:
            dark = wrong[i, j] > 0.5 * max(wrong.max(), 1)
            ax.text(j, i, str(count), ha="center", va="center", fontsize=8, color="white" if dark else "0.15")


def _percent(part: Any, whole: Any) -> list[str]:
    return [f"{100 * p / w:.1f} %" if w else "" for p, w in zip(part, whole, strict=True)]


# --- the worst mistakes ---


def worst_mistakes(scores: Any, labels: Any, count: int = 8) -> Any:
    """Return the indices of the mistakes with the largest cross-entropy, the largest first.

    Args:
        scores: (images, classes), before the softmax. NaN scores count as the largest loss.
        labels: integers (images,).
        count: how many mistakes at most.

    Returns an integer NumPy array (at most `count`,). Raises ValueError for shapes that do not fit.

    Example:
        >>> ta.viz.worst_mistakes([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], [1, 1, 1]).tolist()
        [2, 0]
    """
    scores, labels = host_array(scores), host_array(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"mistakes: labels {labels.shape} for scores {scores.shape}; expected (images,), (images, classes)"
        )
    with np.errstate(invalid="ignore"):
        loss = np.logaddexp.reduce(scores, 1) - scores[np.arange(len(labels)), labels]
    loss = np.where(np.isnan(loss), np.inf, loss)
    wrong = np.flatnonzero((scores.argmax(1) != labels) | np.isinf(loss))
    return wrong[np.argsort(-loss[wrong], kind="stable")][:count]


def mistakes_figure(model: Any, images: Any, labels: Any, count: int = 8, title: str = "") -> Any:
    """Draw the worst mistakes of a classifier, a column for each, with the model's attention.

    The rows are the image, the attention rollout, and the relevance for the predicted and for the right class
    (`viz.AttentionMaps`). A model without attention gets the images alone.

    Args:
        model: returns scores (count, classes).
        images: (count, height, width), as the model takes them.
        labels: integers (count,).
        count: how many mistakes at most.
        title: above the figure.

    Returns a matplotlib Figure. Raises ImportError without matplotlib, and ValueError if no image is wrong.

    Example:
        >>> model, images = ta.models.AttentionClassifier(12, 3, hidden_dim=8, num_heads=2), ta.rand(2, 12, 12)
        >>> labels = 9 - ta.train.predict(model, images).argmax(1)  # both wrong
        >>> ta.viz.mistakes_figure(model, images, labels).savefig("mistakes.png")
    """
    images, labels = host_array(images), host_array(labels)
    scores = predict(model, images)
    worst = worst_mistakes(scores, labels, count)
    if len(worst) == 0:
        raise ValueError(f"mistakes: all {len(labels)} images were classified right; pass images the model gets wrong")
    predicted = scores.argmax(1)
    grid, lines = _lines(model, images[worst], predicted[worst], labels[worst])
    shown = pictures(from_numpy(images[worst]), getattr(unwrapped(model), "image_size", None))
    figure = new_figure(1.35 * len(worst) + 0.4, 1.4 * len(lines) + 0.75)
    axes = figure.subplots(len(lines), len(worst), squeeze=False)
    most = {True: 0.0, False: 0.0}  # of rollout and of relevance: one scale for all columns
    if lines[-1][1] is not None:
        most[True] = EVEN / len(lines[-1][1][0])
    for _, values, classes in lines:
        most[classes is None] = max(most[classes is None], 0.0 if values is None else float(values.max()))
    for column, i in enumerate(worst):
        share = softmax(scores[i])[predicted[i]]
        heading = f"no. {i}: label {labels[i]},\npredicted {predicted[i]} ({100 * share:.0f} %)"
        for (name, values, classes), ax in zip(lines, axes[:, column], strict=True):
            show_map(ax, shown[column], grid, None if values is None else values[column], most=most[classes is None])
            if column == 0:
                ax.set_ylabel(name, fontsize=8)
            if classes is not None:
                ax.set_title(f"for {classes[column]}", fontsize=7, pad=2)
        axes[0, column].set_title(heading, fontsize=8)
    return headed(figure, title, f"the worst of {int((predicted != labels).sum())} mistakes in {len(labels)}")


def _lines(model: Any, images: Any, predicted: Any, labels: Any) -> tuple[Grid | None, list[tuple[str, Any, Any]]]:
    """Return the rows of the figure: a name, the values of the tokens (None: the image alone), and their classes."""
    image = ("", None, None)
    try:
        of_predicted = attention(model, images, target=predicted)
    except NoAttentionError:
        return None, [image]
    of_label = attention(model, images, target=labels)
    return of_predicted.grid, [
        image,
        ("rollout", of_predicted.where_it_looked(), None),
        ("relevance,\nprediction", of_predicted.relevance(), predicted),
        ("relevance,\nlabel", of_label.relevance(), labels),
    ]
