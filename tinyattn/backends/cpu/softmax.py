"""Kernels of softmax and its relatives."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.backends.cpu.arrays import Dim

__all__ = ["log_softmax", "logsumexp", "softmax"]

Array = Any


def softmax(x: Array, dim: int) -> Array:
    """exp(x) over its sum along `dim`; shifted by the maximum, so that exp cannot overflow."""
    out = np.asarray(x - _top(x, dim))
    np.exp(out, out=out)
    out /= np.sum(out, axis=dim, keepdims=True) if out.ndim else out.copy()
    return out


def log_softmax(x: Array, dim: int) -> Array:
    shifted = np.asarray(x - _top(x, dim))
    exponents = np.exp(shifted)
    shifted -= np.log(np.sum(exponents, axis=dim, keepdims=True)) if shifted.ndim else 0
    return shifted


def logsumexp(x: Array, dim: Dim, keepdim: bool = False) -> Array:
    top = _top(x, dim)
    top = np.where(np.isfinite(top), top, np.zeros_like(top))  # inf - inf is NaN
    total = np.log(np.sum(np.exp(x - top), axis=dim, keepdims=True)) + top
    return total if keepdim else np.squeeze(total, axis=dim)


def _top(x: Array, dim: Dim) -> Array:
    if x.ndim == 0:
        return x
    if x.size == 0:
        return np.max(x, axis=dim, keepdims=True, initial=-np.inf)
    return np.max(x, axis=dim, keepdims=True)
