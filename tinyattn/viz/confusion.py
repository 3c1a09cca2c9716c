"""What was taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyattn.tensors import Tensor
from tinyattn.viz.figure import new_figure


def confusion_matrix(labels: Any, predicted: Any, classes: int | None = None) -> Any:
    """How often class i (row) was taken for class j (column): int64 (classes, classes).

    labels, predicted: integers (count,), or predicted scores (count, classes). classes: how many there are; one
    more than the largest that occurs unless said. Raises ValueError for classes out of range.
    """
    labels, predicted = _array(labels), _array(predicted)
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
    """The matrix with every count written in: mistakes red, the more the darker, what was right in grey.

    At the right, the share of each class that was recognised; below, the share of each answer that was right.
    Arguments as in `confusion_matrix`; names: of the classes. Returns a matplotlib Figure.
    """
    matrix = confusion_matrix(labels, predicted, None if names is None else len(names))
    n = len(matrix)
    if n == 0:
        raise ValueError("confusion: there are no predictions to draw")
    names = [str(k) for k in range(n)] if names is None else names
    wrong = matrix * (1 - np.eye(n, dtype=int))
    side = 0.42 * min(n, 20) + 1.6  # with more classes than 20, colours tell more than numbers
    figure = new_figure(side + 0.3, side)
    ax = figure.subplots()
    ax.imshow(np.sqrt(wrong), cmap="Reds", vmax=1.25 * max(np.sqrt(wrong).max(), 1.0))
    for (i, j), count in np.ndenumerate(matrix):
        if i == j:
            ax.add_patch(_square(j, i))
        if count and n <= 20:
            dark = wrong[i, j] > 0.5 * max(wrong.max(), 1)
            ax.text(j, i, str(count), ha="center", va="center", fontsize=8, color="white" if dark else "0.15")
    recall, precision = (_percent(np.diag(matrix), matrix.sum(axis)) for axis in (1, 0))
    for k in range(n if n <= 20 else 0):
        ax.text(n - 0.35, k, recall[k], va="center", fontsize=8, color="0.4")
        ax.text(k, n - 0.35, precision[k], ha="center", va="top", fontsize=7 if n < 12 else 5, color="0.4")
    for set_ticks in (ax.set_xticks, ax.set_yticks):
        set_ticks(range(0, n, -(-n // 20)), names[:: -(-n // 20)], fontsize=9)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.set(
        xlabel="was taken for; below, the share of these answers that was right", ylabel="is a", xlim=(-0.5, n + 0.6)
    )
    ax.xaxis.label.set_size(9)
    ax.set_ylim(n + 0.1, -0.5)
    for spine in ax.spines.values():
        spine.set_visible(False)
    right, whole = int(np.diag(matrix).sum()), int(matrix.sum())
    summary = f"{whole - right} mistakes in {whole}" + (f", {100 * right / whole:.2f} % right" if whole else "")
    figure.suptitle(": ".join(filter(None, (title, summary))), fontsize=10)
    return figure


def _square(x: int, y: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, color="0.88", zorder=0.5)


def _percent(part: Any, whole: Any) -> list[str]:
    return [f"{100 * p / w:.1f} %" if w else "" for p, w in zip(part, whole, strict=True)]


def _array(x: Any) -> Any:
    return np.asarray(x.numpy() if isinstance(x, Tensor) else x)
