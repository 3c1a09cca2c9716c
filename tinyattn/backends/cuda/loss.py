"""Kernel of the cross-entropy with class numbers."""

from __future__ import annotations

from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.rows import contiguous, in_float32, launch_rows

__all__ = ["cross_entropy", "one_hot"]

Array = Any


@in_float32
def cross_entropy(x: Array, target: Array) -> Array:
    """-log softmax(x)[target], row by row."""
    x, target = contiguous(x), _numbers(target)
    losses = cp.empty(len(x), x.dtype)
    launch_rows("loss", "cross_entropy_forward", [x, target, losses], *x.shape)  # (rows, classes) -> (rows,)
    return losses


def one_hot(target: Array, num_classes: int) -> Array:
    """Booleans, true in each row at its class: (rows,) -> (rows, classes). A class out of range is true nowhere."""
    return target[:, None] == cp.arange(num_classes)


def _numbers(target: Array) -> Array:
    return contiguous(target.astype(np.int64, copy=False))
