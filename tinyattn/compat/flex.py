"""Attention whose scores and mask are functions of positions, as torch.nn.attention.flex_attention, by definition."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import tinyattn as ta

Where = Callable[[Any, Any, Any, Any], Any]  # of batch, head, query and key, tensors of indices; gives booleans


def _positions(sizes: Any, device: Any) -> list[Any]:
    """Return the indices along each of four axes, shaped to broadcast with the others."""
    shapes = [[n if d == axis else 1 for d in range(4)] for axis, n in enumerate(sizes)]
    return [ta.arange(n, device=device).reshape(shape) for n, shape in zip(sizes, shapes, strict=True)]


class BlockMask:
    """The mask of attention: which query may attend to which key. As torch.nn.attention.flex_attention.BlockMask.

    mask: booleans (batch, heads, queries, keys), True where attention is allowed; the first two may be 1.
    mask_mod: the function that gave it. There are no blocks: the whole mask is stored.
    """

    def __init__(self, mask: Any, mask_mod: Where) -> None:
        self.mask, self.mask_mod, self.shape = mask, mask_mod, tuple(mask.shape)

    def to(self, *device: Any) -> BlockMask:
        """Return the mask on another device."""
        return BlockMask(self.mask.to(*device), self.mask_mod)


def create_mask(mod_fn: Where, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None) -> Any:
    """Evaluate `mod_fn` at all positions: booleans (B, H, Q_LEN, KV_LEN). As in torch.nn.attention.flex_attention.

    mod_fn: a function of batch, head, query and key, tensors of indices that broadcast with each other.
    B, H: batch size and heads; None, for a function that does not use them, means 1.

    >>> from tinyattn.compat.flex import create_mask
    >>> create_mask(lambda b, h, query, key: key <= query, None, None, 2, 3)[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0]]
    """
    sizes = (B or 1, H or 1, Q_LEN, KV_LEN)
    return ta.broadcast_to(ta.as_tensor(mod_fn(*_positions(sizes, device))), sizes)


def create_block_mask(
    mask_mod: Where, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None, *args: Any, **kw: Any
) -> BlockMask:
    """Return the `BlockMask` of `create_mask`. Further arguments, such as BLOCK_SIZE, have no effect.

    >>> from tinyattn.compat.flex import create_block_mask
    >>> create_block_mask(lambda b, h, query, key: key <= query, None, None, 5, 5).shape
    (1, 1, 5, 5)
    """
    return BlockMask(create_mask(mask_mod, B, H, Q_LEN, KV_LEN, device), mask_mod)


def and_masks(*mask_mods: Where) -> Where:
    """Return the mask function that is True where all of `mask_mods` are.

    >>> from tinyattn.compat.flex import and_masks, create_mask
    >>> near = and_masks(lambda b, h, query, key: key <= query, lambda b, h, query, key: query - key < 2)
    >>> create_mask(near, None, None, 3, 3)[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    return lambda *where: functools.reduce(ta.logical_and, (mod(*where) for mod in mask_mods))


def or_masks(*mask_mods: Where) -> Where:
    """Return the mask function that is True where one of `mask_mods` is; see `and_masks`."""
    return lambda *where: functools.reduce(ta.logical_or, (mod(*where) for mod in mask_mods))


def flex_attention(
    query: Any, key: Any, value: Any, score_mod: Any = None, block_mask: BlockMask | None = None,
    scale: float | None = None, enable_gqa: bool = False, kernel_options: Any = None,
) -> Any:  # fmt: skip
    """Compute attention with modified scores: softmax(score_mod(query @ key.mT * scale)) @ value.

    query: (batch, heads, queries, head_dim); key: (batch, key_heads, keys, head_dim); value: (batch, key_heads, keys,
    value_dim). Returns (batch, heads, queries, value_dim). score_mod: a function of the scores (batch, heads, queries,
    keys) and of batch, head, query and key, tensors of indices. block_mask: where attention is allowed; a query that
    may attend to no key gets zeros. scale: 1 / sqrt(head_dim) by default. enable_gqa: several heads of queries share
    one of keys and values; key_heads divides heads. kernel_options has no effect.
    As torch.nn.attention.flex_attention.flex_attention; Dong et al. 2024, "Flex attention".

    >>> from tinyattn.compat.flex import flex_attention
    >>> query, key = ta.zeros(1, 1, 1, 4), ta.zeros(1, 1, 3, 4)
    >>> value = ta.tensor([1.0, 2.0, 6.0]).reshape(1, 1, 3, 1)
    >>> flex_attention(query, key, value).item()
    3.0
    >>> first = lambda score, batch, head, query, key: score.where(key == 0, -1e9)
    >>> flex_attention(query, key, value, score_mod=first).item()
    1.0
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
