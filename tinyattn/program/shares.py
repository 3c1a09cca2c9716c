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
    """Runs the shares of a program side by side. `left`: those that have not ended, after a second Ctrl-C."""

    def __init__(self) -> None:
        self.left: list[Callable[[], None]] = []

    def __call__(self, *shares: Callable[[], None]) -> None:
        """Run them; all have ended when this returns or raises, except after a second Ctrl-C."""
        self.left = [*shares]
        side_by_side([partial(_run, share, self.left) for share in shares])


def _run(share: Callable[[], None], left: list[Callable[[], None]]) -> None:
    try:
        share()
    finally:
        left.remove(share)
