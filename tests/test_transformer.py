"""The transformer's decoder, its whole, and what PyTorch's fast path shows, against torch.nn."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from oracle import to_ours
from test_nn import close, compare, copied, randn

import tinyattn as ta
from tinyattn import nn

ON_EVERY_DEVICE = True
D, N, T, S = 4, 2, 3, 5  # features, batch, tokens of the target and of the source
CAUSAL = torch.ones(T, T, dtype=torch.bool).triu(1)
PADDED = torch.tensor([[False] * 4 + [True], [False] * 3 + [True] * 2])
TARGET = torch.tensor([[False] * 3, [False, False, True]])
MASKS = {"tgt_mask": CAUSAL, "memory_key_padding_mask": PADDED, "tgt_key_padding_mask": TARGET}
DECODERS = {
    "plain": ({}, {}),
    "norm first": ({"norm_first": True, "activation": "gelu", "batch_first": True}, MASKS),
    "masks": ({"batch_first": True, "layer_norm_eps": 1e-3}, {**MASKS, "memory_mask": randn(T, S, seed=5)}),
    "causal": ({"bias": False}, {"tgt_mask": CAUSAL, "tgt_is_causal": True}),
}


def sequences(batch_first):
    tgt, memory = randn(N, T, D), randn(N, S, D, seed=1)
    return (tgt, memory) if batch_first else (tgt.transpose(0, 1), memory.transpose(0, 1))


@pytest.mark.parametrize("row", DECODERS)
def test_transformer_decoder_layer_equals_torchs(row):
    options, masks = DECODERS[row]
    options = {"dim_feedforward": 6, "dropout": 0.0, **options}
    theirs = torch.nn.TransformerDecoderLayer(D, 2, **options).double()
    ours = copied(nn.TransformerDecoderLayer(D, 2, **options).double(), theirs)
    compare(ours, theirs, *sequences(options.get("batch_first")), **masks, tolerance=1e-11)


@pytest.mark.parametrize("row", DECODERS)
def test_transformer_decoder_equals_torchs(row):
    options, masks = DECODERS[row]
    options = {"dim_feedforward": 6, "dropout": 0.0, **options}

    def make(library):
        layer = library.TransformerDecoderLayer(D, 2, **options)
        return library.TransformerDecoder(layer, 2, library.LayerNorm(D) if row == "masks" else None).double()

    theirs = make(torch.nn)
    ours = copied(make(nn), theirs)
    compare(ours, theirs, *sequences(options.get("batch_first")), **masks, tolerance=1e-11, orders=1)


@pytest.mark.parametrize("first", [False, True])
def test_transformer_equals_torchs(first):
    def make(library):
        return library.Transformer(D, 2, 1, 2, 6, 0.0, "gelu", batch_first=first, norm_first=first).double()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's about its nested tensors
        theirs = make(torch.nn)
    ours = copied(make(nn), theirs)
    tgt, src = sequences(first)
    masks = {"src_key_padding_mask": PADDED, "memory_key_padding_mask": PADDED, "tgt_mask": CAUSAL}
    compare(ours, theirs, src, tgt, **masks, tolerance=1e-11, orders=1)
    compare(ours, theirs, src[:, 0], tgt[:, 0], tolerance=1e-11, orders=1) if not first else None
    found, expected = (m.generate_square_subsequent_mask(4) for m in (nn.Transformer, torch.nn.Transformer))
    close(found, expected)


@pytest.mark.parametrize(
    "name",
    [
        "MultiheadAttention", "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
        "TransformerEncoderLayer",
    ],
)  # fmt: skip
def test_transformer_signatures_equal_torchs(name):
    for method in ("__init__", "forward"):
        theirs, ours = (inspect.signature(getattr(getattr(lib, name), method)).parameters for lib in (torch.nn, nn))
        assert list(ours) == list(theirs)
        defaults = {k: p.default for k, p in theirs.items()}
        found = {k: p.default for k, p in ours.items()}
        defaults["activation"], found["activation"] = (
            str(getattr(x.get("activation"), "__name__", "")) for x in (defaults, found)
        )
        assert found == defaults


@pytest.mark.parametrize("mask_check", [True, False])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("as_float", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_padded_tokens_of_an_encoder_are_zero_as_torchs(mask_check, nested, at_end, as_float, first):
    if not mask_check and not at_end and nested and first:
        return  # PyTorch computes other tokens then

    def make(library):
        layer = library.TransformerEncoderLayer(D, 2, 6, batch_first=first)
        norm = library.LayerNorm(D)
        return library.TransformerEncoder(layer, 2, norm, enable_nested_tensor=nested, mask_check=mask_check).double()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = make(torch.nn).eval()
        torch.nn.init.normal_(theirs.norm.bias)
        ours = copied(make(nn), theirs).eval()
        x, hidden = randn(N, S, D), PADDED if at_end else PADDED.flip(1)
        x = x if first else x.transpose(0, 1)
        padding = torch.zeros(N, S, dtype=torch.float64).masked_fill(hidden, -torch.inf) if as_float else hidden
        for mode in (True, False):
            with torch.set_grad_enabled(mode), ta.set_grad_enabled(mode):
                expected, found = (
                    theirs(x, src_key_padding_mask=padding),
                    ours(*to_ours([x]), src_key_padding_mask=to_ours([padding])[0]),
                )
                close(found, expected, f"gradients: {mode}", 1e-10)


def test_attention_weights_in_training_are_those_after_dropout():
    attention = nn.MultiheadAttention(D, 2, dropout=0.5, batch_first=True)
    x = ta.randn(8, S, D)
    weights = attention(x, x, x, average_attn_weights=False)[1]
    before = attention.eval()(x, x, x, average_attn_weights=False)[1]
    kept = weights.detach().cpu().numpy() != 0
    assert 0.3 < kept.mean() < 0.7
    close(weights[ta.tensor(kept)], torch.tensor(2 * before.detach().cpu().numpy()[kept]), tolerance=1e-5)


def test_transformer_errors_say_what_is_allowed():
    model = nn.Transformer(D, 2, 1, 1, 6)
    with pytest.raises(RuntimeError, match="expected one batch, along axis 1"):
        model(ta.ones(S, 2, D), ta.ones(T, 3, D))
    with pytest.raises(RuntimeError, match="expected d_model=4 as last size"):
        model(ta.ones(S, 2, D), ta.ones(T, 2, D + 1))
    with pytest.raises(ValueError, match="expected 'relu', 'gelu' or a function"):
        nn.TransformerDecoderLayer(D, 2, activation="tanh")
