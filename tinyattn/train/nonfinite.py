"""A loss or a gradient that is not finite: noticed before it ruins the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyattn import backends
from tinyattn.optim import Optimizer
from tinyattn.tensors import Tensor
from tinyattn.train.errors import NonFiniteError

if TYPE_CHECKING:
    from tinyattn.train.checkpoints import Checkpoints


class BadBatch(NamedTuple):
    """A batch whose step was not taken.

    Attributes:
        why: what was wrong, in words. epoch, step: when, each from 1. indices: an array, of the items in it.
    """

    why: str
    epoch: int
    step: int
    indices: Any


def step_if_finite(optimizer: Optimizer, loss: Tensor) -> Tensor:
    """`optimizer.step()`, unless the loss or a gradient is NaN or infinite; then nothing is changed.

    Returns the largest absolute value in all gradients, a 0-d tensor: NaN or infinite if one of them is.
    On a GPU nothing is read or waited for, so this can be a part of `ta.compile`'s step.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    grads = [param.grad.array for param in params if param.grad is not None]
    library = backends.of(loss.array, *grads)
    largest = Tensor._from(library.total_norm(grads, math.inf))
    finite = loss.detach().isfinite() & largest.isfinite()
    library.update_if(finite.array, optimizer.step)
    return largest


def not_finite(loss: float, gradient: float) -> str | None:
    """What was wrong with a step, in words; None if nothing was. gradient: the largest."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    return None if math.isfinite(gradient) else f"a gradient is {gradient}, though the loss is {loss:g}"


def batch_is_not_finite(batch: BadBatch, checkpoints: Checkpoints) -> NonFiniteError:
    """The error that ends a run."""
    numbers = [int(i) for i in batch.indices.tolist()]
    return NonFiniteError(
        f"{batch.why} at step {batch.step} (epoch {batch.epoch}), and the step was not taken; "
        f"{checkpoints.last_good()}. A smaller --lr is the usual "
        "cure, --skip-nonfinite leaves such batches out, and ta.detect_anomaly() names the operation that made it. "
        f"Training images of this batch: {', '.join(map(str, numbers))}.",
        batch.step,
        numbers,
    )
