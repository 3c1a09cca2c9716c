"""The results of ablation.py: gains with their intervals, as a page of one table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tinyattn.viz.figure import new_figure

STUDENT = {2: 12.706, 3: 4.303}  # the 97.5 % quantile by number of seeds
Row = tuple[float, float, float]  # mean accuracy, gain over no trick in points, half the width of its interval


def gains(found: Mapping[str, np.ndarray]) -> dict[str, Row]:
    """Return the row of each trick. found: the accuracies of its seeds; "none" has those without a trick."""
    rows = {}
    for name, accuracies in found.items():
        gain = 100 * (accuracies - found["none"])
        half = STUDENT[len(gain)] * gain.std(ddof=1) / len(gain) ** 0.5
        rows[name] = float(accuracies.mean()), float(gain.mean()), float(half)
    return rows


def page(rows: Mapping[str, Row], about: str) -> str:
    """Return the page in Markdown."""
    lines = ["# What each trick of training is worth", "", about, ""]
    lines += ["| trick | test accuracy | difference, in points | interval of 95 % |", "| --- | ---: | ---: | --- |"]
    for name, (mean, gain, half) in rows.items():
        difference = "|" if name == "none" else f"{gain:+.2f} | {gain - half:+.2f} to {gain + half:+.2f}"
        lines.append(f"| {name} | {mean:.2%} | {difference} |")
    return "\n".join([*lines, ""])


def picture(rows: Mapping[str, Row], path: Path, title: str) -> None:
    """Draw the gain of each trick with its interval."""
    axes = new_figure(7, 3.5).subplots()
    tricks = {name: row for name, row in reversed(rows.items()) if name != "none"}
    middles, halves = [gain for _, gain, _ in tricks.values()], [half for *_, half in tricks.values()]
    axes.errorbar(middles, [*tricks], xerr=halves, fmt="o", capsize=4)
    axes.axvline(0, color="#94a3b8", zorder=0)
    axes.set(xlabel="points of test accuracy gained over no trick, with the interval of 95 %", title=title)
    axes.figure.savefig(path)
