"""Questions about canvases of digits, with their answers, and the picture of where each word looked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from parts.canvases import Canvases, covered, draw

import numpy as np

from tinyattn.viz.figure import new_figure

KINDS = (
    "how many digits are there ?", "is there a {} ?", "which digit is left of the {} ?",
    "which digit is right of the {} ?", "which digit is the largest ?", "which digit is the smallest ?",
)  # fmt: skip
ANSWERS = [*map(str, range(10)), "yes", "no"]
VOCABULARY = ["", *sorted({word for kind in KINDS for word in kind.replace("{}", "").split()}), *map(str, range(10))]
WORDS, EACH = 8, 6  # words of the longest question; questions about each canvas
LARGER, APART = 1.15, 1 / 14  # the least ratio of two heights, and distance of two centres, for a clear answer


def question(labels: Sequence[int], boxes: np.ndarray, kind: int, named: int) -> tuple[str, str] | None:
    """Return a question of this kind, about the digit `named` where it has one, and its answer.

    labels: the digits of a canvas from the left; boxes: theirs. None if the answer is not clear: the digit is not there
    or is there twice, it has no neighbour or one that is above or below it, or two digits are nearly as large.
    """
    answer, x, heights = None, boxes[: len(labels), 0], boxes[: len(labels), 3]
    if kind == 0:
        answer = str(len(labels))
    elif kind == 1:
        answer = "yes" if named in labels else "no"
    elif kind < 4 and labels.count(named) == 1:
        place, way = labels.index(named), 1 if kind == 3 else -1
        gaps = way * (np.delete(x, place) - x[place])
        nearest = np.sort(gaps[gaps > 0])
        if len(nearest) and np.abs(gaps).min() > APART and (len(nearest) == 1 or nearest[1] - nearest[0] > APART):
            beside = abs(boxes[place + way, 1] - boxes[place, 1]) < nearest[0]  # rather than above or below
            answer = str(labels[place + way]) if beside else None
    elif kind > 3 and len(labels) > 1:
        first, second = np.argsort(heights if kind == 5 else -heights)[:2]
        if max(heights[first] / heights[second], heights[second] / heights[first]) > LARGER:
            answer = str(labels[first])
    return None if answer is None else (KINDS[kind].format(named), answer)


def ask(canvases: Canvases, generator: np.random.Generator) -> list[list[tuple[str, str]]]:
    """Return EACH random questions about each canvas, with their answers."""
    asked = []
    for row, boxes in zip(canvases.labels, canvases.boxes, strict=True):
        labels, some = row[row >= 0].tolist(), []
        while len(some) < EACH:
            named = (
                int(generator.choice(labels)) if labels and generator.random() < 0.4 else int(generator.integers(10))
            )
            if pair := question(labels, boxes, int(generator.integers(len(KINDS))), named):
                some.append(pair)
        asked.append(some)
    return asked


def encode(asked: Sequence[Sequence[tuple[str, str]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the words (canvases, EACH, WORDS), blanks first, and the answers (canvases, EACH), as tokens.

    Raises ValueError for a word that no question has, or for a question with more than WORDS.
    """
    for word in (word for some in asked for asking, _ in some for word in asking.split()):
        if word not in VOCABULARY:
            raise ValueError(f"the word {word!r} is in no question; known are: {' '.join(VOCABULARY[1:])}")
    words = [[[""] * (WORDS - len(asking.split())) + asking.split() for asking, _ in some] for some in asked]
    answers = [[ANSWERS.index(answer) for _, answer in some] for some in asked]
    return np.array([[[VOCABULARY.index(word) for word in q] for q in some] for some in words]), np.array(answers)


def answered_alone(
    asked: Sequence[Sequence[tuple[str, str]]], unseen: Canvases, tests: Any, generator: np.random.Generator
) -> dict[str, float]:
    """Return the share of `tests` that is right without the canvas, and without the words.

    The words alone get the most frequent answer to the question in `asked`, the canvas alone the most frequent one to
    many other questions about it. No model that lacks the other half can be expected to do better.
    """
    answers: dict[str, Counter[str]] = {}
    for question, answer in (pair for some in asked for pair in some):
        answers.setdefault(question, Counter())[answer] += 1
    by_words = [answers[question].most_common(1)[0][0] == answer for some in tests for question, answer in some]
    others = zip(*(ask(unseen, generator) for _ in range(10)), strict=True)
    best = [Counter(answer for some in rounds for _, answer in some).most_common(1)[0][0] for rounds in others]
    by_canvas = [answer == one for some, one in zip(tests, best, strict=True) for _, answer in some]
    return {"words alone, at best": float(np.mean(by_words)), "canvas alone, at best": float(np.mean(by_canvas))}


def share_on_answer(looked: np.ndarray, canvases: Canvases, asked: Any) -> tuple[float, float]:
    """Return the share of attention (count, EACH, 49) that "which digit" questions pay to the digit of the answer.

    The second number is the share of that digit's box in the canvas. Digits that are twice on a canvas do not count.
    """
    shares, even = [], []
    for maps, some, labels, boxes in zip(looked, asked, canvases.labels.tolist(), canvases.boxes, strict=True):
        for weights, (question, answer) in zip(maps, some, strict=True):
            if question.startswith("which") and labels.count(int(answer)) == 1:
                area = covered(boxes[labels.index(int(answer))])
                shares.append((weights.reshape(7, 7) * area).sum())
                even.append(area.sum() / 49)
    return float(np.mean(shares)), float(np.mean(even))


def looks_figure(canvases: Canvases, tests: Any, answers: np.ndarray, maps: np.ndarray, title: str) -> Any:
    """Draw a question of each kind: the canvas with the answer given, where each word looked, and the whole question.

    answers: tokens (count, EACH); maps (count, EACH, WORDS + 1, 49), the whole question's last.
    """
    figure = new_figure(11, 1.75 * len(KINDS) + 0.4)
    for part, kind in zip(figure.subfigures(len(KINDS), 1), KINDS, strict=True):
        begin = kind.split("{}")[0]
        i, j = next((i, j) for i, some in enumerate(tests) for j, (question, _) in enumerate(some)
                    if question.startswith(begin) and (canvases.labels[i] >= 0).sum() > 2)  # fmt: skip
        question, answer = tests[i][j]
        said, words = ANSWERS[answers[i, j]], question.split()
        verdict = "right" if said == answer else f"wrong, it is {answer}"
        part.suptitle(f'"{question}"  The model answers {said}: {verdict}', fontsize=10, x=0.01, ha="left")
        panels = part.subplots(1, WORDS + 1)
        draw(panels[0], canvases.images[i], maps[i, j, -1], "all words")
        for axes, word, weights in zip(panels[1:], words, maps[i, j, -len(words) - 1 : -1], strict=False):
            draw(axes, canvases.images[i], weights, f'"{word}"')
        for axes in panels[1 + len(words) :]:
            axes.axis("off")
    figure.suptitle(f"{title}: where the whole question and each of its words looked, in red", fontsize=11)
    return figure
