"""Self-attention of query, key and value as one projection gives them, side by side."""

from __future__ import annotations

import math
from typing import Any

from tinyattn import random
from tinyattn.engine.operation import operation
from tinyattn.engine.opmath import opmath_dtype
from tinyattn.engine.variable import Tensor
from tinyattn.ops.attention import attention_definition, in_tiles, scaled_dot_product_attention
from tinyattn.ops.joins import unbind
from tinyattn.ops.promotion import floating
from tinyattn.ops.shape import flatten, movedim, reshape, transpose


def split_heads(qkv: Any, num_heads: int) -> Any:
    """(..., tokens, 3 dim) -> query, key and value, each (..., heads, tokens, head_dim)."""
    *lead, tokens, width = qkv.shape
    x = reshape(qkv, (*lead, tokens, 3, num_heads, width // 3 // num_heads))
    return unbind(movedim(x, (-3, -2), (0, -3)))


def _join_heads(x: Any) -> Any:
    """(..., heads, tokens, head_dim) -> (..., tokens, dim)"""
    return flatten(transpose(x, -3, -2), -2)


def _packed_definition(xp: Any, qkv: Any, *, heads: int, scale: float) -> Any:
    q, k, v = split_heads(qkv, heads)
    return _join_heads(attention_definition(xp, q, k, v, None, None, None, scale=scale)[0])


@operation(
    promote=floating,
    traits="saturates",
    definition=_packed_definition,
    extras=("e", "share"),
    fresh=True,
    backward=lambda xp, g, qkv, out, e, share, scale: (xp.packed_attention_backward(g, qkv, out, e, share, scale),),
)
def _packed_attention(xp: Any, qkv: Any, *, heads: int, scale: float) -> Any:
    return xp.packed_attention(qkv, heads, scale)


def packed_attention(
    qkv: Tensor,
    num_heads: int,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    generator: random.Generator | None = None,
) -> Tensor:
    """Multi-head self-attention of what one projection gives: (..., tokens, 3 dim) -> (..., tokens, dim).

    qkv: query, key and value side by side, each of num_heads heads side by side. The same as splitting
    it, `scaled_dot_product_attention` of (..., heads, tokens, head_dim) and joining the heads, whose
    arguments the others are; but read and written in place, as one operation where nothing is masked.

    >>> F.packed_attention(ta.zeros(8, 5, 3 * 6), num_heads=2).shape
    (8, 5, 6)
    """
    if qkv.ndim < 2 or num_heads < 1 or qkv.shape[-1] % (3 * num_heads):
        raise RuntimeError(
            f"attention: qkv {tuple(qkv.shape)} with {num_heads} heads; expected (..., tokens, 3 dim), where dim is a "
            "multiple of the heads"
        )
    *lead, tokens, width = qkv.shape
    scale = 1 / math.sqrt(max(width // 3 // num_heads, 1)) if scale is None else float(scale)
    plain = attn_mask is None and dropout_p == 0 and not is_causal and qkv.numel() > 0
    if plain and len(lead) == 1 and not in_tiles(lead[0] * num_heads, tokens, tokens, opmath_dtype(qkv.dtype).itemsize):
        return _packed_attention(qkv, heads=num_heads, scale=scale)
    q, k, v = split_heads(qkv, num_heads)
    out = scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal, scale, generator=generator)
    return _join_heads(out)
