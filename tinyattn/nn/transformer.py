"""The transformer's encoder and decoder (Vaswani et al. 2017), as torch.nn's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tinyattn import ops
from tinyattn.grad_mode import is_grad_enabled
from tinyattn.nn import functional as F
from tinyattn.nn import init
from tinyattn.nn.activations import GELU, ReLU
from tinyattn.nn.attention import MultiheadAttention
from tinyattn.nn.containers import ModuleList
from tinyattn.nn.layers import Dropout, LayerNorm, Linear
from tinyattn.nn.module import Module
from tinyattn.ops import creation
from tinyattn.tensors import Tensor


def _activation(given: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    known: dict[Any, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
    if not callable(given) and given not in known:
        raise ValueError(f"activation={given!r}; expected 'relu', 'gelu' or a function")
    return given if callable(given) else known[given]


class _Layer(Module):
    """Base of the encoder's and the decoder's layer: attention, to the encoder's output too if `_looks`, and an MLP."""

    _looks = False

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        for name in ("self_attn", "multihead_attn") if self._looks else ("self_attn",):
            attention = MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=batch_first, **options)
            self.add_module(name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, **options)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **options)
        self.norm_first = norm_first
        parts = range(1, 4 if self._looks else 3)
        for i in parts:
            self.add_module(f"norm{i}", LayerNorm(d_model, layer_norm_eps, **options))
        for i in parts:
            self.add_module(f"dropout{i}", Dropout(dropout))
        self.activation = _activation(activation)

    def _through(self, x: Tensor, *parts: Callable[[Tensor], Tensor]) -> Tensor:
        """Run x through the parts and the MLP, each with a residual, and a layer norm before or after."""
        for i, part in enumerate((*parts, self._ff_block), 1):
            norm = getattr(self, f"norm{i}")
            x = x + part(norm(x)) if self.norm_first else norm(x + part(x))
        return x

    # --- the parts, each with its dropout: subclasses override them by PyTorch's names ---

    def _sa_block(self, x: Tensor, attn_mask: Any, key_padding_mask: Any, is_causal: bool = False) -> Tensor:
        masks = {"attn_mask": attn_mask, "key_padding_mask": key_padding_mask, "is_causal": is_causal}
        return self.dropout1(self.self_attn(x, x, x, need_weights=False, **masks)[0])

    def _ff_block(self, x: Tensor) -> Tensor:
        x = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return self.dropout3(x) if self._looks else self.dropout2(x)


class TransformerEncoderLayer(_Layer):
    """Self-attention, then two linear layers on each token, each part with a residual and a layer norm.

    d_model, nhead: embed_dim and num_heads of the attention. dim_feedforward: features between the two linear
    layers. dropout: of the attention weights, between the linear layers and of both outputs. activation: "relu",
    "gelu" or a function of a tensor. norm_first: normalise before each part instead of after. Other arguments as
    MultiheadAttention. Raises ValueError for another activation. As torch.nn.TransformerEncoderLayer.

    >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
    >>> layer(ta.randn(3, 5, 8)).shape
    (3, 5, 8)
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return a tensor of src's shape. src, src_mask and src_key_padding_mask: query, attn_mask and
        key_padding_mask of MultiheadAttention."""
        return self._through(src, lambda x: self._sa_block(x, src_mask, src_key_padding_mask, is_causal=is_causal))


class _Stack(Module):
    """Base of the encoder and the decoder: copies of a layer, one after the other, and a last norm."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.add_module("norm", norm)


class TransformerEncoder(_Stack):
    """num_layers copies of an encoder layer, one after the other, then `norm` if given.

    The copies start with equal parameters. As torch.nn.TransformerEncoder, with its zeros at padded tokens: in
    evaluation without gradients, for padding at the end only and no mask, unless enable_nested_tensor=False.
    mask_check=False: the padding is not checked to be at the end.

    >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
    >>> nn.TransformerEncoder(layer, num_layers=3)(ta.randn(3, 5, 8)).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__(encoder_layer, num_layers, norm)
        self.enable_nested_tensor, self.mask_check = enable_nested_tensor, mask_check
        self.use_nested_tensor = enable_nested_tensor and _is_plain(encoder_layer)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Return a tensor of src's shape. Masks as in MultiheadAttention: True hides a key, a float is added."""
        out = src
        for layer in self.layers:
            out = layer(out, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=is_causal is True)
        if src_key_padding_mask is not None and mask is None and self._drops_padding(src):
            padded = src_key_padding_mask if src_key_padding_mask.dtype.kind == "b" else src_key_padding_mask != 0
            at_end = not self.mask_check or not ops.logical_and(padded[:, :-1], ops.logical_not(padded[:, 1:])).any()
            if at_end:
                out = out.masked_fill(padded.unsqueeze(-1), 0.0)
        return out if self.norm is None else self.norm(out)

    def _drops_padding(self, src: Tensor) -> bool:
        if not self.use_nested_tensor or src.ndim != 3 or self.layers[0].training:
            return False
        return not (is_grad_enabled() and any(t.requires_grad for t in (src, *self.layers[0].parameters())))


