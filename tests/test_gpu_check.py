"""gpu_check.py works, as far as can be seen without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gpus
import pytest

CHECK = Path(__file__).with_name("gpu_check.py")


def run(*args):
    return subprocess.run([sys.executable, str(CHECK), *args], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.usefixtures("gpu")
@pytest.mark.skipif(gpus.CHOICE == "1", reason="about a machine without a GPU")
def test_a_rehearsal_keeps_what_it_finds_and_claims_nothing(tmp_path):
    parts = ["gradients", "deterministic", "replay", "step-64", "bandwidth"]
    first = run("--rehearse", "--out", str(tmp_path), "--parts", ",".join(parts))
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.splitlines() == [f"{name}: as it must be" for name in parts]
    kept = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert {path.name for path in (tmp_path / "benchmark").iterdir()} == {
        "benchmark-step-64.json", "benchmark-bandwidth.json"
    }  # fmt: skip
    assert set(kept) == set(parts) and all(found["rehearsal"] for found in kept.values())
    page = run("--out", str(tmp_path), "--markdown").stdout
    assert page.count("nothing: this was a rehearsal") == len(parts) and "without a GPU" not in page


def test_what_is_done_is_not_done_again_and_what_is_wrong_shows(tmp_path):
    (tmp_path / "replay.json").write_text(json.dumps({"ok": False, "hashes": ["a", "b"]}))
    (tmp_path / "sanitizer.json").write_text(json.dumps({"skipped": "no tool"}))
    done = run("--out", str(tmp_path), "--parts", "replay,sanitizer")
    assert (
        done.stdout.splitlines() == ["replay: NOT as it must be", "sanitizer: skipped: no tool"]
        and done.returncode == 1
    )
    assert run("--parts", "speed").stderr.endswith("no part is called 'speed'; --list names them\n")
    assert {
        "gradients",
        "mnist",
        "step-1024-tf32",
        "suite-test_ops",
        "suite-test_cuda_kernels",
        "suite-test_benchmark_gpu",
    } <= set(run("--list").stdout.split())


def test_a_sanitizer_that_takes_too_long_leaves_the_others_findings(monkeypatch):
    import gpu_parts

    def run(command, timeout, **options):
        if "racecheck" in command:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 0, "ERROR SUMMARY: 0 errors\n", "")

    monkeypatch.setattr(gpu_parts.shutil, "which", lambda name: name)
    monkeypatch.setattr(gpu_parts.subprocess, "run", run)
    found = gpu_parts.sanitizer(rehearse=False)
    assert not found["ok"] and found["tools"]["racecheck"]["said"] == ["took more than 138 seconds"]
    assert [tool["status"] for tool in found["tools"].values()] == [0, -1, 0, 0]
