"""A side of a comparison: a library, on some cores, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import usable_cores

# Which package each peer needs, under the name that pip knows.
PACKAGES = {
    "engine": "tinyattn", "pytorch": "torch", "jax_jit": "jax", "tiny_grad": "tinygrad", "hips_autograd": "autograd",
    "my_grad": "mygrad", "de_zero": "dezero", "matmul_floor": "numpy",
}  # fmt: skip


class SideError(Exception):
    """A side that cannot take part; the message is the line that says why."""


@dataclass(frozen=True)
class Side:
    """name: its row in the table. blas: threads of each BLAS call (as many as cores unless given). device: or a GPU."""

    name: str
    peer: str
    cores: int = 1
    blas: int | None = None
    options: dict[str, Any] = field(default_factory=dict)  # what the peer's task is told
    device: str = "cpu"


class Process:
    """A running side. Everything it is asked blocks until it has answered; in between it sleeps."""

    def __init__(self, side: Side) -> None:
        self.side = side
        cores = usable_cores()[: side.cores]
        settings = {"peer": side.peer, "cores": cores, "threads": side.cores, "device": side.device}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py")), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # warnings of libraries; errors come as answers
            text=True,
            env=_environment(side),
        )
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def make(self, task: str, problem: Path | None = None, **options: Any) -> Any:
        """Have it make a task, and say what the task says of itself; raises SideError where it cannot."""
        return self._ask("make", task=task, problem=problem and str(problem), options={**self.side.options, **options})

    def check(self, times: int = 1) -> list[list[float]]:
        return self._ask("check", times=times)

    def warm(self, seconds: float) -> int:
        """Returns how many runs are timed as one."""
        return self._ask("warm", seconds=seconds)

    def turn(self, seconds: float) -> list[float]:
        return self._ask("turn", seconds=seconds)

    def precision(self) -> str:
        """What its library says of products of float32 matrices on a GPU: "highest", or "high" for TF32."""
        return self._ask("precision")

    def memory(self) -> dict[str, int]:
        return self._ask("memory")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, do: str, **arguments: Any) -> Any:
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideError(f"{self.side.name}: its process ended") from None
        return self._read()

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise SideError(f"{self.side.name}: its process ended with exit status {self._process.wait()}")
        answer = json.loads(line)
        if "missing" in answer:
            package = PACKAGES[self.side.peer]
            raise SideError(
                f'{self.side.name}: {package} cannot be imported ({answer["missing"]}); pip install -e ".[bench]"'
            )
        if "error" in answer:
            raise SideError(f"{self.side.name}: {answer['error']}")
        return answer["answer"]


def _environment(side: Side) -> dict[str, str]:
    """As many threads as cores, for each way that a library has to be told."""
    threads, blas = str(side.cores), str(side.blas or side.cores)
    return {
        **os.environ,
        "OPENBLAS_NUM_THREADS": blas,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "NUM_CPU_THREADS": threads,  # tinygrad's
        "DEV": "CPU",  # tinygrad's
        "JAX_PLATFORMS": "cpu",
        "PYTHONHASHSEED": "0",
    }
