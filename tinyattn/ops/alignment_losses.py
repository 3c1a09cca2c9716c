"""The loss of sequences whose alignment with the input is not known: connectionist temporal classification."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.choices import masked_fill, where
from tinyattn.ops.indexing import check_indices, gather
from tinyattn.ops.joins import pad, stack
from tinyattn.ops.loss import _reduce
from tinyattn.ops.promotion import opmath
from tinyattn.ops.reductions import logsumexp

NEVER = -float("inf")  # the logarithm of a probability of 0


@opmath
def ctc_loss(
    log_probs: Tensor, targets: Any, input_lengths: Any, target_lengths: Any, blank: int = 0, reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:  # fmt: skip
    """Compute -log of the summed probability of all alignments of each target with its input.

    log_probs: logarithms of class probabilities (steps, batch, classes), or (steps, classes) for one sequence.
    targets: class numbers without blanks, (batch, longest), or one after another (sum of lengths,).
    input_lengths, target_lengths: integers (batch,). An alignment gives each step a class; runs of one class count
    once, and then blanks are removed. blank: the number of that class. reduction: "mean" divides each loss by its
    target's length (at least 1) and takes the mean over the batch, "sum" or "none". zero_infinity: a target longer
    than its input (with a blank between equal neighbours), whose loss is infinite, gives 0 and no gradient.
    Returns () or, with reduction="none", (batch,). Raises ValueError for lengths that do not fit, IndexError for a
    class out of range. As torch.nn.functional.ctc_loss; there, the gradient of log_probs also contains exp(log_probs),
    which that of log_softmax cancels. Graves, Fernandez, Gomez and Schmidhuber 2006.

    >>> log_probs = ta.log_softmax(ta.zeros(2, 1, 3), 2)  # "1" is aligned as 1 1, 1 blank or blank 1: 3 of 9
    >>> F.ctc_loss(log_probs, ta.tensor([[1]]), (2,), (1,)).item()
    1.0986...
    """
    if log_probs.ndim == 2:
        one = [creation.as_tensor(n).reshape(1) for n in (input_lengths, target_lengths)]
        loss = ctc_loss(log_probs.unsqueeze(1), targets, one[0], one[1], blank, reduction, zero_infinity)
        return loss.reshape(()) if reduction == "none" else loss
    steps, batch, classes = log_probs.shape
    inputs, lengths = (_lengths(n, batch) for n in (input_lengths, target_lengths))
    labels = _padded(creation.as_tensor(targets).cpu().numpy(), lengths, blank)
    if (inputs > steps).any():
        raise ValueError(f"ctc_loss: input_lengths={inputs.tolist()}, but log_probs has {steps} steps")
    check_indices("ctc_loss", np.append(labels, blank), classes, "class")
    places, again = _places(labels, blank)
    start = np.where(np.arange(places.shape[1]) == 0, 0.0, NEVER) + np.zeros((batch, 1))

    def here(array: Any) -> Tensor:
        return creation.as_tensor(array, device=log_probs.device)

    emitted = gather(log_probs, 2, here(np.broadcast_to(places, (steps, *places.shape))))  # (steps, batch, places)
    reached = here(start.astype(log_probs.dtype))  # log of the probability of all ways to each place, (batch, places)
    blocked = here(again)
    for t in range(steps):
        before, skipped = (pad(reached, (n, 0), value=NEVER)[:, : places.shape[1]] for n in (1, 2))
        ways = logsumexp(stack([reached, before, masked_fill(skipped, blocked, NEVER)]), 0) + emitted[t]
        reached = where(here((t < inputs)[:, None]), ways, reached)
    last = np.stack([2 * lengths, np.maximum(2 * lengths - 1, 0)], 1)  # the last blank, and the last class
    ends = masked_fill(gather(reached, 1, here(last)), here((lengths == 0)[:, None] & [False, True]), NEVER)
    losses = -logsumexp(ends, 1)
    losses = masked_fill(losses, losses == math.inf, 0.0) if zero_infinity else losses  # NaN stays
    if reduction == "mean":
        return (losses / here(np.maximum(lengths, 1).astype(log_probs.dtype))).mean()
    return _reduce(losses, reduction)


def _places(labels: Any, blank: int) -> tuple[Any, Any]:
    """The targets with a blank before, between and after, and which places are not entered from two before."""
    places = np.full((len(labels), 2 * labels.shape[1] + 1), blank)
    places[:, 1::2] = labels
    again = np.ones(places.shape, bool)  # a blank, or the same class
    again[:, 2:] = (places[:, 2:] == blank) | (places[:, 2:] == places[:, :-2])
    return places, again


def _lengths(given: Any, batch: int) -> Any:
    lengths = creation.as_tensor(given).cpu().numpy()
    if lengths.shape != (batch,) or lengths.dtype.kind not in "iu" or (lengths < 0).any():
        raise ValueError(f"ctc_loss: lengths {lengths.tolist()}; expected {batch} integers of at least 0")
    return lengths


def _padded(targets: Any, lengths: Any, blank: int) -> Any:
    """The targets as (batch, longest), with blanks after each."""
    longest = int(lengths.max(initial=0))
    flat = targets.ndim == 1
    if targets.ndim > 2 or (lengths.sum() > targets.size if flat else longest > targets.shape[1]):
        raise ValueError(f"ctc_loss: target_lengths={lengths.tolist()} do not fit targets of shape {targets.shape}")
    known = np.arange(longest) < lengths[:, None]
    padded = np.full(known.shape, blank, np.int64)
    padded[known] = targets[: lengths.sum()] if flat else targets[:, :longest][known]
    return padded
