"""Teach a small transformer to write words backwards, and watch which letter each letter is copied from.

    python examples/reverse_words.py             # some 10 s on one core; writes runs/reverse-words.html
    python examples/reverse_words.py --steps 250 # what is learned first

A word is random letters and then spaces, up to LENGTH characters; the model gives all characters of the reversed word
at once. Nothing tells it how long a word is: the first block has to find its end, so that the second can attend to the
letter that is as far from the end as the place to fill is from the beginning. The page shows that as a diagonal which
moves with the length of the word that one types.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from parts import run_script

import numpy as np
import threadpoolctl

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import models, nn, optim, train, viz
from tinyattn.train.parser import integer, whole_number

ALPHABET = " abcdefghijklmnopqrstuvwxyz"  # the place of a character is its token; a space follows the word
LENGTH = 10  # characters that the model sees


class CharacterModel(nn.Module):
    """Score every character at every place: integers (batch, length) -> (batch, length, characters)."""

    def __init__(self, alphabet: str, length: int, num_layers: int, num_heads: int, dim: int) -> None:
        super().__init__()
        self.alphabet = alphabet
        self.embedding = nn.Embedding(len(alphabet), dim)
        self.position = nn.Parameter(ta.randn(length, dim))
        self.blocks = nn.ModuleList(models.Block(dim, num_heads, 2 * dim, dropout=0.0) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, len(alphabet))

    def forward(self, words: ta.Tensor) -> ta.Tensor:
        x = self.embedding(words) + self.position  # (batch, length, dim)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def random_words(count: int, generator: np.random.Generator) -> tuple[ta.Tensor, ta.Tensor]:
    """Random words of 1 to LENGTH letters, and the same reversed: two tensors (count, LENGTH)."""
    letters = generator.integers(1, len(ALPHABET), (count, LENGTH))
    place, ends = np.arange(LENGTH), generator.integers(1, LENGTH + 1, (count, 1))
    words = np.where(place < ends, letters, 0)
    mirrored = np.take_along_axis(words, np.maximum(ends - 1 - place, 0), axis=1)
    return ta.from_numpy(words), ta.from_numpy(np.where(place < ends, mirrored, 0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, test on unseen words, and write the page. arguments: those of the command line unless given."""
    parser = train.Parser(description=__doc__)
    parser.add_argument("--steps", type=whole_number, default=800, metavar="N", help="training steps (800)")
    parser.add_argument("--seed", type=integer, default=0, metavar="N", help="of the weights and the words (0)")
    parser.add_argument("--out", type=Path, default=Path("runs/reverse-words.html"), metavar="FILE", help="the page")
    args = parser.parse_args(arguments)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    ta.manual_seed(args.seed)
    threadpoolctl.threadpool_limits(1)  # a second BLAS thread gains little on matrices this small
    generator = np.random.default_rng(args.seed)

    model = CharacterModel(ALPHABET, LENGTH, num_layers=2, num_heads=2, dim=32)
    optimizer = optim.AdamW(model.parameters(), 5e-3)
    schedule = optim.OneCycleLR(optimizer, 5e-3, total_steps=args.steps)
    met: set[tuple[int, ...]] = set()  # the words of the training
    start = time.perf_counter()
    for step in range(1, args.steps + 1):
        words, mirrored = random_words(64, generator)
        met.update(map(tuple, words.tolist()))
        loss = F.cross_entropy(model(words).flatten(0, 1), mirrored.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == args.steps:
            print(f"step {step}: loss {loss.item():.4f}, {time.perf_counter() - start:.0f} s")

    words, mirrored = random_words(2000, generator)
    unseen = ta.tensor([tuple(word) not in met for word in words.tolist()])
    with ta.no_grad():
        right = (model(words).argmax(-1) == mirrored).all(1)[unseen]
    print(f"{right.sum().item() / len(right):.2%} of {len(right)} unseen words are reversed without a mistake")
    page = viz.playground(words=model, title="A transformer that writes words backwards")
    print(f"open in a browser, and type: {page.save(args.out)}")
    return 0


if __name__ == "__main__":
    run_script(main)
