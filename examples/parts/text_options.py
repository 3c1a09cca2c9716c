"""The command line of char_gpt.py, its text, sampling, what it is compared with, and its picture."""

from __future__ import annotations

import argparse
import lzma
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parts import image_options

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import train
from tinyattn.train.parser import positive_number, whole_number
from tinyattn.viz.figure import new_figure

KINDS = ["softmax", "sparsemax", "entmax"]
ABOUT = "Train a causal transformer to continue a text, character by character."
SAMPLING = {"prompt": "The ", "length": 400, "temperature": 0.8, "top_k": 20}  # may change on resuming


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the settings of char_gpt.py."""

    def more(option: Any) -> None:
        option("--text", metavar="FILE", help="UTF-8 text to learn (Python's language reference)")
        option("--attention", choices=KINDS, help="what makes weights of scores (softmax)")
        option("--prompt", metavar="TEXT", help="how the sample begins ('The ')")
        option("--length", type=whole_number, metavar="N", help="characters of the sample (400)")
        option("--temperature", type=positive_number, metavar="T", help="divides the scores before sampling (0.8)")
        option("--top-k", type=whole_number, metavar="K", help="sample among the K most probable characters (20)")

    defaults = {"text": None, "attention": "softmax", **SAMPLING}
    args = image_options.parse_arguments(
        "char_gpt.py", ABOUT, arguments, more=more, images=False, free={*SAMPLING}, **defaults
    )
    if not args.prompt:
        raise train.RefusedError("--prompt is empty; give at least one character.")
    return args


def load_text(args: argparse.Namespace, context: int, batch: int) -> tuple[str, int, list[str]]:
    """Return a text, where its held-out tenth begins, and its characters, sorted.

    args.text: the path of a UTF-8 file, or None for Python's language reference as the standard library has it, whose
    sections repeat each other: of equal paragraphs, only the first is kept. Raises RefusedError for a file that cannot
    be read, is not UTF-8, or is too short for a batch, and for a prompt with other characters.
    """
    path = args.text
    if path is None:
        from pydoc_data.topics import topics

        found: dict[str, str] = {}
        for part in "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n"):
            found.setdefault(" ".join(part.split()), part)
        text = "\n\n".join(found.values())
    else:
        try:
            text = Path(path).read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise train.RefusedError(f"--text {path} cannot be read ({error.strerror}).") from None
        except UnicodeDecodeError as error:
            byte = f"byte {error.start} is {error.object[error.start]:#04x}"
            raise train.RefusedError(f"--text {path} is not UTF-8: {byte}; convert the file first.") from None
    least = 10 * context * (batch + 1) // 9 + 10
    if len(text) < least:
        raise train.RefusedError(
            f"--text {path} has {len(text)} characters, too few for a batch; give a text of {least} or more."
        )
    start = len(text) * 9 // 10
    text = text[: len(text) - (len(text) - start) % (context // 2)]  # so that windows cover the held-out tenth
    encode(args.prompt, alphabet := sorted({*text}), "--prompt")
    return text, start, alphabet


def encode(text: str, alphabet: Sequence[str], what: str) -> list[int]:
    """Return the place of each character in the alphabet. Raises RefusedError for characters that are not there."""
    places = {character: place for place, character in enumerate(alphabet)}
    if unknown := sorted({*text} - {*places}):
        named = ", ".join(map(repr, unknown[:5]))
        raise train.RefusedError(f"{what} has characters that are not in the text: {named}; leave them out.")
    return [places[character] for character in text]


@ta.no_grad()
def evaluate(model: ta.nn.Module, tokens: Any, start: int, context: int) -> tuple[float, float]:
    """Return the share of tokens[start:] that were predicted, and their mean loss in nats.

    Each is predicted from at least half a context of those before it: windows overlap by one half, and only the
    second half of a window counts.
    """
    half, device = context // 2, model.embedding.weight.device
    windows = np.lib.stride_tricks.sliding_window_view(tokens[start - half - 1 :], context + 1)[::half]
    hits = loss = 0.0
    for i in range(0, len(windows), 64):
        some = ta.tensor(windows[i : i + 64], device=device)
        scores, wanted = model(some[:, :-1])[:, half:].flatten(0, 1), some[:, half + 1 :].flatten()
        hits += (scores.argmax(-1) == wanted).sum().item()
        loss += F.cross_entropy(scores, wanted, reduction="sum").item()
    return hits / (len(tokens) - start), loss / (len(tokens) - start)


@ta.no_grad()
def generate(
    model: ta.nn.Module, tokens: Sequence[int], length: int, *, temperature: float = 1.0, top_k: int = 0,
    cached: bool = True,
) -> list[int]:  # fmt: skip
    """Return `tokens` and `length` more, each drawn from softmax(scores / temperature) of the top_k (0: of all).

    cached: keep the keys and values of the tokens before instead of computing them again. When the context is full,
    its older half is left out, with either.
    """
    context, device = len(model.position.weight), model.position.weight.device
    found, cache = list(tokens), []
    begin = max(0, len(found) - context)
    new = begin  # the first token that the cache does not cover
    for _ in range(length):
        if len(found) - begin > context:
            begin = new = len(found) - context // 2
        cache = cache if new > begin else []
        given = found[new if cached else begin :]
        scores = model(ta.tensor([given], device=device), cache if cached else None)[0, -1] / temperature
        if 0 < top_k < len(scores):
            scores = scores.masked_fill(scores < ta.topk(scores, top_k)[0][-1], -math.inf)
        new = len(found)
        found.append(int(ta.multinomial(F.softmax(scores, -1), 1).item()))
    return found


def show(
    args: argparse.Namespace, session: train.Session, text: str, tokens: Any, start: int, alphabet: Sequence[str],
) -> None:  # fmt: skip
    """Print and record the bits per character beside the baselines', and a sample; draw the picture."""
    model = session.model.eval()
    context = len(model.position.weight)
    bits = {
        f"xz of {start:,} characters, then of the held-out ones": xz_bits(text, start),
        "5-gram with back-off": BackOff(text[:start], len(alphabet)).bits(text, start),
        f"transformer, {args.attention}": evaluate(model, tokens, start, context)[1] / math.log(2),
    }
    print(f"bits per character of {len(text) - start:,} held-out characters:")
    for name, value in bits.items():
        print(f"  {name:<56} {value:.3f}")
    ta.manual_seed(args.seed)
    given = encode(args.prompt, alphabet, "--prompt")
    found = generate(model, given, args.length, temperature=args.temperature, top_k=args.top_k)
    sample = "".join(alphabet[token] for token in found)
    print(f"a sample, temperature {args.temperature:g}, top {args.top_k}:\n{sample}")
    maps: list[ta.Tensor] = []
    line = tokens[start : start + context]
    with ta.no_grad():
        model(ta.tensor(line[None], device=model.position.weight.device), maps=maps)
    visible = np.tril(np.ones((context, context), bool))
    zeros = [(each[0].cpu().numpy()[:, visible] == 0).mean(1) for each in maps]  # of each layer, (heads,)
    names = []
    for i, (block, shares) in enumerate(zip(model.blocks, zeros, strict=True)):
        for j, share in enumerate(shares):
            names.append(f"block {i}, head {j}")
            if args.attention != "softmax":
                alpha = 2 if block.shape is None else 1 + F.sigmoid(block.shape[j]).item()
                names[-1] += f": alpha {alpha:.2f}, {share:.0%} zeros"
                print(names[-1])
    last = slice(context - 28, context)
    shown = [each[0, :, last, last].cpu().numpy() for each in maps]
    path = session.run.folder / "attention.png"
    draw(path, bits, "".join(alphabet[token] for token in line[last]), shown, names)
    session.finish(
        attention=args.attention, parameters=sum(p.numel() for p in model.parameters()), bits_per_character=bits,
        zeros=[layer.tolist() for layer in zeros], sample=sample,
    )  # fmt: skip
    print(f"the picture is {path}")


