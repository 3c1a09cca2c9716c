"""examples/ask_the_image.py: its questions, their answers, its model, and --quick as a user runs it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyattn as ta
from tinyattn import data

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def questions():
    return runpy.run_path(str(EXAMPLES / "parts" / "questions.py"))


@pytest.fixture
def canvases():
    digits, made = data.load_digits(), runpy.run_path(str(EXAMPLES / "parts" / "canvases.py"))["make"]
    return made(digits.train_images, digits.train_labels, 60, np.random.default_rng(0))


def asked(questions, labels, x, heights, kind, named=0, y=(0.5, 0.5, 0.5)):
    boxes = np.array([[a, b, 0.1, height] for a, b, height in zip(x, y, heights, strict=False)])
    found = questions["question"](labels, boxes.reshape(-1, 4), kind, named)
    return found and found[1]


def test_questions_have_the_answers_that_the_boxes_give(questions):
    row = [3, 7, 1], [0.2, 0.5, 0.8], [0.3, 0.5, 0.4]
    assert [kind.format(7) for kind in questions["KINDS"]] == [
        "how many digits are there ?", "is there a 7 ?", "which digit is left of the 7 ?",
        "which digit is right of the 7 ?", "which digit is the largest ?", "which digit is the smallest ?",
    ]  # fmt: skip
    assert [asked(questions, *row, kind, 7) for kind in range(6)] == ["3", "yes", "3", "1", "7", "3"]
    assert asked(questions, *row, 1, 5) == "no"
    assert asked(questions, [], [], [], 0) == "0"  # an empty canvas
    assert asked(questions, [], [], [], 1, 5) == "no"


def test_questions_without_a_clear_answer_are_not_asked(questions):
    row = [3, 7, 1], [0.2, 0.5, 0.8], [0.3, 0.5, 0.48]
    assert asked(questions, *row, 2, 3) is None  # nothing is left of the first
    assert asked(questions, *row, 3, 1) is None
    assert asked(questions, *row, 2, 5) is None  # there is no 5
    assert asked(questions, *row, 2, 7, (0.5, 0.1, 0.5)) is None  # below rather than left
    assert asked(questions, *row, 2, 7, (0.5, 0.3, 0.5)) == "3"
    assert asked(questions, *row, 4) is None  # 0.5 and 0.48
    assert asked(questions, [7, 7], [0.2, 0.8], [0.3, 0.5], 3, 7) is None  # which 7?
    assert asked(questions, [3, 7], [0.45, 0.5], [0.3, 0.5], 2, 7) is None  # above rather than left
    assert asked(questions, [3, 1, 7], [0.2, 0.25, 0.5], [0.3, 0.5, 0.3], 2, 7) is None  # two are nearly as near
    assert all(asked(questions, [3], [0.5], [0.3], kind, 3) is None for kind in range(2, 6))


def test_questions_are_encoded_with_blanks_first(questions):
    words, answers = questions["encode"]([[("is there a 7 ?", "yes"), ("which digit is left of the 7 ?", "3")]])
    vocabulary = questions["VOCABULARY"]
    assert [vocabulary[token] for token in words[0, 0]] == ["", "", "", "is", "there", "a", "7", "?"]
    assert words.shape == (1, 2, 8) and answers.tolist() == [[10, 3]]
    assert vocabulary[-10:] == [str(digit) for digit in range(10)]  # the model takes them for the patches' words
    with pytest.raises(ValueError, match="the word 'cat' is in no question"):
        questions["encode"]([[("is there a cat ?", "no")]])


def test_questions_about_every_canvas_are_repeatable(questions, canvases):
    first, again = (questions["ask"](canvases, np.random.default_rng(1)) for _ in range(2))
    assert first == again and {len(some) for some in first} == {questions["EACH"]}
    kinds = {kind.split("{}")[0] for kind in questions["KINDS"]}
    assert {kind for kind in kinds for some in first for text, _ in some if text.startswith(kind)} == kinds
    empty = [some for some, labels in zip(first, canvases.labels, strict=True) if (labels < 0).all()]
    assert empty and {answer for some in empty for _, answer in some} <= {"0", "no"}


def test_questions_answered_by_one_half_of_the_input(questions, canvases):
    tests = [[("is there a 7 ?", "no")] * 6] * len(canvases.labels)
    known = [[("is there a 7 ?", "no"), ("is there a 7 ?", "no"), ("is there a 7 ?", "yes")]]
    found = questions["answered_alone"](known, canvases, tests, np.random.default_rng(0))
    assert found["words alone, at best"] == 1
    tests = questions["ask"](canvases, np.random.default_rng(5))
    found = questions["answered_alone"](tests, canvases, tests, np.random.default_rng(0))
    assert 0.15 < found["words alone, at best"] < 0.6 and 0.25 < found["canvas alone, at best"] < 0.6


def test_question_attention_counts_the_digit_of_the_answer(questions, canvases):
    known = type(canvases)(None, np.array([[3, 7]]), np.array([[[1 / 14, 1 / 14, 1 / 7, 1 / 7], [0.5, 0.5, 0.2, 0.2]]]))
    looked = np.zeros((1, 2, 49))
    looked[0, :, 0], looked[0, :, 48] = 0.75, 0.25
    some = [[("which digit is left of the 7 ?", "3"), ("is there a 7 ?", "yes")]]
    share, even = questions["share_on_answer"](looked, known, some)
    assert share == pytest.approx(0.75) and even == pytest.approx(1 / 49)


def test_question_reader_keeps_questions_and_canvases_apart(questions, canvases):
    ta.manual_seed(0)
    model = runpy.run_path(str(EXAMPLES / "parts" / "image_reader.py"))["Reader"]().eval()
    words, _ = questions["encode"](questions["ask"](canvases, np.random.default_rng(1)))
    images, words = ta.from_numpy(canvases.images[:3]), ta.from_numpy(words[:3])
    with ta.no_grad():
        scores, digits, heights, looked = model(images, words)
        other = words.clone()
        other[1, 2] = words[0, 0]
        changed, *_ = model(images, other)
        alone, *_ = model(images[1:2], words[1:2])
    assert scores.shape == (3, 6, 12) and digits.shape == (3, 49, 11) and heights.shape == (3, 49)
    np.testing.assert_allclose(looked.sum(-1).numpy(), 1, atol=1e-5)
    differs = abs(changed - scores).amax(-1).numpy() > 1e-4
    assert differs.tolist() == [[False] * 6, [False, False, True, False, False, False], [False] * 6]
    np.testing.assert_allclose(alone.numpy(), scores[1:2].numpy(), atol=1e-4)


@pytest.mark.slow
def test_ask_the_image_uses_the_words_and_the_canvas(tmp_path):
    command = [sys.executable, str(EXAMPLES / "ask_the_image.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    best = summary["accuracy"]
    assert best["words and canvas"] > 0.7
    assert best["words and canvas"] > max(best["words alone, at best"], best["canvas alone, at best"]) + 0.15
    assert summary["attention_on_answer"] > 3 * summary["even"]
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")
