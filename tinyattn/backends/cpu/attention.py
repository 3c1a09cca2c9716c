"""Kernels of scaled dot-product attention."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["attention", "attention_backward"]

Array = Any


@np.errstate(invalid="ignore", divide="ignore", over="ignore")
def attention(
    q: Array, k: Array, v: Array, mask: Array, allowed: Array, keep: Array, scale: float
) -> tuple[Array, Array]:
    """softmax(q k' scale + mask) v, and the weights.

    q (..., queries, dim), k (..., keys, dim), v (..., keys, value_dim); `mask` is added to the
    scores and False in `allowed` forbids, both broadcast to (..., queries, keys); `keep` multiplies
    the weights (dropout). A query that may look at nothing gets zeros.
    """
    masked = mask is not None or allowed is not None
    weights = (q * scale) @ k.mT  # (..., queries, keys)
    if mask is not None:
        weights = weights + mask  # which may have more leading axes
        allowed = _also(allowed, mask)
    if allowed is not None:
        weights = np.where(allowed, weights, -np.inf)  # replaces NaN too, which adding would not
    top = np.max(weights, axis=-1, keepdims=True, initial=-np.inf)
    if masked:
        top[np.isneginf(top)] = 0  # nothing allowed: exp(-inf) is 0 then, and not NaN
    weights -= top
    np.exp(weights, out=weights)
    total = np.sum(weights, axis=-1, keepdims=True)
    if masked:
        total[total == 0] = 1
    weights /= total
    used = weights if keep is None else weights * keep
    out = used @ v
    if masked and not np.isfinite(out).all():
        out = _without_leaks(used, v, out)
    return out, weights


@np.errstate(invalid="ignore")
def attention_backward(
    g: Array, q: Array, k: Array, v: Array, weights: Array, mask: Array, allowed: Array, keep: Array, scale: float
) -> tuple[Array, ...]:
    """Gradients of q, k, v and of the scores (which are those of an additive mask)."""
    used = weights if keep is None else weights * keep
    dv = used.mT @ g  # (..., keys, value_dim)
    ds = g @ v.mT  # (..., queries, keys)
    if keep is not None:
        ds *= keep
    if mask is not None or allowed is not None:
        if not np.isfinite(ds).all():
            ds = np.where(weights == 0, 0, ds)  # NaN behind the mask: 0 x NaN is not 0
        k = np.where(np.isfinite(k), k, 0) if not np.isfinite(k).all() else k
    ds -= np.sum(ds * weights, axis=-1, keepdims=True)
    ds *= weights
    dq = (ds @ k) * scale
    dk = (ds.mT @ q) * scale
    return dq, dk, dv, ds


def _also(allowed: Array, mask: Array) -> Array:
    """Where neither `allowed` nor a mask of -inf forbids; None where everything is allowed."""
    open_ = ~np.isneginf(mask)
    if open_.all():
        return allowed
    return open_ if allowed is None else allowed & open_


def _without_leaks(weights: Array, v: Array, out: Array) -> Array:
    """Zero times infinity is NaN: keep non-finite values out of queries that do not see them."""
    finite = np.isfinite(v)
    sees = weights @ (~finite).astype(weights.dtype) > 0
    return np.where(sees, out, weights @ np.where(finite, v, 0))
