"""Shares of a batch (DataParallel) in a program: a thread for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from tinyattn.engine.threads import side_by_side
from tinyattn.program.recorder import Call, values


def spawn(rng: np.random.Generator, n: int) -> list[np.random.Generator]:
    """n streams of random numbers, seeded from `rng`."""
    return [np.random.Generator(np.random.PCG64(seed)) for seed in rng.integers(2**63, size=n).tolist()]


def dependent(calls: Iterable[Call]) -> bool:
    """Whether a share writes what another one reads or writes at the same time."""
    users, written = defaultdict[Any, set[int]](set), set()
    for call in calls:
        if call.share is not None:
            split, i = call.share
            writes = {(split, value.root) for value in call.writes}
            written |= writes
            for key in writes | {(split, value.root) for value in values([call.args, call.options])}:
                users[key].add(i)
    return any(len(users[key]) > 1 for key in written)


class Shares:
    """Runs the shares of a program side by side.

    running: those that have begun and not ended. After a call that is only so after a second Ctrl-C; then they still
    write into the program's memory.
    """

    def __init__(self) -> None:
        self.running: list[Callable[[], None]] = []
        self._call: object = None  # the one that waits for its shares

    def __call__(self, *shares: Callable[[], None]) -> None:
        """Run them; all have ended when this returns or raises, except after a second Ctrl-C."""
        self._call = call = object()
        try:
            side_by_side([partial(self._run, call, share) for share in shares])
        finally:
            self._call = None

    def _run(self, call: object, share: Callable[[], None]) -> None:
        self.running.append(share)
        try:
            if self._call is call:  # else it begins after a second Ctrl-C: nobody waits for it
                share()
        finally:
            self.running.remove(share)