class BackOff:
    """Character n-grams by absolute discounting: a context gives a part of its probability to the next shorter one.

    p(c | h) = (max(n(hc) - D, 0) + D types(h) p(c | h without its first character)) / n(h), and p(c | h) is that of
    the shorter context where h was not seen; below the empty context, all characters are equally probable. D is
    (n1 + 1) / (n1 + 2 n2 + 2) for each length, of the numbers of n-grams that were seen once and twice, which is never
    0. Ney, Essen and Kneser 1994, "On structuring probabilistic dependences in stochastic language modelling".
    """

    def __init__(self, text: str, characters: int, order: int = 5) -> None:
        self.characters, self.order = characters, order
        self.seen = Counter(text[i : i + n] for n in range(1, order + 1) for i in range(len(text) - n + 1))
        self.types = Counter(gram[:-1] for gram in self.seen)
        self.totals: Counter[str] = Counter()
        rare = Counter((len(gram), count) for gram, count in self.seen.items() if count < 3)
        for gram, count in self.seen.items():
            self.totals[gram[:-1]] += count
        self.discounts = [(rare[n, 1] + 1) / (rare[n, 1] + 2 * rare[n, 2] + 2) for n in range(order + 1)]

    def probability(self, character: str, context: str) -> float:
        """Return p(character | context), of which the last order - 1 characters count."""
        context = context[len(context) - self.order + 1 :] if len(context) >= self.order else context
        shorter = self.probability(character, context[1:]) if context else 1 / self.characters
        if context not in self.totals:
            return shorter
        discount = self.discounts[len(context) + 1]
        counted = max(self.seen[context + character] - discount, 0)
        return (counted + discount * self.types[context] * shorter) / self.totals[context]

    def bits(self, text: str, start: int) -> float:
        """Return the bits per character of text[start:], each character predicted from those before it."""
        found = (self.probability(text[i], text[max(i - self.order + 1, 0) : i]) for i in range(start, len(text)))
        return -sum(map(math.log2, found)) / (len(text) - start)


