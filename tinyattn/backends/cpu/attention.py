"""Kernels of scaled dot-product attention.

The scores are the largest arrays of a transformer, so they are passed over as seldom as possible:
they become exponentials in place and are never divided by their sums; the sums divide the output
and its gradient instead, which are much smaller.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["attention", "attention_backward"]

Array = Any
_SAFE = 60.0  # exp of +-60, and sums of a billion of them, are well inside float32


def attention(
    q: Array, k: Array, v: Array, mask: Array, allowed: Array, keep: Array, scale: float
) -> tuple[Array, Array, Array]:
    """softmax(q k' scale + mask) v; the exponentials of the scores; and their sums.

    q (..., queries, dim), k (..., keys, dim), v (..., keys, value_dim); `mask` is added to the
    scores and False in `allowed` forbids, both broadcast to (..., queries, keys); `keep` multiplies
    the weights (dropout). A query that may look at nothing gets zeros.
    """
    scores = (q * scale) @ k.mT  # (..., queries, keys)
    if mask is not None:
        scores = scores + mask  # which may have more leading axes
        forbidden = np.isneginf(mask)
        if forbidden.any():  # -inf + NaN is NaN: say once more what must not be seen
            allowed = ~forbidden if allowed is None else allowed & ~forbidden
    e = _exponentials(scores, allowed)
    total = _row_sums(e)  # (..., queries, 1)
    total[total == 0] = 1
    used = e if keep is None else e * keep
    out = np.matmul(used, v, out=_heads_last(used, v))
    if (mask is not None or allowed is not None) and not np.isfinite(out).all():
        out = _without_leaks(used, v, out)
    out /= total
    return out, e, total


def attention_backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, e: Array, total: Array, masked: bool, keep: Array, scale: float
) -> tuple[Array, ...]:
    """Gradients of q, k, v and of the scores (which are those of an additive mask).

    With weights w = e / total, the gradient of score ij is w_ij (keep_ij g_i . v_j - g_i . out_i): the
    sum over the keys that softmax's rule asks for is a product of two short vectors.
    """
    g = g / total  # (..., queries, value_dim)
    dv = (e if keep is None else e * keep).mT @ g  # (..., keys, value_dim)
    ds = g @ v.mT  # (..., queries, keys)
    if keep is not None:
        ds *= keep
    if masked and not np.isfinite(ds).all():
        ds = np.where(e == 0, 0, ds)  # NaN behind the mask: 0 x NaN is not 0
    ds -= np.vecdot(g, out)[..., None]
    ds *= e
    if masked:  # 0 x NaN again, from keys that nobody sees and from queries that see nobody
        q, k = (x if np.isfinite(x).all() else np.where(np.isfinite(x), x, 0) for x in (q, k))
    dq = ds @ k
    dq *= scale
    dk = ds.mT @ q
    dk *= scale
    return dq, dk, dv, ds


def _heads_last(weights: Array, v: Array) -> Array:
    """Memory for the output in which the heads of a token lie together, as whoever joins them wants."""
    if weights.ndim != 4 or v.ndim != 4 or weights.shape[:2] != v.shape[:2]:
        return None
    batch, heads, queries, _ = weights.shape
    return np.empty((batch, queries, heads, v.shape[-1]), v.dtype).transpose(0, 2, 1, 3)


def _exponentials(scores: Array, allowed: Array) -> Array:
    """exp(scores - c) with a c for each row that softmax does not notice, 0 where forbidden.

    Where no score is large, c = 0 will do; else it is the row's largest.
    """
    if scores.size and scores.min() > -_SAFE and scores.max() < _SAFE:
        e = np.exp(scores, out=scores)
        if allowed is None:
            return e
        return np.multiply(e, allowed, out=e if np.broadcast_shapes(e.shape, allowed.shape) == e.shape else None)
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)  # replaces NaN too
    top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    top[np.isneginf(top)] = 0  # nothing allowed: exp(-inf) is 0 then, and not NaN
    scores = scores - top
    return np.exp(scores, out=scores)


def _row_sums(x: Array) -> Array:
    """Sums over the last axis, kept: for short rows a product with ones is faster than sum()."""
    if x.size == 0:
        return np.zeros((*x.shape[:-1], 1), x.dtype)
    return (x.reshape(-1, x.shape[-1]) @ np.ones(x.shape[-1], x.dtype)).reshape(*x.shape[:-1], 1)


def _without_leaks(weights: Array, v: Array, out: Array) -> Array:
    """Zero times infinity is NaN: keep non-finite values out of queries that do not see them."""
    finite = np.isfinite(v)
    sees = weights @ (~finite).astype(weights.dtype) > 0
    return np.where(sees, out, weights @ np.where(finite, v, 0))
