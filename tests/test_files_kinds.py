"""Files, folders and terminals of every kind: symbolic links, names that are formulas or no text, closed streams."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from killing import SCRIPT
from test_cli import QUICK
from test_killed import FEW_DIGITS, HERE
from test_killed import SCRIPT as MAIN
from test_resume import only, run

import tinyattn as ta
from tinyattn import nn, optim, train, viz
from tinyattn.data import DataError, load_mnist

ROOT = SCRIPT.parents[1]
TRAIN = ("-c", FEW_DIGITS + MAIN)  # mnist.py on a few images


@pytest.fixture
def secret(tmp_path):
    """A file of the user outside of every run."""
    path = tmp_path / "secret"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


def trained(name="layer", **options):
    """A model with one layer of that name, and an optimizer that knows its gradients."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module(name, nn.Linear(3, 2))

        def forward(self, x):
            return getattr(self, name)(x)

    ta.manual_seed(0)
    model = Net()
    model(ta.ones(4, 3)).sum().backward()
    optimizer = optim.Adam(model.parameters(), 0.1)
    return model, optimizer, train.LayerStats(model, optimizer, 1, **options)


# --- symbolic links ---


@pytest.mark.parametrize("name", [*train.run.FILES[1:], "lock"])
@pytest.mark.parametrize("exists", [True, False])
def test_resume_refuses_symbolic_links_in_the_run(tmp_path, secret, name, exists):
    first = train.Run(tmp_path, "run")
    first.describe(arguments={})
    first.close()
    target = secret if exists else tmp_path / "new"
    (first.folder / name).unlink(missing_ok=True)
    (first.folder / name).symlink_to(target)
    with pytest.raises(train.RefusedError, match=f"{name} is a symbolic link") as refused:
        train.Run.resume(first.folder)
    assert "\n" not in str(refused.value)
    assert target.exists() == exists