def _is_plain(layer: Any) -> bool:
    """Whether PyTorch computes an encoder of this layer without its padded tokens."""
    if not isinstance(layer, TransformerEncoderLayer) or layer.norm_first or layer.norm1.eps != layer.norm2.eps:
        return False
    attention, kind = layer.self_attn, layer.activation
    is_known = kind in (F.relu, F.gelu) or isinstance(kind, ReLU | GELU)
    return is_known and attention.batch_first and attention.in_proj_bias is not None and attention.num_heads % 2 == 0


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output, then two linear layers on each token.

    Each part has a residual and a layer norm. Arguments and errors as TransformerEncoderLayer. As
    torch.nn.TransformerDecoderLayer.

    >>> layer = nn.TransformerDecoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
    >>> layer(ta.randn(3, 5, 8), ta.randn(3, 7, 8)).shape
    (3, 5, 8)
    """

    _looks = True

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Return a tensor of tgt's shape. memory: the encoder's output. Masks as in MultiheadAttention."""
        return self._through(
            tgt,
            lambda x: self._sa_block(x, tgt_mask, tgt_key_padding_mask, tgt_is_causal),
            lambda x: self._mha_block(x, memory, memory_mask, memory_key_padding_mask, memory_is_causal),
        )

    def _mha_block(self, x: Tensor, mem: Tensor, attn_mask: Any, key_padding_mask: Any, is_causal: bool) -> Tensor:
        attended, _ = self.multihead_attn(x, mem, mem, key_padding_mask, False, attn_mask, is_causal=is_causal)
        return self.dropout2(attended)


class TransformerDecoder(_Stack):
    """num_layers copies of a decoder layer, one after the other, then `norm` if given.

    The copies start with equal parameters. As torch.nn.TransformerDecoder.

    >>> layer = nn.TransformerDecoderLayer(8, nhead=2, dim_feedforward=16)
    >>> nn.TransformerDecoder(layer, num_layers=2)(ta.randn(5, 3, 8), ta.randn(7, 3, 8)).shape
    (5, 3, 8)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Return a tensor of tgt's shape. memory: the encoder's output. Masks as in MultiheadAttention."""
        for layer in self.layers:
            tgt = layer(
                tgt,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=tgt_is_causal is True,
                memory_is_causal=memory_is_causal,
            )
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """An encoder and a decoder, each with a last norm; custom ones replace them. As torch.nn.Transformer.

    Other arguments as TransformerEncoderLayer. Matrices are initialised by xavier_uniform_.

    >>> model = nn.Transformer(8, 2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=16)
    >>> model(ta.randn(7, 3, 8), ta.randn(5, 3, 8)).shape
    (5, 3, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu,
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)

        def norm() -> Module:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)

        if custom_encoder is None:
            layer: Module = TransformerEncoderLayer(*sizes, device=device, dtype=dtype)
            custom_encoder = TransformerEncoder(layer, num_encoder_layers, norm())
        if custom_decoder is None:
            layer = TransformerDecoderLayer(*sizes, device=device, dtype=dtype)
            custom_decoder = TransformerDecoder(layer, num_decoder_layers, norm())
        self.encoder, self.decoder = custom_encoder, custom_decoder
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Return a tensor of tgt's shape. Raises RuntimeError for another batch or d_model."""
        batch = 0 if self.batch_first else 1
        shapes = f"src {tuple(src.shape)}, tgt {tuple(tgt.shape)}"
        if src.ndim == 3 and src.shape[batch] != tgt.shape[batch]:
            raise RuntimeError(f"Transformer: {shapes}; expected one batch, along axis {batch}")
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise RuntimeError(f"Transformer: {shapes}; expected d_model={self.d_model} as last size")
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """Return the causal mask (sz, sz) to add to scores: -inf above the diagonal, 0 elsewhere."""
        return creation.full((sz, sz), -float("inf"), device=device, dtype=dtype).triu(1)
