"""README.md and README.zh-CN.md: their examples run, excerpts equal the source, tables, links and options are real.

So do the examples and excerpts of docs/design.md and docs/debugging.md, and the commands of docs/training.md.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tinyattn as ta

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
READMES = ["README.md", "README.zh-CN.md"]
PAGES = [*READMES, "docs/design.md", "docs/debugging.md"]
TEXT = {page: (ROOT / page).read_text(encoding="utf-8") for page in [*PAGES, "docs/training.md"]}
BLOCKS = {page: BLOCK.findall(text) for page, text in TEXT.items()}
SHELL = "".join(text for page in [*READMES, "docs/training.md"] for language, text in BLOCKS[page] if language == "sh")
TABLE = re.compile(r"^\| `([^`]+)` \| ([\d,]+) \|", re.MULTILINE)
PYTHON = [
    pytest.param(text, id=f"{page}-{text.splitlines()[0]}")
    for page in PAGES for language, text in BLOCKS[page] if language == "python"
]  # fmt: skip


@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks(block):
    if block.startswith("# tinyattn/"):
        excerpt(block)
    elif ">>>" in block:
        examples = doctest.DocTestParser().get_doctest(block, {}, "README.md", "README.md", 0)
        out: list[str] = []
        assert examples.examples
        failed = doctest.DocTestRunner(verbose=False).run(examples, out=out.append).failed
        assert not failed, "".join(out)
    else:
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz' dot is not installed")
def test_python_blocks_of_pictures_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for language, block in BLOCK.findall((ROOT / "docs/pictures.md").read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(block, "docs/pictures.md", "exec"), names)
    assert {path.suffix for path in tmp_path.iterdir()} == {".svg", ".html"}


def links(text: str) -> list[str]:
    """The relative paths that a page links to."""
    return re.findall(r"\]\(([^):#]+)[^):]*\)", text)


def undocumented(source: str) -> list[ast.stmt]:
    """The statements of a module without docstrings, which an excerpt may leave out."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
        elif isinstance(node, ast.Call):
            node.keywords = [k for k in node.keywords if k.arg != "doc"]
    return tree.body


def excerpt(block: str) -> None:
    """What is quoted under the name of a file stands in it, however it is laid out, and runs there."""
    path, quoted = block.split("\n", 1)
    path = path.removeprefix("# ")
    source = (ROOT / path).read_text(encoding="utf-8")
    there = {ast.dump(statement) for statement in undocumented(source)}
    for statement in undocumented(quoted):
        text = ast.get_source_segment(quoted, statement)
        assert ast.dump(statement) in there, f"the text quotes from {path} what is not there:\n{text}"
    for comment in re.findall(r"#.*", quoted):
        assert comment in source, f"the text quotes from {path} what is not there: {comment}"
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    exec(compile(quoted, path, "exec"), dict(vars(module)))


@pytest.mark.parametrize("page", READMES)
def test_every_kind_of_block_is_there(page):
    assert [language for language, _ in BLOCKS[page]].count("python") >= 5
    assert {language for language, _ in BLOCKS[page]} == {"python", "sh"}
    shell = "".join(text for language, text in BLOCKS[page] if language == "sh").splitlines()
    for command in ('pip install -e ".[train]" && python examples/mnist.py', 'pip install -e ".[test]" && pytest -n 2'):
        assert shell.count(command) == 1, f"{page} must have the line: {command}"


def test_the_reading_order_is_real():
    rooms = runpy.run_path(str(ROOT / ".ci/rooms.py"))
    for path in ROOT.glob("README*.md"):
        text = path.read_text(encoding="utf-8")
        assert rooms["with_true_numbers"](text) == text, (
            "numbers of lines have changed; run python .ci/rooms.py --readme"
        )


def test_both_readmes_have_equal_blocks_tables_and_links():
    english, chinese = (TEXT[page] for page in READMES)
    assert BLOCKS["README.md"] == BLOCKS["README.zh-CN.md"]
    assert TABLE.findall(english) == TABLE.findall(chinese)
    # A page in Chinese stands for the English one.
    assert {link.replace(".zh-CN", "") for link in links(english)} == {
        link.replace(".zh-CN", "") for link in links(chinese)
    }


@pytest.mark.parametrize("page", READMES)
def test_the_reading_order_is_whole(page):
    assert len(TABLE.findall(TEXT[page])) >= 10
    assert all(stated != "0" for _, stated in TABLE.findall(TEXT[page]))


@pytest.mark.parametrize(("page", "path"), [(page, path) for page in READMES for path in links(TEXT[page])])
def test_links_lead_somewhere(page, path):
    assert (ROOT / path).exists()


