"""What attention needs of a GPU beside products."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp

from tinyattn.backends.cuda.arrays import masked_fill
from tinyattn.backends.cuda.softmaxes import softmax

__all__ = ["SCORES_AT_ONCE", "exponentials"]

Array = Any
SCORES_AT_ONCE = 1 << 24  # in `tiled_attention`: enough to keep a GPU busy, 64 MiB of float32


def exponentials(scores: Array, hidden: Array = None) -> tuple[Array, Array]:
    """exp(scores - c), 0 where `hidden`, and its sums along the last axis.

    c, a number for each row, is such that the sums are 1 but for rounding.
    """
    one = cp.ones((), scores.dtype)
    if hidden is None:
        return softmax(scores, -1), one
    e = softmax(masked_fill(scores, hidden, -math.inf), -1)  # over NaN too
    return masked_fill(e, hidden, 0), one  # all hidden: softmax of nothing but -inf is NaN
