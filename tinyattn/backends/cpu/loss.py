"""Kernel of the cross-entropy with class numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.backends.cpu.softmax import log_softmax

__all__ = ["cross_entropy", "one_hot"]

Array = Any


def cross_entropy(x: Array, target: Array) -> Array:
    """-log softmax(x)[target], row by row."""
    rows = np.arange(len(target))
    return -log_softmax(x, 1)[rows, target]  # (rows, classes) -> (rows,)


def one_hot(target: Array, num_classes: int) -> Array:
    """Booleans, true in each row at its class: (rows,) -> (rows, classes)."""
    out = np.zeros((len(target), num_classes), bool)
    out[np.arange(len(target)), target] = True
    return out
