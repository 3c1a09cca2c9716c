"""A training step in two processes that add up their gradients, beside two threads in one process.

mpirun -n 2 python ranks.py engine PROBLEM STEPS      one run, as `ranks` starts it; rank 0 prints its median
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # when it is run as a script

from bench.parts import Bench, engine
from bench.problem import read, write
from bench.side import Process

SIZES = {"64 in all": 64, "64 a process": 128}
TURNS, STEPS, WARM = 5, 120, 20  # runs of each side, in turns; steps of a run; those whose times do not count


def ranks(bench: Bench) -> dict[str, Any]:
    """Seconds of a step in two processes: tinyattn by MPI, PyTorch by gloo; and in two threads of one process."""
    if shutil.which("mpirun") is None or find_spec("mpi4py") is None:
        note = 'mpirun or mpi4py is missing: install an MPI, such as Debian\'s openmpi-bin, and pip install -e ".[mpi]"'
        return {"tables": [], "notes": [note]}
    turns, steps = (1, WARM + 5) if bench.effort.quick else (TURNS, STEPS)
    tables, raw = [], {}
    for size, batch in SIZES.items():
        problem = write(bench.folder / f"ranks-{batch}.npz", batch)
        found: dict[str, list[float]] = {}
        for _ in range(turns):
            for name, (peer, run) in SIDES.items():
                if peer not in bench.peers:
                    continue
                bench.say(f"  {name}, {size}")
                found.setdefault(name, []).append(run(peer, problem, steps))
        theirs = found.get("PyTorch, gloo", [])
        rows = []
        for name, times in found.items():
            ratios = [a / b for a, b in zip(times, theirs, strict=False)]
            shown = f"{statistics.median(ratios):.2f}" if ratios else ""
            rows.append([name, f"{1e3 * statistics.median(times):.1f} ms", shown])
        columns = ["", "median", "of PyTorch's"]
        tables.append({"title": f"training step in two processes, batch {size}", "columns": columns, "rows": rows})
        raw[size] = found
    return {"tables": tables, "raw": raw}


def _by_mpi(peer: str, problem: Path, steps: int) -> float:
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # as in a container
    command = ["mpirun", "-n", "2", "--bind-to", "core", "--oversubscribe", *_command(peer, problem, steps)]
    done = subprocess.run(command, env=_alone() | root, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _by_gloo(peer: str, problem: Path, steps: int) -> float:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            _command(peer, problem, steps), env=_alone() | place | {"RANK": rank}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for rank in "01"
    ]  # fmt: skip
    said, _ = [process.communicate()[0] for process in both]
    if any(process.returncode for process in both):
        raise RuntimeError(f"a process of {peer} by gloo ended with exit status {max(p.returncode for p in both)}")
    return float(said.split()[-1])


def _threads(peer: str, problem: Path, steps: int) -> float:
    with Process(engine(2)) as process:  # which takes the whole batch
        process.make("train", problem)
        process.warm(1.0)
        return statistics.median(process.turn(3.0))


def _command(peer: str, problem: Path, steps: int) -> list[str]:
    return [sys.executable, __file__, peer, str(problem), str(steps)]


def _alone() -> dict[str, str]:
    """One thread in each process: the processes share the cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


SIDES = {
    "PyTorch, gloo": ("pytorch", _by_gloo),
    "tinyattn, MPI": ("engine", _by_mpi),
    "tinyattn, 2 threads": ("engine", _threads),
}


def main(peer: str, path: str, steps: str) -> None:
    """One of the processes: it takes every second image, and its gradients meet the other's in the backward pass."""
    if peer == "engine":
        import tinyattn.distributed as world
        from bench.peers.engine import train

        world.init_process_group("mpi")
    else:
        import torch.distributed as world

        from bench.peers.pytorch import train

        world.init_process_group("gloo")
    rank, size, problem = world.get_rank(), world.get_world_size(), read(path)
    problem = problem._replace(images=problem.images[:, rank::size], labels=problem.labels[:, rank::size])
    step = train(problem, {"threads": 1, "device": "cpu", "ranks": True})
    times = []
    for _ in range(int(steps)):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    if rank == 0:
        print(statistics.median(times[WARM:]))
    world.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
