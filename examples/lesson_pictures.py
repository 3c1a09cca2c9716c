"""Make the pictures of docs/learn.

    python examples/lesson_pictures.py                        # all of them, into runs/lessons
    python examples/lesson_pictures.py --out docs/learn/pictures

Each picture is a function of its name. Graphs need graphviz' program `dot`, curves need matplotlib.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

import tinyattn as ta
from tinyattn.viz.figure import new_figure

# Text stays text, and two runs give the same file.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tinyattn", "font.size": 9})


def plot(path: Path, draw: Callable[..., None], panels: int = 1) -> None:
    figure = new_figure(3.4 * panels, 2.6)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    draw(*axes)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def slope(path: Path) -> None:
    """x^2, its tangent at 3, and a secant."""

    def draw(ax: Any) -> None:
        x = np.linspace(0, 5.2, 100)
        ax.plot(x, x**2, label="f(x) = x²")
        ax.plot(x, 9 + 6 * (x - 3), "--", label="tangent: slope 6")
        ax.plot(x, 9 + 7.5 * (x - 3), ":", label="secant, h = 1.5: slope 7.5")
        ax.plot([3, 4.5], [9, 20.25], "o", color="black", markersize=4)
        ax.set(xlabel="x", ylim=(-5, 27))
        ax.legend(frameon=False)

    plot(path, draw)


def chain(path: Path) -> None:
    """(w x + b)^2, with the number and the gradient at every step."""
    w, x, b = (ta.tensor(value, requires_grad=True) for value in (2.0, 3.0, 1.0))
    y = w * x + b
    ta.viz.graph(y * y, stats=True, title="L = (w x + b)²").save(path)


def doubling(path: Path) -> None:
    """x + x, three times: eight paths, four variables."""
    x = ta.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(3):
        y = y + y
    ta.viz.graph(y, title="three doublings: eight paths").save(path)


def broadcasting(path: Path) -> None:
    """x w + b for four rows, with the shapes."""
    x, w, b = ta.ones(4, 2), ta.ones(2, 3, requires_grad=True), ta.zeros(3, requires_grad=True)

    def layer(x: ta.Tensor) -> ta.Tensor:
        y = x @ w + b
        return (y * y).sum()

    ta.viz.graph(layer, x, title="a bias of shape (3) is added to (4, 3)").save(path)


def softmax(path: Path) -> None:
    """Softmax of (2, 1, 0) at three temperatures; p (1 - p) of two scores."""

    def draw(left: Any, right: Any) -> None:
        for i, temperature in enumerate((0.25, 1, 4)):
            p = ta.softmax(ta.tensor([2.0, 1.0, 0.0]) / temperature, 0).numpy()
            left.bar(np.arange(3) + (i - 1) * 0.27, p, 0.25, label=f"T = {temperature}")
        left.set(xticks=range(3), xticklabels=["score 2", "score 1", "score 0"], title="probabilities")
        left.legend(frameon=False)
        x = ta.linspace(-8, 8, 161, requires_grad=True)
        p = x.sigmoid()
        p.sum().backward()
        right.plot(x.numpy(), p.numpy(), label="p of scores (a, 0)")
        right.plot(x.numpy(), x.grad.numpy(), "--", label="its slope p (1 - p)")
        right.set(xlabel="a", title="saturation")
        right.legend(frameon=False, loc="upper left")

    plot(path, draw, panels=2)


def cross_entropy(path: Path) -> None:
    """-log p and (1 - p)^2, and their slopes with respect to the right score, of two classes."""

    def draw(left: Any, right: Any) -> None:
        losses = {"-log p": lambda p: -p.log(), "(1 - p)²": lambda p: (1 - p) ** 2}
        for (name, loss), style in zip(losses.items(), ("-", "--"), strict=True):
            p = ta.linspace(0.005, 1, 200)
            left.plot(p.numpy(), loss(p).numpy(), style, label=name)
            x = ta.linspace(-8, 8, 161, requires_grad=True)
            loss(x.sigmoid()).sum().backward()
            right.plot(x.numpy(), x.grad.numpy(), style, label=name)
        left.set(xlabel="p of the right class", title="loss")
        right.set(xlabel="score of the right class, the other is 0", title="slope")
        left.legend(frameon=False)

    plot(path, draw, panels=2)


PICTURES = [slope, chain, doubling, broadcasting, softmax, cross_entropy]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the pictures of docs/learn.")
    parser.add_argument("--out", type=Path, default=Path("runs/lessons"), help="folder to write into (runs/lessons)")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for draw in PICTURES:
        ta.manual_seed(0)  # so that a picture does not depend on the others
        file = folder / f"{draw.__name__.replace('_', '-')}.svg"
        draw(file)
        print(file)


if __name__ == "__main__":
    main()
