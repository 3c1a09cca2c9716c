"""python -m tinyattn graph, and examples/visualize.py, which makes the pictures of the documentation."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.dom.minidom
from pathlib import Path

import pytest

from tinyattn.__main__ import main

ROOT = Path(__file__).parents[1]
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz' dot is not installed")

MINE = """
import tinyattn as ta
from tinyattn import models, nn


class Net(nn.Module):
    def __init__(self, size=3, hidden=5):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size, hidden), nn.Linear(hidden, 2)

    def forward(self, x):
        return self.fc2(self.fc1(x).relu())


class Sized(nn.Module):
    def __init__(self, size, *, depth):
        super().__init__()


def square():
    x = ta.tensor([1.0, 2.0], requires_grad=True)
    return (x * x).sum()


number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's in the working directory."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield tmp_path
    sys.modules.pop("mine", None)


def test_graph_program_is_in_the_page(mine, capsys):
    assert main(["graph", "mine:Net", "--input", "2x3", "--program", "--out", "step.html"]) == 0
    page = (mine / "step.html").read_text(encoding="utf-8")
    assert '["d fc1: linear",' in page and "Adam.step()" in page
    assert main(["graph", "tinyattn.models:AttentionClassifier", "--program", "--out", "step.html"]) == 0
    page = (mine / "step.html").read_text(encoding="utf-8")
    assert '["d cross_entropy",' in page and '["sum",' not in page  # the loss itself
    for wrong in (["mine:Net", "--input", "2x3", "--out", "step.svg"], ["mine:square"]):
        assert main(["graph", *wrong, "--program"]) == 2
        assert "--program shows the training step of a model, in a page" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mine:Net", "--input", "2x3"], "graph of Net: 3 operations, 4 parameters"),
        (["mine:Net(4, hidden=7)", "--input", "2x4"], "graph of Net: 3 operations"),
        (["mine:Net()", "--input", "ta.ones(2, 3)"], "graph of Net: 3 operations"),
        (["mine.py:Net", "--input", "2x3", "--mode", "definitions", "--times"], "graph of Net:"),
        (["mine:square"], "graph of square: 2 operations"),
        (["mine:square()"], "graph of a Tensor: 2 operations"),
        (["mine:AttentionModel"], "graph of AttentionModel: 30 operations, 8 parameters"),  # by way of `models`
        (
            ["tinyattn.models:AttentionClassifier(num_layers=12)", "--depth", "1"],
            "graph of AttentionClassifier: 118 op",
        ),
    ],
)
def test_graph_command_accepts_models_functions_and_tensors(mine, capsys, arguments, told):
    assert main(["graph", *arguments, "--out", "x.html"]) == 0
    assert told in capsys.readouterr().out
    assert (mine / "x.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine:Nothing"], "mine has no 'Nothing'; it has Net, Sized"),
        (["mine:Net"], "Net needs inputs; give the shape of each: --input 2x3"),
        (["mine:Sized"], "Sized needs size, depth; write 'mine:Sized(..., ...)'"),
        (["mine:number"], "number has type int; expected a model, its class, a function or a tensor"),
        (["mine:Net", "--input", "2,3"], "--input 2,3 has commas; write the shape as 2x3"),
        (["mine:Net("], "'Net(' is not a Python expression"),
        (["mine"], "'mine' is not MODULE:NAME; write"),
        (["nowhere.at.all:Net"], "no module 'nowhere' in"),
        (["nowhere.py:Net"], "nowhere.py is not a file"),
        (["mine:Net", "--out", "x.gif"], "--out x.gif ends in none of .svg, .png"),
        (["mine:Net", "--out", "no/x.svg"], "the folder no does not exist"),
        (["mine:Sized(1, depth=2)"], "Sized has no forward()"),
    ],
)
def test_graph_command_reports_mistakes_in_one_line(mine, capsys, arguments, said):
    assert main(["graph", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("tinyattn graph: ") and error.count("\n") == 1
    assert not (mine / "graph.html").exists()


def test_graph_command_draws_failed_forward(mine, capsys):
    assert main(["graph", "mine:Net", "--input", "2x9"]) == 1
    out = capsys.readouterr()
    assert "linear: input (2, 9) and weight (5, 3) do not fit" in out.err
    assert (mine / "graph.html").exists()


@needs_dot
def test_graph_command_as_subprocess(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tinyattn",
        "graph",
        "examples.mnist:AttentionModel",
        "--out",
        str(tmp_path / "g.svg"),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "AttentionModel" in run.stdout and run.stderr == ""
    xml.dom.minidom.parse(str(tmp_path / "g.svg"))


def test_graph_command_is_reproducible_by_seed(mine):
    for name in ("a.html", "b.html"):
        assert main(["graph", "mine:Net", "--input", "2x3", "--out", name]) == 0
    assert (mine / "a.html").read_bytes() == (mine / "b.html").read_bytes()
    main(["graph", "mine:Net", "--input", "2x3", "--out", "b.html", "--seed", "1"])
    assert (mine / "a.html").read_bytes() != (mine / "b.html").read_bytes()


# --- the pictures of the documentation ---


def visualize(*arguments, folder=ROOT):
    command = [sys.executable, str(ROOT / "examples" / "visualize.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_docs_show_every_generated_picture():
    listed = {line.split()[0] for line in visualize("--list").stdout.splitlines()}
    there = {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    assert listed == there
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    assert set(re.findall(r"pictures/([\w-]+\.(?:svg|png))", text)) == there
    assert sum((ROOT / "docs" / "pictures" / name).stat().st_size for name in there) < 2_000_000


def words(path):
    return sorted(
        t.firstChild.data for t in xml.dom.minidom.parse(str(path)).getElementsByTagName("text") if t.firstChild
    )


@needs_dot
def test_visualize_writes_to_runs_unless_told_otherwise(tmp_path):
    assert visualize("--only", "graph.svg", folder=tmp_path).returncode == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "runs/pictures/graph.svg"]


@needs_dot
def test_graphs_in_docs_are_up_to_date(tmp_path):
    names = ["graph.svg", "attention.svg", "block.svg", "classifier.svg", "crashed.svg"]
    run = visualize("--out", str(tmp_path), *[part for name in names for part in ("--only", name)])
    assert run.returncode == 0, run.stderr
    for name in names:
        assert words(tmp_path / name) == words(ROOT / "docs" / "pictures" / name), (
            f"run examples/visualize.py --out docs/pictures --only {name}"
        )


def test_graph_command_takes_a_file_of_another_folder(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "v1.0 mine"
    folder.mkdir()
    (folder / "own_layers.py").write_text("from tinyattn import nn\nkind = nn.ReLU\n")
    (folder / "own_model.py").write_text("from own_layers import kind\n\nmodel = kind()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("own_model", "own_layers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert main(["graph", f"{folder / 'own_model.py'}:model", "--input", "2", "--out", "x.html"]) == 0
    assert "graph of ReLU: 1 operation" in capsys.readouterr().out
