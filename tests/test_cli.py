"""The command line of examples/mnist.py: errors are one sentence and code 2, before any work."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from parts.mnist_options import EPILOG, describe, options

import numpy as np
import pytest
from killing import SCRIPT, mnist
from test_resume import SMALL, only, outcome, run

import tinyattn as ta
from tinyattn import train
from tinyattn.files import whole

QUICK = "--data digits --batch-size 171 --epochs 1 --workers 1 --no-progress".split()  # 2 steps


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run mnist.py, which must refuse before it loads data, and return its standard error."""

    def no_work(*_, **__):
        raise AssertionError("the data were loaded")

    def check(*arguments, work=False):
        with monkeypatch.context() as patch:
            if not work:
                patch.setattr(mnist.data, "load", no_work)
            try:
                code = (
                    run(*arguments)
                    if work
                    else train.exit_code(lambda: mnist.main(list(map(str, arguments))), "mnist.py", mnist.ADVICE)
                )
            except SystemExit as ended:
                code = ended.code
        out, err = capsys.readouterr()
        assert code == 2, err
        assert err.count("\n") == 1, err
        assert err.startswith("mnist.py: ")
        assert work or not out
        return err

    return check


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """The folder of a run that was stopped after its first step. Tests leave it as it is."""
    out = tmp_path_factory.mktemp("a run")
    assert run(*QUICK, "--out", out, stop_at=1) == 143
    return only(out)


WRONG = {
    # flags
    "--epoch 3": "there is no option --epoch (is --epochs meant?)",
    "--learning-rate=3": "there is no option --learning-rate",
    "mnist": "there is no option mnist",
    "--no\x1b[2J\n": r"there is no option --no\x1b[2J\n",
    "--lr": "argument --lr: expected one argument",
    "--epochs 3 --epochs": "argument --epochs: expected one argument",
    # values
    "--epochs 0": "argument --epochs: '0' is not a whole number above 0",
    "--epochs -1": "argument --epochs: '-1' is not a whole number above 0",
    "--epochs 2.5": "argument --epochs: '2.5' is not a whole number above 0",
    "--batch-size many": "argument --batch-size: 'many' is not a whole number above 0",
    "--lr 0": "argument --lr: '0' is not a number above 0",
    "--lr nan": "argument --lr: 'nan' is not a number above 0",
    "--lr inf": "argument --lr: 'inf' is not a number above 0",
    "--lr fast": "argument --lr: 'fast' is not a number above 0",
    "--dropout 1": "argument --dropout: '1' is not a number of at least 0 and below 1",
    "--dropout -0.1": "argument --dropout: '-0.1' is not a number of at least 0 and below 1",
    "--seed 1.5": "argument --seed: '1.5' is not a whole number",
    "--seed --": "argument --seed: expected one argument",
    "--workers 0": "argument --workers: '0' is not a whole number above 0",
    "--threads 2147483648": "argument --threads: '2147483648' is too large: 2147483647 at most",
    "--threads ²": "argument --threads: '²' is not a whole number above 0",
    "--checkpoint-every 0": "argument --checkpoint-every: '0' is not a whole number above 0",
    "--keep 0": "argument --keep: '0' is not a whole number above 0",
    "--validation -5": "argument --validation: '-5' is not a whole number above 0",
    "--model cnn": "argument --model: invalid choice: 'cnn' (choose from",
    "--device cuda:99": "argument --device: ",  # no GPU, or not so many
    "--device tpu": "argument --device: device='tpu' is no device; expected 'cpu', 'cuda' or 'cuda:1'",
    "--data cifar": "argument --data: invalid choice: 'cifar' (choose from",
    # paths
    "--data-dir {tmp}/none": "argument --data-dir: '{tmp}/none' does not exist",
    "--data-dir {tmp}/file": "argument --data-dir: '{tmp}/file' is a file, not a folder",
    "--data-dir ": "argument --data-dir: '' does not exist",
    "--out {tmp}/file": "argument --out: '{tmp}/file' cannot be a folder: {tmp}/file is a file",
    "--out {tmp}/file/runs": "argument --out: '{tmp}/file/runs' cannot be a folder: {tmp}/file is a file",
    "--out ": "argument --out: '' cannot be a folder",
    "--out {tmp}/{long}": "argument --out: '{tmp}/{long}' cannot be a folder (File name too long)",
    "--resume {tmp}/none": "argument --resume: '{tmp}/none' does not exist",
    "--resume {tmp}/file": "argument --resume: '{tmp}/file' is a file, not a folder",
    "--resume {tmp}": "{tmp} holds no run that can be resumed: it has no config.json.",
    # combinations
    "--data digits --data-dir {tmp}": "--data digits come with scikit-learn; leave --data-dir out",
    "--model article --dropout 0.1": "--dropout is for the classifier; the article's model has none",
    "--model article --attention entmax": "--attention entmax is for the classifier; the article's model has softmax",
    "--attention hard": "argument --attention: invalid choice: 'hard' (choose from ",
    "--workers 2 --threads 2": "--threads 2 needs --workers 1; 2 workers have one thread each",
    "--resume {run} --overwrite": "--resume writes to the run's own folder; leave --out and --overwrite out",
    "--resume {run} --out {tmp}": "--resume writes to the run's own folder; leave --out and --overwrite out",
    "--resume {run} --lr 0.1": "--lr 0.1 cannot be changed when a run is resumed, which began with 0.002",
    "--resume {run} --seed 1": "--seed 1 cannot be changed when a run is resumed, which began with 0",
    "--resume {run} --model article": "--model article cannot be changed when a run is resumed, which began with cla",
    "--resume {run} --epochs 2": "--epochs 2 cannot be changed when a run is resumed, which began with 1",
    "--resume {run} --threads 2 --workers 2": "--threads 2 needs --workers 1",
}


