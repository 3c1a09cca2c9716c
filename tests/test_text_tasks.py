"""The example scripts of the text tasks: their models and baselines by definition, and the scripts as a user runs them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from parts import docstrings, text_options

import char_gpt
import numpy as np
import pytest
import text_classification

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import train

ROOT = Path(__file__).parents[1]
KINDS = ["softmax", "sparsemax", "entmax"]
TEXT = "".join(np.random.RandomState(0).choice(list("abc de\n"), 4000))


def script(name, *arguments):
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})


def small_gpt(kind="softmax", context=8):
    ta.manual_seed(0)
    model = char_gpt.CharGPT(7, context, layers=2, heads=2, dim=8, kind=kind).double()
    for parameter in model.parameters():  # larger than a beginner's, so that the weights of attention are uneven
        ta.nn.init.normal_(parameter, std=0.6)
    return model


# --- char_gpt.py ---


@pytest.mark.parametrize("kind", ["softmax", pytest.param("sparsemax", marks=pytest.mark.slow), "entmax"])
def test_generating_with_cached_keys_equals_plain_generation(kind):
    model = small_gpt(kind)
    for begin, top_k in itertools.product(([3], [1, 2, 3, 4, 5, 6, 0, 1, 2, 3]), (0, 3)):
        found = []
        for cached in (True, False):
            ta.manual_seed(1)
            found.append(text_options.generate(model, begin, 40, temperature=0.7, top_k=top_k, cached=cached))
        assert found[0] == found[1]
        assert len(found[0]) == len(begin) + 40 and len({*found[0]}) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_char_gpt_scores_with_a_cache_equal_those_without(kind):
    model, tokens = small_gpt(kind), ta.randint(0, 7, (3, 8))
    cache: list = []
    parts = [model(tokens[:, a:b], cache) for a, b in ((0, 3), (3, 4), (4, 8))]
    np.testing.assert_allclose(ta.cat(parts, 1).detach().numpy(), model(tokens).detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_char_gpt_sees_no_later_character(kind):
    model, tokens = small_gpt(kind), ta.randint(0, 7, (1, 8))
    other = tokens.clone()
    other[0, 5:] = (tokens[0, 5:] + 1) % 7
    before, after = model(tokens).detach(), model(other).detach()
    assert (before[:, :5] == after[:, :5]).all() and (before[:, 5:] != after[:, 5:]).any()


def test_char_gpt_ties_its_weights():
    names = [name for name, p in small_gpt().named_parameters() if 7 in p.shape]
    assert names == ["embedding.weight"]


def test_generate_draws_from_the_k_most_probable():
    model = small_gpt()
    with ta.no_grad():
        best = model(ta.tensor([[3]]))[0, -1].argsort(descending=True).tolist()
    drawn = {text_options.generate(model, [3], 1, temperature=50.0, top_k=3)[1] for _ in range(200)}
    assert drawn == {*best[:3]}
    assert {text_options.generate(model, [3], 1, temperature=1e-6)[1] for _ in range(20)} == {best[0]}


def test_evaluate_predicts_each_held_out_character_once():
    model, tokens, start, half = small_gpt(), np.random.RandomState(1).randint(0, 7, 200), 160, 4
    nats = []
    with ta.no_grad():
        for i in range(start, 200):
            first = start + (i - start) // half * half - half - 1  # of the window in whose second half it is
            scores = model(ta.tensor(tokens[None, first:i]))[0, -1:]
            nats.append(F.cross_entropy(scores, ta.tensor(tokens[i : i + 1])).item())
    assert text_options.evaluate(model, tokens, start, 8)[1] == pytest.approx(np.mean(nats), rel=1e-10)


def test_back_off_is_absolute_discounting_and_sums_to_one():
    text = "abracadabra"
    model = text_options.BackOff(text, characters=6, order=3)  # a b c d r, and one more
    for context in ("", "a", "ab", "xa", "zz", "ra"):
        assert sum(model.probability(c, context) for c in "abcdrz") == pytest.approx(1)
    once = {1: 2, 2: 3, 3: 3}  # c d; ac ca ad da would be 4: counted below
    once = {n: sum(text.count(g) == 1 for g in {text[i : i + n] for i in range(12 - n)}) for n in once}
    twice = {n: len({text[i : i + n] for i in range(12 - n)}) - once[n] for n in once}
    twice[1] = 2  # b and r; a is there five times
    d1, d2 = ((once[n] + 1) / (once[n] + 2 * twice[n] + 2) for n in (1, 2))
    alone = (2 - d1 + d1 * 5 / 6) / 11  # p(b)
    assert model.probability("b", "a") == pytest.approx((2 - d2 + d2 * 3 * alone) / 4)  # ab twice, ac, ad
    expected = -np.mean([np.log2(model.probability(text[i], text[max(i - 2, 0) : i])) for i in range(4, 11)])
    assert model.bits(text, 4) == pytest.approx(expected)


def test_xz_costs_little_for_a_repeated_text():
    noise = "".join(np.random.RandomState(2).choice(list("abcdefgh"), 3000))
    assert text_options.xz_bits(noise + noise, 3000) < 0.2
    assert 3 < text_options.xz_bits(noise, 1500) < 4  # three bits are the entropy


def test_the_language_reference_has_no_paragraph_twice():
    text, start, alphabet = text_options.load_text(Namespace(text=None, prompt="The"), 64, 32)
    paragraphs = [key for part in text.split("\n\n") if (key := " ".join(part.split()))]
    assert len(text) > 300_000 and len({*paragraphs}) == len(paragraphs)
    assert text.index('The "assert" statement') < text.index('The "while" statement')  # in order
    assert (len(text) - start) % 32 == 0 and alphabet == sorted({*text})


BAD_TEXTS = {
    b"": "has 0 characters, too few for a batch; give a text of 614 or more",
    b"short": "has 5 characters, too few",
    b"caf\xe9 " * 999: "is not UTF-8: byte 3 is 0xe9; convert the file first",
}


@pytest.mark.parametrize("content", BAD_TEXTS, ids=["empty", "short", "latin-1"])
def test_char_gpt_refuses_bad_texts_in_one_sentence(tmp_path, content):
    (tmp_path / "text").write_bytes(content)
    options = ["--quick", "--out", str(tmp_path / "runs")]
    with pytest.raises(train.RefusedError, match=BAD_TEXTS[content]) as refused:
        char_gpt.main(["--text", str(tmp_path / "text"), *options])
    assert "\n" not in str(refused.value)
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(train.RefusedError, match=f"cannot be read \\({why}"):
            char_gpt.main(["--text", str(path), *options])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--prompt", "aéb→"], "--prompt has characters that are not in the text: 'é', '→'; leave them out"),
        (["--prompt", ""], "--prompt is empty"),
    ],
)
def test_char_gpt_refuses_bad_prompts_in_one_sentence(tmp_path, options, why):
    (tmp_path / "text").write_text(TEXT)
    with pytest.raises(train.RefusedError, match=why):
        char_gpt.main(["--quick", "--text", str(tmp_path / "text"), "--out", str(tmp_path / "runs"), *options])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", [["--temperature", "0"], ["--top-k", "-1"], ["--attention", "hard"]])
def test_char_gpt_refuses_bad_options(option):
    with pytest.raises(SystemExit) as ended:
        char_gpt.main(option)
    assert ended.value.code == 2


@pytest.mark.slow
def test_char_gpt_resumes_and_samples_anew(tmp_path, capsys):
    (tmp_path / "text").write_text(TEXT)
    options = ["--quick", "--length", "20", "--no-progress"]
    begin = [*options, "--text", str(tmp_path / "text"), "--attention", "entmax", "--epochs", "1"]
    assert char_gpt.main([*begin, "--prompt", "a", "--out", str(tmp_path / "runs")]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    first = json.loads((folder / "summary.json").read_text())
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert char_gpt.main(["--resume", str(folder), "--prompt", "bed", "--no-progress"]) == 0
    second = json.loads((folder / "summary.json").read_text())
    assert second["bits_per_character"] == first["bits_per_character"]
    assert second["sample"].startswith("bed") and len(second["sample"]) == 3 + 20
    (tmp_path / "text").write_text(TEXT[::-1])
    with pytest.raises(train.RefusedError, match="cannot be resumed: its text was"):
        char_gpt.main(["--resume", str(folder)])
    assert "zeros" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most"), [("softmax", 2.1), pytest.param("entmax", 2.5, marks=pytest.mark.long)])
def test_char_gpt_learns_the_language_reference(tmp_path, kind, most):
    done = script("char_gpt.py", "--quick", "--attention", kind, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    xz, five_gram, ours = summary["bits_per_character"].values()
    assert 1.5 < xz < 2.2 and 1.8 < five_gram < 2.4  # the reference differs a little between versions of Python
    assert ours < most
    assert len(summary["sample"]) == 404 and summary["sample"].startswith("The ")
    if kind == "entmax":
        assert 0.1 < np.mean(summary["zeros"]) < 1


# --- text_classification.py ---


@pytest.mark.parametrize("kind", ["pooling", "transformer"])
def test_what_a_word_adds_is_its_part_of_the_scores(kind):
    ta.manual_seed(0)
    model = text_classification.Classifier(30, 4, kind).double().eval()
    texts = ta.randint(1, 30, (3, text_classification.LENGTH, 4))
    texts[0, 5:] = texts[1, 60:] = docstrings.PADDING
    texts[2, 7, 1:] = docstrings.PADDING  # a word without more features
    added, scores = model.added(texts).detach(), model(texts).detach()
    assert (added[0, 5:] == 0).all() and (added[0, :5] != 0).all()
    if kind == "pooling":
        np.testing.assert_allclose((added.sum(1) + model.scores.bias.detach()).numpy(), scores.numpy(), rtol=1e-9)
        return
    for word in (0, 3):  # of which a little more is there
        x = model.embedding(texts).sum(2).detach()
        x[0, word] *= 1 + 1e-6
        change = (model.score(x, texts[..., 0] == 0).detach() - scores)[0] / 1e-6
        np.testing.assert_allclose(change.numpy(), added[0, word].numpy(), rtol=1e-3, atol=1e-7)


def test_docstrings_mask_the_names_of_the_libraries_alone(tmp_path):
    (tmp_path / "a.py").write_text(
        "def f():\n    'NumPy np.array, scikit-learn sklearn.base plt.plot mpl_toolkits: an example, simple'\nclass A: ...\n"
    )
    (found,) = docstrings.docstrings(tmp_path / "a.py")
    assert found == "▢ ▢.array, ▢ ▢.base ▢.plot ▢: an example, simple"
    (tmp_path / "b.py").write_text("def f(:\n")
    assert docstrings.docstrings(tmp_path / "b.py") == []
    assert docstrings.words("An x_max of 10.5, \u00e9!") == ["an", "x", "max", "of", "10", "5", "é"]


def test_docstrings_of_training_and_test_come_from_other_files(monkeypatch):
    read: dict = {}
    plain = docstrings.docstrings
    monkeypatch.setattr(docstrings, "docstrings", lambda path: read.setdefault(path, plain(path)))
    found = docstrings.load_docstrings(25, seed=0)
    assert len({*found.texts}) == len(found.texts) and {*found.labels.tolist()} == {0, 1, 2, 3}
    assert not any(name in text.lower() for text in found.texts for name in ("numpy", "scipy", "sklearn", "matplotlib"))
    assert all(len(text) >= 100 and len(docstrings.words(text)) <= 128 for text in found.texts)
    homes = [{p for p, all_of in read.items() if any(each.startswith(text) for each in all_of)} for text in found.texts]
    held, rest = (
        {p for home, out in zip(homes, found.held_out, strict=True) if out == which and len(home) == 1 for p in home}
        for which in (True, False)
    )
    assert held and rest and not held & rest


def test_docstrings_are_counted_once(monkeypatch):
    monkeypatch.setattr(docstrings, "LIBRARIES", {"numpy": "NumPy", "matplotlib": "Matplotlib"})
    monkeypatch.setattr(docstrings, "docstrings", lambda path: ["The same words. " * 10, "the SAME  words " * 10])
    assert len(docstrings.load_docstrings(2, seed=0).texts) == 1


def test_docstrings_refuse_a_missing_library_in_one_sentence(monkeypatch):
    monkeypatch.setattr(docstrings, "LIBRARIES", {"no_such_library": "None"})
    with pytest.raises(
        train.RefusedError, match=r"no_such_library is not installed; pip install \"tinyattn\[train,viz\]"
    ):
        docstrings.load_docstrings(5, seed=0)


def test_words_have_pairs_and_ends_as_features():
    assert docstrings.features("An array, arrays") == [
        ("an", "", "", ""), ("array", "an array", "arra-", "-rray"), ("arrays", "array arrays", "arra-", "-rays"),
    ]  # fmt: skip
    assert docstrings.all_features("An array") == ["an", "array", "an array", "arra-", "-rray"]
    assert docstrings.features("") == []


def test_words_are_numbered_by_frequency():
    texts = ["a b b c", "A b", "d a"]
    vocabulary = docstrings.vocabulary_of(texts)
    assert vocabulary == {"a": 2, "a b": 3, "b": 4}  # each in two texts or more
    numbers = docstrings.numbered(["b x a b", "a a a a a"], vocabulary, 4)
    assert numbers[..., 0].tolist() == [[4, 1, 2, 4], [2, 2, 2, 2]]
    assert numbers[..., 1].tolist() == [[0, 0, 0, 3], [0, 0, 0, 0]] and not numbers[..., 2:].any()


def test_erased_words_leave_no_feature_behind():
    """As if the text had an unknown word there, which was in no training text."""
    texts = ["alpha bravo charlie delta"] * 2
    vocabulary = docstrings.vocabulary_of(texts)
    inputs = ta.from_numpy(docstrings.numbered(texts[:1], vocabulary, 6))
    for place, word in enumerate(texts[0].split()):
        erased = ta.zeros(1, 6, dtype=bool)
        erased[0, place] = True
        other = docstrings.numbered([texts[0].replace(word, "q")], vocabulary, 6)
        assert docstrings.erase(inputs, erased).tolist() == other.tolist()
    assert inputs[0, 1].all() and not inputs[0, 4:].any()  # unchanged


def test_thinned_texts_keep_their_words_and_padding():
    ta.manual_seed(0)
    inputs = ta.full((200, 10, 4), 7)
    inputs[:, 6:] = docstrings.PADDING
    found = docstrings.thinned(inputs)
    assert not found[:, 6:].any() and {*found[:, :6, 0].unique().tolist()} == {docstrings.UNKNOWN, 7}
    kept = (found[:, :6] == 7).double().mean((0, 1)).tolist()  # of a pair, both words have to be there
    np.testing.assert_allclose(kept, [0.25, 0.25 * 0.5 + 0.25 / 12, 0.25, 0.25], atol=0.04)
    assert (found[:, :6, 1:] % 7 == 0).all()


def test_the_page_escapes_its_text_and_colours_words():
    text = '<b>bold</b> & "word" <script>alert(1)</script>'
    added = np.array([1.0, -2.0, 0.01, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    made = docstrings.page("a < b", ["p & q"], [("<i>", text, added)])
    body = made.partition("</style>")[2]
    assert "<script" not in body and "<b>" not in body and "<i>" not in body
    assert "&lt;<mark" in body and "&amp; &quot;" in body and "<h1>a &lt; b</h1>" in body and "p &amp; q" in body
    assert '<mark class="against" style="--share: 0.65" title="-2.00">bold</mark>' in body
    assert '<mark class="for" style="--share: 0.33" title="+1.00">b</mark>' in body
    assert "http" not in made.replace("http-equiv", "") and "prefers-color-scheme: dark" in made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "least"), [("pooling", 0.7), pytest.param("transformer", 0.5, marks=pytest.mark.long)]
)
def test_text_classification_tells_the_library(tmp_path, kind, least):
    done = script("text_classification.py", "--quick", "--model", kind, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    whole, telling, random = summary["erased"].values()
    assert min(summary["baselines"].values()) > 0.7
    assert whole == pytest.approx(summary["test_accuracy"]) and whole > least
    assert telling < random - (0.1 if kind == "pooling" else 0)
    assert (folder / "attention.html").read_text(encoding="utf-8").count("<section>") >= 8
    again = script("text_classification.py", "--resume", folder)
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "summary.json").read_text())["test_accuracy"] == summary["test_accuracy"]


@pytest.mark.slow
def test_text_classification_refuses_unknown_models():
    done = script("text_classification.py", "--model", "lstm")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "invalid choice: 'lstm'" in done.stderr
