"""Figures of a training run: curves and layers, also while the run goes on."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tinyattn.files.texts import unmarked
from tinyattn.files.whole import unlinked, write_whole
from tinyattn.viz.figure import new_figure, shown

Rows: TypeAlias = str | os.PathLike[str] | Iterable[Mapping[str, Any]]

_COLOURS = {"train": "tab:gray", "loss": "tab:gray", "test": "tab:blue", "validation": "tab:green", "val": "tab:green"}
_PANELS = {
    "gradient_norm": ("norm of the gradient", "viridis"),
    "update_ratio": ("size of a step / size of the parameters", "RdBu_r"),
}


# --- rows of numbers ---


def read_rows(rows: Rows, *needed: str) -> list[dict[str, Any]]:
    """Return the rows of a CSV file or of a list, numbers as floats (except names of layers), empty values as NaN.

    Leaves out the last line of a file if it is incomplete, since a run may be writing it. Raises ValueError if
    there are no rows or one of the columns `needed` is missing.
    """
    if isinstance(rows, str | os.PathLike):
        where = os.fspath(rows)
        found: Sequence[Mapping[str, Any]] = _whole_rows(rows)
    else:
        where, found = "the rows", list(rows)
    if not found:
        raise ValueError(f"{where}: no row yet; a run writes one at the end of each epoch")
    for name in needed:
        if name not in found[0]:
            raise ValueError(f"{where}: no column {name!r}; the columns are {', '.join(map(str, found[0]))}")
    return [{name: value if name == "layer" else _number(value) for name, value in row.items()} for row in found]


def _whole_rows(path: str | os.PathLike[str]) -> list[Mapping[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            text = file.read()
        table = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        whole = (row for row in table if None not in row.values() and None not in row)  # as many values as columns
        return [{unmarked(name): unmarked(value) for name, value in row.items()} for row in whole]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{os.fspath(path)}: not a CSV file as a run writes it ({error})") from None


def _number(value: Any) -> Any:
    if value == "" or value is None:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Return one column as numbers, NaN for a row without one."""
    return [row[name] if isinstance(row.get(name), float) else math.nan for row in rows]


# --- figures ---


def curves_figure(metrics: Rows, title: str = "") -> Any:
    """Draw two panels: the columns that end in "loss", and those that end in "accuracy" (shares of 1).

    Args:
        metrics: a run's metrics.csv, which may still be written to, or rows as dicts. The x axis is the column
            "epoch", else "step", else the number of the row.
        title: above the figure.

    Returns a matplotlib Figure. Raises ImportError without matplotlib, and ValueError without rows or such columns.

    Example:
        >>> figure = ta.viz.curves_figure([{"epoch": 1, "loss": 2.3}, {"epoch": 2, "loss": 1.1}])
        >>> figure.savefig("curves.png")  # doctest: +SKIP
    """
    rows = read_rows(metrics)
    axis = next((name for name in ("epoch", "step") if name in rows[0]), "row")
    x = _column(rows, axis) if axis in rows[0] else [float(i + 1) for i in range(len(rows))]
    columns = {name: None for row in rows for name in row}
    kinds = {kind: [name for name in columns if name.endswith(kind)] for kind in ("loss", "accuracy")}
    panels = [kind for kind, names in kinds.items() if names]
    if not panels:
        raise ValueError(f"curves: no column ends in 'loss' or 'accuracy'; the columns are {', '.join(rows[0])}")
    figure = new_figure(4.5 * len(panels), 3.6)
    for axes, kind in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in kinds[kind]:
            _curve(axes, x, _column(rows, name), name, kind)
        axes.set(xlabel=axis, ylabel="accuracy (%)" if kind == "accuracy" else "loss (cross-entropy)")
        axes.legend(loc="lower right" if kind == "accuracy" else "upper right")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    return figure


def _curve(axes: Any, x: list[float], values: list[float], name: str, kind: str) -> None:
    label = name.removesuffix(kind).strip("_ ") or kind
    known = [value for value in values if math.isfinite(value)]
    end = "never measured"
    if kind == "accuracy":
        values = [100 * value for value in values]
        end = f"{100 * known[-1]:.2f} %" if known else end
    elif known:
        end = f"{known[-1]:.4f}"
        if min(known) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_plain_numbers())
            axes.yaxis.set_minor_formatter(_plain_numbers(minor_thresholds=(1, 0.4)))
    colour = next((colour for start, colour in _COLOURS.items() if label.startswith(start)), None)
    label = {"train": "training", "val": "validation"}.get(label, label)
    marker = "o" if len(x) < 60 else None
    axes.plot(x, values, marker=marker, markersize=4, color=colour, label=f"{label}, {end} at the end")


