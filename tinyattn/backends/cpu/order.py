"""The order of elements along an axis: all of it, or only its beginning."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.backends.cpu.recording import one_call

__all__ = ["argsort", "argtop"]

Array = Any


def argsort(x: Array, dim: int) -> Array:
    return x.argsort(dim, kind="stable")


@one_call()
def argtop(x: Array, k: int, dim: int, largest: bool) -> Array:
    """Return where the k largest (or smallest) elements along `dim` lie, in their stable order; NaN counts as largest.

    Only the elements up to the k-th are put in order, and whole rows where several equal the k-th.
    """
    rows = np.moveaxis(x, dim, -1)
    n = rows.shape[-1]
    if not 0 < 4 * k < n or not x.size:
        return np.ascontiguousarray(np.moveaxis(_sorted(rows, largest)[..., :k], -1, dim))
    flat = rows.reshape(-1, n)
    kth = n - k if largest else k - 1
    bound = np.partition(flat, kth, axis=1)[:, kth : kth + 1]
    found = np.flatnonzero(np.logical_not(flat < bound if largest else flat > bound))  # NaN, and NaN bounds, too
    row, place = np.divmod(found, n)
    counts = np.bincount(row, minlength=len(flat))
    out = np.empty((len(flat), k), np.int64)
    exact = counts == k
    places = place[np.repeat(exact, counts)].reshape(-1, k)
    some = np.take_along_axis(flat[exact] if not exact.all() else flat, places, 1)
    out[exact] = np.take_along_axis(places, _sorted(some, largest), 1)
    if not exact.all():
        out[~exact] = _sorted(flat[~exact], largest)[:, :k]
    return np.ascontiguousarray(np.moveaxis(out.reshape(*rows.shape[:-1], k), -1, dim))


def _sorted(rows: Array, descending: bool) -> Array:
    """The stable order along the last axis; descending ones keep the order of equal elements, too."""
    if not descending:
        return rows.argsort(-1, kind="stable")
    return rows.shape[-1] - 1 - rows[..., ::-1].argsort(-1, kind="stable")[..., ::-1]
