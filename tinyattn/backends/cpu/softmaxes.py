"""Kernels of softmax and log_softmax."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.backends.cpu.arrays import sum as sum_along
from tinyattn.backends.cpu.blocks import rows
from tinyattn.backends.cpu.recording import one_call
from tinyattn.backends.cpu.sums import has_short_rows, row_sums

__all__ = ["log_softmax", "softmax"]

Array = Any

# Subtracting a row's maximum before exp prevents overflow and changes nothing else. Rows whose sum of exponentials lies
# between these bounds do not need it: no exponential is near overflow, and none that matters is denormal.
LEAST, SAFE = 1e-3, 1e25


def softmax(x: Array, dim: int) -> Array:
    """Divide exp(x) by its sum along `dim`; x is shifted by the maximum where exp could overflow."""
    if has_short_rows(x, dim, longest=x.size):  # without a maximum, long rows are twice as fast too
        return _softmax_of_rows(x)
    out = np.asarray(x - _top(x, dim))
    np.exp(out, out=out)
    out /= sum_along(out, dim, keepdim=True) if out.ndim else out.copy()
    return out


@one_call()
def _softmax_of_rows(x: Array) -> Array:
    out = np.empty_like(x)
    xs, ys = (a.reshape(-1, x.shape[-1]) for a in (x, out))
    for part in rows(*xs.shape):
        y = np.exp(xs[part], out=ys[part])
        total = row_sums(y)
        if not (total.min() > LEAST and total.max() < SAFE):
            np.exp(xs[part] - _top(xs[part], 1), out=y)
            total = row_sums(y)
        y *= np.reciprocal(total, out=total)
    return out


def log_softmax(x: Array, dim: int) -> Array:
    shifted = np.asarray(x - _top(x, dim))
    exponents = np.exp(shifted)
    shifted -= np.log(sum_along(exponents, dim, keepdim=True)) if shifted.ndim else 0
    return shifted


def _top(x: Array, dim: int) -> Array:
    if x.ndim == 0:
        return x
    if x.size == 0:
        return np.max(x, axis=dim, keepdims=True, initial=-np.inf)
    return np.max(x, axis=dim, keepdims=True)
