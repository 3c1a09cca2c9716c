"""Attention whose scores and mask are functions of positions, as torch.nn.attention.flex_attention, by definition."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import tinyattn as ta

Where = Callable[[Any, Any, Any, Any], Any]  # (batch, head, query, key), each an index or a tensor of them


def _positions(sizes: Any, device: Any) -> list[Any]:
    """The index along each of four axes, shaped to broadcast with the others."""
    shapes = [[n if d == axis else 1 for d in range(4)] for axis, n in enumerate(sizes)]
    return [ta.arange(n, device=device).reshape(shape) for n, shape in zip(sizes, shapes, strict=True)]


class BlockMask:
    """Where queries may look at keys: `mask`, of booleans (batch, heads, queries, keys)."""

    def __init__(self, mask: Any, mask_mod: Where) -> None:
        self.mask, self.mask_mod, self.shape = mask, mask_mod, tuple(mask.shape)

    def to(self, *device: Any) -> BlockMask:
        """The mask on another device."""
        return BlockMask(self.mask.to(*device), self.mask_mod)


def create_mask(mod_fn: Where, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None) -> Any:
    """The booleans that `mod_fn` gives for all positions; B, H: None for 1."""
    sizes = (B or 1, H or 1, Q_LEN, KV_LEN)
    return ta.broadcast_to(ta.as_tensor(mod_fn(*_positions(sizes, device))), sizes)


def create_block_mask(
    mask_mod: Where, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None, *args: Any, **kw: Any
) -> BlockMask:
    """The mask that `mask_mod` gives; its blocks mean nothing here."""
    return BlockMask(create_mask(mask_mod, B, H, Q_LEN, KV_LEN, device), mask_mod)


def and_masks(*mask_mods: Where) -> Where:
    """The function that is true where all of these are."""
    return lambda *where: functools.reduce(ta.logical_and, (mod(*where) for mod in mask_mods))


def or_masks(*mask_mods: Where) -> Where:
    """The function that is true where one of these is."""
    return lambda *where: functools.reduce(ta.logical_or, (mod(*where) for mod in mask_mods))


def flex_attention(
    query: Any, key: Any, value: Any, score_mod: Any = None, block_mask: BlockMask | None = None,
    scale: float | None = None, enable_gqa: bool = False, kernel_options: Any = None,
) -> Any:  # fmt: skip
    """Attention on query (batch, heads, queries, width), key and value, with the scores score_mod(score, *positions).

    block_mask: who may look at whom; a query that may look at no key gets zeros. enable_gqa: several heads of queries
    share one of keys.
    """
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if score_mod is not None:
        scores = score_mod(scores, *_positions(scores.shape, scores.device))
    mask = None if block_mask is None else block_mask.mask
    if mask is not None:
        scores = scores.masked_fill(ta.logical_not(mask), -math.inf)
    weights = ta.exp(scores - scores.detach().amax(-1, True).nan_to_num(0.0, 0.0, 0.0))
    total = weights.sum(-1, keepdim=True)
    return weights / total.where(total > 0, 1.0) @ value
