"""Attention layers: multi-head attention, and pooling by additive attention."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tinyattn import ops
from tinyattn.engine.opmath import opmath_dtype
from tinyattn.nn import functional as F
from tinyattn.nn import init
from tinyattn.nn.layers import Linear
from tinyattn.nn.module import Module, Parameter
from tinyattn.ops import creation
from tinyattn.tensors import Tensor


class MultiheadAttention(Module):
    """Attend with several heads, each on its own projection of query, key and value.

    embed_dim: features of a token, divided evenly among num_heads. kdim, vdim: features of keys and values, if
    not embed_dim. dropout: the probability of dropping an attention weight. add_bias_kv appends one learned key
    and value, add_zero_attn one of zeros. batch_first: tensors are (batch, tokens, dim) instead of
    (tokens, batch, dim). Raises ValueError if embed_dim is not a multiple of num_heads. Vaswani et al. 2017,
    "Attention is all you need". As torch.nn.MultiheadAttention, with its parameter names, shapes and initial
    distributions.

    >>> attention = nn.MultiheadAttention(8, num_heads=2, batch_first=True)
    >>> x = ta.randn(3, 5, 8)
    >>> out, weights = attention(x, x, x)
    >>> out.shape, weights.shape
    ((3, 5, 8), (3, 5, 5))
    """

    _shown = "embed_dim={0.embed_dim}, num_heads={0.num_heads}"
    in_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} must be a positive multiple of num_heads={num_heads}")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.head_dim = embed_dim // num_heads
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn

        packed, n = self.kdim == self.vdim == embed_dim, embed_dim
        self._add_parameters(
            device, dtype,
            in_proj_weight=(3 * n, n) if packed else None,  # of query, key and value
            q_proj_weight=None if packed else (n, n),
            k_proj_weight=None if packed else (n, self.kdim),
            v_proj_weight=None if packed else (n, self.vdim),
            in_proj_bias=3 * n if bias else None,
        )  # fmt: skip
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype)
        extra = (1, 1, n) if add_bias_kv else None
        self._add_parameters(device, dtype, bias_k=extra, bias_v=extra)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the parameters again."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output, shaped as the query, and the weights (batch, queries, keys) or None.

        query, key, value: (tokens, batch, dim), with batch_first (batch, tokens, dim), or unbatched (tokens, dim).
        key_padding_mask (batch, keys) and attn_mask (queries, keys) or (batch * num_heads, queries, keys): True
        *hides* a key, a float is added to the score. is_causal: a query sees no later key; ignored if attn_mask is
        given. need_weights=False is faster. average_attn_weights=False: the weights of each head,
        (batch, num_heads, queries, keys). Weights are those after dropout. A query that sees no key gets zeros (in
        torch, NaN). Raises ValueError for shapes that do not fit, TypeError for integer masks.
        """
        self._check(query, key, value)
        is_self, is_batched = query is key is value, query.ndim == 3
        query = self._batch_first(query)  # (batch, queries, embed_dim)
        key, value = (query, query) if is_self else (self._batch_first(key), self._batch_first(value))
        mask = self._mask(query, key, attn_mask, key_padding_mask, is_causal)
        appends_keys = self.bias_k is not None or self.add_zero_attn
        if is_self and self.in_proj_weight is not None and not need_weights and not appends_keys:
            qkv = F.linear(query, self.in_proj_weight, self.in_proj_bias)  # (batch, tokens, 3 embed_dim)
            mixed, weights = F.packed_attention(qkv, self.num_heads, mask, self._dropout_p()), None
        else:
            mixed, weights = self._attend(*self._project(query, key, value), mask, need_weights)
        out = self.out_proj(mixed)  # (batch, queries, embed_dim)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not is_batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        batch = 0 if self.batch_first else 1
        if query.ndim not in (2, 3) or not query.ndim == key.ndim == value.ndim:
            problem = "expected three axes each, or two without a batch"
        elif (query.shape[-1], key.shape[-1], value.shape[-1]) != (self.embed_dim, self.kdim, self.vdim):
            problem = f"expected last sizes {(self.embed_dim, self.kdim, self.vdim)} (embed_dim, kdim, vdim)"
        elif key.shape[:-1] != value.shape[:-1] or (query.ndim == 3 and query.shape[batch] != key.shape[batch]):
            problem = "key and value need as many tokens, all three one batch"
        else:
            return
        shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
        raise ValueError(f"MultiheadAttention: {shapes}; {problem}")

    def _batch_first(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _dropout_p(self) -> float:
        return self.dropout if self.training else 0.0

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project query, key and value to (batch, tokens, embed_dim) each."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if weight is not None and query is key is value:  # one product serves all three
            q, k, v = F.linear(query, weight, bias).chunk(3, -1)
            return q, k, v
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = separate if weight is None else weight.chunk(3)
        biases = (None, None, None) if bias is None else bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        return q, k, v

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs of all heads (batch, queries, embed_dim) and the weights (batch, heads, queries, keys)."""
        batch, keys = key.shape[:2]
        if self.bias_k is not None and self.bias_v is not None:
            key = ops.cat([key, self.bias_k.expand(batch, 1, -1)], 1)
            value = ops.cat([value, self.bias_v.expand(batch, 1, -1)], 1)
        if self.add_zero_attn:
            key, value = F.pad(key, (0, 0, 0, 1)), F.pad(value, (0, 0, 0, 1))
        if mask is not None:  # every query sees the appended keys
            mask = F.pad(mask, (0, key.shape[1] - keys), value=mask.dtype.kind == "b")
        q, k, v = (_split_heads(x, self.num_heads) for x in (query, key, value))  # (batch, heads, tokens, head_dim)
        weights = _weights(q, k, mask) if need_weights else None
        if weights is not None and self._dropout_p():  # the weights returned are those used
            weights = F.dropout(weights, self._dropout_p())
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, self._dropout_p())
        return mixed.transpose(1, 2).reshape(query.shape), weights

    def _mask(
        self, query: Tensor, key: Tensor, attn_mask: Tensor | None, padding: Tensor | None, is_causal: bool
    ) -> Tensor | None:
        """Build one mask for the scores (batch, heads, queries, keys): True where seen, or a float to add."""
        batch, queries, keys, heads = *query.shape[:2], key.shape[1], self.num_heads
        if attn_mask is None and is_causal:
            attn_mask = creation.ones(queries, keys, dtype=bool, device=self.out_proj.weight.device).triu(1)
        masks = []
        if attn_mask is not None:
            if attn_mask.shape not in ((queries, keys), (batch * heads, queries, keys)):
                expected = f"{(queries, keys)} or {(batch * heads, queries, keys)}"
                raise ValueError(f"attn_mask has shape {tuple(attn_mask.shape)}; expected {expected}")
            masks.append(attn_mask.reshape(-1, heads if attn_mask.ndim == 3 else 1, queries, keys))
        if padding is not None:
            if padding.shape != (batch, keys) and not (batch == 1 and padding.shape == (keys,)):
                raise ValueError(f"key_padding_mask has shape {tuple(padding.shape)}; expected {(batch, keys)}")
            masks.append(padding.reshape(batch, 1, 1, keys))
        return _combined(masks) if masks else None


def _combined(masks: list[Tensor]) -> Tensor:
    """Combine masks: True where no bool mask hides the key or, if one of them is a float, the sum to add."""
    if any(mask.dtype.kind not in "bf" for mask in masks):
        raise TypeError(f"masks have dtypes {[str(m.dtype) for m in masks]}; expected bool (True hides) or float")
    if all(mask.dtype.kind == "b" for mask in masks):
        return ops.logical_not(functools.reduce(ops.logical_or, masks))
    return functools.reduce(ops.add, [_as_scores(mask) for mask in masks])


def _as_scores(mask: Tensor) -> Tensor:
    """Convert a mask to floats to add to the scores: -inf where a bool mask hides a key."""
    if mask.dtype.kind == "f":
        return mask
    return creation.zeros(1, device=mask.device).masked_fill(mask, -float("inf"))


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """Split the features among the heads: (batch, tokens, dim) -> (batch, heads, tokens, dim / heads), a view."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None or mask.dtype.kind == "b":
        return ops.attention_weights(query, key, mask)
    return ops.attention_weights(query, key, None, mask.to(opmath_dtype(query.dtype)))


def multi_head_attention_forward(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int, in_proj_weight: Any,
    in_proj_bias: Any, bias_k: Any, bias_v: Any, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor,
    out_proj_bias: Any, training: bool = True, key_padding_mask: Any = None, need_weights: bool = True,
    attn_mask: Any = None, use_separate_proj_weight: bool = False, q_proj_weight: Any = None, k_proj_weight: Any = None,
    v_proj_weight: Any = None, static_k: Any = None, static_v: Any = None, average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return what a `MultiheadAttention` with these parameters returns, for tensors (tokens, batch, dim).

    use_separate_proj_weight: take q_, k_ and v_proj_weight instead of in_proj_weight. Raises ValueError if the query
    has not embed_dim_to_check features, NotImplementedError for static_k and static_v. As
    torch.nn.functional.multi_head_attention_forward.

    >>> m, x = nn.MultiheadAttention(4, 2), ta.randn(3, 1, 4)
    >>> weights = m.in_proj_weight, m.in_proj_bias, None, None, False, 0.0, m.out_proj.weight, m.out_proj.bias
    >>> out, _ = nn.attention.multi_head_attention_forward(x, x, x, 4, 2, *weights)
    >>> ta.allclose(out, m(x, x, x)[0])
    True
    """
    if static_k is not None or static_v is not None:
        raise NotImplementedError("multi_head_attention_forward: static_k and static_v must be None")
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    q, k, v = separate if use_separate_proj_weight else (in_proj_weight,) * 3
    attention, out_proj = (kind.__new__(kind) for kind in (MultiheadAttention, Linear))
    for module in (attention, out_proj):
        Module.__init__(module)
    out_proj.__dict__.update(weight=out_proj_weight, bias=out_proj_bias)
    attention.__dict__.update(
        embed_dim=embed_dim_to_check, num_heads=num_heads, dropout=dropout_p, training=training, batch_first=False,
        add_zero_attn=add_zero_attn, kdim=k.shape[1], vdim=v.shape[1], bias_k=bias_k, bias_v=bias_v,
        in_proj_weight=None if use_separate_proj_weight else in_proj_weight, in_proj_bias=in_proj_bias,
        q_proj_weight=q, k_proj_weight=k, v_proj_weight=v, out_proj=out_proj,
    )  # fmt: skip
    return attention(query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)


class AdditiveAttentionPooling(Module):
    """The weighted mean of tokens, (..., tokens, embed_dim) -> (..., embed_dim); the weights are learned.

    The weights are the softmax of the tokens' scores. Without hidden_dim a token's score is tanh(x w + b), so one
    weight is at most e^2 times another. With it, the score is tanh(x W + b) v, which is unbounded. Bahdanau, Cho and
    Bengio 2015, "Neural machine translation by jointly learning to align and translate".

    >>> pooled, weights = nn.AdditiveAttentionPooling(8)(ta.randn(3, 5, 8), need_weights=True)
    >>> pooled.shape, weights.shape
    ((3, 8), (3, 5))
    """

    _shown = "embed_dim={0.embed_dim}, hidden_dim={0.hidden_dim}"

    def __init__(self, embed_dim: int, hidden_dim: int | None = None, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.embed_dim, self.hidden_dim = embed_dim, hidden_dim
        self.hidden = Linear(embed_dim, hidden_dim or 1, device=device, dtype=dtype)
        self.add_module("v", Linear(hidden_dim, 1, bias=False, device=device, dtype=dtype) if hidden_dim else None)

    def scores(self, tokens: Tensor) -> Tensor:
        """Score each token: (..., tokens, embed_dim) -> (..., tokens)."""
        hidden = F.tanh(self.hidden(tokens))  # (..., tokens, hidden_dim or 1)
        return (hidden if self.v is None else self.v(hidden)).squeeze(-1)

    def forward(self, tokens: Tensor, key_padding_mask: Tensor | None = None, need_weights: bool = False) -> Any:
        """Return the mean (..., embed_dim), with need_weights also the weights (..., tokens).

        key_padding_mask (..., tokens): True hides a token. If all are hidden, mean and weights are zero.
        """
        hidden = key_padding_mask
        if hidden is not None:
            tokens = tokens.masked_fill(hidden.unsqueeze(-1), 0.0)  # 0 * NaN would be NaN
        scores = self.scores(tokens)
        if hidden is not None:  # a finite score: the softmax of -inf alone is NaN
            scores = scores.masked_fill(hidden, float(np.finfo(scores.dtype).min))
        weights = F.softmax(scores, -1)  # (..., tokens)
        if hidden is not None:
            weights = weights.masked_fill(hidden, 0.0)
        pooled = (weights.unsqueeze(-2) @ tokens).squeeze(-2)  # (..., embed_dim)
        return (pooled, weights) if need_weights else pooled
