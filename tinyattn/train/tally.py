"""What a training loop counts: part of every checkpoint, so that a resumed run reports the same figures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class Tally:
    """Where a run is, and the sums of the epoch it is in.

    Attributes:
        epoch: the epoch that is running, from 1. step: batches taken in all epochs.
        loss_sum, hits, seen: of this epoch, over the images that were trained on.
        skipped: batches of this epoch that were left out as not finite.
        seconds: spent on this epoch since `start_clock`. total_*: of the epochs before it.
        test_accuracy: after the last epoch that ended; None before the first.
    """

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    hits: int = 0
    seen: int = 0
    skipped: int = 0
    seconds: float = 0.0
    total_seen: int = 0
    total_skipped: int = 0
    total_seconds: float = 0.0
    test_accuracy: float | None = None

    def start_clock(self) -> None:
        """From here on, time counts as spent on the epoch."""
        self._since = time.perf_counter()

    def add(self, loss: float, hits: int, images: int) -> None:
        """Count a batch of `images`, of which `hits` were right, and their mean loss."""
        self._next_step()
        self.loss_sum += loss * images
        self.hits += hits
        self.seen += images

    def skip(self) -> None:
        """Count a batch that was left out."""
        self._next_step()
        self.skipped += 1

    def next_epoch(self, test_accuracy: float) -> None:
        """Close the epoch: its sums go to the totals, and the next one begins at 0."""
        self.test_accuracy = test_accuracy
        self.total_seen += self.seen
        self.total_skipped += self.skipped
        self.total_seconds += self.seconds
        self.epoch += 1
        self.loss_sum, self.hits, self.seen, self.skipped, self.seconds = 0.0, 0, 0, 0, 0.0

    @property
    def loss(self) -> float:
        """The mean loss of the epoch so far."""
        return self.loss_sum / self.seen if self.seen else float("nan")

    @property
    def accuracy(self) -> float:
        """The share of hits in the epoch so far."""
        return self.hits / self.seen if self.seen else float("nan")

    @property
    def speed(self) -> float:
        """Images a second in the epoch so far."""
        return self.seen / max(self.seconds, 1e-9)

    @property
    def total_speed(self) -> float:
        """Images a second in all epochs that ended."""
        return self.total_seen / max(self.total_seconds, 1e-9)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain numbers."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError for one of other counts."""
        names = {field.name for field in fields(self)}
        if {*state} != names:
            raise ValueError(f"the saved counts are {sorted(state)}, but {sorted(names)} are expected.")
        vars(self).update(state)

    def _next_step(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        self.step += 1
