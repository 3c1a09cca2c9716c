"""Measure memory, file handles, threads and speed of a long training of a small model.

    python tests/soak.py --steps 20000

Prints the figures as JSON. Linux only: they are read from /proc.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, nn, optim, train

PAGE = resource.getpagesize()


def resident() -> int:
    """The resident memory of this process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def handles() -> int:
    """The number of open files of this process."""
    return len(os.listdir("/proc/self/fd"))


def soak(steps: int, every: int = 200, window: int = 1000, workers: int = 2) -> dict[str, Any]:
    """Train for `steps` steps with a checkpoint every `every`; figures of the first and last `window` steps.

    Speed is processor time a step, the first decile of the window, which other processes on the machine disturb least.
    Memory is counted from the end of the first window, after warming up.
    """
    with tempfile.TemporaryDirectory() as name:
        ta.manual_seed(0)
        model = models.AttentionClassifier(image_size=8, hidden_dim=16, num_layers=1, mlp_dim=32, dropout=0.1)
        network = nn.DataParallel(model, workers)
        optimizer = optim.AdamW(model.parameters(), lr=1e-4)
        schedule = optim.CosineAnnealingLR(optimizer, T_max=steps)
        images = np.random.default_rng(0).random((500, 8, 8), dtype=np.float32)
        loader = data.DataLoader((images, np.arange(500) % 10), 16, shuffle=True)
        tally = train.Tally()
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "loader": loader,
                 "random": ta.default_generator, "tally": tally}  # fmt: skip
        checkpoints = train.Checkpoints(Path(name), parts)
        times, memory, open_files = np.zeros(steps), [], []
        batches = endless(loader)
        tally.start_clock()
        started = time.monotonic()
        for step in range(1, steps + 1):
            begun = time.process_time()
            images, labels = next(batches)
            scores = network(images)
            loss = F.cross_entropy(scores, labels)
            optimizer.zero_grad()
            loss.backward()
            largest = train.step_if_finite(optimizer, loss)
            schedule.step()
            tally.add(ta.stack([loss.detach(), (scores.argmax(1) == labels).sum(), largest]), loader.indices)
            assert not tally.read()
            times[step - 1] = time.process_time() - begun
            if step % every == 0:
                checkpoints.save(step)
                memory.append(resident())
                open_files.append(handles())
        kept = len(checkpoints.paths())
    warm = window // every - 1  # the first figure of memory that counts
    first, last = np.quantile(times[:window], 0.1), np.quantile(times[-window:], 0.1)
    return {
        "steps": steps,
        "checkpoints": len(memory),
        "kept": kept,
        "minutes": round((time.monotonic() - started) / 60, 2),
        "megabytes after the first window": round(memory[warm] / 1e6, 2),
        "megabytes at the end": round(memory[-1] / 1e6, 2),
        "growth of memory, %": round(100 * (max(memory[warm:]) / memory[warm] - 1), 3),
        "file handles": [open_files[0], open_files[-1]],
        "threads": threading.active_count(),
        "milliseconds a step, first window": round(1e3 * float(first), 3),
        "milliseconds a step, last window": round(1e3 * float(last), 3),
        "change of speed, %": round(100 * (float(first) / float(last) - 1), 2),
    }


def endless(loader: Any) -> Any:
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    print(json.dumps(soak(args.steps, workers=args.workers), indent=2))


if __name__ == "__main__":
    main()
