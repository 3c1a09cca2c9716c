"""Scaled dot-product attention (Vaswani et al. 2017)."""

from __future__ import annotations

import functools
import math
from contextvars import ContextVar
from typing import Any

import numpy as np

from tinyattn import random
from tinyattn.engine.modes import Mode, is_grad_enabled
from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Variable, recording_namespace
from tinyattn.ops import creation
from tinyattn.ops.copies import cast
from tinyattn.ops.dropouts import dropout


def attention_definition(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any, keep: Any, *, scale: float) -> Any:
    """The output, and the weights that it weighs the values with."""
    hidden = _must_hide(xp, q, k, v, mask, allowed)
    if hidden is None:
        scores = xp.matmul(q * scale, k.mT)  # (..., queries, keys)
    else:  # the same sum over pairs that may meet
        pairs = xp.masked_fill(q[..., :, None, :] * scale, hidden, 0), xp.masked_fill(k[..., None, :, :], hidden, 0)
        scores = xp.sum(pairs[0] * pairs[1], -1)
    scores = scores if mask is None else scores + mask
    scores = scores if allowed is None else xp.masked_fill(scores, xp.logical_not(allowed), -math.inf)
    top = xp.amax(scores, -1, keepdim=True).detach()
    e = xp.exp(scores - xp.masked_fill(top, top == -math.inf, 0.0))
    total = xp.sum(e, -1, keepdim=True)
    weights = e / xp.masked_fill(total, total == 0, 1.0)  # a query that may see nothing gets zeros
    used = weights if keep is None else weights * keep
    if hidden is None:
        out = xp.matmul(used, v)  # (..., queries, value_dim)
    else:
        out = xp.sum(used[..., None] * xp.masked_fill(v[..., None, :, :], hidden, 0), -2)
    return out, weights


def _must_hide(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any) -> Any:
    """(..., queries, keys, 1), True where a query may not see a key, if NaN or infinity could leak from
    there, since 0 x NaN is NaN; else None: a product with zero hides what is finite."""
    if (mask is None and allowed is None) or all(xp.isfinite(x).all() for x in (q, k, v)):
        return None
    unseen = [] if mask is None else [mask == -math.inf]
    unseen += [] if allowed is None else [xp.logical_not(allowed)]
    return functools.reduce(xp.logical_or, unseen)[..., None]


def _backward(
    xp: Any,
    g: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    e: Any,
    total: Any,
    mask: Any,
    allowed: Any,
    keep: Any,
    scale: Any,
) -> Any:
    masked = mask is not None or allowed is not None
    dq, dk, dv, dscores = xp.attention_backward(g, q, k, v, out, e, total, masked, keep, scale)
    return dq, dk, dv, dscores, None, None


@operation(
    traits="masks saturates",
    definition=lambda xp, *inputs, scale: attention_definition(xp, *inputs, scale=scale)[0],
    extras=("e", "total"),
    fresh=True,
    backward=_backward,
)
def _attention(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any, keep: Any, *, scale: float) -> Any:
    return xp.attention(q, k, v, mask, allowed, keep, scale)


# --- attention in tiles ---

_tiled_mode: ContextVar[bool | None] = ContextVar("tiled_attention", default=None)
_TILED_BYTES = 8 * 2**20  # of scores in all, and ...
_TILED_SCORES = 512 * 512  # ... so many in each head: from here on tiles are not slower


def tiled_attention(mode: bool | None = True) -> Mode:
    """Compute attention tile by tile, in memory linear in the tokens: `with tiled_attention():`.

    True: always; False: never; None, which holds outside of any `with`: where all scores together
    would take more than 8 MiB and each head has more than 512 x 512 of them. It saves query, key,
    value, output and one number a query, and computes the scores again on the way back. Dropout of
    the weights, a mask that needs a gradient, and second derivatives take the plain way whatever the
    mode. Dao et al. 2022, "FlashAttention".
    """
    return Mode(_tiled_mode, mode)


def in_tiles(heads: int, queries: int, keys: int, itemsize: int) -> bool:
    """Whether attention of `heads` matrices of scores, over all samples, shall be done in tiles."""
    mode, scores = _tiled_mode.get(), queries * keys
    if mode is not None:
        return mode
    return scores > _TILED_SCORES and heads * scores * itemsize > _TILED_BYTES


def _causal(q: Any, k: Any) -> Variable:
    return creation.ones(q.shape[-2], k.shape[-2], dtype=bool, device=q.device).tril()


def _tiled_definition(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any, *, causal: bool, scale: float) -> Any:
    allowed = _causal(q, k) if causal else allowed
    return attention_definition(xp, q, k, v, mask, allowed, None, scale=scale)[0]


