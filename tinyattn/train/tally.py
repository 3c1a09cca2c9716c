"""What a training loop counts: part of every checkpoint, so that a resumed run reports the same figures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tinyattn.ops.shape import stack
from tinyattn.tensors import Tensor
from tinyattn.train.nonfinite import BadBatch, not_finite


@dataclass
class Tally:
    """Where a run is, and the sums of the epoch it is in.

    What a step reports stays on its device until somebody asks: to read a number from a GPU is to wait for it.

    Attributes:
        epoch: the epoch that is running, from 1. step: batches taken in all epochs.
        loss_sum, hits, seen: of this epoch, over the images that were trained on, up to the last `read`.
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

    def __post_init__(self) -> None:
        self._unread: list[tuple[int, Tensor, Any]] = []  # step, report, indices

    def start_clock(self) -> None:
        """From here on, time counts as spent on the epoch."""
        self._since = time.perf_counter()

    def add(self, report: Tensor, indices: Any) -> None:
        """Count a step: its mean loss, how many of the batch it got right, its largest gradient, as a tensor (3,).

        indices: an array, of the items in the batch.
        """
        self._next_step()
        self._unread.append((self.step, report, indices))

    def read(self) -> list[BadBatch]:
        """Add up what was reported since the last time, in one copy from the device: the batches that were not finite,
        which are counted as skipped."""
        unread, self._unread, bad = self._unread, [], []
        rows = stack([report for _, report, _ in unread]).tolist() if unread else []
        self._stop_clock()
        for (step, _, indices), (loss, hits, gradient) in zip(unread, rows, strict=True):
            if why := not_finite(loss, gradient):
                bad.append(BadBatch(why, self.epoch, step, indices))
                continue
            self.loss_sum += loss * len(indices)
            self.hits += int(hits)
            self.seen += len(indices)
        self.skipped += len(bad)
        return bad

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
        """All of it, as plain numbers. Raises RuntimeError where reports have not been read."""
        if self._unread:
            raise RuntimeError(f"{len(self._unread)} reports have not been counted yet: call read() first.")
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError for one of other counts."""
        names = {field.name for field in fields(self)}
        if {*state} != names:
            raise ValueError(f"the saved counts are {sorted(state)}, but {sorted(names)} are expected.")
        vars(self).update(state)

    def _next_step(self) -> None:
        self._stop_clock()
        self.step += 1

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
