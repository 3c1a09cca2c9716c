"""A run that was stopped and resumed equals the run that was never stopped, bit for bit."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from killing import digits, mnist

from tinyattn import train

SMALL = "--data digits --epochs 2 --no-progress --workers".split()  # 11 steps an epoch
STEPS = 22
TIMES = {"seconds", "images_per_second"}  # all that may differ
CASES = {
    "classifier": ["1"],
    "classifier, two workers": ["2"],
    "classifier with dropout": ["1", "--dropout", "0.2"],
    "classifier with dropout, two workers": ["2", "--dropout", "0.2"],
    "article": ["1", "--model", "article"],
    "article, two workers": ["2", "--model", "article"],
}


def run(*arguments, stop_at=None, number=signal.SIGTERM):
    """mnist.py in this process, on few digits, stopped by a signal in step `stop_at`: the exit code."""
    count = train.Tally._next_step

    def step(tally):
        count(tally)
        if tally.step == stop_at:
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Tally, "_next_step", step)
        patch.setattr(mnist.data, "load", lambda *_, **__: digits())
        return train.exit_code(lambda: mnist.main([str(a) for a in arguments]), "mnist.py", mnist.ADVICE)


@pytest.mark.slow  # CUDA kernels on the processor take their time
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("begun", "resumed"), [("cpu", "cuda:0"), ("cuda:0", "cpu"), ("cuda:0", "cuda:0")])
def test_resume_on_another_device(begun, resumed, tmp_path, capsys):
    few = "--data digits --epochs 1 --no-progress --workers 1 --model article --batch-size 100 --out".split()
    assert run(*few, tmp_path, "--device", begun, stop_at=2) == 143
    assert run("--resume", only(tmp_path), "--device", resumed) == 0
    said = f"Resumed with device {resumed}, begun with {begun}: the rest of the run has other random numbers"
    assert (said in capsys.readouterr().out) == (begun != resumed)
    summary = json.loads((only(tmp_path) / "summary.json").read_text())
    assert summary["steps"] == 4 and 0 < summary["test_accuracy"] < 1


def only(folder):
    (run_folder,) = folder.iterdir()
    return run_folder


def outcome(folder):
    """What must be the same: weights, the last checkpoint but for times, metrics.csv and summary.json likewise."""
    with (folder / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    summary = json.loads((folder / "summary.json").read_text())
    state = train.checkpoints.read(sorted((folder / "checkpoints").iterdir())[-1])
    counts = {k: v for k, v in state["tally"].items() if "seconds" not in k}
    rest = {k: v for k, v in state.items() if k not in ("tally", "run")}
    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "rows": rows,
        "summary": {k: v for k, v in summary.items() if k not in TIMES},
        "counts": counts,
        "state": train.checkpoints.digest(rest),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of the run without a stop, by case; each is computed once."""
    found = {}

    def of(case):
        if case not in found:
            out = tmp_path_factory.mktemp("whole")
            assert run(*SMALL, *CASES[case], "--out", out) == 0
            found[case] = outcome(only(out))
        return found[case]

    return of


def check(whole, case, out, *stops):
    assert run(*SMALL, *CASES[case], "--out", out, stop_at=stops[0]) == 143
    folder = only(out)
    for stop in stops[1:]:
        assert run("--resume", folder, "--no-progress", stop_at=stop) == 143
    assert run("--resume", folder, "--no-progress") == 0
    assert outcome(folder) == whole(case)


FAST = {"classifier with dropout, two workers", "article"}


@pytest.mark.parametrize("case", [c if c in FAST else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_resumed_run_equals_the_whole_one(whole, tmp_path, case):
    check(whole, case, tmp_path, random.Random(case).randrange(1, STEPS))


@pytest.mark.parametrize(
    "stops",
    [[1], [11], *(pytest.param(s, marks=pytest.mark.slow) for s in ([10], [12], [STEPS - 1], [2, 3, 4, 11, 20]))],
    ids=str,
)
def test_resumed_run_equals_whole_wherever_stopped(whole, tmp_path, stops):
    check(whole, "classifier with dropout", tmp_path, *stops)


def test_resuming_an_ended_run_rewrites_its_files(tmp_path):
    """As after a kill while its files were written: nothing is trained, and all files are written again."""
    assert run(*SMALL, "1", "--out", tmp_path) == 0
    folder = only(tmp_path)
    before = outcome(folder)
    for name in ("summary.json", "metrics.csv", "model.safetensors"):
        (folder / name).unlink()
    assert run("--resume", folder, "--no-progress", stop_at=STEPS + 1) == 0
    assert outcome(folder) == before


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_resumed_run_equals_whole_at_every_step(whole, tmp_path, case):
    for stop in range(1, STEPS):
        check(whole, case, tmp_path / str(stop), stop)