def test_resume_refuses_a_linked_checkpoint_folder(tmp_path):
    first = train.Run(tmp_path, "run")
    first.describe(arguments={})
    first.close()
    (tmp_path / "elsewhere").mkdir()
    (first.folder / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(train.RefusedError, match="checkpoints is a symbolic link, and a run writes through none"):
        train.Run.resume(first.folder)


def test_overwrite_unlinks_a_linked_checkpoint_folder(tmp_path):
    """The old run's checkpoints stay where they are, and the new run has only its own."""
    assert run(*QUICK, "--out", tmp_path) == 0
    folder = only(tmp_path)
    (folder / "checkpoints").rename(tmp_path / "disk")
    (folder / "checkpoints").symlink_to(tmp_path / "disk")
    for name in train.run.FILES[:4]:
        (folder / name).rename(tmp_path / f"old {name}")
        (folder / name).symlink_to(tmp_path / f"old {name}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents}
    assert len(before) == 5
    assert run(*QUICK, "--batch-size", 70, "--out", tmp_path, "--overwrite") == 0
    assert not [path for path in folder.iterdir() if path.is_symlink()]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000005.safetensors"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_overwrite_reports_checkpoints_it_cannot_delete(tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(train.RefusedError, match=r"no run can be written to .*run \(Permission denied\)"):
        train.Run(tmp_path, "run", overwrite=True)


def test_run_files_replace_symbolic_links(tmp_path, secret):
    model, optimizer, _ = trained()
    new = train.Run(tmp_path, "run")
    checkpoints = train.Checkpoints(new.folder / "checkpoints", {"model": model})
    checkpoints.folder.mkdir()
    names = ["config.json", "metrics.csv", "summary.json", "model.safetensors", "checkpoints/step-00000007.safetensors"]
    for name in names:
        (new.folder / name).symlink_to(secret)
    new.describe(arguments={})
    new.log(epoch=1)
    loader = ta.data.DataLoader((np.zeros((4, 3)), np.zeros(4)), 2)
    train.Session(new, model=model, optimizer=optimizer, loader=loader, epochs=1).finish()
    checkpoints.save(7)
    for name in names:
        assert (new.folder / name).is_file()
        assert not (new.folder / name).is_symlink()


def test_layer_stats_append_through_no_symbolic_link(tmp_path, secret):
    (tmp_path / "layers.csv").symlink_to(secret)
    stats = trained(file=tmp_path / "layers.csv")[-1]
    with pytest.raises(OSError, match=r"layers\.csv is a symbolic link; delete it"):
        stats.step()
    (tmp_path / "layers.csv").unlink()
    stats.step()
    stats.step()
    assert (tmp_path / "layers.csv").read_text().count("step") == 1


def test_live_writes_through_no_symbolic_link(tmp_path, secret):
    (tmp_path / "curves.png").symlink_to(secret)
    (tmp_path / ".curves.png.part").symlink_to(secret)
    live = viz.Live(lambda: viz.curves_figure([{"loss": 1.0}]), tmp_path / "curves.png")
    assert live.update()
    assert not (tmp_path / "curves.png").is_symlink()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_watch_training_refuses_linked_pictures(tmp_path, secret):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mistakes.png").symlink_to(secret)
    done = script("examples/watch_training.py", "--data", "digits", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"watch_training.py: {tmp_path}/out/mistakes.png is a symbolic link")


# --- checkpoints ---


@pytest.mark.parametrize(("keep", "left"), [(1, [10]), (2, [10, 200]), (3, [10, 100, 200]), (5, [10, 100, 200])])
def test_checkpoint_just_saved_is_never_deleted(tmp_path, keep, left):
    checkpoints = train.Checkpoints(tmp_path, {"model": nn.Linear(3, 2)})
    for step in (100, 200):
        checkpoints.save(step)
    checkpoints.keep = keep
    assert checkpoints.save(10).exists()
    assert [path.stem for path in checkpoints.paths()] == [f"step-{step:08d}" for step in left]


@pytest.mark.parametrize("keep", [0, -1])
def test_checkpoints_keep_at_least_one(tmp_path, keep):
    with pytest.raises(ValueError, match=f"Checkpoints: keep={keep}; expected at least 1 checkpoint"):
        train.Checkpoints(tmp_path, {}, keep=keep)


def test_restore_out_of_memory_blames_no_file(tmp_path, monkeypatch):
    model = nn.Linear(3, 2)
    checkpoints = train.Checkpoints(tmp_path, {"model": model})
    checkpoints.save(1)

    def too_much(*_):
        raise MemoryError

    monkeypatch.setattr(model, "load_state_dict", too_much)
    with pytest.raises(MemoryError):
        checkpoints.restore()


# --- terminals ---


def script(*command, shell="", **environment):
    """Run a script of the project with the shell's redirections."""
    quiet = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "TINYATTN_DATA": "",
        "PYTHONPATH": f"{ROOT}:{HERE}",
        **environment,
    }
    words = [sys.executable, *map(str, command)]
    return subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "bash", *words], capture_output=True, text=True, env=quiet, cwd=ROOT
    )


@pytest.mark.parametrize("closed", [pytest.param("2>&-", marks=pytest.mark.slow), "0<&- 1>&- 2>&-"])
def test_run_with_closed_streams_ends_well(tmp_path, closed):
    done = script(*TRAIN, *QUICK, "--out", tmp_path, shell=closed)
    assert (done.returncode, done.stderr) == (0, "")
    assert (only(tmp_path) / "summary.json").exists()
    assert (only(tmp_path) / "lock").read_text().strip().isdecimal()
    assert ("epoch  1: loss" in done.stdout) == (closed == "2>&-")


