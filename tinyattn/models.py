"""The two models: the article's, corrected, and a small vision transformer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyattn import nn, ops, random
from tinyattn.grad_mode import no_grad
from tinyattn.nn import functional as F
from tinyattn.nn import init
from tinyattn.nn.loading import LoadResult
from tinyattn.ops import creation
from tinyattn.ops.creation import as_tensor
from tinyattn.tensors import Tensor

__all__ = ["AttentionClassifier", "AttentionModel"]


# --- the article's model ---


class AttentionModel(nn.Module):
    """Weigh all pixels by one softmax, and classify their weighted mean by one linear layer.

    The model of the article's chapter 5, corrected (docs/article.md). A pixel's token is the embedding of its
    intensity, one of input_dim levels, plus the embedding of its position; the class scores come from the normalised
    weighted mean. A token depends only on level and position: the input_dim x pixels possible tokens are scored once
    a batch, in a look-up table.

    score: how a token x is scored. "additive": tanh(x w + b), the article's. "dot": q . (x W), with a learned query.
        "scaled_dot": the same, divided by sqrt(embed_dim). "multihead": num_heads scaled queries, each of which
        weighs embed_dim / num_heads of the features. No pixel is scored against another.
    Raises ValueError for an unknown score, an input_dim below 2, or an embed_dim that num_heads does not divide.

    Example:
        >>> model = ta.models.AttentionModel(input_dim=10, embed_dim=16, num_classes=10)
        >>> model(ta.rand(2, 28, 28)).shape
        (2, 10)
    """

    def __init__(
        self,
        input_dim: int,
        embed_dim: int,
        num_classes: int,
        *,
        score: str = "additive",
        num_heads: int = 4,
        image_size: int = 28,
    ) -> None:
        super().__init__()
        if input_dim < 2:
            raise ValueError(f"input_dim={input_dim}; expected at least 2 levels of intensity")
        self.input_dim, self.image_size = input_dim, image_size
        self.embedding = nn.Embedding(input_dim, embed_dim)
        self.position = nn.Parameter(creation.empty(image_size**2, embed_dim))  # (pixels, embed_dim)
        self.attention = _scoring(score, embed_dim, num_heads)
        self.norm = nn.LayerNorm(embed_dim)
        self.fc = nn.Linear(embed_dim, num_classes)
        # The mean of hundreds of vectors of size 1 is nearly the same for every image. Small initial vectors let the
        # layer norm amplify the differences.
        init.normal_(self.embedding.weight, std=0.02)
        init.normal_(self.position, std=0.02)

    def forward(self, images: Any) -> Tensor:
        """Return the class scores (batch, num_classes).

        images: uint8 0..255 or float 0..1, of shape (batch, size, size), (batch, 1, size, size) or
        (batch, size * size).
        """
        levels = self.quantize(images)  # (batch, pixels)
        weights = self._weights(levels)  # (heads, batch, pixels)
        heads = weights.shape[0]
        # sum_i weight_i (embedding[level_i] + position_i), without a vector for each pixel: the embeddings times the
        # summed weight of each level, plus the positions times their own weights
        one_hot = creation.eye(self.input_dim, dtype=weights.dtype, device=weights.device)
        is_level = F.embedding(levels, one_hot)  # (batch, pixels, levels)
        on_levels = weights.transpose(0, 1) @ is_level  # (batch, heads, levels)
        mean = on_levels.transpose(0, 1) @ _by_head(self.embedding.weight, heads)  # (heads, batch, embed_dim / heads)
        mean = mean + weights @ _by_head(self.position, heads)  # (heads, batch, embed_dim / heads)
        mean = mean.transpose(0, 1).flatten(1)  # (batch, embed_dim)
        return self.fc(self.norm(mean))

    def quantize(self, images: Any) -> Tensor:
        """Round each pixel to the nearest of input_dim evenly spaced levels: int64 (batch, pixels).

        Float pixels are checked to lie in 0..1, which synchronises a GPU; uint8 is not checked. Raises ValueError for
        pixels outside.
        """
        pixels = _images(images, self.image_size).flatten(1)  # (batch, pixels)
        if pixels.numel() and getattr(images, "dtype", None) != np.uint8:
            low, high = pixels.amin(), pixels.amax()
            if not 0 <= low <= high <= 1:
                raise ValueError(
                    f"images have values from {low:g} to {high:g}; give uint8 0..255, or float 0..1 unscaled"
                )
        return (pixels * (self.input_dim - 1) + 0.5).long()

    def _weights(self, levels: Tensor) -> Tensor:
        """Return the weights of the pixels: (heads, batch, pixels), each row summing to 1."""
        tokens = self.embedding.weight.unsqueeze(1) + self.position  # (levels, pixels, embed_dim)
        table = self.attention.scores(tokens).reshape(-1, *tokens.shape[:2])  # (heads, levels, pixels)
        scores = table[:, levels, creation.arange(levels.shape[1], device=levels.device)]  # (heads, batch, pixels)
        return F.softmax(scores, -1)

    @no_grad()
    def attention_maps(self, images: Any) -> list[Tensor]:
        """Return the weights as images, one tensor (batch, heads, size, size); not differentiable."""
        weights = self._weights(self.quantize(images)).transpose(0, 1)
        return [weights.reshape(*weights.shape[:2], self.image_size, self.image_size)]

    def where_it_looked(self, images: Any) -> Tensor:
        """Return the weight of each pixel, averaged over the heads: (batch, size, size)."""
        return self.attention_maps(images)[0].mean(1)

    def extra_repr(self) -> str:
        return f"input_dim={self.input_dim}, image_size={self.image_size}"


class LearnedQueries(nn.Module):
    """Score tokens by num_heads learned queries: q_h . (x W)_h, divided by sqrt(head_dim) if `scaled`."""

    def __init__(self, embed_dim: int, num_heads: int = 1, scaled: bool = True) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} must be a multiple of num_heads={num_heads}")
        self.key = nn.Linear(embed_dim, embed_dim)
        self.query = nn.Parameter(creation.empty(num_heads, embed_dim // num_heads))
        self.scale = 1 / math.sqrt(embed_dim // num_heads) if scaled else 1.0
        init.normal_(self.query)

    def scores(self, tokens: Tensor) -> Tensor:
        """Score (levels, pixels, embed_dim) by each head: (heads, levels, pixels)."""
        heads, head_dim = self.query.shape
        keys = self.key(tokens).reshape(*tokens.shape[:2], heads, head_dim)  # (levels, pixels, heads, head_dim)
        scores: Any = ops.einsum("lphd,hd->hlp", keys, self.query) * self.scale
        return scores


def _scoring(score: str, embed_dim: int, num_heads: int) -> nn.Module:
    if score == "additive":
        return nn.AdditiveAttentionPooling(embed_dim)
    if score == "dot":
        return LearnedQueries(embed_dim, scaled=False)
    if score == "scaled_dot":
        return LearnedQueries(embed_dim)
    if score == "multihead":
        return LearnedQueries(embed_dim, num_heads)
    raise ValueError(f"score={score!r}; expected 'additive', 'dot', 'scaled_dot' or 'multihead'")


def _by_head(vectors: Tensor, heads: int) -> Tensor:
    """Split the features among the heads: (rows, dim) -> (heads, rows, dim / heads)."""
    return vectors.reshape(len(vectors), heads, -1).transpose(0, 1)


# --- the vision transformer ---


class MLP(nn.Module):
    """Two linear layers with a GELU (tanh form) between them, applied to each token."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.LinearGELU(dim, hidden_dim, approximate="tanh")
        self.fc2 = nn.Linear(hidden_dim, out_dim or dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


class Block(nn.Module):
    """Self-attention, then an MLP, each on the normalised tokens and added to them (pre-norm)."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, dropout: float, attention: str = "softmax") -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = _self_attention(dim, num_heads, attention)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm1(x)  # (batch, tokens, dim)
        attended, _ = self.attention(normal, normal, normal, need_weights=False)
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.norm2(x)))


class SparseAttention(nn.MultiheadAttention):
    """Attend by sparsemax, or by entmax with an alpha that each head learns: weights can be exactly 0, masks are not
    supported. Correia, Niculae and Martins 2019, "Adaptively sparse transformers"."""

    def __init__(self, embed_dim: int, num_heads: int, kind: str) -> None:
        super().__init__(embed_dim, num_heads, batch_first=True)
        self.shape = nn.Parameter(creation.zeros(num_heads, 1, 1)) if kind == "entmax" else None

    def forward(self, *args: Any, **options: Any) -> Any:
        return super().forward(*args, **options | {"need_weights": True})  # the packed kernel is softmax's

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Any, need_weights: bool) -> Any:
        if mask is not None:
            raise NotImplementedError("SparseAttention: got a mask; it supports none")
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
        alpha = 2.0 if self.shape is None else 1 + F.sigmoid(self.shape)
        weights = F.entmax(q @ k.mT / math.sqrt(self.head_dim), alpha)  # (batch, heads, queries, keys)
        return (weights @ v).transpose(1, 2).flatten(2), weights


def _self_attention(dim: int, num_heads: int, kind: str) -> nn.MultiheadAttention:
    """Make a MultiheadAttention whose projections are initialised as nn.Linear initialises them."""
    generator = random.generator_for(None)
    start = generator.bookmark()
    own = nn.MultiheadAttention(dim, num_heads, batch_first=True) if kind == "softmax" else None
    attention = own or SparseAttention(dim, num_heads, kind)
    generator.go_to(start)  # its own initialisation is replaced, and leaves the random stream where it was
    projection = nn.Linear(dim, 3 * dim)  # of query, key and value
    attention.in_proj_weight, attention.in_proj_bias = projection.weight, projection.bias
    attention.out_proj.reset_parameters()
    return attention


class AttentionClassifier(nn.Module):
    """A small vision transformer: patches as tokens, pre-norm blocks, pooling, one linear layer.

    Argument names as torchvision's VisionTransformer; hidden_dim is the size of a token. dropout: applied to the
    tokens and to the output of attention and MLP in each block. pooling: "mean" of the tokens, or "attention" for
    AdditiveAttentionPooling. patch_stride: pixels from one patch to the next (patch_size unless given: no overlap).
    patch_padding: zeros around the image, in pixels. stem_dim: embed patches by an MLP with this hidden size instead
    of one linear layer. attention: "softmax" or `SparseAttention`'s "sparsemax" or "entmax". Raises ValueError for
    patches that do not cover the image, a hidden_dim that num_heads does not divide, and an unknown pooling or
    attention. Dosovitskiy et al. 2021, "An image is worth 16x16 words".

    Example:
        >>> model = ta.models.AttentionClassifier(image_size=28, patch_size=4, num_layers=2)
        >>> model(ta.rand(2, 28, 28)).shape
        (2, 10)
    """

    patch_index: Tensor

    def __init__(
        self,
        image_size: int = 28,
        patch_size: int = 4,
        num_layers: int = 2,
        num_heads: int = 4,
        hidden_dim: int = 64,
        mlp_dim: int = 256,
        num_classes: int = 10,
        *,
        dropout: float = 0.0,
        pooling: str = "mean",
        patch_stride: int | None = None,
        patch_padding: int = 0,
        stem_dim: int | None = None,
        attention: str = "softmax",
    ) -> None:
        super().__init__()
        if hidden_dim % num_heads:
            raise ValueError(f"hidden_dim={hidden_dim} must be a multiple of num_heads={num_heads}")
        if pooling not in ("mean", "attention"):
            raise ValueError(f"pooling={pooling!r}; expected 'mean' or 'attention'")
        if attention not in ("softmax", "sparsemax", "entmax"):
            raise ValueError(f"attention={attention!r}; expected 'softmax', 'sparsemax' or 'entmax'")
        self.image_size, self.patch_padding = image_size, patch_padding
        index = _patch_index(image_size, patch_size, patch_stride or patch_size, patch_padding)
        self.register_buffer("patch_index", index, persistent=False)  # (tokens, patch_size ** 2)
        tokens, pixels = index.shape
        self.embed = MLP(pixels, stem_dim, hidden_dim) if stem_dim else nn.Linear(pixels, hidden_dim)
        self.position = nn.Parameter(creation.empty(tokens, hidden_dim))
        self.dropout = nn.Dropout(dropout)
        shape = hidden_dim, num_heads, mlp_dim, dropout, attention
        self.blocks = nn.ModuleList(Block(*shape) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_dim)
        self.pool = nn.AdditiveAttentionPooling(hidden_dim) if pooling == "attention" else MeanPooling()
        self.head = nn.Linear(hidden_dim, num_classes)
        init.normal_(self.position, std=0.02)

    def forward(self, images: Any) -> Tensor:
        """Return the class scores (batch, num_classes).

        images: uint8 (scaled by 1/255) or float, of shape (batch, size, size), (batch, 1, size, size)
        or (batch, size * size).
        """
        x = self.tokens(images)  # (batch, tokens, hidden_dim)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(self.norm(x)))

    def tokens(self, images: Any) -> Tensor:
        """Embed the patches and add their positions: (batch, tokens, hidden_dim)."""
        x = _images(images, self.image_size).to(self.position.dtype)
        if self.patch_padding:
            x = F.pad(x, (self.patch_padding,) * 4)  # (batch, padded size, padded size)
        patches = x.flatten(1)[:, self.patch_index]  # (batch, tokens, patch_size ** 2)
        return self.dropout(self.embed(patches) + self.position)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> LoadResult:
        """As Module.load_state_dict; also accepts the parameter names `attention.qkv` and `.proj` of older files."""
        if isinstance(state_dict, Mapping):
            state_dict = {_current_name(name): value for name, value in state_dict.items()}
        return super().load_state_dict(state_dict, strict, assign)

    @no_grad()
    def attention_maps(self, images: Any) -> list[Tensor]:
        """Return the attention weights of each block, (batch, heads, tokens, tokens), and last the pooling's,
        (batch, tokens); without dropout, not differentiable."""
        training, maps = self.training, []
        self.eval()
        try:
            x = self.tokens(images)
            for block in self.blocks:
                normal = block.norm1(x)
                maps.append(block.attention(normal, normal, normal, average_attn_weights=False)[1])
                x = block(x)
            maps.append(self.pool(self.norm(x), need_weights=True)[1])
        finally:
            self.train(training)
        return maps

    @no_grad()
    def where_it_looked(self, images: Any) -> Tensor:
        """Return the share of each pixel in the pooled token, (batch, size, size), summing to 1 in each image.

        Attention rollout: the pooling's weights are propagated back through the blocks, with one half for each
        residual connection. Abnar and Zuidema 2020, "Quantifying attention flow in transformers". A pixel of several
        patches has the mean of their shares.
        """
        *layers, share = self.attention_maps(images)  # share: (batch, tokens)
        for layer in reversed(layers):
            share = (share + (share.unsqueeze(1) @ layer.mean(1)).squeeze(1)) / 2
        tokens, pixels = self.patch_index.shape
        padded = self.image_size + 2 * self.patch_padding
        inside = slice(self.patch_padding, padded - self.patch_padding)

        def on_pixels(values: Tensor) -> Tensor:  # (images, tokens) -> (images, size, size)
            spread = values.unsqueeze(-1).expand(len(values), tokens, pixels)
            image = ops.place(spread, (slice(None), self.patch_index), (len(values), padded**2))
            return image.reshape(len(values), padded, padded)[:, inside, inside]

        # where patches overlap, a pixel gets the mean of them: equal shares are an even image
        image = on_pixels(share) / on_pixels(creation.ones_like(share[:1]))
        return image / image.sum((1, 2), keepdim=True)

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, tokens={len(self.patch_index)}"


def _current_name(name: Any) -> Any:
    """Translate a parameter name of older files, in which attention was two linear layers, qkv and proj."""
    if not isinstance(name, str):
        return name
    return name.replace(".attention.qkv.", ".attention.in_proj_").replace(".attention.proj.", ".attention.out_proj.")


class MeanPooling(nn.Module):
    """The mean of the tokens: (..., tokens, dim) -> (..., dim)."""

    def forward(self, tokens: Tensor, need_weights: bool = False) -> Any:
        """Return the mean (..., dim), with need_weights also the equal weights (..., tokens)."""
        pooled = tokens.mean(-2)
        if not need_weights:
            return pooled
        weights = creation.full(tokens.shape[:-1], 1 / tokens.shape[-2], dtype=tokens.dtype, device=tokens.device)
        return pooled, weights


def _patch_index(size: int, patch: int, stride: int, padding: int) -> Tensor:
    """Return the pixels of each patch as indices into the padded, flattened image: (tokens, patch ** 2)."""
    padded = size + 2 * padding
    count = (padded - patch) // stride + 1  # along one side
    if patch > padded or stride > patch or (count - 1) * stride + patch < size + padding:
        raise ValueError(
            f"patches of {patch} pixels every {stride} with padding {padding} do not cover an image of {size}; "
            "choose sizes that divide it, or more padding"
        )
    start, within = np.arange(count) * stride, np.arange(patch)
    corners = start[:, None] * padded + start  # (count, count)
    offsets = within[:, None] * padded + within  # (patch, patch)
    return as_tensor(corners.reshape(-1, 1) + offsets.reshape(1, -1))


def _images(images: Any, size: int) -> Tensor:
    """Convert images to floats (batch, size, size); integers 0..255 are scaled to 0..1."""
    x = as_tensor(images)
    if x.shape[1:] not in ((size, size), (1, size, size), (size * size,)):
        raise ValueError(
            f"images have shape {tuple(x.shape)}; expected (batch, {size}, {size}), (batch, 1, {size}, {size}) "
            f"or (batch, {size * size})"
        )
    if x.dtype.kind in "iu":
        x = x.to(dtype=np.float32) / 255
    elif x.dtype.kind != "f":
        raise TypeError(f"images have dtype {x.dtype}; expected uint8 (0..255) or float (0..1)")
    return x.reshape(-1, size, size)
