"""Kernels of scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp

from tinyattn.backends.cuda.rows import contiguous, in_float32
from tinyattn.backends.cuda.tiles import as_heads, choose_tile, heads_last, launch_tiles, lead_of, odd, strides

__all__ = ["attention", "attention_backward"]

Array = Any


@in_float32
def attention(
    q: Array, k: Array, v: Array, mask: Array, allowed: Array, keep: Array, scale: float
) -> tuple[Array, Array, Array]:
    """softmax(q k' scale + mask) v; the exponentials of the scores; and their sums.

    q (..., queries, dim), k (..., keys, dim), v (..., keys, value_dim); `mask` is added to the
    scores and False in `allowed` forbids, both broadcast to (..., queries, keys); `keep` multiplies
    the weights (dropout). A query that may look at nothing gets zeros.
    """
    lead = lead_of(q, k, v, mask, allowed, keep)
    (queries, dim), (keys, value_dim) = q.shape[-2:], v.shape[-2:]
    out = heads_last(lead, (queries, value_dim), q.dtype)
    e, total = cp.empty((*lead, queries, keys), q.dtype), cp.empty((*lead, queries, 1), q.dtype)
    scores = (queries, keys)
    arrays = [as_heads(x, lead, x.shape[-2:]) for x in (q, k, v)] + [as_heads(x, lead, scores) for x in (mask, allowed)]
    kept = keep if keep is None else contiguous(cp.broadcast_to(keep.astype(q.dtype, copy=False), e.shape))
    o = as_heads(out, lead, out.shape[-2:])
    per_row = odd(dim) + odd(max(dim, value_dim)) + odd(value_dim) + 1
    tile = choose_tile(max(queries, keys), per_row, q.itemsize)
    sizes = [queries, keys, dim, value_dim, lead[-1] if lead else 1, tile[0], float(scale)]
    where = [number for x in (*arrays, o) for number in strides(x)]
    args = [*arrays, kept, o, e, total, *sizes, *where]
    launch_tiles("attention", "attention_forward", args, math.prod(lead), queries, tile, q.dtype)
    return out, e, total


@in_float32
def attention_backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, e: Array, total: Array, masked: bool, keep: Array, scale: float
) -> tuple[Array, ...]:
    """Gradients of q, k and v and of the scores (which are those of an additive mask).

    With weights w = e / total, the gradient of score ij is w_ij (keep_ij g_i . v_j - g_i . out_i): the
    sum over the keys that softmax's rule asks for is a product of two short vectors.
    """
    lead, (queries, keys) = e.shape[:-2], e.shape[-2:]
    dim, value_dim, itemsize = q.shape[-1], v.shape[-1], q.itemsize
    dq, dk, dv = (heads_last(lead, x.shape[-2:], x.dtype) for x in (q, k, v))
    dscores = cp.empty(e.shape, e.dtype)
    kept = keep if keep is None else contiguous(cp.broadcast_to(keep.astype(q.dtype, copy=False), e.shape))
    e, total, count = contiguous(e), contiguous(total), math.prod(lead)
    gs, qs, ks, vs, ys, dqs, dks, dvs = (as_heads(x, lead, x.shape[-2:]) for x in (g, q, k, v, out, dq, dk, dv))

    def sizes(tile: int) -> list[Any]:
        return [queries, keys, dim, value_dim, lead[-1] if lead else 1, tile, float(scale), bool(masked)]

    tile = choose_tile(max(queries, keys), odd(value_dim) + odd(max(dim, value_dim)) + odd(dim) + 1, itemsize)
    where = [number for x in (gs, ks, vs, ys, dqs) for number in strides(x)]
    args = [gs, ks, vs, ys, e, total, kept, dqs, dscores, *sizes(tile[0]), *where]
    launch_tiles("attention", "attention_backward_queries", args, count, queries, tile, q.dtype)
    tile = choose_tile(max(queries, keys), odd(max(dim, value_dim)) + odd(dim) + odd(value_dim), itemsize)
    where = [number for x in (gs, qs, dks, dvs) for number in strides(x)]
    args = [gs, qs, e, total, kept, dscores, dks, dvs, *sizes(tile[0]), *where]
    launch_tiles("attention", "attention_backward_keys", args, count, keys, tile, q.dtype)
    return dq, dk, dv, dscores
