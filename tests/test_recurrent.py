"""Recurrent layers, cells and packed sequences against torch.nn."""

from __future__ import annotations

import numpy as np
import pytest
from answers import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import to_ours
from test_nn import close, compare, copied, randn

import tinyattn as ta
from tinyattn import nn

ON_EVERY_DEVICE = True
KINDS = {"RNN": {}, "RNN relu": {"nonlinearity": "relu"}, "LSTM": {}, "LSTM projected": {"proj_size": 2}, "GRU": {}}
SHAPES = {
    "plain": ({}, (4, 2, 3)),
    "unbatched": ({"num_layers": 2}, (4, 3)),
    "no bias": ({"bias": False, "batch_first": True}, (2, 4, 3)),
    "both ways": ({"num_layers": 2, "bidirectional": True, "batch_first": True}, (2, 4, 3)),
    "unbatched both ways": ({"bidirectional": True, "batch_first": True}, (4, 3)),
    "one step": ({}, (1, 2, 3)),
}


class Flat(ta.nn.Module):
    """A layer whose states are inputs, one after the other."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, *states):
        return self.layer(x, tuple(states) if len(states) == 2 else states[0] if states else None)


class TorchFlat(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    forward = Flat.forward


def pair(kind, *args, **options):
    name = kind.split()[0]
    options = {**KINDS.get(kind, {}), **options}
    theirs = TorchFlat(getattr(torch.nn, name)(*args, **options).double())
    return copied(Flat(getattr(nn, name)(*args, **options).double()), theirs), theirs


def state_sizes(kind):
    return {"LSTM": [5, 5], "LSTM projected": [2, 5]}.get(kind, [5])


@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_layer_equals_torchs(kind, shape, with_states):
    options, size = SHAPES[shape]
    ours, theirs = pair(kind, 3, 5, **options)
    first = options.get("batch_first", False)
    batch = () if len(size) == 2 else (size[0 if first else 1],)
    layers = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    states = [randn(layers, *batch, n, seed=i + 1) for i, n in enumerate(with_states * state_sizes(kind))]
    compare(ours, theirs, randn(*size), *states)
    assert repr(ours.layer) == repr(theirs.layer)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("kind", ["RNNCell", "RNNCell relu", "LSTMCell", "GRUCell"])
def test_recurrent_cell_equals_torchs(kind, batch, bias):
    options = {"nonlinearity": "relu"} if "relu" in kind else {}
    ours, theirs = pair(kind, 3, 5, bias=bias, **options)
    compare(ours, theirs, randn(*batch, 3))
    states = [randn(*batch, 5, seed=i + 1) for i in range(2 if "LSTM" in kind else 1)]
    compare(ours, theirs, randn(*batch, 3), *states)
    assert repr(ours.layer) == repr(theirs.layer)


class Packs:
    """Pack the input, run, and pad the outputs again."""

    def forward(self, x, *states):
        rnn = self.rnn
        packed = rnn.pack_padded_sequence(x, self.lengths, True, self.is_sorted)
        out, last = self.layer(packed, tuple(states) if len(states) == 2 else states[0] if states else None)
        assert type(out) is rnn.PackedSequence
        return rnn.pad_packed_sequence(out, True, 0.5, self.total)[0], last


class OurPacks(Packs, Flat):
    rnn = nn.utils.rnn


class TorchPacks(Packs, TorchFlat):
    rnn = torch.nn.utils.rnn


@pytest.mark.parametrize("lengths", [[4, 3, 1], [2, 4, 3], [4, 4, 4], [1, 1, 1]])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_through_layers_equal_torchs(kind, lengths):
    ours, theirs = pair(kind, 3, 5, num_layers=2, bidirectional=True)
    ours, theirs = OurPacks(ours.layer), TorchPacks(theirs.layer)
    for module in (ours, theirs):
        module.lengths, module.is_sorted, module.total = lengths, lengths == sorted(lengths, reverse=True), 6
    x, states = randn(3, 4, 3), [randn(4, 3, n, seed=i + 1) for i, n in enumerate(state_sizes(kind))]
    compare(ours, theirs, x, tolerance=1e-11)
    compare(ours, theirs, x, *states, tolerance=1e-11)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_packing_and_padding_equal_torchs(lengths, batch_first, left):
    seqs = [randn(n, 2, seed=n) for n in lengths]
    ours, theirs = nn.utils.rnn, torch.nn.utils.rnn
    side = "left" if left else "right"
    close(ours.pad_sequence(to_ours(seqs), batch_first, 0.5, side), theirs.pad_sequence(seqs, batch_first, 0.5, side))
    found, expected = ours.pack_sequence(to_ours(seqs), False), theirs.pack_sequence(seqs, False)
    close(found.data, expected.data)
    close(found.batch_sizes, expected.batch_sizes)
    for pad_to in (None, 7):
        a, b = (r.pad_packed_sequence(p, batch_first, 2.0, pad_to) for r, p in ((ours, found), (theirs, expected)))
        close(a[0], b[0])
        close(a[1], b[1])
    for a, b in zip(ours.unpack_sequence(found), seqs, strict=True):
        close(a, b)


def test_recurrent_definition_equals_its_kernel():
    for kind in KINDS:
        ours, _ = pair(kind, 3, 5, num_layers=2, bidirectional=True)
        x = ta.randn(4, 2, 3, dtype=ta.float64)
        with ta.definitions():
            expected = ours(x)[0]
        np.testing.assert_allclose(ours(x)[0].detach().cpu().numpy(), expected.detach().cpu().numpy(), atol=1e-14)


def test_recurrent_layer_records_one_node_for_all_steps():
    for kind in KINDS.keys() - {"LSTM projected"}:
        ours, _ = pair(kind, 3, 5)
        out = ours(ta.randn(7, 2, 3, dtype=ta.float64))[0]
        todo, found = [out.node], {}
        while todo:
            node = todo.pop()
            if hasattr(node, "edges") and id(node) not in found:
                found[id(node)] = node
                todo += [edge for edge in node.edges if edge is not None]
        names = [node.op.name for node in found.values() if node.op is not None]
        assert names.count("recurrent") == 1
        assert len(names) < 10


def test_recurrent_dropout_acts_between_layers_only():
    layer = nn.LSTM(3, 5, num_layers=2, dropout=1.0)
    alone = nn.LSTM(5, 5)
    alone.load_state_dict({k.replace("l1", "l0"): v for k, v in layer.state_dict().items() if "l1" in k})
    x = ta.randn(4, 2, 3)
    np.testing.assert_allclose(layer(x)[0].tolist(), alone(ta.zeros(4, 2, 5))[0].tolist(), rtol=1e-6)
    with pytest.warns(UserWarning, match=r"dropout=0.5 acts between layers"):
        nn.GRU(3, 5, dropout=0.5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.LSTM(3, 5, proj_size=5), ValueError, "a number from 0 to hidden_size - 1"),
        (lambda: nn.GRU(3, 5, proj_size=2), ValueError, "only an LSTM may have projections"),
        (lambda: nn.RNN(3, 5, nonlinearity="exp"), ValueError, "expected 'tanh' or 'relu'"),
        (lambda: nn.RNN(3, 0), ValueError, "expected positive numbers"),
        (lambda: nn.GRU(3, 5, 2, dropout=1.5), ValueError, "a probability lies between 0 and 1"),
        (lambda: nn.GRU(3, 5)(ta.ones(2, 2, 4)), RuntimeError, "expected input_size=3 last"),
        (lambda: nn.GRU(3, 5)(ta.ones(3)), RuntimeError, r"input has 1 axes, shape \(3,\)"),
        (lambda: nn.GRU(3, 5)(ta.ones(0, 2, 3)), RuntimeError, "expected at least one step"),
        (lambda: nn.GRU(3, 5)(ta.ones(2, 2, 3, dtype=ta.float64)), ValueError, "convert the input or the module"),
        (lambda: nn.GRU(3, 5)(ta.ones(2, 2, 3), ta.ones(2, 2, 5)), RuntimeError, r"h_0 has shape \(2, 2, 5\)"),
        (lambda: nn.RNNCell(3, 5, nonlinearity="exp"), ValueError, "expected 'tanh' or 'relu'"),
        (lambda: nn.utils.rnn.pack_padded_sequence(ta.ones(2, 2), [1, 2]), RuntimeError, "enforce_sorted=False"),
        (lambda: nn.utils.rnn.pack_padded_sequence(ta.ones(2, 2), [2, 0]), RuntimeError, "2 lengths from 1 to 2"),
        (lambda: nn.utils.rnn.pad_sequence([]), RuntimeError, "expected at least one"),
        (lambda: nn.utils.rnn.pad_sequence([ta.ones(1)], padding_side="up"), ValueError, "'left' or 'right'"),
    ],
)  # fmt: skip
def test_recurrent_errors_say_what_is_allowed(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_recurrent_cells_over_steps_equal_their_layer():
    for kind, layer in ((nn.RNNCell, nn.RNN), (nn.LSTMCell, nn.LSTM), (nn.GRUCell, nn.GRU)):
        cell, layer, x = kind(3, 5), layer(3, 5), ta.randn(4, 2, 3)
        cell.load_state_dict({name.removesuffix("_l0"): t for name, t in layer.state_dict().items()})
        state, outs = None, []
        for step in x:
            state = cell(step, state)
            outs.append(state[0] if kind is nn.LSTMCell else state)
        expected = layer(x)[0].detach().cpu().numpy()
        np.testing.assert_allclose(ta.stack(outs).detach().cpu().numpy(), expected, atol=1e-6)
