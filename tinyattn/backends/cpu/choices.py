"""Choices between elements by the bits of a mask: a branch for each element, as in np.where, costs ten times as much
where the processor cannot predict it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.backends.cpu.blocks import SMALL_BLOCK, pieces

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
    a, b = (bits_of(np.asarray(x, dtype)) for x in (a, b))
    whole = [x for x in (condition, a, b) if x.ndim]
    if not all(x.shape == whole[0].shape and x.flags.c_contiguous for x in whole):
        return _select(condition, a, b).view(dtype)
    out = np.empty(whole[0].shape, a.dtype)
    for target, *parts in pieces(SMALL_BLOCK, [out, *whole]):
        given = iter(parts)
        some, first, second = (next(given) if x.ndim else x for x in (condition, a, b))
        _select(some, first, second, target)
    return out.view(dtype)


def _select(condition: Array, a: Array, b: Array, out: Array | None = None) -> Array:
    mask = condition.view(np.int8)
    if not (a.ndim or a):  # the number 0
        return np.bitwise_and(b, np.subtract(mask, 1).astype(b.dtype, copy=False), out=out)
    mask = np.negative(mask).astype(b.dtype, copy=False)  # -1 has all bits set
    if not (b.ndim or b):
        return np.bitwise_and(a, mask, out=out)
    out = np.bitwise_and(np.bitwise_xor(a, b, out=out), mask, out=out)
    return np.bitwise_xor(out, b, out=out)
