"""Choices between elements by the bits of a mask: a branch for each element, as in np.where, costs ten times as much
where the processor cannot predict it."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any
_BITS = {n: np.dtype(f"i{n}") for n in (1, 2, 4, 8)}  # by bytes
_MANY = 4096  # elements, from which on four passes beat one with branches


def bits_of(x: Array) -> Array:
    """The memory of `x` as integers."""
    return x.view(_BITS[x.dtype.itemsize])


def select(condition: Array, a: Any, b: Any) -> Array:
    """`a` where `condition` (bool) holds and `b` elsewhere, broadcast: np.where."""
    dtype = np.result_type(a, b)
    if np.size(condition) < _MANY or dtype.itemsize not in _BITS:
        return np.where(condition, a, b)
    mask = np.negative(condition.view(np.int8)).astype(_BITS[dtype.itemsize], copy=False)  # -1 has all bits set
    a, b = (bits_of(np.asarray(x, dtype)) for x in (a, b))
    if not (b.ndim or b):  # the number 0
        return np.bitwise_and(a, mask).view(dtype)
    picked = np.bitwise_and(np.bitwise_xor(a, b), mask)
    return np.bitwise_xor(picked, b, out=picked).view(dtype)
