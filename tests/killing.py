"""Kill runs of examples/mnist.py again and again, and resume them until they reach their end.

    python tests/killing.py --times 100         # SIGKILL at 100 random moments
    python tests/killing.py --every-call        # and before and after every system call of a checkpoint's write

Prints the counts as JSON; exit code 1, with a traceback, if a run could not be resumed or its weights differ from those
of the undisturbed run. The runs are forks of this process, so that a hundred of them do not import NumPy a hundred
times. Linux only: it forks, and reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tinyattn as ta
from tinyattn import data, models, optim, train

SCRIPT = Path(__file__).parents[1] / "examples/mnist.py"
RUN = "--data digits --epochs 3 --checkpoint-every 2 --keep 2 --no-progress".split()  # 11 batches an epoch


def load_script() -> Any:
    """Import examples/mnist.py as a module, without its pictures, which take too long and are tested elsewhere."""
    spec = importlib.util.spec_from_file_location("mnist", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.report.__globals__["draw"] = lambda *_: None
    return module


@functools.cache
def digits() -> data.ImageDataset:
    """A small part of scikit-learn's digits, for many runs in a test: 342 to train on, 50 to test."""
    found = data.load_digits()
    return dataclasses.replace(
        found,
        train_images=found.train_images[:342], train_labels=found.train_labels[:342],
        test_images=found.test_images[:50], test_labels=found.test_labels[:50],
    )  # fmt: skip


mnist = load_script()


def fork(work: Callable[[], int], output: Path) -> int:
    """Call `work` in a process of its own, which writes to `output`, and return its number."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        with output.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            code = work()
    finally:
        os._exit(code)


def run(arguments: list[str], output: Path, slow_disk: float = 0.0) -> int:
    """Run mnist.py with these arguments in a process of its own. slow_disk: seconds added to each flush."""

    def work() -> int:
        if slow_disk:
            flush = os.fsync
            os.fsync = lambda file: (time.sleep(slow_disk), flush(file))[1]
        return train.exit_code(lambda: mnist.main(arguments), "mnist.py", mnist.ADVICE)

    return fork(work, output)


def ended(child: int) -> int:
    """Wait for a process and return its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for_work(child: int, seconds: float) -> None:
    """Wait until a process has used this much processor time, or has ended."""
    while True:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        if fields[0] == "Z" or (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") >= seconds:
            return
        time.sleep(0.001)


def kill_at_random(times: int, seed: int, workers: int) -> dict[str, Any]:
    """Kill runs `times` times, and compare each that ends with an undisturbed one."""
    chance, seen = random.Random(seed), Counter[str]()
    options = [*RUN, "--workers", str(workers)]
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        output = top / "output"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ended(run([*options, "--out", str(top / "whole")], output)) == 0, output.read_text()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        takes = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        (whole,) = (top / "whole").iterdir()
        folder = None
        while seen["kills"] < times or folder is not None:
            if folder is None:
                out = top / f"run{seen['runs']}"
                arguments = [*options, "--out", str(out)]
                seen["runs"] += 1
            else:
                arguments = ["--resume", str(folder), "--no-progress"]
                seen["resumed from a checkpoint"] += any(folder.glob("checkpoints/step-*"))
            output.write_text("")
            child = run(arguments, output, slow_disk=0.01)
            if seen["kills"] < times:
                wait_for_work(child, chance.uniform(0, 0.7 * takes))
                time.sleep(chance.uniform(0, 0.03))  # into a write too, which waits more than it computes
                os.kill(child, signal.SIGKILL)
            code = ended(child)
            folder = next(out.iterdir(), None) if out.is_dir() else None
            if code == -signal.SIGKILL:
                seen["kills"] += 1
                seen["inside a write"] += any(folder.rglob(".*.tmp")) if folder else False
                if folder is not None and not (folder / "config.json").exists():
                    seen["before config.json"] += 1  # nothing to resume yet
                    shutil.rmtree(out)
                    folder = None
                continue
            assert code == 0, output.read_text()
            compare(whole, folder)
            seen["runs that ended"] += 1
            shutil.rmtree(out)
            folder = None
    return dict(seen)


def compare(whole: Path, other: Path) -> None:
    """Compare a run that was killed with one that was not: weights, and all of metrics.csv but times."""
    weights, others = ((folder / "model.safetensors").read_bytes() for folder in (whole, other))
    assert weights == others, "other weights"
    rows, others = ([line.split(",")[:6] for line in (folder / "metrics.csv").read_text().split()] for folder in (whole, other))  # fmt: skip
    assert rows == others, (rows, others)
    kept = [path.name for path in (other / "checkpoints").glob("*.safetensors")]
    assert len(kept) == 2, kept
    assert not list(other.rglob("*.tmp"))


def kill_at_every_call() -> dict[str, Any]:
    """Kill a process that writes a checkpoint at every system call, and restore what is there."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        output, before = top / "output", top / "before"
        before.mkdir()
        model, optimizer = models.AttentionClassifier(hidden_dim=8, num_layers=1, mlp_dim=8), None
        optimizer = optim.AdamW(model.parameters(), 1e-3)
        parts = {"model": model, "optimizer": optimizer, "random": ta.default_generator}
        for step in (1, 2):
            train_a_step(model, optimizer)
            train.Checkpoints(before, parts, keep=2).save(step)
        old = weights_of(model)
        train_a_step(model, optimizer)
        new = weights_of(model)

        seen = Counter[str]()
        for call in range(10_000):
            folder = top / "now"
            shutil.copytree(before, folder)
            child = fork(lambda: write_until(call, train.Checkpoints(folder, parts, keep=2)), output)  # noqa: B023
            code = ended(child)
            checkpoints = train.Checkpoints(folder, parts, keep=2)
            path = checkpoints.restore()
            assert path is not None
            assert weights_of(model) == {"step-00000002": old, "step-00000003": new}[path.stem], call
            assert len(checkpoints.paths()) >= 2
            assert not list(folder.glob(".*")), "what the dead process left is cleared away"
            assert not list(folder.glob("*.damaged")), "no file ever has a checkpoint's name before it is whole"
            seen[path.stem] += 1
            shutil.rmtree(folder)
            load(model, new)
            if code == 0:
                break
            assert code == -signal.SIGKILL, output.read_text()
    return {"calls": call, **seen}


def write_until(call: int, checkpoints: train.Checkpoints) -> int:
    """Save a checkpoint, and die before or after the system call of that number."""
    left = [call]

    def count(frame: Any, event: str, function: Any) -> None:
        if event not in ("c_call", "c_return"):
            return
        owner = getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
        if owner in ("posix", "_io"):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.setprofile(count)
    checkpoints.save(3)
    sys.setprofile(None)
    return 0


def train_a_step(model: Any, optimizer: Any) -> None:
    loss = model(ta.rand(4, 28, 28)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def weights_of(model: Any) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


def load(model: Any, weights: bytes) -> None:
    place = 0
    for tensor in model.state_dict().values():
        size = tensor.array.nbytes
        tensor.array[...] = ta.tensor(memoryview(weights[place : place + size]).cast("f").tolist()).numpy().reshape(tensor.shape)  # fmt: skip
        place += size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--every-call", action="store_true")
    args = parser.parse_args()
    data.load = lambda *_, **__: digits()  # once, before the forks
    data.load()
    result = kill_at_every_call() if args.every_call else kill_at_random(args.times, args.seed, args.workers)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
