"""examples/translate_dates.py: its data, its rule, both of its models, and --quick as a user runs it."""

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

EXAMPLES = Path(__file__).parents[1] / "examples"


def script(*arguments, **environment):
    command = [sys.executable, str(EXAMPLES / "translate_dates.py"), *map(str, arguments)]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.fixture
def dates():
    return runpy.run_path(str(EXAMPLES / "parts" / "written_dates.py"))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "epochs", "least"), [("transformer", 4, 0.97), ("gru", 2, 0.99)])
def test_translate_dates_writes_unseen_days_whole(tmp_path, model, epochs, least):
    done = script("--quick", "--model", model, "--epochs", epochs, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["accuracy"][f"unseen days, {model}"] > least
    assert summary["accuracy"]["unseen days, rule and table"] > 0.95
    assert summary["attention_on_year"] > 2 * summary["even"]
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")
    again = script("--resume", folder)
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "summary.json").read_text())["accuracy"] == summary["accuracy"]


@pytest.mark.parametrize("name", ["Transformer", "Gru"])
def test_date_models_write_each_character_from_those_before(name):
    """What follows a character, the padding of the text and the other texts do not change its scores."""
    models = runpy.run_path(str(EXAMPLES / "parts" / "date_models.py"))
    ta.manual_seed(0)
    model = models[name](30)
    texts, written = ta.randint(1, 30, (3, 40)), ta.randint(0, 11, (3, 10))
    texts[1, 12:] = 0
    scores = model(texts, written).detach().numpy()
    assert scores.shape == (3, 10, 11)
    changed = written.clone()
    changed[:, 6:] = 0
    np.testing.assert_allclose(model(texts, changed).detach().numpy()[:, :6], scores[:, :6], atol=1e-5)
    np.testing.assert_allclose(model(texts[1:2], written[1:2]).detach().numpy(), scores[1:2], atol=1e-5)
    dates, _, weights = runpy.run_path(str(EXAMPLES / "translate_dates.py"))["translate"](model, texts)
    assert dates.shape == (3, 10) and weights.shape == (3, 10, 40)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert not weights[1, :, 12:].any()
    start = ta.full((3, 1), models["START"], dtype=ta.int64)
    best = model(texts, ta.cat([start, dates[:, :-1]], 1)).argmax(-1)  # greedy: each is the best one after those before
    np.testing.assert_array_equal(best.numpy(), dates.numpy())


@pytest.mark.parametrize("name", ["Transformer", "Gru"])
@pytest.mark.parametrize("beam", [1, 2, 7, pytest.param(30, marks=pytest.mark.slow)])
def test_date_beam_search_is_that_of_its_definition(name, beam):
    """Written anew for one text, with all beginnings and their probabilities in a list."""
    models = runpy.run_path(str(EXAMPLES / "parts" / "date_models.py"))
    ta.manual_seed(3)
    model, texts = models[name](30), ta.randint(1, 30, (2, 40))
    ta.nn.init.normal_(model.scores.weight, std=0.5)  # so that the likeliest character does not always lead to the best
    dates, sums, weights = runpy.run_path(str(EXAMPLES / "translate_dates.py"))["translate"](model, texts, beam)
    for i in range(2):
        kept = [([models["START"]], 0.0)]
        for _ in range(10):
            longer = []
            for tokens, total in kept:
                likely = ta.log_softmax(model(texts[i : i + 1], ta.tensor([tokens]))[0, -1], -1).tolist()
                longer += [([*tokens, token], total + value) for token, value in enumerate(likely)]
            kept = sorted(longer, key=lambda one: -one[1])[:beam]
        assert dates[i].tolist() == kept[0][0][1:]
        assert sums[i].item() == pytest.approx(kept[0][1], abs=1e-4)
        seen = []
        with model.looked.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out)):
            model(texts[i : i + 1], ta.tensor([kept[0][0][:-1]]))
        looked = seen[-1][1] if isinstance(seen[-1], tuple) else ta.stack(seen, 1)
        np.testing.assert_allclose(weights[i], looked[0].detach().numpy(), atol=1e-5)


def test_date_texts_mean_one_day_each(dates):
    generator = np.random.default_rng(0)
    days, unseen = dates["split_days"](generator)
    assert len(days) + len(unseen) == 73_049 and not {*days} & {*unseen}
    pairs = dates["write"](days, dates["FORMATS"] + dates["UNSEEN"], 30_000, generator)
    assert len(pairs) == 30_000
    meanings = {}
    assert all(meanings.setdefault(text, day) == day for text, day in pairs)
    assert not {*dates["FORMATS"]} & {*dates["UNSEEN"]}


def test_date_texts_are_written_by_babel(dates):
    (pair,) = dates["write"]([dates["date"](2026, 11, 26)], ["full"], 1, np.random.default_rng(0), ["zh"])
    assert pair == ("2026年11月26日星期四", "2026-11-26")


def test_date_alphabet_has_one_token_for_unknown_characters(dates):
    alphabet = dates["Alphabet"]([("1 май", "2026-05-01")])
    assert len(alphabet) == 7  # padding, unknown, and five characters
    texts, days = alphabet.encode([("1☃ 年", "2026-05-01")])
    assert texts[0, :5].tolist() == [alphabet.tokens["1"], 1, alphabet.tokens[" "], 1, 0]
    assert days.tolist() == [[2, 0, 2, 6, 10, 0, 5, 10, 0, 1]]
    for text in ("", "x" * 41):
        with pytest.raises(ValueError, match=f"has {len(text)} characters; expected 1 to 40"):
            alphabet.encode([(text, "2026-05-01")])


def test_date_rule_reads_numbers_and_known_words(dates):
    rule = dates["by_rule"](
        [("26 maja 2026", "2026-05-26"), ("1 May 2026, Friday", "2026-05-01"), ("Friday 1 June 2029", "2029-06-01")]
    )
    texts = ["Friday 3 June 1999", "3 maja 1999", "04.03.1999", "1999/03/04", "1999 ?"]
    assert [rule(text) for text in texts] == ["1999-06-03", "1999-05-03", "1999-03-04", "1999-03-04", "1999-00-00"]


def test_date_attention_share_counts_the_year_alone(dates):
    weights = np.zeros((1, 10, 40))
    weights[0, :4, [3, 4, 8]] = [[0.25], [0.5], [0.25]]  # half of it at the first digit, the rest around the year
    assert dates["year_share"](weights, [("26. 2026 r", "2026-05-26")]) == (0.5, 0.4)


def test_translate_dates_without_babel_says_how_to_install_it(tmp_path):
    (tmp_path / "babel").mkdir()
    (tmp_path / "babel" / "__init__.py").write_text("raise ImportError('not here')")
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = script("--quick", "--out", tmp_path / "runs", PYTHONPATH=paths)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'needs babel (not here): pip install "tinyattn[tasks]"' in done.stderr


def test_translate_dates_has_no_options_of_images(tmp_path):
    done = script("--data", "mnist")
    assert done.returncode == 2 and "there is no option --data" in done.stderr
