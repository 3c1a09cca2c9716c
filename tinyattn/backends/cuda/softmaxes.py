"""Kernels of softmax and its logarithm, and of what is made of them: cross-entropy, the exponentials of attention."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.arrays import masked_fill
from tinyattn.backends.cuda.products import matmul
from tinyattn.backends.cuda.rows import contiguous, launch_rows

__all__ = ["SCORES_AT_ONCE", "cross_entropy", "exponentials", "log_softmax", "one_hot", "scores", "softmax"]

Array = Any
SCORES_AT_ONCE = 1 << 24  # in `tiled_attention`: enough to keep a GPU busy, 64 MiB of float32


def softmax(x: Array, dim: int) -> Array:
    """Divide exp(x) by its sum along `dim`; x is shifted by the maximum, so that exp cannot overflow."""
    return _along("softmax_rows", x, dim)


def log_softmax(x: Array, dim: int) -> Array:
    """Compute log(softmax(x)) without overflow or underflow."""
    return _along("log_softmax_rows", x, dim)


def _along(kernel: str, x: Array, dim: int) -> Array:
    """Launch a kernel for rows: `dim` becomes the last axis, which it nearly always is, and returns to its place."""
    if not x.ndim:
        return _along(kernel, x.reshape(1), 0).reshape(())
    rows = contiguous(x.swapaxes(dim, -1))
    out = cp.empty(rows.shape, x.dtype)
    if x.size:
        launch_rows("softmax", kernel, [rows, out], x.size // rows.shape[-1], rows.shape[-1])
    return contiguous(out.swapaxes(dim, -1))


def cross_entropy(x: Array, target: Array) -> Array:
    """Compute -log softmax(x)[target]: (rows, classes), (rows,) -> (rows,)."""
    x, target = contiguous(x), contiguous(target.astype(np.int64, copy=False))
    losses = cp.empty(len(x), x.dtype)
    launch_rows("softmax", "cross_entropy_forward", [x, target, losses], *x.shape)
    return losses


def one_hot(target: Array, num_classes: int) -> Array:
    """Encode class numbers (rows,) as booleans (rows, classes), True at the class; one out of range gives no True."""
    return target[:, None] == cp.arange(num_classes)


def scores(q: Array, k: Array) -> Array:
    """q k', (..., queries, keys): a product of rows."""
    return matmul(q, k.mT)


def exponentials(scores: Array, hidden: Array = None) -> tuple[Array, Array]:
    """exp(scores - c), 0 where `hidden`, and its sums along the last axis.

    c, a number for each row, is such that the sums are 1 but for rounding.
    """
    one = cp.ones((), scores.dtype)
    if hidden is None:
        return softmax(scores, -1), one
    e = softmax(masked_fill(scores, hidden, -math.inf), -1)  # over NaN too
    return masked_fill(e, hidden, 0), one  # all hidden: softmax of nothing but -inf is NaN
