"""The transformer's decoder, its whole, and what PyTorch's fast path shows, against torch.nn."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from oracle import to_ours
from test_nn import close, compare, copied, randn

import tinyattn as ta
from tinyattn import nn, optim
from tinyattn.nn.applied import Applied

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


def usual(parameters):
    """Arguments that may be given by position, with their defaults; `verbose` is ignored, as it was in PyTorch."""
    return {k: p.default for k, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD and k != "verbose"}


LAYERS = [n for n in nn.__all__ if isinstance(getattr(nn, n), type) and issubclass(getattr(nn, n), Applied)]


@pytest.mark.parametrize("name", [n for n in LAYERS if hasattr(torch.nn, n)])
def test_arguments_of_layers_of_one_function_equal_torchs(name):
    theirs, ours = (inspect.signature(getattr(lib, name)).parameters for lib in (torch.nn, nn))
    theirs = {k: p.default for k, p in theirs.items() if k not in ("min_value", "max_value", "args", "kwargs")}
    assert [(k, p.default) for k, p in ours.items()] == list(theirs.items())


SCHEDULES = [n for n in optim.lr_scheduler.__all__ if n not in ("ChainedScheduler", "SequentialLR", "LRScheduler")]
OPTIMIZERS = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam"]


@pytest.mark.parametrize("name", [*OPTIMIZERS, *SCHEDULES])
def test_arguments_of_optimizers_and_schedules_equal_torchs(name):
    theirs, ours = (inspect.signature(getattr(lib, name)).parameters for lib in (
        torch.optim if name in OPTIMIZERS else torch.optim.lr_scheduler, optim))  # fmt: skip
    without_effect = (
        "foreach",
        "capturable",
        "differentiable",
        "maximize",
    )  # options of an implementation, and a later one
    theirs = {k: v for k, v in usual(theirs).items() if k not in without_effect}
    assert list(usual(ours)) == list(theirs)
    numbers = {k: v for k, v in theirs.items() if isinstance(v, int | float)}
    assert {k: usual(ours)[k] for k in numbers} == numbers


def test_subclass_with_its_own_constructor_has_its_own_signature():
    class Elu(nn.ELU):
        def __init__(self, slope):
            super().__init__(slope)

    class Adam(optim.Adam):
        def __init__(self, params, rate):
            super().__init__(params, rate)

    class Step(optim.StepLR):
        def __init__(self, optimizer, size):
            super().__init__(optimizer, size)

    optimizer = Adam([ta.ones(1, requires_grad=True)], 0.5)
    assert (Elu(0.3).alpha, optimizer.param_groups[0]["lr"], Step(optimizer, 2).step_size) == (0.3, 0.5, 2)
    names = [["slope"], ["params", "rate"], ["optimizer", "size"]]
    assert [list(inspect.signature(kind).parameters) for kind in (Elu, Adam, Step)] == names


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optim.Adam(), r"Adam.__init__\(\) missing 1 .*: 'params'"),
        (lambda: optim.RMSprop([ta.ones(1)], 1.0, 0.9, 1e-8, 0.0, 0.0, False, True), r"RMSprop.__init__\(\) takes from 2 to 8 positional"),
        (lambda: optim.StepLR(optim.SGD([ta.ones(1)])), r"StepLR.__init__\(\) missing 1 .*: 'step_size'"),
        (lambda: optim.CyclicLR(optim.SGD([ta.ones(1)]), 0.1, 1.0, size=2), r"CyclicLR.__init__\(\) got an unexpected keyword argument 'size'"),
    ],
)  # fmt: skip
def test_optimizers_and_schedules_name_a_wrong_argument(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("library", [nn, optim])
def test_wrong_argument_of_a_constructor_names_the_class(library):
    kinds = [getattr(library, n) for n in library.__all__ if isinstance(getattr(library, n), type)]
    assert len(kinds) > 10
    for kind in kinds:
        parameters = inspect.signature(kind).parameters.values()
        if kind in (nn.Identity, optim.Optimizer) or issubclass(kind, dict):
            continue
        assert all(p.kind is not p.VAR_POSITIONAL for p in parameters) or kind is nn.Sequential, kind
        with pytest.raises(TypeError, match=rf"^{kind.__name__}\b.*misspelt"):
            kind(*[1 for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD], misspelt=1)


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_layers_use_overridden_parts(norm_first):
    def changed(base):
        class Changed(base):
            def _sa_block(self, x, attn_mask, key_padding_mask, is_causal=False):
                return 2 * super()._sa_block(x, attn_mask, key_padding_mask, is_causal)

            def _ff_block(self, x):
                return super()._ff_block(x) - x

        return Changed

    for name, inputs in (("TransformerEncoderLayer", (randn(T, N, D),)), ("TransformerDecoderLayer", sequences(False))):
        theirs = changed(getattr(torch.nn, name))(D, 2, 6, dropout=0.0, norm_first=norm_first).double()
        ours = copied(changed(getattr(nn, name))(D, 2, 6, dropout=0.0, norm_first=norm_first).double(), theirs)
        compare(ours, theirs, *inputs)
