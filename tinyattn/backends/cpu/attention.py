"""Kernels of attention: the exponentials of the scores, and attention of query, key and value packed side by side.

What the model trains with is the second, with nothing masked and nothing dropped. It copies nothing into another order,
and works on rows of all heads together, (tokens, dim): NumPy is slow where its innermost loop is as short as a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn.backends.cpu.arrays import isfinite, masked_fill, matmul, perhaps
from tinyattn.backends.cpu.blocks import BLOCK, rows
from tinyattn.backends.cpu.recording import one_call
from tinyattn.backends.cpu.sums import row_sums

__all__ = [
    "SCORES_AT_ONCE", "exponentials", "packed_attention", "packed_attention_backward", "scores", "softmax_backward",
]  # fmt: skip

Array = Any
SAFE_SCORE = 60.0  # exp of +-60, and sums of a billion of them, are well inside float32
_LONG, _GAP, _ALIASED = 2048, 16, 4096  # elements; elements; bytes
SCORES_AT_ONCE = BLOCK  # in `tiled_attention`: they stay in the cache


def scores(q: Array, k: Array) -> Array:
    """q k', (..., queries, keys): a product of rows.

    Long rows of a multiple of 4 KiB have a gap behind each. Without it the starts of all rows compete for the same few
    places of the cache, and the product takes twice as long. With shorter rows, other passes lose what it saves.
    """
    keys = k.shape[-2]
    if keys < _LONG or keys * q.itemsize % _ALIASED:
        return matmul(q, k.mT)
    shape = (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2]), q.shape[-2], keys + _GAP)
    out = np.empty(shape, q.dtype)[..., :keys]
    return np.matmul(q, k.mT, out=out)


@one_call(0)
def exponentials(scores: Array, hidden: Array = None) -> tuple[Array, Array]:
    """exp(scores - c), 0 where `hidden`, and its sums along the last axis (1 instead of 0); overwrites `scores`.

    c, a number for each row, cancels in softmax: 0 where no score is large, else the row's largest.
    """
    least, most = np.minimum.reduce, np.maximum.reduce
    if scores.size and least(scores, None) > -SAFE_SCORE and most(scores, None) < SAFE_SCORE:
        e = np.exp(scores, out=scores)
        if hidden is None:
            return e, row_sums(e)
        e *= ~hidden
    else:
        if hidden is not None:
            np.copyto(scores, -np.inf, where=hidden)  # over NaN too
        top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
        top[np.isneginf(top)] = 0  # all hidden: exp(-inf) is 0 then, and not NaN
        scores -= top
        e = np.exp(scores, out=scores)
    total = row_sums(e)
    total[total == 0] = 1
    return e, total


def softmax_backward(g: Array, y: Array, sums: Callable[[], Array], masked: bool) -> Array:
    """g, in place, becomes y (g - sums()), where the sums are those of y g along the last axis.

    y: the output of a softmax, or exponentials whose sums g was divided by. masked: where y is 0, g may be NaN.
    """
    if masked and perhaps(lambda: ~isfinite(g)):
        g = masked_fill(g, y == 0, 0)
    g -= sums()
    g *= y
    return g


def packed_attention(qkv: Array, heads: int, scale: float) -> tuple[Array, Array, Array]:
    """softmax(q k' scale) v of each head; the exponentials of the scores; and one over their sums.

    qkv (batch, tokens, 3 dim) -> (batch, tokens, dim), (batch, heads, tokens, tokens), (batch, tokens, heads).
    """
    batch, tokens, width = qkv.shape
    q, k, v = split_heads(qkv, 3, heads)
    out = np.empty((batch, tokens, width // 3), qkv.dtype)
    e = np.empty((batch, heads, tokens, tokens), qkv.dtype)
    share = np.empty((batch, tokens, heads), qkv.dtype)
    dim = width // 3 // heads
    (by_head,) = split_heads(out, 1, heads)
    for part in rows(batch, heads * tokens * tokens):
        scores = np.matmul(q[part], k[part].mT, out=e[part])  # (samples, heads, tokens, tokens)
        scores *= scale
        total = exponentials(scores)[1]  # (samples, heads, tokens, 1)
        np.divide(1, total[..., 0].swapaxes(1, 2), out=share[part])
        np.matmul(e[part], v[part], out=by_head[part])
        out[part] *= np.repeat(share[part], dim, -1)
    return out, e, share


def packed_attention_backward(g: Array, qkv: Array, out: Array, e: Array, share: Array, scale: float) -> Array:
    """The gradient of `qkv`, by the formulas of `attention_backward`."""
    (batch, tokens, width), heads = qkv.shape, e.shape[1]
    gradient = np.empty_like(qkv)
    q, k, v = split_heads(qkv, 3, heads)
    dq, dk, dv = split_heads(gradient, 3, heads)
    dim = width // 3 // heads
    for part in rows(batch, heads * tokens * tokens):
        u = np.repeat(share[part], dim, -1)  # (samples, tokens, dim)
        u *= g[part]
        (by,) = split_heads(u, 1, heads)  # (samples, heads, tokens, head_dim)
        np.matmul(e[part].mT, by, out=dv[part])
        u *= scale
        ds = by @ v[part].mT  # (samples, heads, tokens, tokens)
        u *= out[part]
        ds -= row_sums(u.reshape(-1, tokens, heads, dim)).swapaxes(1, 2)  # (samples, heads, tokens, 1)
        ds *= e[part]
        np.matmul(ds, k[part], out=dq[part])
        np.matmul(ds.mT, q[part], out=dk[part])
    return gradient


def split_heads(x: Array, parts: int, heads: int) -> Array:
    """(batch, tokens, parts dim) -> views, one for each part: (parts, batch, heads, tokens, head_dim)"""
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, parts, heads, width // parts // heads).transpose(2, 0, 3, 1, 4)