def test_progress_without_standard_error_has_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert train.Progress([1, 2], 2, "epoch 1").bar is None


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [("train.RefusedError('No.')", 2, "x.py: No.\n"), ("ZeroDivisionError('Why')", 1, "ZeroDivisionError: Why\n")],
)
def test_closed_stderr_loses_no_error(error, code, said):
    source = f"""
import os
from tinyattn import train
def main():
    assert os.path.sameopenfile(1, 2)  # what libraries print there damages no file
    raise {error}
raise SystemExit(train.exit_code(main, "x.py"))"""
    done = script("-c", source, shell="2>&-")
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.endswith(said)


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow),
    ],
)
def test_ascii_terminal_shows_any_folder(tmp_path, environment):
    done = script(*TRAIN, *QUICK, "--out", tmp_path / "é", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert (only(tmp_path / "é") / "summary.json").exists()
    done = script(*TRAIN, "--resume", tmp_path / "é", **environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_graph_command_shows_any_file_on_an_ascii_terminal(tmp_path):
    command = ("-m", "tinyattn", "graph", "tinyattn.models:AttentionClassifier", "--out", tmp_path / "é.html")
    done = script(*command, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "é.html").exists()


# --- data ---


@pytest.mark.parametrize("name", ["none", "secret", "x" * 300, "~nobody-here/data"])
def test_data_folder_that_is_no_folder_is_one_sentence(monkeypatch, tmp_path, secret, name):
    path = name if name.startswith("~") else str(tmp_path / name)
    monkeypatch.setenv("TINYATTN_DATA", path)
    with pytest.raises(DataError) as error:
        load_mnist()
    assert str(error.value).startswith(f"TINYATTN_DATA {path} is not a folder and so lacks train-images")


# --- names ---

FORMULAS = ["=1+2", "+1", "-1+1", "@SUM(A1)", "\tx", "\n=x", "'=x", "''", "'"]
NAMES = {
    "50,000 characters": "n" * 50_000,
    "surrogate": "a\ud800b",
    "mathtext": r"$\frac$",
    "newline": "a\nb",
    "return": "a\r=b",
}


@pytest.mark.parametrize("name", FORMULAS)
def test_csv_cells_are_no_formulas(tmp_path, name):
    new = train.Run(tmp_path, "run")
    new.log(**{name: name, "number": -1.5, "whole": -3, "none": None})
    stats = trained(name, file=tmp_path / "layers.csv")[-1]
    stats.step()
    for path in (new.folder / "metrics.csv", tmp_path / "layers.csv"):
        with open(path, newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert f"'{name}" in cells
        assert [cell for cell in cells if cell[:1] in "=+-@\t\r\n" and cell] == (
            ["-1.5", "-3"] if path.name == "metrics.csv" else []
        )
    (row,) = viz.training.read_rows(new.folder / "metrics.csv")
    assert row.pop("none") != row.pop("none", 0)  # NaN
    assert row == {name: viz.training._number(name), "number": -1.5, "whole": -3}
    assert viz.training.read_rows(tmp_path / "layers.csv") == stats.rows


def test_numbers_as_names_of_layers_stay_names(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    model(ta.ones(3, 2)).sum().backward()
    stats = train.LayerStats(model, optim.SGD(model.parameters(), 0.1), 1, tmp_path / "layers.csv")
    stats.step()
    for rows in (stats.rows, tmp_path / "layers.csv"):
        axes = viz.layers_figure(rows).axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "2"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", NAMES)
def test_any_module_name_is_stored_and_drawn(tmp_path, kind):
    name = NAMES[kind]
    model, optimizer, stats = trained(name, file=tmp_path / "layers.csv")
    ta.save(tmp_path / "model.safetensors", model.state_dict())
    assert {*ta.load(tmp_path / "model.safetensors")} == {*model.state_dict()}
    checkpoints = train.Checkpoints(tmp_path / "checkpoints", {"model": model, "optimizer": optimizer})
    assert checkpoints.save(1) == checkpoints.restore()
    new = train.Run(tmp_path, "run")
    new.log(**{name: name})
    new.summarise(**{name: name})
    stats.step()
    for rows in (stats.rows, tmp_path / "layers.csv"):
        viz.layers_figure(rows).savefig(tmp_path / "layers.png")
    (row,) = viz.training.read_rows(tmp_path / "layers.csv")
    assert row["layer"] == (repr(name)[1:-1] if kind in ("surrogate", "return") else name)
    for ending in ("html", "dot", "svg", "png"):
        viz.graph(model, ta.ones(4, 3)).save(tmp_path / f"graph.{ending}")
    with ta.profile() as profile:
        model(ta.ones(4, 3)).sum().backward()
    profile.save_trace(tmp_path / "trace.json")


def test_names_too_long_for_a_file_are_one_sentence(tmp_path):
    model = trained("n" * 3_000_000)[0]
    for save in (
        lambda: ta.save(tmp_path / "model.safetensors", model.state_dict()),
        lambda: train.Checkpoints(tmp_path, {"model": model}).save(1),
    ):
        with pytest.raises(ValueError, match=r"^ta\.save: names, numbers and strings take \d+ bytes, but at most"):
            save()
    assert not [*tmp_path.iterdir()]