@pytest.mark.parametrize("line", WRONG)
def test_command_line_errors_come_before_any_work(refused, tmp_path, a_run, line):
    (tmp_path / "file").write_text("")
    names = {"tmp": tmp_path, "run": a_run, "long": "x" * 300}
    arguments = [word.format(**names) for word in line.split(" ")]
    assert refused(*arguments).startswith("mnist.py: " + WRONG[line].format(**names))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: "{", "is not a run's configuration (JSONDecodeError: "),
        (lambda config: b"\xff{}", "is not a run's configuration (UnicodeDecodeError: "),
        (lambda config: "[1]", "is not a run's configuration (TypeError: "),
        (lambda config: "[" * 100_000, "is not a run's configuration (RecursionError: "),
        (lambda config: {**config, "arguments": 3}, "is not a run's configuration (TypeError: "),
        (lambda config: {**config, "format": 2}, "has format 2, and this version reads 1."),
        (lambda config: {**config, "arguments": {"epochs": -3}}, ": argument --epochs: '-3' is not a whole number above 0"),
        (lambda config: {**config, "arguments": {"epochs": [1]}}, ": argument --epochs: '[1]' is not a whole number"),
        (lambda config: {**config, "arguments": {"model": "cnn"}}, ": argument --model: invalid choice: 'cnn'"),
        (lambda config: {**config, "arguments": {"shell": "ls"}}, ": there is no setting 'shell'"),
        (lambda config: {**config, "arguments": {"help": True}}, ": there is no setting 'help'"),
        (lambda config: {**config, "arguments": {"a\x1b[2J\n": 1}}, r": there is no setting 'a\x1b[2J\n'"),
        (lambda config: {**config, "arguments": {"model": None}}, ": argument --model: invalid choice: 'None'"),
        (lambda config: {**config, "arguments": {"model": "--"}}, ": argument --model: invalid choice: '--'"),
        (lambda config: {**config, "arguments": {"keep": None}}, ": argument --keep: 'None' is not a whole number above 0"),
        (lambda config: {**config, "arguments": {"skip_nonfinite": "no"}}, ": argument --skip-nonfinite: 'no' is neither true nor false"),
        (lambda config: {**config, "versions": 3}, "is not a run's configuration (TypeError: "),
    ],
)  # fmt: skip
def test_edited_config_is_a_one_sentence_error(refused, tmp_path, a_run, change, said):
    folder = tmp_path / "run"
    shutil.copytree(a_run, folder)
    path = folder / "config.json"
    new = change(json.loads(path.read_text()))
    path.write_bytes(new if isinstance(new, bytes) else (new if isinstance(new, str) else json.dumps(new)).encode())
    assert f"{path} {said}".replace(" : ", ": ") in refused("--resume", folder)


