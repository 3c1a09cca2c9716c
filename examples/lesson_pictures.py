"""Make the pictures of docs/learn.

    python examples/lesson_pictures.py                        # all of them, into runs/lessons
    python examples/lesson_pictures.py --out docs/learn/pictures

Each picture is a function of its name. Graphs need graphviz' program `dot`, curves need matplotlib.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parts import run_script

import matplotlib
import numpy as np

import tinyattn as ta
from tinyattn import train
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
    p = w * x
    y = p + b
    L = y * y
    ta.viz.graph(L, stats=True, title="L = (w x + b)²").save(path)


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
        p = x @ w
        y = p + b
        squares = y * y
        return squares.sum()

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


def attention(path: Path) -> None:
    """Attention weights of eight random tokens, with and without a causal mask."""
    q, k = ta.randn(8, 4) * 1.5, ta.randn(8, 4)

    def draw(*axes: Any) -> None:
        for ax, hidden, title in zip(axes, (0.0, -np.inf), ("every token", "causal: no later token"), strict=True):
            mask = ta.tensor(np.triu(np.full((8, 8), hidden), 1) if hidden else np.zeros((8, 8)), dtype=ta.float32)
            weights = ta.softmax(q @ k.T / 2 + mask, 1)  # (queries, keys)
            ax.pcolormesh(weights.numpy(), cmap="Blues", vmin=0, vmax=1)
            ax.set(xlabel="key", ylabel="query", title=title, aspect="equal")
            ax.invert_yaxis()

    plot(path, draw, panels=2)


def adam(path: Path) -> None:
    """Gradient descent and Adam in the valley (100 a^2 + b^2) / 2, from (1, 1)."""
    paths = {}
    for name, kind, rate in (("gradient descent", ta.optim.SGD, 0.019), ("Adam", ta.optim.Adam, 0.02)):
        w = ta.tensor([1.0, 1.0], requires_grad=True)
        optimizer, points = kind([w], lr=rate), [w.tolist()]
        for _ in range(300):
            optimizer.zero_grad()
            (ta.tensor([100.0, 1.0]) * w * w / 2).sum().backward()
            optimizer.step()
            points.append(w.tolist())
        paths[name] = np.array(points)

    def draw(left: Any, right: Any) -> None:
        for (name, points), style in zip(paths.items(), (".-", "-"), strict=True):
            left.plot(points[:, 1], points[:, 0], style, linewidth=0.8, markersize=3, label=name)
            right.semilogy(np.linalg.norm(points, axis=1), label=name)
        left.set(xlabel="b, flat", ylabel="a, steep", title="path")
        right.set(xlabel="step", title="distance from the minimum")
        right.legend(frameon=False)

    plot(path, draw, panels=2)


def classifier(path: Path) -> None:
    """The losses of the program in lesson 9, which runs here."""
    text = Path(__file__).parents[1].joinpath("docs/learn/09-classifier.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "lesson"}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if ">>>" not in block:
            exec(compile(block, "lesson", "exec"), names)

    def draw(ax: Any) -> None:
        ax.plot(names["losses"])
        ax.axhline(np.log(10), color="grey", linestyle=":", label="log 10")
        ax.set(xlabel="step", title="loss", ylim=(0, None))
        ax.legend(frameon=False)

    plot(path, draw)


def engine(path: Path) -> None:
    """x * x, with value and gradient."""
    x = ta.tensor(3.0, requires_grad=True)
    y = x * x
    ta.viz.graph(y, stats=True, title="y = x * x").save(path)


PICTURES = [slope, chain, doubling, broadcasting, softmax, cross_entropy, attention, adam, classifier, engine]


def main() -> None:
    parser = train.Parser(description="Make the pictures of docs/learn.")
    parser.add_argument("--out", type=Path, default=Path("runs/lessons"), help="folder to write into (runs/lessons)")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME", help="not this picture; may be repeated")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for draw in PICTURES:
        file = args.out / f"{draw.__name__.replace('_', '-')}.svg"
        if file.stem in args.skip:
            continue
        ta.manual_seed(0)  # so that a picture does not depend on the others
        draw(file)
        print(file)


if __name__ == "__main__":
    run_script(main)