def test_tests_that_correctness_names_exist():
    text = (ROOT / "docs/correctness.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+\.py)` `(\w+)`", text)
    assert len(named) > 30
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), (file, test)


@pytest.mark.parametrize("script", sorted(set(re.findall(r"python (\S+\.py)", SHELL))))
def test_options_are_known(script):
    said = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for line in SHELL.splitlines():
        for option in re.findall(r"--[a-z-]+", line.partition("#")[0]) if script in line else []:
            assert option in said, f"{script} knows no {option}"


# --- "Where it differs from PyTorch" -------------------------------------------------------------


def data_is_the_array() -> None:
    x = ta.tensor([1.0, 2.0], requires_grad=True)
    y = x * x
    x.array[0] = 5.0  # unseen by the guard
    y.sum().backward()
    assert type(x.array) is np.ndarray
    assert x.grad.tolist() == [10.0, 4.0]
    assert ta.float32 == np.dtype("float32")


def numpy_is_a_read_only_view() -> None:
    x = ta.ones(2, requires_grad=True)
    assert not x.numpy().flags.writeable
    assert np.shares_memory(x.numpy(), x.array)
    with pytest.raises(RuntimeError):
        torch.ones(2, requires_grad=True).numpy()


def a_query_without_keys_gets_zeros() -> None:
    x = ta.randn(1, 2, 4)
    out = ta.scaled_dot_product_attention(x, x, x, attn_mask=ta.zeros(2, 2, dtype=bool))
    assert not out.numpy().any()
    assert ta.nn.MultiheadAttention(4, 2, batch_first=True)(x, x, x, is_causal=True)[1][0, 0, 1].item() == 0


def view_is_reshape() -> None:
    assert ta.arange(6).reshape(2, 3).T.view(6).tolist() == [0, 3, 1, 4, 2, 5]
    assert ta.arange(3)[::-1].tolist() == [2, 1, 0]


def streams_are_numpys() -> None:
    drawn = ta.randn(4, generator=ta.Generator().manual_seed(7))
    expected = np.random.Generator(np.random.PCG64(7)).standard_normal(4, dtype=np.float32)
    np.testing.assert_array_equal(drawn.numpy(), expected)


def indices_are_named() -> None:
    with pytest.raises(IndexError, match=r"index 11 at position \(1,\) is out of range; expected 0 to 9"):
        ta.embedding(ta.tensor([3, 11]), ta.zeros(10, 2))


def device_is_a_string_and_some_dtypes_are_missing() -> None:
    assert ta.ones(1).device == "cpu" and ta.device("cpu") == "cpu"
    assert isinstance(ta.ones(1).device, str) and isinstance(ta.device("cuda:0"), str)
    assert not any(hasattr(ta, name) for name in ("bfloat16", "complex64", "sparse_coo_tensor"))
    with pytest.raises(TypeError, match="not supported"):
        ta.zeros(1, dtype=complex)


def nan_where_pytorch_has_it() -> None:
    scores, labels, hidden = np.zeros((2, 3)), np.array([-100, -100]), np.full(2, -np.inf)
    assert ta.cross_entropy(ta.tensor(scores), ta.tensor(labels)).array == pytest.approx(
        torch.nn.functional.cross_entropy(torch.tensor(scores), torch.tensor(labels)).numpy(), nan_ok=True
    )
    np.testing.assert_array_equal(ta.softmax(ta.tensor(hidden), 0).data, torch.tensor(hidden).softmax(0).numpy())


DIFFERENCES: list[Any] = [
    data_is_the_array,
    numpy_is_a_read_only_view,
    a_query_without_keys_gets_zeros,
    view_is_reshape,
    streams_are_numpys,
    indices_are_named,
    device_is_a_string_and_some_dtypes_are_missing,
    nan_where_pytorch_has_it,
]


@pytest.mark.parametrize("check", DIFFERENCES, ids=lambda check: check.__name__)
def test_differences_are_as_said(check):
    check()


# --- the commands of docs/reliability.md ---


@pytest.mark.slow
def test_commands_of_the_reliability_page_select_tests():
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    commands = {tuple(shlex.split(command)) for command in re.findall(r"`(?:\w+=\d+ )?pytest (tests[^`]+)`", page)}
    files = sorted({word for command in commands for word in command if word.endswith(".py")})
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-m", "slow or not slow", *files]
    done = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=True)
    collected = done.stdout.lower().splitlines()
    assert len(commands) > 30
    missing = []
    for command in sorted(commands):
        wanted = command[command.index("-k") + 1] if "-k" in command else "test"
        names = [name for name in collected if name.startswith(command) or command[0] == "tests"]
        missing += [(command, word) for word in wanted.split(" or ") if not any(word.lower() in name for name in names)]
    assert not missing
