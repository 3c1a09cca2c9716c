"""Runs that are killed, meet a full disk or a read-only folder, or are not alone: nothing that was saved is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import killing
import pytest
from test_resume import SMALL, only, outcome, run

from tinyattn import train
from tinyattn.files import whole as files

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "TINYATTN_DATA": "", "PYTHONPATH": str(HERE.parent)}
ONE = [*SMALL, "1"]


def kill(*arguments):
    command = [sys.executable, str(HERE / "killing.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sentence(capsys):
    """What was said on standard error: one line, and no traceback."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mnist.py: ")
    return line


# --- killed ---


@pytest.mark.slow
def test_run_survives_four_random_kills():
    found = kill("--times", "4", "--seed", "1")
    assert found["kills"] == 4
    assert found["resumed from a checkpoint"] > 0
    assert found["runs that ended"] > 0


def test_checkpoint_survives_a_kill_at_every_call():
    found = kill("--every-call")
    assert found["calls"] > 20
    assert found["step-00000002"] > 10  # died before it had the name
    assert found["step-00000003"] > 2  # and after


@pytest.mark.slow
@pytest.mark.long
def test_run_survives_a_hundred_random_kills():
    found = kill("--times", "100")
    assert found["kills"] == 100
    assert found["resumed from a checkpoint"] > 50
    assert found["inside a write"] > 0


@pytest.mark.slow
def test_run_of_two_workers_survives_thirty_kills():
    assert kill("--times", "30", "--workers", "2")["kills"] == 30


# --- stopped ---


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_saves_and_ends_with_its_code(tmp_path, number, code, capsys):
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may have it ignored, as nohup does
    try:
        assert run(*ONE, "--out", tmp_path, stop_at=5, number=number) == code
    finally:
        signal.signal(number, before)
    folder = only(tmp_path)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000005.safetensors"]
    assert f"--resume {folder} continues the run" in capsys.readouterr().err
    assert json.loads((folder / "summary.json").read_text())["interrupted"]


FEW_DIGITS = """
import sys, time
from killing import digits, mnist
from tinyattn import data, train

data.load = lambda *_, **__: digits()
"""
SLOW_SAVE = """

def save(*_):
    print("saving", flush=True)
    time.sleep(60)

train.checkpoints.save = save
"""
SCRIPT = 'sys.exit(train.exit_code(lambda: mnist.main(sys.argv[1:]), "mnist.py", mnist.ADVICE))'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_at_once(tmp_path, number):
    """Both come while a checkpoint is written to a disk that takes a minute."""
    command = [
        sys.executable,
        "-c",
        FEW_DIGITS + SLOW_SAVE + SCRIPT,
        *ONE,
        "--checkpoint-every",
        "2",
        "--out",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=HERE) as running:
        assert any(line == "saving\n" for line in running.stdout)
        running.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):  # the first waits for the checkpoint
            running.wait(0.5)
        running.send_signal(number)
        assert running.wait(5) == 128 + number


def test_stop_signals_restores_handlers_and_respects_nohup():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with train.StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.caught is None
            assert signal.getsignal(signal.SIGTERM) == stop._catch
    finally:
        signal.signal(signal.SIGHUP, old)
    assert before == {number: signal.getsignal(number) for number in before}


# --- a full disk ---


def test_disk_that_fills_up_keeps_saved_checkpoints(tmp_path, capsys):
    """The limit is the operating system's own: no file may grow beyond a size. It comes after step 4."""
    save = train.checkpoints.save
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(path, *rest):
        if "00000006" in path.name:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        save(path, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.checkpoints, "save", limited)
        try:
            assert run(*ONE, "--checkpoint-every", "2", "--out", tmp_path) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = sentence(capsys)
    assert re.search(r"the checkpoint of step 6 could not be written to .*checkpoints \(File too large\)", said)
    assert "step-00000004.safetensors" in said
    folder = only(tmp_path)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "step-00000002.safetensors",
        "step-00000004.safetensors",
    ]
    assert run("--resume", folder, "--no-progress") == 0
    assert run(*ONE, "--out", tmp_path / "whole") == 0
    assert outcome(folder)["weights"] == outcome(only(tmp_path / "whole"))["weights"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB, which `enlarge` makes larger; a checkpoint has 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk]).returncode
    ):
        pytest.skip("mounting a file system is not allowed here")
    yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    subprocess.run(["umount", disk], check=True)


