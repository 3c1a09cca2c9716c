"""Gradients and updates of every layer over the steps of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.viz.figure import new_figure
from tinyattn.viz.tables import Rows, read_rows

_PANELS = {
    "gradient_norm": ("norm of the gradient", "viridis"),
    "update_ratio": ("size of a step / size of the parameters", "RdBu_r"),
}


def layers_figure(stats: Rows, title: str = "") -> Any:
    """Two maps with a row for each layer and a column for each measured step: gradient norm and update ratio.

    stats: what `train.LayerStats` gives: its rows, or the CSV file that it writes. Colours are logarithmic; the
    ratio is white at 1e-3, a healthy size of a step. Grey: no gradient at all. Returns a matplotlib Figure.
    """
    rows = read_rows(stats, "step", "layer", *_PANELS)
    layers = {name: i for i, name in enumerate(dict.fromkeys(str(row["layer"]) for row in rows))}
    steps = {step: i for i, step in enumerate(sorted({row["step"] for row in rows}))}
    figure = new_figure(10.5, 1.5 + 0.24 * len(layers))
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (name, (label, colours)) in zip(axes, _PANELS.items(), strict=True):
        table = np.full((len(layers), len(steps)), np.nan)
        for row in rows:
            table[layers[str(row["layer"])], steps[row["step"]]] = row[name]
        _map(figure, ax, table, list(steps), label, colours, 1e-3 if name == "update_ratio" else None)
    axes[0].set_yticks(range(len(layers)), layers, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def _map(figure: Any, ax: Any, table: Any, steps: list[float], label: str, colours: str, middle: float | None) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    positive = table[np.isfinite(table) & (table > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (1e-3, 1.0)
    if middle is not None:  # as far to both sides
        low, high = middle / 100, middle * 100
    with_grey = colormaps[colours].with_extremes(bad="0.8")
    shown = np.ma.masked_where(~(np.isfinite(table) & (table > 0)), table)
    image = ax.imshow(
        shown, aspect="auto", cmap=with_grey, norm=LogNorm(low, max(high, low * 1.01)), interpolation="nearest"
    )
    places = np.unique(np.linspace(0, len(steps) - 1, 6).astype(int))
    ax.set_xticks(places, [f"{steps[i]:.0f}" for i in places], fontsize=8)
    ax.set_xlabel("step", fontsize=9)
    ax.set_title(label, fontsize=9)
    figure.colorbar(image, ax=ax, pad=0.01, extend="neither" if middle is None else "both")