def test_resume_refuses_other_data_or_another_recipe(refused, tmp_path, a_run):
    for name, value in {"data": {"name": "MNIST", "sha256": "0"}, "recipe": {}}.items():
        folder = tmp_path / name
        shutil.copytree(a_run, folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
        assert f"{folder} cannot be resumed: its {name} was {value}, and is " in refused("--resume", folder, work=True)


def test_resume_refuses_checkpoints_of_another_run(tmp_path, a_run, capsys):
    """Of a run with other settings, or of this one before its config.json was edited."""
    folder = tmp_path / "run"
    shutil.copytree(a_run, folder)
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"lr": 0.002', '"lr": 0.5', 1))
    assert run("--resume", folder, "--no-progress") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "step-00000001.safetensors cannot be resumed from, its run does not fit: it was made with another" in line


def test_mnist_help_is_a_manual_page(capsys):
    with pytest.raises(SystemExit) as ended:
        mnist.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for part in ("usage:", "model and recipe:", "files and progress:", "files of a run", "exit status:", "examples:"):
        assert part in said
    for option in options()._option_string_actions:
        assert option in said
    assert max(map(len, EPILOG.splitlines())) <= 80


# --- run folders ---


def test_run_folder_is_overwritten_only_with_overwrite(refused, tmp_path):
    assert run(*QUICK, "--out", tmp_path) == 0
    first = only(tmp_path)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file() and path.name != "lock"}
    assert run(*QUICK, "--out", tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, f"{first.name}-2"]
    assert all(path.read_bytes() == content for path, content in before.items())

    (first / "notes.txt").write_text("mine")
    assert run(*QUICK, "--batch-size", 70, "--out", tmp_path, "--overwrite") == 0
    assert len(list(tmp_path.iterdir())) == 2
    assert json.loads((first / "config.json").read_text())["arguments"]["batch_size"] == 70
    assert [path.name for path in (first / "checkpoints").iterdir()] == ["step-00000005.safetensors"]
    assert (first / "notes.txt").read_text() == "mine"


def test_foreign_folder_is_not_overwritten(refused, tmp_path):
    folder = tmp_path / "classifier-digits-seed0"
    folder.mkdir()
    (folder / "thesis.txt").write_text("all of it")
    said = refused(*QUICK, "--out", tmp_path, "--overwrite", work=True)
    assert said == f"mnist.py: {folder} is not a run's folder (it holds thesis.txt), so it is not overwritten.\n"
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_run_is_repeated_from_its_config_alone(tmp_path):
    out = tmp_path / "first"
    assert run(*SMALL, "2", "--dropout", "0.1", "--seed", "-7", "--lr", "3e-3", "--out", out) == 0
    first, again = only(out), tmp_path / "again"
    config = json.loads((first / "config.json").read_text())
    assert config["arguments"]["batch_size"] == 32  # what the defaults stood for
    assert {"python", "numpy", "tinyattn", "platform"} <= {*config["versions"]}
    assert config["git"] is None or len(config["git"]["commit"]) == 40
    again.mkdir()
    shutil.copy(first / "config.json", again)
    assert run("--resume", again, "--no-progress") == 0
    assert outcome(first) == outcome(again)
    assert json.loads((again / "config.json").read_text()) == config