def test_real_disk_that_was_full_allows_resuming(small_disk, capsys):
    disk, enlarge = small_disk
    assert run(*ONE, "--checkpoint-every", "4", "--out", disk) == 1
    said = sentence(capsys)
    assert "the checkpoint of step 8 could not be written to " in said
    assert "(No space left on device); the last good checkpoint is " in said
    folder = only(disk)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000004.safetensors"]
    enlarge()
    assert run("--resume", folder, "--no-progress") == 0


@pytest.mark.parametrize("call", ["open", pytest.param("fsync", marks=pytest.mark.slow), "replace"])
def test_disk_full_at_any_call_is_one_sentence(tmp_path, monkeypatch, capsys, call):
    """The n-th call of a run's writing fails, for every n until the run ends: one sentence each time."""
    real = getattr(os, call)
    reached = 0
    for n in range(100):
        calls = 0

        def full(*args, _n=n, **kwargs):
            nonlocal calls
            if str(args[0]).startswith(str(tmp_path)) or call == "fsync":
                calls += 1
                if calls > _n:
                    raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        out = tmp_path / str(n)
        monkeypatch.setattr(files.os, call, full)
        code = run(*ONE, "--epochs", 1, "--batch-size", 342, "--out", out)
        monkeypatch.setattr(files.os, call, real)
        if code == 0:
            break
        assert code in (1, 2)
        assert "No space left on device" in sentence(capsys)
        for path in out.glob("*/checkpoints/step-*"):
            train.checkpoints.read(path)
        assert not list(out.rglob(".*"))
        reached = n + 1
    assert code == 0
    assert reached >= 4  # config.json, metrics.csv, checkpoint, weights ...


# --- a folder that cannot be written to ---


@contextlib.contextmanager
def nobody():
    """As a user without rights, so that the permissions of folders count even if root runs the tests."""
    if os.getuid():
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_read_only_folder_is_one_sentence(capsys):
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        out.chmod(0o777)
        with nobody():
            assert run(*ONE, "--out", out, stop_at=3) == 143
        folder = only(out)
        capsys.readouterr()
        for path in (folder, folder / "lock", out):
            path.chmod(0o555)
        with nobody():
            with pytest.raises(SystemExit) as ended:
                run(*ONE, "--out", out)
            assert ended.value.code == 2
            assert f"'{out}' cannot be written to: {out} is read-only" in sentence(capsys)
            assert run("--resume", folder) == 2
            assert f"{folder} cannot be written to (Permission denied)." in sentence(capsys)
        for path in (folder, folder / "lock", out):
            path.chmod(0o777)
        (folder / "checkpoints").chmod(0o555)
        with nobody():
            assert run("--resume", folder, "--no-progress") == 1
            assert "step-00000003.safetensors. Once the cause is removed, --resume continues the run." in sentence(
                capsys
            )
        (folder / "checkpoints").chmod(0o777)
        with nobody():
            assert run("--resume", folder, "--no-progress") == 0


# --- two processes ---


def test_second_process_on_a_run_is_refused(tmp_path, capsys):
    assert run(*ONE, "--out", tmp_path, stop_at=3) == 143
    folder = only(tmp_path)
    capsys.readouterr()
    first = train.Run.resume(folder)
    second = subprocess.run(
        [sys.executable, killing.SCRIPT, "--resume", folder], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert second.returncode == 2
    assert second.stderr == (
        f"mnist.py: another process ({os.getpid()}) is training in {folder}; wait for its end, or stop it.\n"
    )
    assert run(*ONE, "--out", tmp_path, "--overwrite") == 2
    assert "is training in" in sentence(capsys)
    first.close()
    assert run("--resume", folder, "--no-progress") == 0


def test_two_processes_get_a_folder_each(tmp_path):
    command = [sys.executable, "-c", FEW_DIGITS + SCRIPT, *ONE, "--epochs", "1", "--out", tmp_path]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT, cwd=HERE) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    folders = sorted(tmp_path.iterdir())
    assert [folder.name for folder in folders] == ["classifier-digits-seed0", "classifier-digits-seed0-2"]
    first, second = map(outcome, folders)
    assert first == second


def test_folder_lock_with_no_flock_uses_msvcrt(tmp_path, monkeypatch):
    """Windows has msvcrt instead; the stand-in keeps the rules of its `locking`."""
    locked = set()

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(file, mode, count):
            assert (mode, count) == (2, 1)
            key = (os.fstat(file).st_ino, os.lseek(file, 0, os.SEEK_CUR))
            if key in locked:
                raise OSError(errno.EACCES, "Permission denied")
            locked.add(key)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt)
    first = train.run.FolderLock(tmp_path)
    with pytest.raises(train.RefusedError, match=f"another process .{os.getpid()}. is training in"):
        train.run.FolderLock(tmp_path)
    first.release()
