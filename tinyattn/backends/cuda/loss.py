"""Kernel of the cross-entropy with class numbers."""

from __future__ import annotations

from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.rows import contiguous, in_float32, launch_rows

__all__ = ["cross_entropy", "cross_entropy_gradient"]

Array = Any


@in_float32
def cross_entropy(x: Array, target: Array) -> Array:
    """-log softmax(x)[target], row by row."""
    x, target = contiguous(x), _numbers(target)
    losses = cp.empty(len(x), x.dtype)
    launch_rows("loss", "cross_entropy_forward", [x, target, losses], *x.shape)  # (rows, classes) -> (rows,)
    return losses


@in_float32
def cross_entropy_gradient(g: Array, x: Array, target: Array) -> Array:
    """(softmax(x) - one_hot(target)) g"""
    g, x, target = contiguous(g), contiguous(x), _numbers(target)
    dx = cp.empty(x.shape, x.dtype)
    launch_rows("loss", "cross_entropy_backward", [g, x, target, dx], *x.shape)
    return dx


def _numbers(target: Array) -> Array:
    return contiguous(target.astype(np.int64, copy=False))
