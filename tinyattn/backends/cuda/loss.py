"""Kernel of the cross-entropy with class numbers, and the one-hot encoding that its gradient needs."""

from __future__ import annotations

from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.rows import contiguous, in_float32, launch_rows

__all__ = ["cross_entropy", "one_hot"]

Array = Any


@in_float32
def cross_entropy(x: Array, target: Array) -> Array:
    """Compute -log softmax(x)[target]: (rows, classes), (rows,) -> (rows,)."""
    x, target = contiguous(x), contiguous(target.astype(np.int64, copy=False))
    losses = cp.empty(len(x), x.dtype)
    launch_rows("loss", "cross_entropy_forward", [x, target, losses], *x.shape)
    return losses


def one_hot(target: Array, num_classes: int) -> Array:
    """Encode class numbers (rows,) as booleans (rows, classes), True at the class; one out of range gives no True."""
    return target[:, None] == cp.arange(num_classes)
