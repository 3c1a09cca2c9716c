"""Attention one tile of scores at a time: memory grows with the tokens, not with their square.

The softmax of a row is built up tile by tile (Milakov and Gimelshein 2018, "Online normalizer
calculation for softmax"); on the way back the scores are computed again instead of remembered
(Dao et al. 2022, "FlashAttention: fast and memory-efficient exact attention with IO-awareness").
What `attention` promises of masks holds here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyattn.backends.cpu.attention import SAFE_SCORE, _heads_last, _without_leaks
from tinyattn.backends.cpu.sums import row_sums

__all__ = ["attention_in_tiles", "attention_in_tiles_backward"]

Array = Any
_TILE = (512, 256)  # queries x keys: half a megabyte of float32 scores, two of which the cache holds


@np.errstate(invalid="ignore", divide="ignore", over="ignore")
def attention_in_tiles(
    q: Array, k: Array, v: Array, mask: Array, allowed: Array, causal: bool, scale: float
) -> tuple[Array, Array]:
    """softmax(q k' scale + mask) v, and for each query the logarithm of its exponentials' sum.

    Arguments as in `attention`; causal: query i sees keys 0 to i.
    """
    lead, (q, k, v, mask, allowed) = _spread(q, k, v, mask, allowed)
    out = _heads_last((*lead, q.shape[-2], v.shape[-1]), q.dtype)
    logs = np.empty((*lead, q.shape[-2], 1), q.dtype)
    out[...] = 0
    for head in np.ndindex(lead):
        scores = _Scores(head, q, k, mask, allowed, causal, scale)
        top, total = np.full_like(logs[head], -np.inf), np.zeros_like(logs[head])  # of each row so far
        sums = out[head]  # of values, times exp(score - top)
        small = scores.are_small()
        if small:
            top[...] = 0  # will do for every tile
        for rows, keys in scores.tiles():
            e = scores.tile(rows, keys)
            if not small:
                new = np.maximum(top[rows], e.max(-1, keepdims=True))
                shift = np.where(np.isneginf(new), 0, new)  # nothing seen yet: exp(-inf) is 0, not NaN
                e -= shift
                fade = np.exp(top[rows] - shift)  # what came before was relative to a lower top
                total[rows] *= fade
                sums[rows] *= fade
                top[rows] = new
            np.exp(e, out=e)
            total[rows] += row_sums(e)
            sums[rows] += scores.product(e, v[head][keys])
        total[total == 0] = 1  # a query that may look at nothing
        sums /= total
        logs[head] = np.where(np.isneginf(top), 0, top) + np.log(total)
    return out, logs


@np.errstate(invalid="ignore", over="ignore")
def attention_in_tiles_backward(
    g: Array, q: Array, k: Array, v: Array, out: Array, logs: Array, mask: Array, allowed: Array, causal: bool,
    scale: float,
) -> tuple[Array, ...]:  # fmt: skip
    """Gradients of q, k and v, each with all the leading axes; the formulas of `attention_backward`.

    What they subtract from each row of a tile comes out of the product that makes the tile: one more
    column on the left, of ones on the right.
    """
    lead, (q, k, v, mask, allowed) = _spread(q, k, v, mask, allowed)
    dq, dk, dv = (np.zeros((*lead, *x.shape[-2:]), x.dtype) for x in (q, k, v))
    for head in np.ndindex(lead):
        scores = _Scores(head, q, k, mask, allowed, causal, scale)
        qs, ks = scores.finite(scores.q), scores.finite(scores.k)
        scores.q, scores.k = _beside(scores.q, -logs[head]), _beside(scores.k, 1)
        gs, vs = _beside(g[head], -np.vecdot(g[head], out[head])[:, None]), _beside(v[head], 1)
        for rows, keys in scores.tiles():
            weights = scores.tile(rows, keys)
            np.exp(weights, out=weights)
            dv[head][keys] += weights.T @ g[head][rows]
            ds = gs[rows] @ vs[keys].T
            if scores.masked and not np.isfinite(ds).all():
                ds = np.where(weights == 0, 0, ds)
            ds *= weights
            dq[head][rows] += ds @ ks[keys]
            dk[head][keys] += ds.T @ qs[rows]
    dq *= scale
    return dq, dk, dv


class _Scores:
    """The scores of one head, a tile at a time."""

    def __init__(
        self, head: tuple[int, ...], q: Array, k: Array, mask: Array, allowed: Array, causal: bool, scale: float
    ) -> None:
        self.q, self.k = q[head] * scale, k[head]
        self.mask = None if mask is None else mask[head]
        self.allowed = None if allowed is None else allowed[head]
        self.causal = causal
        self.masked = causal or mask is not None or allowed is not None

    def are_small(self) -> bool:
        """Whether no score is so large, either way, that its exponential might leave the range of numbers."""
        if self.mask is not None or self.q.dtype == np.float16:
            return False
        longest = [math.sqrt(np.vecdot(x, x).max(initial=0)) for x in (self.q, self.k)]
        return longest[0] * longest[1] < SAFE_SCORE  # Cauchy and Schwarz; False for NaN

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Which queries and which keys, in order; none that causality hides altogether."""
        (queries, keys), (height, width) = (len(self.q), len(self.k)), _TILE
        for i in range(0, queries, height):
            last = min(i + height, queries)
            seen = min(last, keys) if self.causal else keys
            for j in range(0, seen, width):
                yield slice(i, last), slice(j, min(j + width, seen))

    def tile(self, rows: slice, keys: slice) -> Array:
        """One tile of scores, -inf where a query may not look."""
        scores = self.q[rows] @ self.k[keys].T
        if self.mask is not None:
            mask = self.mask[rows, keys]
            scores += mask
            scores[np.isneginf(mask)] = -np.inf  # -inf + NaN is NaN
        if self.allowed is not None:
            scores[~self.allowed[rows, keys]] = -np.inf
        if self.causal and keys.stop > rows.start + 1:
            scores[np.arange(keys.start, keys.stop) > np.arange(rows.start, rows.stop)[:, None]] = -np.inf
        return scores

    def product(self, e: Array, v: Array) -> Array:
        """e v, in which no NaN gets through a mask."""
        out = e @ v
        return _without_leaks(e, v, out) if self.masked and not np.isfinite(out).all() else out

    def finite(self, x: Array) -> Array:
        """x for products with the gradients of scores, which are 0 behind a mask, where 0 x NaN must be 0."""
        return np.where(np.isfinite(x), x, 0) if self.masked and not np.isfinite(x).all() else x


def _beside(x: Array, column: Any) -> Array:
    """(rows, width) -> (rows, width + 1): with a column, or a number all the way down, at its right."""
    return np.concatenate([x, np.broadcast_to(np.asarray(column, x.dtype), (len(x), 1))], -1)


def _spread(q: Array, k: Array, v: Array, mask: Array, allowed: Array) -> tuple[tuple[int, ...], list[Array]]:
    """The leading axes that all of them broadcast to, and views of them all that have those."""
    arrays, scores = (q, k, v, mask, allowed), (q.shape[-2], k.shape[-2])
    ends = (q.shape[-2:], k.shape[-2:], v.shape[-2:], scores, scores)
    lead = np.broadcast_shapes(*(x.shape[:-2] for x in arrays if x is not None))
    return lead, [x if x is None else np.broadcast_to(x, (*lead, *end)) for x, end in zip(arrays, ends, strict=True)]
