"""Threads that work side by side, and how many of them it makes sense to have.

NumPy lets go of the interpreter's lock inside its loops and matrix products, so threads do gain.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

from tinyattn.modes import call_site, site_of_caller
from tinyattn.observer import observers

__all__ = ["available_workers", "side_by_side"]

_in_worker: ContextVar[bool] = ContextVar("in_worker", default=False)


def side_by_side(pieces: Sequence[Callable[[], Any]], threads: bool = True) -> list[Any]:
    """Call all of `pieces` at the same time, the first on this thread; what each gave, in their order.

    Each runs in a copy of the caller's context. All have ended when this returns or raises; what is
    raised is the error of the first piece (not of the first in time) that failed. A second Ctrl-C
    does not wait. Without `threads`, while an Observer is watching that is not for several threads, and
    inside of another piece, they run one after another on this thread.
    """
    contexts = [contextvars.copy_context() for _ in pieces]
    watched = not all(observer.in_threads for observer in observers.get())
    if not threads or len(pieces) < 2 or watched or _in_worker.get():
        return [context.run(piece) for context, piece in zip(contexts, pieces, strict=True)]
    site = call_site()
    results: list[Any] = [None] * len(pieces)
    errors: list[BaseException | None] = [None] * len(pieces)
    ended: SimpleQueue[int] = SimpleQueue()

    def work(i: int) -> None:
        _in_worker.set(True)
        site_of_caller.set(site)
        try:
            results[i] = pieces[i]()
        except BaseException as error:
            errors[i] = error

    def job(i: int) -> None:
        contexts[i].run(work, i)
        ended.put(i)

    try:
        with _one_blas_thread(), _Helper.borrowed(len(pieces) - 1) as helpers:
            for i, helper in enumerate(helpers, 1):
                helper.inbox.put(partial(job, i))
            contexts[0].run(work, 0)
            if isinstance(errors[0], KeyboardInterrupt):
                raise errors[0]  # now, so that the wait for the others, in `borrowed`, ends with the second Ctrl-C
            for _ in helpers:
                ended.get()
        for error in errors:
            if error is not None:
                raise error
    finally:
        errors.clear()  # an error knows the frames of this function: they would keep each other alive
        error = None
    return results


class _Helper(threading.Thread):
    """A thread that does what is put into its inbox. Daemonic: it never holds up the exit."""

    idle: ClassVar[list[_Helper]] = []

    def __init__(self) -> None:
        super().__init__(name="tinyattn-worker", daemon=True)
        self.inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.start()

    def run(self) -> None:
        """One job after the other, for ever."""
        while True:
            self.inbox.get()()

    @classmethod
    @contextlib.contextmanager
    def borrowed(cls, n: int) -> Iterator[list[_Helper]]:
        """n helpers that nobody else has; at rest again when the block is left."""
        helpers: list[_Helper] = []
        try:
            while len(helpers) < n:
                try:
                    helpers.append(cls.idle.pop())
                except IndexError:
                    helpers.append(cls())
            yield helpers
        except BaseException:  # Ctrl-C while we wait: first let them end what they were given
            ended: SimpleQueue[None] = SimpleQueue()
            for helper in helpers:
                helper.inbox.put(lambda: ended.put(None))
            for _ in helpers:
                ended.get()
            cls.idle += helpers
            raise
        cls.idle += helpers


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Helper.idle.clear)  # threads do not cross over


# --- one thread for each matrix product: side by side, more would fight for the cores ---

_limit_lock = threading.Lock()
_limits: list[Any] = []  # of the calls of side_by_side that run now: the first remembers what was before


@cache
def _blas() -> Any:
    """What can limit BLAS, or None; looking for its libraries takes milliseconds, so it is done once."""
    try:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
    except ImportError:
        if not {os.environ.get(f"{name}_NUM_THREADS") for name in ("OPENBLAS", "MKL", "OMP")} & {"1"}:
            warnings.warn(
                "threadpoolctl is not there to keep each worker's matrix products on one thread, so they will fight "
                'for the cores: pip install "tinyattn[train]", or set OPENBLAS_NUM_THREADS=1 before Python starts.',
                stacklevel=2,
            )
        return None
    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """BLAS computes with one thread inside, whoever calls it; as before, when the last such block is left."""
    blas = _blas()
    if blas is None:
        yield
        return
    with _limit_lock:
        _limits.append(blas.limit(limits=1))
    try:
        yield
    finally:
        with _limit_lock:
            _limits.pop().restore_original_limits()


# --- how many ---


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
