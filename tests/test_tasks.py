"""The task scripts, each run with --quick as a user runs it, and held to what its page claims."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def script(name, *arguments):
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.mark.slow
def test_binary_two_scores_equal_one_logit(tmp_path):
    done = script("binary.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["largest_difference"] < 1e-6
    assert summary["auc"] > 0.97
    assert summary["baseline_auc"] > 0.97
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")
    again = script("binary.py", "--resume", folder)
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "summary.json").read_text())["auc"] == summary["auc"]


@pytest.mark.slow
def test_binary_refuses_zero_epochs_in_one_sentence(tmp_path):
    done = script("binary.py", "--epochs", 0, "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'0' is not a whole number above 0" in done.stderr