def test_resume_reports_changed_workers_and_versions(tmp_path, capsys, a_run, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(a_run, folder)
    now = {**train.versions(), "numpy": "99"}
    monkeypatch.setattr(train.run, "versions", lambda: now)
    assert run("--resume", folder, "--workers", 2, "--keep", 1, "--no-progress", "--epochs", 1) == 0
    said = capsys.readouterr().out
    assert "Resumed with workers 2, begun with 1: the rest of the run has other random numbers" in said
    assert f"Resumed with numpy 99 instead of {np.__version__}: results may differ in their last bits" in said
    assert len(list((folder / "checkpoints").iterdir())) == 1


def test_data_dir_is_recorded_and_can_change(monkeypatch, tmp_path, a_run):
    """A folder of MNIST that is gone is an error, and another one may be given instead."""
    monkeypatch.setenv("TINYATTN_DATA", "somewhere")
    digits = mnist.data.load("digits")
    args = mnist.parse_arguments([])
    args.epochs, args.batch_size, args.lr = 1, 64, 0.1
    new = train.Run(tmp_path, "new")
    describe(new, args, {}, dataclasses.replace(digits, name="MNIST"))
    recorded = new.config["arguments"]
    assert recorded["data"] == "mnist"
    assert recorded["data_dir"].endswith("/somewhere")
    new.close()
    with pytest.raises(SystemExit):
        mnist.parse_arguments(["--resume", str(new.folder)])
    args = mnist.parse_arguments(["--resume", str(new.folder), "--data-dir", str(tmp_path)])
    assert args.data_dir == str(tmp_path)


# --- numbers that are not finite ---


def test_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
    assert run(*SMALL, "1", "--lr", "1e30", "--checkpoint-every", "1", "--out", tmp_path) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mnist.py: ")]
    assert "the loss is nan at step 2 (epoch 1), and the step was not taken; " in line
    assert "the last good checkpoint is " in line
    assert "step-00000001.safetensors. A smaller learning rate is the usual cure" in line
    numbers = line.split("Training images of this batch: ")[1].partition(".")[0].split(", ")
    assert "--skip-nonfinite" in line
    assert len({int(number) for number in numbers}) == 32
    assert all(0 <= int(number) < 342 for number in numbers)


def test_nonfinite_batches_can_be_skipped(tmp_path, capsys, monkeypatch):
    """Two batches of the first epoch get a NaN; the run consists of the others."""
    cross_entropy, calls = mnist.F.cross_entropy, []

    def sometimes(scores, labels):
        calls.append(None)
        loss = cross_entropy(scores, labels)
        return loss * float("nan") if len(calls) in (3, 7) else loss

    monkeypatch.setattr(mnist.F, "cross_entropy", sometimes)
    assert run(*SMALL, "1", "--skip-nonfinite", "--out", tmp_path) == 0
    assert ", 2 batches skipped as not finite" in capsys.readouterr().out
    summary = json.loads((only(tmp_path) / "summary.json").read_text())
    assert (summary["skipped"], summary["steps"]) == (2, 22)
    assert (only(tmp_path) / "metrics.csv").read_text().count("nan") == 0


def test_errors_of_train_name_no_command_line_options():
    words = {*options()._option_string_actions} - {"-h", "--help"}  # the parser's own
    for path in sorted(Path(train.__file__).parent.glob("*.py")):
        assert not words & {*re.findall(r"--[a-z-]+", path.read_text(encoding="utf-8"))}, path.name


# --- what a script ends with ---


def raises(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "said"),
    [
        (lambda: 0, 0, ""),
        (raises(KeyboardInterrupt()), 130, "x.py: stopped by Ctrl-C.\n"),
        (raises(train.RefusedError("No.")), 2, "x.py: No.\n"),
        (raises(whole.FileFormatError("a.idx is empty.")), 2, "x.py: a.idx is empty.\n"),
        (raises(ImportError("a picture needs matplotlib.")), 2, "x.py: a picture needs matplotlib.\n"),
        (raises(train.NonFiniteError("the loss is nan.", 3, [1])), 1, "x.py: the loss is nan.\n"),
        (raises(OSError("the disk is full.")), 1, "x.py: the disk is full.\n"),
        (raises(OSError(28, "No space left on device", "a.png")), 1, "x.py: a.png cannot be used (No space left on device).\n"),
        (raises(OSError(28, "No space left on device", "a\n\x1b.png")), 1, "x.py: a\\n\\x1b.png cannot be used (No space left on device).\n"),
        (raises(MemoryError()), 1, "x.py: out of memory. Take less.\n"),
        (lambda: len(np.broadcast_to(1.0, (10**9, 10**9)).copy()), 1,
         "x.py: out of memory (Unable to allocate 6.94 EiB for an array with shape (1000000000, 1000000000) and data type float64). Take less.\n"),
    ],
)  # fmt: skip
def test_exit_code_of_each_kind_of_error(capsys, main, code, said):
    assert train.exit_code(main, "x.py", {MemoryError: "Take less."}) == code
    assert capsys.readouterr().err == said


