"""The cores of this process: how many it may use, and BLAS kept to one of them while threads work side by side."""

from __future__ import annotations

import math
import os
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from tinyattn.locks import fork_safe


def available_workers() -> int:
    """How many cores this process may use: its affinity, and the limit of its container (cgroups)."""
    count = getattr(os, "process_cpu_count", None)  # Python 3.13: knows about affinity
    if count is not None:
        cores = count()
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    limit = _container_limit(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(cores or 1, limit)))


def _container_limit(membership: Path, root: Path) -> float:
    """The cores that control groups leave to this process: the least of its own group and those above."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    limit = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        below = Path(path.lstrip("/"))
        for mount in [controllers, "cpu", "cpu,cpuacct"] if controllers else ["", "unified"]:
            for group in (below, *below.parents):  # the last is the root: all that a container may see
                limit = min(limit, _quota(root / mount / group))
    return limit


def _quota(group: Path) -> float:
    """Processor time for each second of time, in one group's files: version 2, else version 1."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / name).read_text() for name in names).split()
            if quota != "max" and int(quota) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError):
            continue
    return math.inf


# --- one thread for each matrix product: side by side, more would fight for the cores ---


@cache
def _blas() -> list[Any]:
    """The BLAS libraries whose threads can be limited; looking for them takes milliseconds, so it is done once."""
    try:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
    except ImportError:
        if not {os.environ.get(f"{name}_NUM_THREADS") for name in ("OPENBLAS", "MKL", "OMP")} & {"1"}:
            warnings.warn(
                "threadpoolctl is not there to keep each worker's matrix products on one thread, so they will fight "
                'for the cores: pip install "tinyattn[train]", or set OPENBLAS_NUM_THREADS=1 before Python starts.',
                stacklevel=2,
            )
        return []
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _set_threads(library: Any, threads: int) -> None:
    """Set the threads of a BLAS library; threadpoolctl 3.8 ignores all threads but one until that is cleared."""
    clear = getattr(library, "clear_controlling_thread", lambda force: None)
    clear(force=True)
    library.set_num_threads(threads)
    clear(force=True)


class OneBlasThread:
    """BLAS computes with one thread, whoever calls it, from the first `begin` of all calls to the last `end`.

    Both may be called again and by several threads, and a Ctrl-C inside one of them leaves nothing that the next `end`
    does not repair: what was before is noted first and forgotten last.
    """

    lock: ClassVar[Any] = fork_safe(threading.Lock())
    running: ClassVar[set[OneBlasThread]] = set()
    before: ClassVar[list[tuple[Any, int]]] = []  # the libraries, each with its number of threads

    def __init__(self) -> None:
        self.owner = threading.get_ident()
        _blas()  # a warning belongs to the caller

    def begin(self) -> None:
        """Limit BLAS, unless a call that runs has done so."""
        libraries = _blas()
        with self.lock:
            first = not self.running
            if first:
                type(self).before = [(library, library.get_num_threads()) for library in libraries]
            self.running.add(self)
            for library in libraries if first else ():
                _set_threads(library, 1)

    def end(self) -> None:
        """Restore BLAS, unless other calls run."""
        with self.lock:
            if self.running == {self}:
                for library, threads in self.before:
                    _set_threads(library, threads)
            self.running.discard(self)

    @classmethod
    def after_fork(cls) -> None:
        """End the calls of threads that a child process does not have."""
        for call in [call for call in cls.running if call.owner != threading.get_ident()]:
            call.end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=OneBlasThread.after_fork)
