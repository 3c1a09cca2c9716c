"""docs/learn/: the blocks of every lesson run, in both languages, and quote the source; examples/steps/: the engine grows.

A lesson's python blocks share one namespace. What a block prints must be shown: by doctest, or in the text block after it.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import doctest
import io
import itertools
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyattn as ta

ROOT = Path(__file__).parents[1]
LEARN, STEPS = ROOT / "docs/learn", ROOT / "examples/steps"
PICTURES = LEARN / "pictures"
ENGLISH = sorted(path for path in LEARN.glob("[0-9]*.md") if not path.name.endswith(".zh-CN.md"))
BOTH = [path.with_suffix(suffix) for path in ENGLISH for suffix in (".md", ".zh-CN.md")]
PAGES = [*BOTH, LEARN / "README.md", LEARN / "README.zh-CN.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DISPLAYED = re.compile(r"\$\$(.*?)\$\$", re.DOTALL)
LINK = re.compile(r"\]\(([^):#]+)[^):]*\)")
# A file, and the name of a definition in it: "[`file`](link), `name`" or "[`file`](link) (see `name`)".
NAMED = re.compile(r"\[`([^`]+)`\]\(\.\./\.\./([^)]+)\)(?:(?:, | \(see |\uff08\u89c1 )`([^`]+)`)?")
NUMBER = re.compile(r"(?<![\d.])\d+\.\d+(?!\.?\d)")
LINES = 120  # two screens

lessons = pytest.mark.parametrize("path", ENGLISH, ids=lambda path: path.stem)
pages = pytest.mark.parametrize("path", BOTH, ids=lambda path: path.stem)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def definition(path: str, name: str) -> str:
    """The source of a function, class, method or assigned name of a file, with its decorators."""
    source = text_of(ROOT / path)
    body: list[Any] = ast.parse(source).body
    for part in name.split("."):
        (node,) = [
            node for node in body
            if getattr(node, "name", None) == part
            or (isinstance(node, ast.Assign) and any(part == getattr(target, "id", None) for target in node.targets))
        ]  # fmt: skip
        body = getattr(node, "body", [])
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    return textwrap.dedent("\n".join(source.splitlines()[first - 1 : node.end_lineno]))


def run_example(block: str, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block, names, "lesson", "lesson", 0)
    test.globs = names  # the parser has copied them
    out: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(test, out=out.append, clear_globs=False).failed
    assert not failed, "".join(out)


def run(language: str, block: str, names: dict[str, Any]) -> str:
    """Run a block, and return what it printed that it does not show itself."""
    quoted = re.match(r"# (\S+\.py): (\S+)\n", block)
    if quoted:
        assert block[quoted.end() :].rstrip() == definition(*quoted.groups()), f"not the source: {quoted.group(0)}"
    elif language == "sh":
        command = re.fullmatch(r"python (examples/steps/step\d\.py)\n", block)
        assert command, f"an unknown command: {block}"
        done = subprocess.run([sys.executable, ROOT / command.group(1)], capture_output=True, text=True)
        assert not done.stderr
        return done.stdout
    elif ">>>" in block:
        run_example(block, names)
    else:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "lesson", "exec"), names)
        return printed.getvalue()
    return ""


@lessons
def test_lesson_blocks_run_and_print_what_they_show(path):
    names: dict[str, Any] = {"__name__": "lesson"}
    state = ta.default_generator.get_state()
    printed = ""
    for language, block in BLOCK.findall(text_of(path)):
        if language == "text":
            assert block == printed
            printed = ""
            continue
        assert not printed, f"printed, but not shown: {printed}"
        assert language in ("python", "sh")
        printed = run(language, block, names)
    assert not printed
    ta.default_generator.set_state(state)


@lessons
def test_chinese_lesson_has_equal_blocks_formulas_and_links(path):
    english, chinese = text_of(path), text_of(path.with_suffix(".zh-CN.md"))
    assert BLOCK.findall(english) == BLOCK.findall(chinese)
    assert DISPLAYED.findall(english) == DISPLAYED.findall(chinese)
    assert sorted(found.replace(".zh-CN", "") for found in LINK.findall(english)) == sorted(
        found.replace(".zh-CN", "") for found in LINK.findall(chinese)
    )


@pages
def test_lesson_is_short_and_has_a_question_a_picture_and_exercises(path):
    text = text_of(path)
    chinese = path.name.endswith(".zh-CN.md")
    title, question = text.split("\n\n")[:2]
    assert re.match(rf"# {int(path.name[:2])}\. ", title)
    assert question.startswith("> ") and ("\uff1f" if chinese else "?") in question
    assert re.search(r"!\[[^]]+\]\(pictures/", text)
    answers = "".join(re.findall(r"<details>.*?</details>", text, re.DOTALL))
    asked, answered = text.split("## " + ("练习" if chinese else "Exercises"))[1].split("<details>", 1)
    assert re.findall(r"^(\d)\. ", asked, re.MULTILINE) == re.findall(r"^(\d)\. ", answered, re.MULTILINE) == ["1", "2"]
    assert len([block for _, block in BLOCK.findall(answers) if ">>>" in block]) >= 2
    assert text.count("现在去看" if chinese else "Now look here") == 1
    assert len(re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL).splitlines()) <= LINES


@pages
def test_numbers_of_a_lesson_are_printed_by_its_code(path):
    text = text_of(path)
    code = "".join(block for _, block in BLOCK.findall(text))
    stated = NUMBER.findall(re.sub(r"\]\([^)]*\)", "", BLOCK.sub("", text)))
    assert set(stated) - set(NUMBER.findall(code)) == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_and_names_of_a_lesson_hold(path):
    text = text_of(path)
    for link in LINK.findall(text):
        assert (path.parent / link).exists(), link
    for shown, linked, name in NAMED.findall(text):
        assert shown == linked
        assert not name or definition(linked, name)


@pages
def test_notebook_of_a_lesson_keeps_every_block_and_output(path):
    made = runpy.run_path(str(ROOT / "examples/lesson_notebooks.py"))["notebook"](text_of(path))["cells"]
    cells = [cell for cell in made if cell["cell_type"] == "code"]
    code, shown = [], []
    for language, block in BLOCK.findall(text_of(path)):
        if language != "python" or re.match(r"# \S+\.py: ", block):
            continue
        for line in filter(None, block.splitlines()):
            prompted = re.match(r"(>>>|\.\.\.)( |$)", line)
            (code if prompted or ">>>" not in block else shown).append(line[4:] if prompted else line)
    assert [line for cell in cells for line in cell["source"].splitlines() if line] == [line for line in code if line]
    assert [line for cell in cells for out in cell["outputs"] for line in out["text"].splitlines() if line] == shown
    text = "\n".join(cell["source"] for cell in made if cell["cell_type"] == "markdown")
    assert DISPLAYED.findall(text) == DISPLAYED.findall(text_of(path)) and ">>> " not in text


def test_there_are_ten_lessons_and_the_index_lists_them():
    assert [int(path.name[:2]) for path in ENGLISH] == list(range(1, 11))
    for index, suffix in ((LEARN / "README.md", ".md"), (LEARN / "README.zh-CN.md", ".zh-CN.md")):
        listed = [link for link in LINK.findall(text_of(index)) if link[:2].isdigit()]
        assert listed == [path.with_suffix(suffix).name for path in ENGLISH]


def test_the_reading_table_of_lesson_10_names_every_file_of_the_engine():
    for path in BOTH[-2:]:
        rows = "".join(line for line in text_of(path).splitlines() if line.startswith("| `"))
        named = re.findall(r"`(\w+\.py)`", rows)
        assert sorted(named) == sorted(file.name for file in (ROOT / "tinyattn/engine").glob("[a-z]*.py"))


def test_lessons_show_every_picture():
    shown = {found for path in BOTH for found in re.findall(r"pictures/([\w-]+\.svg)", text_of(path))}
    assert shown == {path.name for path in PICTURES.iterdir()}
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < 500_000


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
@pytest.mark.parametrize("skipped", [{"classifier"}, pytest.param(set(), marks=pytest.mark.slow)], ids=["quick", "all"])
def test_lesson_pictures_are_up_to_date(tmp_path, skipped):
    script = [sys.executable, str(ROOT / "examples/lesson_pictures.py"), "--out", str(tmp_path)]
    subprocess.run(script + [f"--skip={name}" for name in skipped], check=True, capture_output=True)
    assert {path.stem for path in tmp_path.iterdir()} == {path.stem for path in PICTURES.iterdir()} - skipped
    for path in tmp_path.iterdir():
        old, new = (re.findall(r"<text[^>]*>([^<]*)", text_of(folder / path.name)) for folder in (PICTURES, tmp_path))
        # Other versions of matplotlib may choose other ticks.
        letters = [[word for word in words if re.search("[a-z]", word)] for words in (old, new)]
        assert letters[0] == letters[1], f"run examples/lesson_pictures.py --out docs/learn/pictures: {path.name}"


# --- examples/steps ---

STEP_FILES = sorted(STEPS.glob("step*.py"))


def changed(before: Path, after: Path) -> int:
    """How many lines were removed or added."""
    found = difflib.ndiff(text_of(before).splitlines(), text_of(after).splitlines())
    return sum(line[0] in "+-" for line in found)


def test_steps_grow_by_less_than_60_changed_lines():
    assert [path.name for path in STEP_FILES] == [f"step{i}.py" for i in range(1, 9)]
    assert len(text_of(STEP_FILES[0]).splitlines()) <= 40
    for before, after in itertools.pairwise(STEP_FILES):
        assert 0 < changed(before, after) < 60, after


@pytest.mark.parametrize("path", STEP_FILES, ids=lambda path: path.stem)
def test_step_imports_nothing_but_numpy(path):
    imported = {name.split(".")[0] for name in re.findall(r"^(?:from|import) (\S+)", text_of(path), re.MULTILINE)}
    assert imported <= {*sys.stdlib_module_names, "numpy"}


def test_step2_visits_each_variable_once():
    step = runpy.run_path(str(STEPS / "step2.py"))
    x = y = step["Variable"](1.0)
    for _ in range(500):  # 2^500 paths
        y = y + y
    y.backward()
    assert x.grad == 2.0**500


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "exp", "log"])
def test_step3_rules_equal_finite_differences(name):
    step = runpy.run_path(str(STEPS / "step3.py"))
    numbers = [0.7, 1.3][: 1 if name in ("exp", "log") else 2]
    inputs = [step["Variable"](number) for number in numbers]
    step[name](*inputs).backward()
    for i, x in enumerate(inputs):
        higher, lower = (
            step[name](*[n + h * (i == j) for j, n in enumerate(numbers)]).data for h in (1e-6, -1e-6)
        )  # fmt: skip
        assert x.grad == pytest.approx((higher - lower) / 2e-6, rel=1e-8)


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "causal"])
def test_step8_attention_equals_tinyattn_to_1e12(masked):
    step = runpy.run_path(str(STEPS / "step8.py"))
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape) for shape in [(2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 6)]]
    weight = rng.normal(size=(2, 3, 5, 6))
    mask = np.where(np.tril(np.ones((5, 5))) > 0, 0.0, -np.inf) if masked else 0.0
    mine = [step["Variable"](x) for x in arrays]
    out = step["attention"](*mine, mask)
    step["total"](out * step["Variable"](weight)).backward()
    theirs = [ta.tensor(x, requires_grad=True) for x in arrays]
    expected = ta.scaled_dot_product_attention(*theirs, is_causal=masked)
    (expected * ta.tensor(weight)).sum().backward()
    np.testing.assert_allclose(out.data, expected.numpy(), rtol=0, atol=1e-12)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=0, atol=1e-12)


def test_step8_cross_entropy_and_adam_equal_tinyattn():
    step = runpy.run_path(str(STEPS / "step8.py"))
    scores, labels = np.random.default_rng(0).normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    mine, theirs = step["Variable"](scores), ta.tensor(scores, requires_grad=True)
    adam, expected = step["Adam"]([mine], lr=0.1), ta.optim.Adam([theirs], lr=0.1)
    for _ in range(3):
        step["cross_entropy"](mine, labels).backward()
        expected.zero_grad()
        ta.cross_entropy(theirs, ta.tensor(labels)).backward()
        np.testing.assert_allclose(mine.grad, theirs.grad.numpy(), rtol=0, atol=1e-12)
        adam.step()
        expected.step()
        np.testing.assert_allclose(mine.data, theirs.numpy(), rtol=0, atol=1e-12)