def _plain_numbers(**options: Any) -> Any:
    """Return a formatter for logarithmic axes: the ticks that LogFormatter chooses, as 0.6 instead of 6e-01."""
    from matplotlib.ticker import LogFormatter

    class PlainNumbers(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    return PlainNumbers(**options)


def layers_figure(stats: Rows, title: str = "") -> Any:
    """Draw gradient norm and update ratio as two maps, a row for each layer, a column for each measured step.

    Colours are logarithmic. The update ratio is white at 1e-3, a healthy size of a step. Grey: no gradient.

    Args:
        stats: the rows of `train.LayerStats`, or the CSV file that it writes.
        title: above the figure.

    Returns a matplotlib Figure. Raises ImportError without matplotlib, and ValueError without rows or a column.

    Example:
        >>> rows = [{"step": 1, "layer": "head", "gradient_norm": 0.5, "update_ratio": 1e-3}]
        >>> ta.viz.layers_figure(rows).savefig("layers.png")
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
    axes[0].set_yticks(range(len(layers)), map(shown, layers), fontsize=8, parse_math=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _map(figure: Any, ax: Any, table: Any, steps: list[float], label: str, colours: str, middle: float | None) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_where(~(np.isfinite(table) & (table > 0)), table)
    if middle is not None:  # as far to both sides
        low, high = middle / 100, middle * 100
    else:
        low, high = (shown.min(), shown.max()) if shown.count() else (1e-3, 1.0)
    norm = LogNorm(low, max(high, low * 1.01))
    with_grey = colormaps[colours].with_extremes(bad="0.8")
    image = ax.imshow(shown, aspect="auto", cmap=with_grey, norm=norm, interpolation="nearest")
    places = np.unique(np.linspace(0, len(steps) - 1, 6).astype(int))
    ax.set_xticks(places, [f"{steps[i]:.0f}" for i in places], fontsize=8)
    ax.set_xlabel("step", fontsize=9)
    ax.set_title(label, fontsize=9)
    figure.colorbar(image, ax=ax, pad=0.01, extend="neither" if middle is None else "both")


# --- while the run goes on ---


class Live:
    """Redraw a figure while a run goes on, into a file and, in a notebook, in place.

    Args:
        draw: returns a matplotlib Figure, from rows in memory or from a file that another process writes. A
            ValueError means that nothing can be drawn yet.
        path: the picture, replaced atomically, so that a viewer never reads half of it; a symbolic link is replaced
            too, not its target. None: the notebook alone.
        seconds: the shortest time between two drawings.

    Example:
        >>> rows = [{"epoch": 1, "loss": 2.3}]
        >>> live = ta.viz.Live(lambda: ta.viz.curves_figure(rows))
        >>> live.update()  # once per epoch; True: drawn
        True
    """

    def __init__(self, draw: Callable[[], Any], path: str | os.PathLike[str] | None = None, seconds: float = 5) -> None:
        self.draw, self.path, self.seconds = draw, None if path is None else Path(path), seconds
        self._next = float("-inf")
        self._handle: Any = None

    def update(self, now: bool = False) -> bool:
        """Draw if `seconds` have passed since the last drawing, or if `now`; return whether it was drawn."""
        if not now and time.monotonic() < self._next:
            return False
        try:
            figure = self.draw()
        except ValueError:
            if now:
                raise
            return False
        if self.path is not None:
            picture = io.BytesIO()
            figure.savefig(picture, format=self.path.suffix.lstrip(".") or "png")
            write_whole(unlinked(self.path), picture.getbuffer())
        self._show(figure)
        self._next = time.monotonic() + self.seconds
        return True

    def _show(self, figure: Any) -> None:
        """Show the figure in a notebook, in place of the last one."""
        ipython = sys.modules.get("IPython")
        if ipython is None or ipython.get_ipython() is None:
            return
        from IPython.display import Image, display

        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        image = Image(data=picture.getvalue())
        if self._handle is None:
            self._handle = display(image, display_id=True)
        else:
            self._handle.update(image)
