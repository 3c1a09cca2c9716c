"""A loss or a gradient that is not finite: noticed before it ruins the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tinyattn import backends
from tinyattn.tensor import Tensor
from tinyattn.train.errors import NonFiniteError

if TYPE_CHECKING:
    from tinyattn.train.checkpoints import Checkpoints
    from tinyattn.train.tally import Tally


def not_finite(loss: float, parameters: Iterable[Tensor]) -> str | None:
    """What is wrong with a step that is about to be taken, in words; None if nothing is.

    loss: its value. parameters: whose gradients the step would use.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    grads = [p.grad.data for p in parameters if p.grad is not None]
    norm = backends.of(*grads).total_norm
    if math.isfinite(norm(grads, 2.0)):  # quicker than to look at each of them; but squares may overflow
        return None
    largest = float(norm(grads, math.inf))
    return None if math.isfinite(largest) else f"a gradient is {largest}, though the loss is {loss:g}"


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
