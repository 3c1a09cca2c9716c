"""The process in which one side runs: it sleeps until a line of JSON on standard input says what to do.

    python worker.py '{"peer": "pytorch", "cores": [0, 1], "threads": 2}'

Commands: make (a task of the peer's), check (run it, return the results), warm, turn (run it for some
seconds, return the times), memory, precision. Each is answered by one line of JSON.

A GPU is given work and works later. So there many runs are timed as one, at the end of which the GPU is waited for.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLE = {"cpu": 1e-3, "cuda": 50e-3}  # seconds: what is shorter is run several times for one time that is noted
DROPPED = 0.25  # of each turn: caches are cold, and threads of the side before may still be spinning
SHOWN = 64  # elements of each result that are compared


class Worker:
    """One peer, and the task it was told to make last."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.run, self.inner = settings, None, 1
        if hasattr(os, "sched_setaffinity"):  # before the import: JAX and OpenBLAS count the cores then
            os.sched_setaffinity(0, settings["cores"])
        self.peer = importlib.import_module(f"bench.peers.{settings['peer']}")
        self.sample = SAMPLE[settings["device"].partition(":")[0]]
        gc.collect()
        _reset_peak()
        self.after_import = _status("VmRSS")

    def make(self, task: str, problem: str | None = None, options: dict[str, Any] | None = None) -> Any:
        from bench.problem import read

        self.run, self.inner = None, 1  # what was made before is let go first
        gc.collect()
        found = read(problem) if problem else None
        common = {name: self.settings[name] for name in ("threads", "device")}
        self.run = getattr(self.peer, task)(found, {**common, **(options or {})})
        return getattr(self.run, "bytes_moved", None)

    def check(self, times: int = 1) -> list[list[float]]:
        """What the first runs return, as lists of numbers: all of a small result, some of a large one."""
        return [_numbers(array) for _ in range(times) for array in _arrays(self.run())]

    def warm(self, seconds: float) -> int:
        """Run until what is compiled or allocated once is there; then see how long a run takes.

        Returns how many runs will be timed as one. A GPU is quicker where it is not waited for each time, so it is
        asked twice.
        """
        self._runs()
        for _ in range(1 if self.settings["device"] == "cpu" else 2):
            times = self._times(seconds)
            self.inner = max(1, round(self.sample / sorted(times)[len(times) // 2]))
        return self.inner

    def turn(self, seconds: float) -> list[float]:
        """The seconds of each run, without the first part of the turn."""
        start = time.perf_counter()
        while time.perf_counter() - start < DROPPED * seconds:
            self._runs()
        return self._times((1 - DROPPED) * seconds)

    def memory(self) -> dict[str, int]:
        """Bytes: after the import of the library, and at the most since."""
        return {"after_import": self.after_import, "peak": _status("VmHWM")}

    def precision(self) -> str:
        return self.peer.precision()

    def _times(self, seconds: float) -> list[float]:
        now, times = time.perf_counter, []
        end = now() + seconds
        while not times or now() < end:
            start = now()
            self._runs()
            times.append((now() - start) / self.inner)
        return times

    def _runs(self) -> None:
        """As many runs as are timed as one, and the GPU done with them."""
        run = self.run
        for _ in range(self.inner):
            run()
        if self.settings["device"] != "cpu":
            self.peer.synchronize(self.settings["device"])


def _arrays(result: Any) -> list[Any]:
    if result is None:
        return []
    return list(result) if isinstance(result, (tuple, list)) else [result]


def _numbers(array: Any) -> list[float]:
    import numpy as np

    if hasattr(array, "detach"):
        array = array.detach().cpu()
    flat = np.asarray(array, dtype=float).reshape(-1)
    return flat[:: max(1, len(flat) // SHOWN)].tolist()


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # where it is not allowed, the peak of the import counts, for all sides
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    try:
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
        return int(line.split()[1]) * 1024
    except OSError:  # no Linux: the peak is all there is
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _answer(do: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    try:
        return {"answer": do(*args, **kwargs)}
    except ImportError as error:
        return {"missing": f"{error}".splitlines()[0]}
    except Exception as error:  # whatever a library raises: the side is left out, with this line
        return {"error": f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    sys.path.insert(0, str(Path(__file__).parents[1]))
    made: list[Worker] = []
    first = _answer(lambda: made.append(Worker(json.loads(sys.argv[1]))))
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin if made else ():
        command = json.loads(line)
        print(json.dumps(_answer(getattr(made[0], command.pop("do")), **command)), file=answers, flush=True)


if __name__ == "__main__":
    main()