def xz_bits(text: str, start: int) -> float:
    """Return the bits per character by which xz's file grows if text[start:] follows text[:start]."""
    how: Any = {"format": lzma.FORMAT_XZ, "preset": 9 | lzma.PRESET_EXTREME}
    whole, before = (len(lzma.compress(part.encode(), **how)) for part in (text, text[:start]))
    return 8 * (whole - before) / (len(text) - start)


def draw(path: Path, bits: Mapping[str, float], text: str, maps: Sequence[Any], names: Sequence[str]) -> None:
    """Draw the bits per character as bars, and below what each character of `text` looks at in a head of each layer.

    maps: of each layer, the weights (heads, characters, characters). names: of the heads, layer by layer. The head is
    the one whose weights are least even.
    """
    chosen = [int(np.argmax(weights.max(-1).mean(-1))) for weights in maps]
    rows = (len(maps) + 1) // 2
    figure = new_figure(10, 2.2 + 5.1 * rows)
    upper, lower = figure.subfigures(2, 1, height_ratios=[2.2, 5.1 * rows])
    axes = upper.subplots()
    labels = [name.replace(", then", ",\nthen") for name in [*bits][::-1]]
    drawn = axes.barh(labels, [*bits.values()][::-1], color=["#d55e00", *["#94a3b8"] * (len(bits) - 1)])
    axes.bar_label(drawn, fmt="%.3f", padding=3)
    axes.set_title("bits per character of held-out text: fewer is better", fontsize=11)
    axes.set_xlim(0, 1.15 * max(bits.values()))
    letters = ["␣" if c == " " else "↵" if c == "\n" else c for c in text]
    panels = lower.subplots(rows, 2, squeeze=False).flat
    for layer, (axes, head) in enumerate(zip(panels, chosen, strict=False)):
        axes.imshow(maps[layer][head], cmap="Oranges", vmin=0, vmax=1)
        axes.set_xticks(range(len(text)), letters, fontsize=9, family="DejaVu Sans Mono")
        axes.set_yticks(range(len(text)), letters, fontsize=9, family="DejaVu Sans Mono")
        axes.tick_params(length=0, pad=1)
        axes.set_title(names[layer * len(maps[0]) + head], fontsize=10)
    for axes in [*panels][len(maps) :]:
        axes.axis("off")
    lower.suptitle("what each character (row) looks at before it predicts the next one; dark is more", fontsize=11)
    figure.savefig(path, dpi=110)
