"""Scaled dot-product attention (Vaswani et al. 2017)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from tinyattn import random
from tinyattn.engine.modes import Mode
from tinyattn.engine.operation import operation
from tinyattn.engine.opmath import opmath_dtype
from tinyattn.engine.variable import Tensor, recording_namespace
from tinyattn.grad_mode import is_grad_enabled
from tinyattn.ops import creation
from tinyattn.ops.copies import cast
from tinyattn.ops.dropouts import dropout
from tinyattn.ops.promotion import floating, opmath
from tinyattn.ops.rearranging import repeat_interleave


def attention_definition(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any, keep: Any, *, scale: float) -> Any:
    """Return the output, (..., queries, value_dim), and the attention weights, (..., queries, keys).

    mask is added to the scores; allowed is True where a query may see a key; keep multiplies the weights: 0 where
    dropout drops one, else 1 / (1 - p). Each broadcasts to (..., queries, keys), or is None.
    """
    hidden = _must_hide(xp, q, k, v, mask, allowed)
    if hidden is None:
        scores = xp.matmul(q * scale, k.mT)  # (..., queries, keys)
    else:  # the same sum over pairs that may meet
        pairs = xp.masked_fill(q[..., :, None, :] * scale, hidden, 0), xp.masked_fill(k[..., None, :, :], hidden, 0)
        scores = xp.sum(pairs[0] * pairs[1], -1)
    scores = scores if mask is None else scores + mask
    scores = scores if allowed is None else xp.masked_fill(scores, xp.logical_not(allowed), -math.inf)
    if scores.shape[-1]:  # without keys, all outputs are 0
        top = xp.amax(scores, -1, keepdim=True).detach()
        scores = scores - xp.masked_fill(top, top == -math.inf, 0.0)
    e = xp.exp(scores)
    total = xp.sum(e, -1, keepdim=True)
    weights = e / xp.masked_fill(total, total == 0, 1.0)  # a query that may see nothing gets zeros
    used = weights if keep is None else weights * keep
    if hidden is None:
        out = xp.matmul(used, v)  # (..., queries, value_dim)
    else:
        out = xp.sum(used[..., None] * xp.masked_fill(v[..., None, :, :], hidden, 0), -2)
    return out, weights


def _must_hide(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any) -> Any:
    """Return (..., queries, keys, 1), True for hidden pairs, if an input is masked and not finite; else None.

    0 x NaN is NaN, so a weight of 0 hides finite values only.
    """
    if (mask is None and allowed is None) or all(xp.isfinite(x).all() for x in (q, k, v)):
        return None
    unseen = [] if mask is None else [mask == -math.inf]
    unseen += [] if allowed is None else [xp.logical_not(allowed)]
    return functools.reduce(xp.logical_or, unseen)[..., None]


def _attend(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any, keep: Any, scale: float) -> tuple[Any, Any, Any]:
    """Return the output, the exponentials e of the scores, and their sums over the keys: the weights are e / total.

    The sums divide the output, which is smaller than the weights. total is None where e sums to 1. Nothing here
    synchronises a GPU.
    """
    e, total = _exponentials(xp, q, k, mask, allowed, scale)
    used = e if keep is None else e * keep
    out = xp.matmul(used, v)
    if (mask is not None or allowed is not None) and _may_leak(xp, out):
        seen = xp.matmul(used, xp.cast(xp.logical_not(xp.isfinite(v)), used.dtype)) > 0
        out = xp.where(seen, out, xp.matmul(used, _finite(xp, v)))
    if total is not None:
        out /= total
    return out, e, total


def _exponentials(xp: Any, q: Any, k: Any, mask: Any, allowed: Any, scale: float) -> tuple[Any, Any]:
    """Return exp(q k' scale + mask - c), 0 where hidden, and its sums over the keys; c of each query cancels."""
    hidden = None if allowed is None else xp.logical_not(allowed)
    if mask is not None:
        hidden = mask == -math.inf if hidden is None else xp.logical_or(hidden, mask == -math.inf)
    q = q * scale
    if hidden is not None:  # whose leading axes the scores must have
        q = xp.broadcast_to(q, (*np.broadcast_shapes(q.shape[:-2], hidden.shape[:-2]), *q.shape[-2:]))
    scores = xp.scores(q, k)  # (..., queries, keys)
    if mask is not None:
        scores += mask
    return xp.exponentials(scores, hidden)


def _gradients(
    xp: Any, g: Any, q: Any, k: Any, v: Any, out: Any, e: Any, total: Any, masked: bool, keep: Any, scale: float
) -> tuple[Any, Any, Any, Any]:
    """Return the gradients of q, k, v and the scores; that of the scores is that of an additive mask.

    S = q k' scale + mask,  A = softmax(S),  out = A v  and  g = d out:
    dv = A' g,  dA = g v',  dS = A o (dA - rowsum(A o dA)),  dq = dS k scale,  dk = dS' q scale.
    Here A = e / total, where the sums divide g instead of A, and rowsum(A o dA) = rowsum(g o out).
    """
    g = g if total is None else g / total
    dv = xp.matmul((e if keep is None else e * keep).mT, g)
    dscores = xp.scores(g, v)  # dA, which becomes dS in place: no other arrays are as large
    if keep is not None:
        dscores *= keep
    dscores = xp.softmax_backward(dscores, e, lambda: xp.sum(g * out, -1, keepdim=True), masked)
    q, k = (_finite(xp, x) if masked else x for x in (q, k))
    return xp.matmul(dscores, k) * scale, xp.matmul(dscores.mT, q * scale), dv, dscores


def _may_leak(xp: Any, x: Any) -> bool:
    """Whether x may hold NaN or infinity from behind a mask; always True on a GPU, which is not synchronised."""
    return xp.perhaps(lambda: xp.logical_not(xp.isfinite(x)))


def _finite(xp: Any, x: Any) -> Any:
    """Return x with zeros for NaN and infinity: 0 x NaN is NaN, and a hidden element must add nothing."""
    return xp.masked_fill(x, xp.logical_not(xp.isfinite(x)), 0)


def _backward(
    xp: Any, g: Any, q: Any, k: Any, v: Any, out: Any, e: Any, total: Any, mask: Any, allowed: Any, keep: Any,
    scale: Any,
) -> Any:  # fmt: skip
    masked = mask is not None or allowed is not None
    return *_gradients(xp, g, q, k, v, out, e, total, masked, keep, scale), None, None


@operation(
    traits="masks saturates",
    definition=lambda xp, *inputs, scale: attention_definition(xp, *inputs, scale=scale)[0],
    extras=("e", "total"),
    fresh=True,
    backward=_backward,
)
def _attention(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any, keep: Any, *, scale: float) -> Any:
    return _attend(xp, q, k, v, mask, allowed, keep, scale)


# --- attention in tiles ---

_tiled_mode: ContextVar[bool | None] = ContextVar("tiled_attention", default=None)
_TILED_BYTES = 8 * 2**20  # of scores in all, and ...
_TILED_SCORES = 512 * 512  # ... so many in each head: from here on tiles are not slower


def tiled_attention(mode: bool | None = True) -> Mode:
    """Compute attention in blocks of queries, in memory linear in the tokens: `with tiled_attention():`.

    mode: True: always; False: never; None (the default outside of any `with`): if all scores together need more than
    8 MiB and each head has more than 512 x 512. Query, key, value and output are saved; the backward pass computes the
    scores again. Dropout, a mask that requires a gradient, and second derivatives use plain attention in every mode.
    Raises TypeError for another mode. After Dao et al. 2022, "FlashAttention".

    >>> q = ta.zeros(1, 2, 4)
    >>> with ta.tiled_attention():
    ...     F.scaled_dot_product_attention(q, q, q).shape
    (1, 2, 4)
    """
    if mode is not None and not isinstance(mode, bool):
        raise TypeError(f"tiled_attention: mode={mode!r}; expected True, False or None")
    return Mode(_tiled_mode, mode)


def in_tiles(heads: int, queries: int, keys: int, itemsize: int) -> bool:
    """Whether to compute attention in tiles; heads: those of all samples, each with queries x keys scores."""
    mode, scores = _tiled_mode.get(), queries * keys
    if mode is not None:
        return mode
    return scores > _TILED_SCORES and heads * scores * itemsize > _TILED_BYTES


def _causal(q: Any, k: Any) -> Tensor:
    return creation.ones(q.shape[-2], k.shape[-2], dtype=bool, device=q.device).tril()


def _tiled_definition(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any, *, causal: bool, scale: float) -> Any:
    allowed = _causal(q, k) if causal else allowed
    return attention_definition(xp, q, k, v, mask, allowed, None, scale=scale)[0]


def _tiled_backward(
    xp: Any, g: Any, q: Any, k: Any, v: Any, out: Any, mask: Any, allowed: Any, causal: Any, scale: Any
) -> Any:
    masked = causal or mask is not None or allowed is not None
    lead, (q, k, v, mask, allowed) = _spread(xp, q, k, v, mask, allowed)
    dq, dk, dv = (xp.zeros((*lead, *x.shape[-2:]), x.dtype) for x in (q, k, v))
    for rows, keys, ms, sees in _tiles(xp, q, k, mask, allowed, causal):
        e, total = _exponentials(xp, q[rows], k[keys], ms, sees, scale)
        found = _gradients(xp, g[rows], q[rows], k[keys], v[keys], out[rows], e, total, masked, None, scale)
        dq[rows] = found[0]
        for whole, part in ((dk, found[1]), (dv, found[2])):
            view = whole[keys]
            view += part
    return dq, dk, dv, None, None


@operation(traits="masks saturates", definition=_tiled_definition, backward=_tiled_backward)
def _tiled_attention(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any, *, causal: bool, scale: float) -> Any:
    lead, (q, k, v, mask, allowed) = _spread(xp, q, k, v, mask, allowed)
    out = _heads_last(xp, (*lead, q.shape[-2], v.shape[-1]), q.dtype)
    for rows, keys, ms, sees in _tiles(xp, q, k, mask, allowed, causal):
        out[rows] = _attend(xp, q[rows], k[keys], v[keys], ms, sees, None, scale)[0]
    return out


def _tiles(xp: Any, q: Any, k: Any, mask: Any, allowed: Any, causal: bool) -> Iterator[tuple[Any, ...]]:
    """Yield the index of a block of queries, that of the keys they may see, and both masks there."""
    *lead, queries = q.shape[:-1]
    for rows in _blocks((*lead, queries, k.shape[-2]), xp.SCORES_AT_ONCE):
        seen = k.shape[-2]
        ms, sees = (x if x is None else x[rows] for x in (mask, allowed))
        if causal:  # which comes without a mask
            block = rows[-1] if len(rows) > len(lead) else slice(0, queries)
            first, last = block.start, min(block.stop, queries)
            seen = min(last, seen)
            sees = xp.arange(first, 1, last - first, np.int64)[:, None] >= xp.arange(0, 1, seen, np.int64)
        yield rows, (*rows[: len(lead)], ..., slice(seen), slice(None)), ms, sees


def _blocks(shape: tuple[int, ...], most: int) -> Iterator[tuple[Any, ...]]:
    """Yield indices that cut an array of `shape` into blocks of at most `most` elements, never along the last axis."""
    inner = math.prod(shape[1:])
    if inner <= most or len(shape) == 2:
        step = max(most // max(inner, 1), 1)
        yield from ((slice(start, start + step),) for start in range(0, shape[0], step))
    else:
        yield from ((i, *rest) for i in range(shape[0]) for rest in _blocks(shape[1:], most))


def _spread(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Return the leading axes that all arrays broadcast to, and views of the arrays with these axes."""
    arrays, scores = (q, k, v, mask, allowed), (q.shape[-2], k.shape[-2])
    ends = (q.shape[-2:], k.shape[-2:], v.shape[-2:], scores, scores)
    lead = np.broadcast_shapes(*(x.shape[:-2] for x in arrays if x is not None))
    return lead, [x if x is None else xp.broadcast_to(x, (*lead, *end)) for x, end in zip(arrays, ends, strict=True)]


def _heads_last(xp: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return zeros of `shape` in which the heads of a token are adjacent in memory, so that joining heads is a view."""
    if len(shape) != 4:
        return xp.zeros(shape, dtype)
    batch, heads, tokens, dim = shape
    return xp.permute(xp.zeros((batch, tokens, heads, dim), dtype), (0, 2, 1, 3))


# --- what people call ---


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    generator: random.Generator | None = None,
) -> Tensor:
    """Compute softmax(query key' scale + mask) value, (..., queries, value_dim).

    query (..., queries, dim), key (..., keys, dim), value (..., keys, value_dim): one float dtype, leading axes
    broadcast. attn_mask broadcasts to (..., queries, keys): boolean, True where a query may see a key, or a float
    added to the scores. is_causal: query i sees keys 0 to i. scale: 1 / sqrt(dim) by default. enable_gqa: fewer key
    heads than query heads, each for a group. A query that sees no key gives zeros and zero gradients (other libraries:
    NaN). Long sequences are computed in blocks: see `tiled_attention`.
    Raises RuntimeError for shapes or dtypes that do not fit, TypeError for the dtype of a mask, ValueError for
    attn_mask with is_causal. As torch.nn.functional.scaled_dot_product_attention.

    >>> q = ta.zeros(1, 2, 4)  # equal scores: the mean of the values
    >>> F.scaled_dot_product_attention(q, q, ta.tensor([[[1.0], [3.0]]]))[0, :, 0]
    tensor([2., 2.])
    """
    _check_shapes(query, key, value, enable_gqa)
    query, key, value = floating(query, key, value)
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (repeat_interleave(x, groups, -3) for x in (key, value))
    if is_causal and attn_mask is not None:
        raise ValueError("attention: give attn_mask or is_causal=True, not both")
    mask, allowed = _mask(attn_mask, query, key)
    scale = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else float(scale)
    if dropout_p == 0 and not (mask is not None and mask.requires_grad and is_grad_enabled()):
        lead = _ahead(*(x for x in (query, key, value, mask, allowed) if x is not None))
        if in_tiles(math.prod(lead), query.shape[-2], key.shape[-2], opmath_dtype(query.dtype).itemsize):
            return _tiled_attention(query, key, value, mask, allowed, causal=is_causal, scale=scale)
    keep = None
    if dropout_p > 0:
        shape = (*_ahead(query, key, value), query.shape[-2], key.shape[-2])
        ones = creation.ones(shape, dtype=opmath_dtype(query.dtype), device=query.device)
        keep = dropout(ones, dropout_p, generator=generator)
    allowed = _causal(query, key) if is_causal else allowed
    return _attention(query, key, value, mask, allowed, keep, scale=scale)


def _mask(attn_mask: Tensor | None, query: Tensor, key: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return attn_mask as (additive mask, boolean mask), of which at least one is None."""
    if attn_mask is None:
        return None, None
    attn_mask = creation.as_tensor(attn_mask)
    if attn_mask.dtype.kind not in "bf":
        raise TypeError(f"attention: attn_mask has dtype {attn_mask.dtype}; expected bool or float")
    _check_mask(attn_mask, query, key)
    return (None, attn_mask) if attn_mask.dtype.kind == "b" else (cast(attn_mask, opmath_dtype(query.dtype)), None)


@opmath
def attention_weights(query: Tensor, key: Tensor, allowed: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Return the weights of `scaled_dot_product_attention`, (..., queries, keys)."""
    scale = 1 / math.sqrt(query.shape[-1])
    return attention_definition(recording_namespace(), query, key, key, mask, allowed, None, scale=scale)[1]


def _ahead(*tensors: Tensor) -> tuple[int, ...]:
    return np.broadcast_shapes(*(t.shape[:-2] for t in tensors))


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> None:
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise RuntimeError(f"attention: {shapes}; each needs axes (..., tokens, dim)")
    if query.shape[-1] != key.shape[-1]:
        raise RuntimeError(f"attention: {shapes}; query and key must agree in their last axis (dim)")
    if key.shape[-2] != value.shape[-2]:
        raise RuntimeError(f"attention: {shapes}; key and value must agree in their second last axis (keys)")
    if len({query.dtype, key.dtype, value.dtype}) > 1:
        raise RuntimeError(f"attention: dtypes {query.dtype}, {key.dtype}, {value.dtype}; expected one for all three")
    if enable_gqa:
        if min(query.ndim, key.ndim, value.ndim) < 3 or query.shape[-3] % key.shape[-3]:
            raise RuntimeError(
                f"attention: {shapes}; with enable_gqa the query heads must be a multiple of the key heads"
            )
        return
    try:
        _ahead(query, key, value)
    except ValueError:
        raise RuntimeError(
            f"attention: {shapes}; the axes before the last two (batch, heads) do not broadcast"
        ) from None


def _check_mask(mask: Tensor, query: Tensor, key: Tensor) -> None:
    scores = (*_ahead(query, key), query.shape[-2], key.shape[-2])
    try:
        fits = np.broadcast_shapes(mask.shape, scores)[-2:] == scores[-2:]
    except ValueError:
        fits = False
    if not fits:
        raise RuntimeError(
            f"attention: attn_mask {tuple(mask.shape)} does not broadcast to the scores {scores}, (..., queries, keys)"
        )
