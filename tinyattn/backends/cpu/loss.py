"""Kernels of the cross-entropy with class numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.backends.cpu.blocks import rows
from tinyattn.backends.cpu.recording import one_call
from tinyattn.backends.cpu.softmaxes import LEAST, SAFE, log_softmax, softmax
from tinyattn.backends.cpu.sums import row_sums

__all__ = ["cross_entropy", "cross_entropy_backward"]

Array = Any


@one_call()
def cross_entropy(x: Array, target: Array) -> Array:
    """Compute -log softmax(x)[target]: (rows, classes), (rows,) -> (rows,)."""
    out = np.empty(len(target), x.dtype)
    for part in rows(*x.shape):
        scores, classes = x[part], target[part]
        total = row_sums(np.exp(scores))[:, 0]
        if x.dtype != np.float16 and total.min() > LEAST and total.max() < SAFE:  # without the rows' maxima
            np.log(total, out=total)
            np.subtract(total, scores[np.arange(len(classes)), classes], out=out[part])
        else:
            out[part] = -log_softmax(scores, 1)[np.arange(len(classes)), classes]
    return out


def cross_entropy_backward(g: Array, x: Array, target: Array) -> Array:
    """(softmax(x) - one_hot(target)) g: (rows,), (rows, classes), (rows,) -> (rows, classes)."""
    out, one_hot = softmax(x, 1), np.zeros(x.shape, bool)
    one_hot[np.arange(len(target)), target] = True
    return (out - one_hot) * g[:, None]
