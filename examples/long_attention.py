"""Measure exact, sliding-window and linear attention against the number of tokens: seconds and memory.

    python examples/long_attention.py           # 256 to 16,384 tokens
    python examples/long_attention.py --quick   # up to 2,048

Exact attention has a weight for every pair of tokens, so it grows with their square. The other two grow with their
number. They are other functions, not approximations of the first: the picture shows the weights of each.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

from parts import run_script

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import train
from tinyattn.train.parser import integer, new_folder
from tinyattn.viz.figure import new_figure

Attention = Callable[[ta.Tensor, ta.Tensor, ta.Tensor], ta.Tensor]  # query, key, value (tokens, dim) -> (tokens, dim)


def exact(query: ta.Tensor, key: ta.Tensor, value: ta.Tensor) -> ta.Tensor:
    """Return softmax(query key^T / sqrt(dim)) value, with all weights, (tokens, tokens), in memory."""
    return F.softmax(query @ key.T / query.shape[-1] ** 0.5, -1) @ value


def tiled(query: ta.Tensor, key: ta.Tensor, value: ta.Tensor) -> ta.Tensor:
    """Return the same, by tinyattn's own function."""
    return F.scaled_dot_product_attention(query, key, value)


def window(query: ta.Tensor, key: ta.Tensor, value: ta.Tensor, reach: int = 64) -> ta.Tensor:
    """Let each token attend to those at most `reach` away (Beltagy et al. 2020, without global tokens).

    Tokens are cut into blocks of `reach`. A block sees itself and its two neighbours, in which a mask keeps the band.
    """
    tokens, dim = query.shape
    blocks, spare = -(-tokens // reach), -tokens % reach
    query = F.pad(query, (0, 0, 0, spare)).reshape(blocks, reach, dim)
    rows = np.arange(blocks)[:, None] * reach + np.arange(3 * reach)  # of the padded keys, (blocks, 3 reach)
    key, value = (F.pad(x, (0, 0, reach, reach + spare))[rows] for x in (key, value))  # (blocks, 3 reach, dim)
    here = np.arange(blocks * reach).reshape(blocks, reach, 1)
    there = (rows - reach)[:, None]  # (blocks, 1, 3 reach)
    seen = (abs(here - there) <= reach) & (there >= 0) & ((there < tokens) | (here >= tokens))  # padding sees anything
    scores = (query @ key.transpose(1, 2) / dim**0.5).masked_fill(ta.tensor(~seen), -np.inf)
    return (F.softmax(scores, -1) @ value).reshape(-1, value.shape[-1])[:tokens]


def linear(query: ta.Tensor, key: ta.Tensor, value: ta.Tensor) -> ta.Tensor:
    """Return attention with weights phi(query) phi(key)^T, phi = elu + 1 (Katharopoulos et al. 2020).

    The product of keys and values, (dim, dim), comes first, so no weight of a pair is ever computed.
    """
    query, key = F.elu(query) + 1, F.elu(key) + 1
    return query @ (key.T @ value) / (query @ key.sum(0)).unsqueeze(-1)


KINDS: dict[str, Attention] = {"exact": exact, "exact, tiled": tiled, "window of 64": window, "linear": linear}


def measure(attention: Attention, tokens: int, dim: int = 32) -> tuple[float, float]:
    """Return the processor's seconds and the peak of memory in MiB of a forward and backward pass."""
    query, key, value = (ta.randn(tokens, dim, requires_grad=True) for _ in range(3))
    tracemalloc.start()
    began = time.process_time()
    attention(query, key, value).sum().backward()
    seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak


def draw(path: Path, sizes: list[int], found: dict[str, list[tuple[float, float]]]) -> None:
    """Draw seconds and memory against tokens, and the weights that 256 tokens give to each other."""
    upper, lower = (figure := new_figure(13, 7)).subfigures(2, 1)
    for axes, column, title in zip(upper.subplots(1, 2), (0, 1), ("seconds", "MiB of memory"), strict=True):
        for name, rows in found.items():
            axes.loglog(sizes, [row[column] for row in rows], "o-", label=name)
        axes.set(title=f"{title}, forward and backward", xlabel="tokens", xticks=sizes, xticklabels=sizes)
        axes.minorticks_off()
    axes.legend()
    places = np.linspace(0, 8 * np.pi, 256)  # positions as sines: tokens are like those a whole turn away
    key = 1.5 * ta.tensor(np.stack([f(k * places) for k in (1, 2) for f in (np.sin, np.cos)], 1).astype(np.float32))
    for axes, (name, attention) in zip(lower.subplots(1, len(KINDS)), KINDS.items(), strict=True):
        weights = attention(key, key, ta.eye(256)).numpy()  # the values are unit vectors, so the output is the weights
        axes.imshow(weights, cmap="Oranges", vmin=0, vmax=np.quantile(weights, 0.995))
        axes.set(title=name, xlabel="token looked at", ylabel="token that looks")
    figure.savefig(path, dpi=100)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = train.Parser(prog="long_attention.py", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="up to 2,048 tokens")
    parser.add_argument("--seed", type=integer, metavar="N", help="of the random tokens (0)")
    parser.add_argument("--out", type=new_folder, metavar="FOLDER", help="gets a new folder for this run (runs)")
    args = {"quick": False, "seed": 0, "out": "runs"} | parser.given(arguments)
    ta.manual_seed(args["seed"])
    sizes = [256 * 2**i for i in range(4 if args["quick"] else 7)]
    run = train.Run(args["out"], f"long-attention-seed{args['seed']}")
    print(f"{'tokens':>8}", *(f"{name:>22}" for name in KINDS))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    for tokens in sizes:
        for name, attention in KINDS.items():
            found[name].append(min(measure(attention, tokens) for _ in range(2)))
        print(f"{tokens:>8}", *(f"{rows[-1][0]:>9.3f} s {rows[-1][1]:>6.0f} MiB" for rows in found.values()))
    run.summarise(tokens=sizes, seconds_and_mib=found)
    draw(run.folder / "attention.png", sizes, found)
    print(f"the picture is {run.folder / 'attention.png'}")
    return 0


if __name__ == "__main__":
    run_script(main)