def _tiled_backward(
    xp: Any, g: Any, q: Any, k: Any, v: Any, out: Any, logs: Any, mask: Any, allowed: Any, causal: Any, scale: Any
) -> Any:
    return *xp.attention_in_tiles_backward(g, q, k, v, out, logs, mask, allowed, causal, scale), None, None


@operation(traits="masks saturates", definition=_tiled_definition, extras=("logs",), backward=_tiled_backward)
def _tiled_attention(xp: Any, q: Any, k: Any, v: Any, mask: Any, allowed: Any, *, causal: bool, scale: float) -> Any:
    return xp.attention_in_tiles(q, k, v, mask, allowed, causal, scale)


# --- what people call ---


def scaled_dot_product_attention(
    query: Variable,
    key: Variable,
    value: Variable,
    attn_mask: Variable | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    generator: random.Generator | None = None,
) -> Variable:
    """softmax(query key' scale + mask) value.

    query (..., queries, dim), key (..., keys, dim), value (..., keys, value_dim); leading axes
    broadcast. attn_mask broadcasts to (..., queries, keys): boolean, True where a query may look, or
    a float added to the scores. is_causal: query i sees keys 0 to i. scale: 1 / sqrt(dim) unless
    said. enable_gqa: fewer key heads than query heads, each serving a group. A query that may see no
    key gives zeros and passes zero gradients (torch's documentation leaves it open; elsewhere it is
    NaN). Long sequences are done in tiles: see `tiled_attention`. As
    torch.nn.functional.scaled_dot_product_attention.
    """
    _check_shapes(query, key, value, enable_gqa)
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (_repeat_heads(x, groups) for x in (key, value))
    if is_causal and attn_mask is not None:
        raise ValueError("attention: give attn_mask or is_causal=True, not both")
    mask, allowed = _mask(attn_mask, query, key)
    scale = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else float(scale)
    if dropout_p == 0 and not (mask is not None and mask.requires_grad and is_grad_enabled()):
        lead = _ahead(*(x for x in (query, key, value, mask, allowed) if x is not None))
        if in_tiles(math.prod(lead), query.shape[-2], key.shape[-2], query.dtype.itemsize):
            return _tiled_attention(query, key, value, mask, allowed, causal=is_causal, scale=scale)
    keep = None
    if dropout_p > 0:
        shape = (*_ahead(query, key, value), query.shape[-2], key.shape[-2])
        ones = creation.ones(shape, dtype=query.dtype, device=query.device)
        keep = dropout(ones, dropout_p, generator=generator)
    allowed = _causal(query, key) if is_causal else allowed
    return _attention(query, key, value, mask, allowed, keep, scale=scale)


def _mask(attn_mask: Variable | None, query: Variable, key: Variable) -> tuple[Variable | None, Variable | None]:
    """What to add to the scores, and who may look at whom; one of them or none."""
    if attn_mask is None:
        return None, None
    attn_mask = creation.as_tensor(attn_mask)
    if attn_mask.dtype.kind not in "bf":
        raise TypeError(f"attention: attn_mask has dtype {attn_mask.dtype}; expected bool or float")
    _check_mask(attn_mask, query, key)
    return (None, attn_mask) if attn_mask.dtype.kind == "b" else (cast(attn_mask, query.dtype), None)


def attention_weights(
    query: Variable, key: Variable, allowed: Variable | None = None, mask: Variable | None = None
) -> Variable:
    """What `scaled_dot_product_attention` weighs its values with: (..., queries, keys), for pictures."""
    scale = 1 / math.sqrt(query.shape[-1])
    return attention_definition(recording_namespace(), query, key, key, mask, allowed, None, scale=scale)[1]


def _ahead(*tensors: Variable) -> tuple[int, ...]:
    return np.broadcast_shapes(*(t.shape[:-2] for t in tensors))


def _check_shapes(query: Variable, key: Variable, value: Variable, enable_gqa: bool) -> None:
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


def _check_mask(mask: Variable, query: Variable, key: Variable) -> None:
    scores = (*_ahead(query, key), query.shape[-2], key.shape[-2])
    try:
        fits = np.broadcast_shapes(mask.shape, scores)[-2:] == scores[-2:]
    except ValueError:
        fits = False
    if not fits:
        raise RuntimeError(
            f"attention: attn_mask {tuple(mask.shape)} does not broadcast to the scores {scores}, (..., queries, keys)"
        )


def _repeat_heads(x: Variable, groups: int) -> Variable:
    *ahead, heads, tokens, dim = x.shape
    return (
        x.reshape(*ahead, heads, 1, tokens, dim)
        .expand(*ahead, heads, groups, tokens, dim)
        .reshape(*ahead, heads * groups, tokens, dim)
    )
