"""Dates written in many ways in 20 languages: the texts, their characters, a baseline by rule, and the picture."""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

from parts import image_options

import numpy as np

from tinyattn.extras import require
from tinyattn.train.parser import whole_number
from tinyattn.viz.figure import new_figure

LANGUAGES = "cs de el en es fr he hi hu it ja ko nl pl pt ru sv tr vi zh".split()
FORMATS = ["medium", "long", "full", "d MMM y", "y MMMM d", "EEEE, MMMM d, y", "d.M.y", "y/MM/dd"]
UNSEEN = [
    "EEE d MMM y",
    "MMM d y",
    "y, d MMMM",
]  # in the signs of Unicode's dates; the day precedes the month in digits
SHOWN = "en fr el ru hu zh".split()  # in the picture
DIGITS = "0123456789-"
LENGTH = 40  # characters of a text at most
UNKNOWN = 1  # the token of every character that the training texts do not have; 0 follows the text
FONTS = ["Noto Sans CJK SC", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "WenQuanYi Zen Hei", "SimHei"]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the settings of translate_dates.py."""

    def more(option: Any) -> None:
        option("--model", choices=["transformer", "gru"], help="which network writes the dates (transformer)")
        option("--beam", type=whole_number, metavar="N", help="beginnings that are kept after each character (1)")

    about = "Read dates written in many ways in 20 languages, and write them as 2026-11-26."
    return image_options.parse_arguments(
        "translate_dates.py", about, arguments, more=more, images=False, free={"beam"}, model="transformer", beam=1
    )


def split_days(generator: np.random.Generator) -> tuple[list[date], list[date]]:
    """Return the days of 1900 to 2099 in random order, nine in ten for training and one in ten for testing."""
    first = date(1900, 1, 1)
    days = [first + timedelta(int(i)) for i in generator.permutation((date(2100, 1, 1) - first).days)]
    return days[len(days) // 10 :], days[: len(days) // 10]


def write(
    days: Sequence[date],
    formats: Sequence[str],
    count: int,
    generator: np.random.Generator,
    languages: Sequence[str] = LANGUAGES,
) -> list[tuple[str, str]]:
    """Return pairs of a text and its date as 2026-11-26; day, language and format are random."""
    format_date = require("babel.dates", "writing dates in 20 languages", "tasks").format_date
    chosen = (generator.integers(len(of), size=count) for of in (days, formats, languages))
    triples = zip(*chosen, strict=True)
    return [(format_date(days[i], formats[j], languages[k]), days[i].isoformat()) for i, j, k in triples]


def one_in_each(days: Sequence[date]) -> list[tuple[str, str]]:
    """Return a text in each of the languages SHOWN, with its date."""
    generator = np.random.default_rng(0)  # there is nothing to choose
    return [write([day], ["full"], 1, generator, [name])[0] for day, name in zip(days, SHOWN, strict=False)]


class Alphabet:
    """The characters of the training texts, as tokens from 2 on."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        characters = sorted({character for text, _ in pairs for character in text})
        self.tokens = {character: i for i, character in enumerate(characters, UNKNOWN + 1)}

    def __len__(self) -> int:
        return len(self.tokens) + UNKNOWN + 1

    def encode(self, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of the texts (pairs, LENGTH) and of their dates (pairs, 10).

        Raises ValueError for a text without characters or with more than LENGTH.
        """
        for text, _ in pairs:
            if not 0 < len(text) <= LENGTH:
                raise ValueError(f"the text {text!r} has {len(text)} characters; expected 1 to {LENGTH}")
        rows = [[self.tokens.get(c, UNKNOWN) for c in text] + [0] * (LENGTH - len(text)) for text, _ in pairs]
        return np.array(rows), np.array([[DIGITS.index(c) for c in day] for _, day in pairs])


def by_rule(pairs: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """Return a baseline that finds the numbers by a rule, and the month in a table of the words of these pairs."""
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text, day in pairs:
        for word in re.findall(r"[^\d\s.,/-]+", text):
            table[word][day[5:7]] += 1
    purity = {
        word: (max(months.values()) / months.total(), months.most_common(1)[0][0]) for word, months in table.items()
    }

    def translate(text: str) -> str:
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        year = max(numbers, default=0)
        rest = [number for number in numbers if number != year]
        if len(rest) > 1:  # without a name: day and month, or the other way round after the year
            month, day = rest[:2] if numbers[0] == year else rest[1::-1]
        else:
            known = [purity[word] for word in re.findall(r"[^\d\s.,/-]+", text) if word in purity]
            month, day = int(max(known, default=(0, "0"))[1]), rest[0] if rest else 0
        return f"{year:04}-{month:02}-{day:02}"

    return translate


def year_share(weights: np.ndarray, pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Return the share of attention (pairs, 10, LENGTH) that the four digits of the year pay to the year of the text.

    The second number is what they would pay if they looked at every character evenly.
    """
    starts = [text.index(day[:4]) for text, day in pairs]
    shares = [rows[:4, start : start + 4].sum() / 4 for rows, start in zip(weights, starts, strict=True)]
    return float(np.mean(shares)), float(np.mean([4 / len(text) for text, _ in pairs]))


def alignment_figure(pairs: Sequence[tuple[str, str]], written: Any, weights: np.ndarray, title: str) -> Any:
    """Draw how much each written character, top to bottom, looked at each of the text: weights (pairs, 10, LENGTH).

    written: tokens (pairs, 10). A text with a character that no font of this machine has is left out.
    """
    from matplotlib import font_manager

    names = ["DejaVu Sans", *(name for name in FONTS if name in font_manager.get_font_names())]
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in names]
    texts, drawn = [text for text, _ in pairs], []
    for i, text in enumerate(texts):
        if all(any(font.get_char_index(ord(character)) for font in fonts) for character in text):
            drawn.append(i)
        else:
            print(f"not drawn, because no font here has all its characters: {text}")
    figure = new_figure(10, 2.6 * ((len(drawn) + 1) // 2))
    panels = figure.subplots((len(drawn) + 1) // 2, 2, squeeze=False).flat
    for axes in panels:
        axes.axis("off")
    for axes, i in zip(figure.axes, drawn, strict=False):
        axes.axis("on")
        axes.imshow(weights[i, :, : len(texts[i])], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(texts[i])), texts[i], fontfamily=names, fontsize=9)
        axes.set_yticks(range(10), [DIGITS[token] for token in written[i].tolist()], fontsize=8)
        axes.tick_params(length=0)
        axes.set_ylabel("written", fontsize=8)
    figure.suptitle(f"{title}: each row is a written character, dark where it looked in the text", fontsize=10)
    return figure
