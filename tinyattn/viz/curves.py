"""Loss and accuracy over the epochs."""

from __future__ import annotations

import math
from typing import Any

from tinyattn.viz.figure import new_figure
from tinyattn.viz.tables import Rows, column, read_rows

_COLOURS = {"train": "tab:gray", "test": "tab:blue", "validation": "tab:green", "val": "tab:green"}


def curves_figure(metrics: Rows, title: str = "") -> Any:
    """Two panels: every column that ends in "loss", and every one that ends in "accuracy" (shares of 1).

    metrics: a run's metrics.csv, which may still be written to, or rows as dicts. Over the column "epoch", or
    "step", or else the number of the row. Returns a matplotlib Figure. Raises ValueError where there is nothing
    to draw.
    """
    rows = read_rows(metrics)
    time = next((name for name in ("epoch", "step") if name in rows[0]), "row")
    x = column(rows, time) if time in rows[0] else [float(i + 1) for i in range(len(rows))]
    kinds = {kind: [name for name in rows[0] if name.endswith(kind)] for kind in ("loss", "accuracy")}
    if not any(kinds.values()):
        raise ValueError(f"curves: no column ends in 'loss' or 'accuracy'; there are {', '.join(map(str, rows[0]))}")
    panels = [kind for kind, names in kinds.items() if names]
    figure = new_figure(4.5 * len(panels), 3.6)
    for axes, kind in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in kinds[kind]:
            _curve(axes, x, column(rows, name), name, kind)
        unit = "accuracy (%)" if kind == "accuracy" else "loss (cross-entropy)"
        axes.set(xlabel=time, ylabel=unit)
        axes.legend(loc="lower right" if kind == "accuracy" else "upper right")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    return figure


def _curve(axes: Any, x: list[float], values: list[float], name: str, kind: str) -> None:
    label = name.removesuffix(kind).strip("_ ") or kind
    known = [value for value in values if math.isfinite(value)]
    if kind == "accuracy":
        values, end = [100 * value for value in values], f"{100 * known[-1]:.2f} %" if known else "never known"
    else:
        end = f"{known[-1]:.4f}" if known else "never known"
        if known and min(known) > 0:
            axes.set_yscale("log")
    colour = next((colour for start, colour in _COLOURS.items() if label.startswith(start)), None)
    label = {"train": "training", "val": "validation"}.get(label, label)
    axes.plot(
        x, values, marker="o" if len(x) < 60 else None, markersize=4, color=colour, label=f"{label}, {end} at the end"
    )
