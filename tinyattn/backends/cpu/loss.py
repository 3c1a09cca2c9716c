"""Kernel of the cross-entropy with class numbers, and the one-hot encoding that its gradient needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.backends.cpu.softmaxes import log_softmax

__all__ = ["cross_entropy", "one_hot"]

Array = Any


def cross_entropy(x: Array, target: Array) -> Array:
    """Compute -log softmax(x)[target]: (rows, classes), (rows,) -> (rows,)."""
    return -log_softmax(x, 1)[np.arange(len(target)), target]


def one_hot(target: Array, num_classes: int) -> Array:
    """Encode class numbers (rows,) as booleans (rows, classes), True at the class."""
    out = np.zeros((len(target), num_classes), bool)
    out[np.arange(len(target)), target] = True
    return out
