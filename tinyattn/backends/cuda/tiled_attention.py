"""Attention one tile of scores at a time: memory grows with the tokens, not with their square."""

from __future__ import annotations

from typing import Any

import cupy as cp

from tinyattn.backends.cuda.rows import contiguous, in_float32
from tinyattn.backends.cuda.tiles import as_heads, choose_tile, heads_last, launch_tiles, lead_of, odd, strides

__all__ = ["attention_in_tiles", "attention_in_tiles_backward"]

Array = Any


@in_float32
def attention_in_tiles(
    q: Array, k: Array, v: Array, mask: Array, allowed: Array, causal: bool, scale: float
) -> tuple[Array, Array]:
    """softmax(q k' scale + mask) v, and for each query the logarithm of its exponentials' sum.

    Arguments as in `attention`; causal: query i sees keys 0 to i.
    """
    lead = lead_of(q, k, v, mask, allowed)
    out = heads_last(lead, (q.shape[-2], v.shape[-1]), q.dtype)
    logs = cp.empty((*lead, q.shape[-2], 1), q.dtype)
    mask, allowed = (as_heads(x, lead, (q.shape[-2], k.shape[-2])) for x in (mask, allowed))
    q, k, v, by_head = (as_heads(x, lead, x.shape[-2:]) for x in (q, k, v, out))
    tiles_forward(q, k, v, mask, allowed, by_head, logs, causal, scale)
    return out, logs


@in_float32
def attention_in_tiles_backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, logs: Array, mask: Array, allowed: Array, causal: bool,
    scale: float,
) -> tuple[Array, ...]:  # fmt: skip
    """Gradients of q, k and v, each with all the leading axes; the formulas of `attention_backward`."""
    lead = lead_of(q, k, v, mask, allowed)
    results = [heads_last(lead, x.shape[-2:], x.dtype) for x in (q, k, v)]
    mask, allowed = (as_heads(x, lead, (q.shape[-2], k.shape[-2])) for x in (mask, allowed))
    g, q, k, v, out, dq, dk, dv = (as_heads(x, lead, x.shape[-2:]) for x in (g, q, k, v, out, *results))
    tiles_backward(g, q, k, v, out, contiguous(logs), mask, allowed, dq, dk, dv, causal, scale)
    return tuple(results)


def tiles_forward(
    q: Array, k: Array, v: Array, mask: Array, allowed: Array, out: Array, logs: Array, causal: bool, scale: float
) -> None:
    """Fill `out` and `logs`; all arrays but `logs`, which is contiguous, are (samples, heads, rows, columns)."""
    samples, heads, queries, dim = q.shape
    keys, value_dim = v.shape[-2:]
    per_row = odd(dim) + odd(max(dim, value_dim)) + odd(value_dim) + 3
    tile = choose_tile(max(queries, keys), per_row, q.itemsize)
    sizes = [queries, keys, dim, value_dim, heads, tile[0], bool(causal), float(scale)]
    arrays = [q, k, v, mask, allowed, out]
    args = [*arrays, logs, *sizes, *(number for x in arrays for number in strides(x))]
    launch_tiles("tiled_attention", "tiled_forward", args, samples * heads, queries, tile, q.dtype)


def tiles_backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, logs: Array, mask: Array, allowed: Array, dq: Array, dk: Array,
    dv: Array, causal: bool, scale: float,
) -> None:  # fmt: skip
    """Fill dq, dk and dv; arrays as in `tiles_forward`."""
    samples, heads, queries, dim = q.shape
    keys, value_dim = v.shape[-2:]
    for kernel, longest, results, per_row in (
        ("tiled_backward_queries", queries, [dq], 2 * odd(dim) + odd(value_dim) + odd(max(dim, value_dim)) + 2),
        ("tiled_backward_keys", keys, [dk, dv], 3 * (odd(dim) + odd(value_dim)) + 2),
    ):
        tile = choose_tile(max(queries, keys), per_row, q.itemsize)
        sizes = [queries, keys, dim, value_dim, heads, tile[0], bool(causal), float(scale)]
        where = [number for x in (g, q, k, v, out, mask, allowed, *results) for number in strides(x)]
        args = [g, q, k, v, out, logs, mask, allowed, *results, *sizes, *where]
        launch_tiles("tiled_attention", kernel, args, samples * heads, longest, tile, q.dtype)
