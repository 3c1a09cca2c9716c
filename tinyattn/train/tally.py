"""What a training loop counts, and the check that keeps a loss or a gradient that is not finite out of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from tinyattn import backends
from tinyattn.ops.joins import stack
from tinyattn.optim import Optimizer
from tinyattn.tensors import Tensor
from tinyattn.train.checkpoints import Checkpoints, NonFiniteError


class BadBatch(NamedTuple):
    """A batch whose step was not taken.

    Attributes:
        why: what was not finite, in words. epoch, step: each counted from 1. indices: an array, of the items in it.
    """

    why: str
    epoch: int
    step: int
    indices: Any


@dataclass
class Tally:
    """The position of a run and the sums of its current epoch: a part of every checkpoint.

    What a step reports stays on its device until `read`, because reading a number from a GPU synchronises with it.

    Attributes:
        epoch: the current epoch, from 1. step: batches taken in all epochs.
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
        """Count the time from here on as spent on the epoch."""
        self._since = time.perf_counter()

    def add(self, report: Tensor, indices: Any) -> None:
        """Count a step.

        report: a tensor (3,) of the mean loss, the number of hits and the largest gradient of the batch.
        indices: an array, of the items in the batch.
        """
        self._next_step()
        self._unread.append((self.step, report, indices))

    def read(self) -> list[BadBatch]:
        """Add up the reports since the last call, in one copy from the device.

        Returns the batches that were not finite; they are counted as skipped.
        """
        unread, self._unread, bad = self._unread, [], []
        rows = stack([report for _, report, _ in unread]).tolist() if unread else []
        self._stop_clock()
        for (step, _, indices), (loss, hits, gradient) in zip(unread, rows, strict=True):
            if not math.isfinite(loss):
                bad.append(BadBatch(f"the loss is {loss}", self.epoch, step, indices))
            elif not math.isfinite(gradient):
                why = f"a gradient is {gradient}, though the loss is {loss:g}"
                bad.append(BadBatch(why, self.epoch, step, indices))
            else:
                self.loss_sum += loss * len(indices)
                self.hits += int(hits)
                self.seen += len(indices)
        self.skipped += len(bad)
        return bad

    def next_epoch(self, test_accuracy: float) -> None:
        """Close the epoch: add its sums to the totals and start the next one at 0."""
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
        """All counts, as plain numbers. Raises RuntimeError for reports that `read` has not counted yet."""
        if self._unread:
            raise RuntimeError(f"{len(self._unread)} reports have not been counted yet: call read() first.")
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`. Raises ValueError for one with other counts."""
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


@backends.keeps_gpu
def step_if_finite(optimizer: Optimizer, loss: Tensor) -> Tensor:
    """Call `optimizer.step()` unless the loss or a gradient is NaN or infinite; then nothing changes.

    Returns the largest absolute value in all gradients, a 0-d tensor: NaN or infinite if one of them is.
    It never synchronises with a GPU, so it can be a part of a step compiled by `ta.compile`.

    >>> w = ta.ones(2, requires_grad=True)
    >>> loss = (w * float("inf")).sum()
    >>> loss.backward()
    >>> largest = ta.train.step_if_finite(optim.SGD([w], lr=0.1), loss)
    >>> w  # as before
    tensor([1., 1.], requires_grad=True)
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    grads = [param.grad.array for param in params if param.grad is not None]
    library = backends.of(loss.array, *grads)
    largest = Tensor._from(library.total_norm(grads, math.inf))
    finite = loss.detach().isfinite() & largest.isfinite()
    library.update_if(finite.array, optimizer.step)
    return largest


def batch_is_not_finite(batch: BadBatch, checkpoints: Checkpoints) -> NonFiniteError:
    """The error that ends a run at this batch."""
    numbers = [int(i) for i in batch.indices.tolist()]
    return NonFiniteError(
        f"{batch.why} at step {batch.step} (epoch {batch.epoch}), and the step was not taken; "
        f"{checkpoints.last_good()}. A smaller learning rate is the usual cure, and ta.detect_anomaly() names the "
        f"operation that made it. Training images of this batch: {', '.join(map(str, numbers))}.",
        batch.step,
        numbers,
    )