def test_exit_code_raises_the_scripts_own_errors():
    with pytest.raises(ZeroDivisionError):
        train.exit_code(lambda: 1 // 0, "x.py")


def test_closed_pipe_ends_the_run_quietly(tmp_path):
    """`mnist.py | head -1`: the usual 141, and what was saved can be resumed."""
    command = f"{sys.executable} {SCRIPT} {' '.join(SMALL)} 1 --epochs 40 --out {tmp_path}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")
    assert only(tmp_path).is_dir()


def test_output_is_flushed_line_by_line(tmp_path):
    """So that a log is complete up to a kill."""
    source = "import os; from tinyattn import train; train.exit_code(lambda: (print('seen'), os._exit(9)), 'x.py')"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=buffered, cwd=SCRIPT.parents[1]
    )
    assert (done.returncode, done.stdout) == (9, "seen\n")


# --- what a run was made with ---


def test_git_state_has_commit_and_changes(tmp_path):
    assert train.git_state(tmp_path) is None
    assert train.git_state(tmp_path / "none") is None
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert train.git_state(tmp_path) is None  # no commit yet
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    found = train.git_state(tmp_path)
    assert found is not None
    assert (len(found["commit"]), found["changed"]) == (40, False)
    (tmp_path / "file").write_text("2")
    assert train.git_state(tmp_path) == {**found, "changed": True}


def test_git_state_without_git_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert train.git_state(tmp_path) is None


def test_changed_versions_names_each_difference():
    assert train.changed_versions(train.versions()) == ""
    before = {**train.versions(), "numpy": "1.0", "gone": "2"}
    assert train.changed_versions(before) == f"numpy {np.__version__} instead of 1.0, gone missing instead of 2"


def test_fingerprint_depends_on_values_shapes_and_dtypes():
    x = np.arange(6, dtype=np.int32)
    others = [x + 1, x.reshape(2, 3), x.reshape(3, 2), x.astype(np.int64), x.view(np.uint32), x[:5]]
    assert len({train.fingerprint(y) for y in [x, *others]}) == 7
    assert train.fingerprint(x, x) != train.fingerprint(x)
    assert train.fingerprint(np.arange(12, dtype=np.int32)[::2] // 2) == train.fingerprint(x)


def test_tally_adds_up_reports():
    tally = train.Tally()
    assert np.isnan([tally.loss, tally.accuracy]).all()
    tally.start_clock()
    for loss, hits, gradient, images in ((2.0, 3, 1.0, 4), (1.0, 0, 1.0, 1), (1.0, 9, np.inf, 4)):
        tally.add(ta.tensor([loss, hits, gradient]), np.arange(images))
    assert (tally.step, tally.seen) == (3, 0)  # not before somebody asks
    with pytest.raises(RuntimeError, match=r"3 reports have not been counted yet: call read\(\) first"):
        tally.state_dict()
    (bad,) = tally.read()
    assert (bad.step, len(bad.indices), tally.read()) == (3, 4, [])
    assert (tally.loss, tally.accuracy, tally.step, tally.skipped, tally.seen) == (1.8, 0.6, 3, 1, 5)
    assert 0 < tally.seconds < 5
    assert tally.speed == 5 / tally.seconds
    other = train.Tally()
    other.load_state_dict(json.loads(json.dumps(tally.state_dict())))
    assert other == tally
    other.next_epoch(0.5)
    assert (other.epoch, other.step, other.seen, other.total_seen, other.total_skipped) == (2, 3, 0, 5, 1)
    assert other.total_speed == tally.speed
    with pytest.raises(ValueError, match=r"the saved counts are .'epoch'., but"):
        tally.load_state_dict({"epoch": 1})
