"""The order of elements along an axis, and where the largest and smallest lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy as cp

__all__ = ["argmax", "argmin", "argsort", "argtop"]

Array = Any


def argmax(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    return _first(x.max, x, dim, keepdim)


def argmin(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    return _first(x.min, x, dim, keepdim)


def _first(extreme: Callable[..., Array], x: Array, dim: int | None, keepdim: bool) -> Array:
    """Where the first NaN lies, else the first extreme element; of several NaN, CuPy's argmax returns any."""
    dim = dim if x.ndim else None  # CuPy has no axis 0 of a 0-d array
    found = x == extreme(dim, keepdims=True)
    return (found | cp.isnan(x) if x.dtype.kind == "f" else found).argmax(dim, keepdims=keepdim)


def argsort(x: Array, dim: int) -> Array:
    """Return the stable order along `dim`; may wait for the GPU."""
    return cp.argsort(x, dim)  # always stable


def argtop(x: Array, k: int, dim: int, largest: bool) -> Array:
    """Return where the k largest (or smallest) elements along `dim` lie, in their stable order."""
    order = argsort(cp.flip(x, dim), dim) if largest else argsort(x, dim)
    order = x.shape[dim] - 1 - cp.flip(order, dim) if largest else order
    return order[(slice(None),) * dim + (slice(0, k),)]
