"""Loss and accuracy over the epochs."""

from __future__ import annotations

import csv
import os
from typing import Any

from tinyattn.viz.figure import new_figure


def curves_figure(metrics_csv: str | os.PathLike[str], title: str = "") -> Any:
    """Two panels drawn from a run's metrics.csv: training loss; training and test accuracy.

    Returns a matplotlib Figure.
    """
    with open(metrics_csv, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) for row in rows]
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [float(row["train_loss"]) for row in rows], marker="o", color="tab:red")
    left.set(xlabel="epoch", ylabel="training loss (cross-entropy)", yscale="log")
    for column, label, color in (("train_accuracy", "training", "tab:gray"), ("test_accuracy", "test", "tab:blue")):
        values = [100 * float(row[column]) for row in rows]
        right.plot(epochs, values, marker="o", color=color, label=f"{label}, {values[-1]:.2f} % at the end")
    right.set(xlabel="epoch", ylabel="accuracy (%)")
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    return figure
