"""Kernels of softmax and its logarithm, and of what is made of them: cross-entropy and attention."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cpu.attention import split_heads
from tinyattn.backends.cuda.arrays import masked_fill
from tinyattn.backends.cuda.products import gemm, matmul
from tinyattn.backends.cuda.rows import contiguous, launch_rows

__all__ = [
    "SCORES_AT_ONCE", "cross_entropy", "cross_entropy_backward", "exponentials", "log_softmax", "packed_attention",
    "packed_attention_backward", "scores", "softmax", "softmax_backward",
]  # fmt: skip

Array = Any
SCORES_AT_ONCE = 1 << 24  # in `tiled_attention`: enough to keep a GPU busy, 64 MiB of float32


def softmax(x: Array, dim: int) -> Array:
    """Divide exp(x) by its sum along `dim`; x is shifted by the maximum, so that exp cannot overflow."""
    return _along("softmax_rows", x, dim)


def log_softmax(x: Array, dim: int) -> Array:
    """Compute log(softmax(x)) without overflow or underflow."""
    return _along("log_softmax_rows", x, dim)


def _along(kernel: str, x: Array, dim: int) -> Array:
    """Launch a kernel for rows: `dim` becomes the last axis, which it nearly always is, and returns to its place."""
    if not x.ndim:
        return _along(kernel, x.reshape(1), 0).reshape(())
    rows = contiguous(x.swapaxes(dim, -1))
    out = cp.empty(rows.shape, x.dtype)
    if x.size:
        launch_rows("softmax", kernel, [rows, out], x.size // rows.shape[-1], rows.shape[-1])
    return contiguous(out.swapaxes(dim, -1))


def cross_entropy(x: Array, target: Array) -> Array:
    """Compute -log softmax(x)[target]: (rows, classes), (rows,) -> (rows,)."""
    x, target = contiguous(x), contiguous(target.astype(np.int64, copy=False))
    losses = cp.empty(len(x), x.dtype)
    launch_rows("softmax", "cross_entropy_forward", [x, target, losses], *x.shape)
    return losses


def cross_entropy_backward(g: Array, x: Array, target: Array) -> Array:
    """(softmax(x) - one_hot(target)) g: (rows,), (rows, classes), (rows,) -> (rows, classes)."""
    args = map(contiguous, (x, target.astype(np.int64, copy=False), g, out := cp.empty(x.shape, x.dtype)))
    launch_rows("softmax", "cross_entropy_backward", [*args], *x.shape)
    return out


def softmax_backward(g: Array, y: Array, sums: Any, masked: bool) -> Array:
    """g, in place, becomes y (g - sum(y g)). masked: where y is 0, g may be NaN. `sums` is not needed."""
    y = contiguous(y.astype(g.dtype, copy=False))
    launch_rows("softmax", "softmax_backward", [y, g, g, masked], math.prod(g.shape[:-1]), g.shape[-1])
    return g


def scores(q: Array, k: Array) -> Array:
    """q k', (..., queries, keys): a product of rows."""
    return matmul(q, k.mT)


def exponentials(scores: Array, hidden: Array = None) -> tuple[Array, Array]:
    """exp(scores - c), 0 where `hidden`, and None instead of its sums: c is such that they are 1 but for rounding."""
    if hidden is None:
        return softmax(scores, -1), None
    e = softmax(masked_fill(scores, hidden, -math.inf), -1)  # over NaN too
    return masked_fill(e, hidden, 0), None  # all hidden: softmax of nothing but -inf is NaN


def packed_attention(qkv: Array, heads: int, scale: float) -> tuple[Array, Array, Array]:
    """softmax(q k' scale) v of each head; the weights; and a copy of q, k and v, which the products read.

    qkv (batch, tokens, 3 dim) -> (batch, tokens, dim), (batch, heads, tokens, tokens), and of `split_heads`.
    """
    split = q, k, v = contiguous(split_heads(qkv, 3, heads))
    e = softmax(gemm(q, k.mT, cp.empty((*q.shape[:-1], q.shape[-2]), q.dtype), scale), -1)
    out = matmul(e, v).swapaxes(1, 2)  # (batch, tokens, heads, head_dim)
    return out.reshape(*out.shape[:2], -1), e, split


def packed_attention_backward(g: Array, qkv: Array, out: Array, e: Array, share: Array, scale: float) -> Array:
    """The gradient of `qkv`; share: the copy of q, k and v."""
    q, k, v = share
    dq, dk, dv = gradient = cp.empty_like(share)
    g = contiguous(split_heads(g, 1, e.shape[1])[0])
    gemm(e.mT, g, dv)
    dscores = softmax_backward(matmul(g, v.mT), e, None, False)
    gemm(dscores, k, dq, scale)
    gemm(dscores.mT, q, dk, scale)
    return gradient.transpose(1, 3, 0, 2, 4).reshape(qkv.shape)  # by one copy
