"""A loss or a gradient that is not finite: noticed before it ruins the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tinyattn import backends
from tinyattn.tensor import Tensor

if TYPE_CHECKING:
    from tinyattn.train.checkpoints import Checkpoints
    from tinyattn.train.tally import Tally


class NonFiniteError(ArithmeticError):
    """Training met a NaN or an infinity; the message says where, and what to do.

    Attributes:
        step: the batch, counted over all epochs from 1. indices: of the images in it.
    """

    def __init__(self, message: str, step: int, indices: list[int]) -> None:
        super().__init__(message)
        self.step, self.indices = step, indices


def not_finite(loss: float, parameters: Iterable[Tensor]) -> str | None:
    """What is wrong with a step that is about to be taken, in words; None if nothing is.

    loss: its value. parameters: whose gradients the step would use.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    grads = [p.grad.data for p in parameters if p.grad is not None]
    if grads:
        largest = float(backends.of(*grads).total_norm(grads, math.inf))
        if not math.isfinite(largest):
            return f"a gradient is {largest}, though the loss is {loss:g}"
    return None


def batch_is_not_finite(what: str, tally: Tally, indices: Any, checkpoints: Checkpoints) -> NonFiniteError:
    """The error that ends a run. what: from `not_finite`; indices: of the items in the batch."""
    numbers, step = [int(i) for i in indices], tally.step + 1
    return NonFiniteError(
        f"{what} at step {step} (epoch {tally.epoch}), and the step was not taken; {checkpoints.last_good()}. "
        "A smaller --lr is the usual "
        "cure, --skip-nonfinite leaves such batches out, and ta.detect_anomaly() names the operation that made it. "
        f"Training images of this batch: {', '.join(map(str, numbers))}.",
        step,
        numbers,
    )
