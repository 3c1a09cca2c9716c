"""Attention of query, key and value that lie side by side, as one projection gives them.

The same sums as in `attention`, for the case that trains most models: nothing masked, nothing dropped. A head whose
tokens, scores and all, fit into the shared memory of a block is done by one; longer ones tile by tile, where they lie.
"""

from __future__ import annotations

from typing import Any

import cupy as cp

from tinyattn.backends.cuda.launch import SHARED_BYTES, launch
from tinyattn.backends.cuda.rows import contiguous, in_float32
from tinyattn.backends.cuda.tiled_attention import tiles_backward, tiles_forward
from tinyattn.backends.cuda.tiles import odd

__all__ = ["packed_attention", "packed_attention_backward"]

Array = Any


@in_float32
def packed_attention(qkv: Array, heads: int, scale: float) -> tuple[Array, Array, Array]:
    """softmax(q k' scale) v of each head, and twice what the way back needs instead of the scores: the logarithms of
    the sums of exponentials.

    qkv (batch, tokens, 3 dim) -> (batch, tokens, dim), (batch, heads, tokens), the same.
    """
    qkv = contiguous(qkv)
    batch, tokens, width = qkv.shape
    dim = width // 3 // heads
    out = cp.empty((batch, tokens, width // 3), qkv.dtype)
    logs = cp.empty((batch, heads, tokens), qkv.dtype)
    shared = _shared_bytes(tokens, dim, 3, qkv.itemsize)
    if shared <= SHARED_BYTES:
        args = [qkv, out, logs, tokens, heads, dim, float(scale)]
        launch("packed_attention", "packed_attention_forward", (batch * heads,), (_threads(tokens),), args, shared)
    else:
        (by_head,) = _split(out, 1, heads)
        q, k, v = _split(qkv, 3, heads)
        tiles_forward(q, k, v, None, None, by_head, logs, False, scale)
    return out, logs, logs


@in_float32
def packed_attention_backward(g: Array, qkv: Array, out: Array, e: Array, share: Array, scale: float) -> Array:
    """The gradient of `qkv`, by the formulas of `attention_backward`; e: the logarithms of `packed_attention`."""
    g, qkv, out, logs = (contiguous(x) for x in (g, qkv, out, e))
    (batch, tokens, width), heads = qkv.shape, e.shape[1]
    gradient, dim = cp.empty(qkv.shape, qkv.dtype), width // 3 // heads
    shared = _shared_bytes(tokens, dim, 4, qkv.itemsize) + tokens * qkv.itemsize
    if shared <= SHARED_BYTES:
        args = [g, qkv, out, logs, gradient, tokens, heads, dim, float(scale)]
        launch("packed_attention", "packed_attention_backward", (batch * heads,), (_threads(tokens),), args, shared)
    else:
        (gs,), (ys,) = _split(g, 1, heads), _split(out, 1, heads)
        (q, k, v), (dq, dk, dv) = _split(qkv, 3, heads), _split(gradient, 3, heads)
        tiles_backward(gs, q, k, v, ys, logs, None, None, dq, dk, dv, False, scale)
    return gradient


def _shared_bytes(tokens: int, dim: int, matrices: int, itemsize: int) -> int:
    """What a block needs to hold so many (tokens, dim) matrices and all scores."""
    return tokens * (matrices * odd(dim) + odd(tokens)) * itemsize


def _threads(tokens: int) -> int:
    """One for each 4 x 4 patch of the scores, in whole warps, up to 256."""
    patches = (-(-tokens // 4)) ** 2
    return min(-(-patches // 32) * 32, 256)


def _split(x: Array, parts: int, heads: int) -> Array:
    """(batch, tokens, parts dim) -> views, one for each part: (parts, batch, heads, tokens, head_dim)"""
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, parts, heads, width // parts // heads).transpose(2, 0, 3, 1, 4)
