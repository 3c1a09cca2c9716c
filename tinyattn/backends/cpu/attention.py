"""Kernels of scaled dot-product attention.

The scores are the largest arrays of a transformer, so they are passed over as seldom as possible:
they become exponentials in place and are never divided by their sums; the sums divide the output
and its gradient instead, which are much smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyattn.backends.cpu.blocks import rows
from tinyattn.backends.cpu.sums import row_sums

__all__ = ["attention", "attention_backward"]

Array = Any
SAFE_SCORE = 60.0  # exp of +-60, and sums of a billion of them, are well inside float32


def attention(
    q: Array, k: Array, v: Array, mask: Array, allowed: Array, keep: Array, scale: float
) -> tuple[Array, Array, Array]:
    """softmax(q k' scale + mask) v; the exponentials of the scores; and their sums.

    q (..., queries, dim), k (..., keys, dim), v (..., keys, value_dim); `mask` is added to the
    scores and False in `allowed` forbids, both broadcast to (..., queries, keys); `keep` multiplies
    the weights (dropout). A query that may look at nothing gets zeros.
    """
    lead = np.broadcast_shapes(*(x.shape[:-2] for x in (q, k, v, mask, allowed, keep) if x is not None))
    e = np.empty((*lead, q.shape[-2], k.shape[-2]), q.dtype)
    total = np.empty((*e.shape[:-1], 1), q.dtype)
    out = _heads_last((*e.shape[:-1], v.shape[-1]), q.dtype)
    for part in _parts(e):
        qs, ks, vs, ms, sees, kept = (_piece(x, part, e.ndim) for x in (q, k, v, mask, allowed, keep))
        scores, o, sums = e[part], out[part], total[part]
        np.matmul(qs, ks.mT, out=scores)  # (..., queries, keys)
        scores *= scale
        if mask is not None:
            scores += ms
            forbidden = np.isneginf(ms)
            if forbidden.any():  # -inf + NaN is NaN: say once more what must not be seen
                sees = ~forbidden if sees is None else sees & ~forbidden
        _exponentials(scores, sees)
        sums[...] = row_sums(scores)
        sums[sums == 0] = 1
        used = scores if kept is None else scores * kept
        np.matmul(used, vs, out=o)  # (..., queries, value_dim)
        if (mask is not None or allowed is not None) and not np.isfinite(o).all():
            o[...] = _without_leaks(used, vs, o)
        o /= sums
    return out, e, total


def attention_backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, e: Array, total: Array, masked: bool, keep: Array, scale: float
) -> tuple[Array, ...]:
    """Gradients of q, k, v and of the scores (which are those of an additive mask).

    With weights w = e / total, the gradient of score ij is w_ij (keep_ij g_i . v_j - g_i . out_i): the
    sum over the keys that softmax's rule asks for is a product of two short vectors.
    """
    dq, dk, dv = (np.empty((*e.shape[:-2], *x.shape[-2:]), x.dtype) for x in (q, k, v))
    dscores = np.empty_like(e)
    for part in _parts(e):
        u, qs, ks, vs, kept = (_piece(x, part, e.ndim) for x in (g, q, k, v, keep))
        weights, ds = e[part], dscores[part]
        u = u / total[part]  # (..., queries, value_dim)
        np.matmul((weights if kept is None else weights * kept).mT, u, out=dv[part])
        np.matmul(u, vs.mT, out=ds)  # (..., queries, keys)
        if kept is not None:
            ds *= kept
        if masked and not np.isfinite(ds).all():
            ds[weights == 0] = 0  # NaN behind the mask: 0 x NaN is not 0
        ds -= np.vecdot(u, out[part])[..., None]
        ds *= weights
        if masked:  # 0 x NaN again, from keys that nobody sees and from queries that see nobody
            qs, ks = (x if np.isfinite(x).all() else np.where(np.isfinite(x), x, 0) for x in (qs, ks))
        np.matmul(ds, ks, out=dq[part])
        np.matmul(ds.mT, qs, out=dk[part])
    dq *= scale
    dk *= scale
    return dq, dk, dv, dscores


def _parts(e: Array) -> Iterator[Any]:
    """Some samples at a time, so that their scores stay in the cache while they are worked on."""
    return rows(len(e), e[0].size) if e.ndim > 2 and e.size else iter([...])


def _piece(x: Array, part: Any, ndim: int) -> Array:
    """The samples `part` of an array that broadcasts over `ndim` axes of scores."""
    return x if x is None or x.ndim < ndim or len(x) == 1 else x[part]


def _heads_last(shape: tuple[int, ...], dtype: Any) -> Array:
    """Memory for an output in which the heads of a token lie together, as whoever joins them wants."""
    if len(shape) != 4:
        return np.empty(shape, dtype)
    return np.empty([shape[i] for i in (0, 2, 1, 3)], dtype).transpose(0, 2, 1, 3)


def _exponentials(scores: Array, allowed: Array) -> None:
    """Turn scores, in place, into exp(scores - c), with a c for each row that softmax does not notice,
    and into 0 where forbidden.

    Where no score is large, c = 0 will do; else it is the row's largest.
    """
    if scores.size and scores.dtype != np.float16 and scores.min() > -SAFE_SCORE and scores.max() < SAFE_SCORE:
        np.exp(scores, out=scores)
        if allowed is not None:
            scores *= allowed
        return
    if allowed is not None:
        np.copyto(scores, -np.inf, where=~allowed)  # over NaN too
    top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    top[np.isneginf(top)] = 0  # nothing allowed: exp(-inf) is 0 then, and not NaN
    scores -= top
    np.exp(scores, out=scores)


def _without_leaks(weights: Array, v: Array, out: Array) -> Array:
    """Zero times infinity is NaN: keep non-finite values out of queries that do not see them."""
    finite = np.isfinite(v)
    sees = weights @ (~finite).astype(weights.dtype) > 0
    return np.where(sees, out, weights @ np.where(finite, v, 0))
