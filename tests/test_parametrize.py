"""Weights that are computed from others: weight and spectral normalisation, and parametrizations, as in PyTorch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from oracle import host, to_ours

import tinyattn as ta
from tinyattn import nn

ON_EVERY_DEVICE = True


def randn(*shape):
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape))


MAKERS = {
    "linear": lambda library: library.Linear(4, 6),
    "conv": lambda library: library.Conv1d(4, 6, 3),
    "transposed": lambda library: library.ConvTranspose1d(4, 6, 3),
}
NORMS = {
    "parametrizations.weight_norm": {},
    "parametrizations.weight_norm over all": {"dim": -1},
    "parametrizations.spectral_norm": {"n_power_iterations": 2},
    "spectral_norm": {},
    "spectral_norm of columns": {"dim": 1, "n_power_iterations": 3},
}


def found(library, path):
    for name in path.split()[0].split("."):
        library = getattr(library, name)
    return library


@pytest.mark.parametrize("layer", MAKERS)
@pytest.mark.parametrize("norm", NORMS)
def test_normalised_weights_equal_pytorchs(norm, layer):
    x = randn(2, 4, 5).transpose(1, 2) if layer == "linear" else randn(2, 4, 5)
    ours, theirs = (
        found(library.utils, norm)(MAKERS[layer](library).to(dtype), **NORMS[norm])
        for library, dtype in ((nn, ta.float64), (torch.nn, torch.float64))
    )
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({name: to_ours(t) for name, t in theirs.state_dict().items()})
    for training in (True, True, False):
        for each, y in ((ours, to_ours(x)), (theirs, x)):
            each.train(training)
            each.zero_grad()
            each(y).sin().sum().backward()
        np.testing.assert_allclose(host(ours.weight), theirs.weight.detach().numpy(), rtol=1e-11, atol=1e-13)
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(host(a.grad), b.grad.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)
        for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
            np.testing.assert_allclose(host(a), b.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)


def symmetric(library):
    class Symmetric(library.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).transpose(-1, -2)

    class Doubled(library.Module):
        def forward(self, x):
            return 2 * x

        def right_inverse(self, value):
            return value / 2

    return Symmetric(), Doubled()


def test_parametrizations_follow_one_another_as_in_pytorch():
    weight, x, trained = randn(4, 4), randn(2, 4), []
    for library, convert in ((nn, to_ours), (torch.nn, lambda t: t)):
        layer, parametrize = library.Linear(4, 4, bias=False), library.utils.parametrize
        layer.weight = library.Parameter(convert(weight))
        symmetry, double = symmetric(library)
        assert (
            not parametrize.is_parametrized(layer)
            and parametrize.register_parametrization(layer, "weight", double) is layer
        )
        parametrize.register_parametrization(layer, "weight", symmetry)
        assert parametrize.is_parametrized(layer, "weight") and not parametrize.is_parametrized(layer, "bias")
        assert [*layer.state_dict()] == ["parametrizations.weight.original"] and isinstance(layer, library.Linear)
        with parametrize.cached():
            layer(convert(x)).cos().sum().backward()
        twin = copy.deepcopy(layer)
        trained += [(layer.parametrizations.weight.original.grad, layer.weight, twin.weight)]
        parametrize.remove_parametrizations(twin, "weight")
        assert [*twin.state_dict()] == ["weight"] and type(twin) is library.Linear
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(host(a), b.detach().numpy(), rtol=1e-11)


def test_assigning_to_a_parametrized_weight_writes_its_original():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    wanted = ta.arange(1.0, 7.0).reshape(3, 2)
    layer.weight = wanted
    assert ta.allclose(layer.weight, wanted)
    assert ta.allclose(layer.parametrizations.weight.original0.flatten(), wanted.norm(dim=1))
    with pytest.raises(ValueError, match="several originals; use leave_parametrized=True"):
        nn.utils.parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert isinstance(layer.weight, nn.Parameter) and ta.allclose(layer.weight, wanted)
    with pytest.raises(ValueError, match="'weight' of Linear is not parametrized"):
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
    with pytest.raises(ValueError, match=r"Linear has no parameter or buffer 'wieght'; it has \['bias', 'weight'\]"):
        nn.utils.parametrize.register_parametrization(layer, "wieght", nn.Identity())


def test_spectral_norm_is_removed_with_its_present_value():
    layer = nn.utils.spectral_norm(nn.Linear(3, 4))
    layer(ta.ones(2, 3))
    weight = layer.eval()(ta.eye(3)) - layer.bias
    nn.utils.remove_spectral_norm(layer)
    assert ta.allclose(layer.weight.T, weight) and list(layer.state_dict()) == ["bias", "weight"]
    with pytest.raises(ValueError, match="Linear has no normalised 'weight'"):
        nn.utils.remove_spectral_norm(layer)


ORTHOGONAL = [(m, trivial) for m in (None, "matrix_exp", "cayley", "householder") for trivial in (True, False)]


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 4, 3)])
@pytest.mark.parametrize(("orthogonal_map", "trivial"), ORTHOGONAL)
def test_orthogonal_weights_equal_pytorchs(orthogonal_map, trivial, shape):
    weight, x, start = randn(*shape), randn(shape[-1], 2), randn(*shape)
    found = []
    for library, convert in ((torch.nn, lambda t: t), (nn, to_ours)):
        layer = library.Module()
        layer.weight = library.Parameter(convert(weight))
        made = library.utils.parametrizations.orthogonal(layer, "weight", orthogonal_map, use_trivialization=trivial)
        assert made is layer
        found.append(layer)
    theirs, ours = found
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if not trivial:  # householder starts from the weight, made orthogonal; the other maps cannot
        np.testing.assert_allclose(host(ours.weight), theirs.weight.detach().numpy(), rtol=1e-11, atol=1e-13)
    drawn = theirs.state_dict()
    if orthogonal_map in ("matrix_exp", "cayley") or (orthogonal_map is None and shape == (4, 4)):
        drawn["parametrizations.weight.original"] = start
    else:  # its diagonal holds signs
        drawn["parametrizations.weight.original"] = start.tril(-1) + torch.eye(*shape[-2:]) * torch.tensor(
            [-1.0, 1.0, -1.0, 1.0, 1.0][: shape[-1]]
        )
    theirs.load_state_dict(drawn)
    ours.load_state_dict({name: to_ours(t) for name, t in drawn.items()})
    (theirs.weight @ x).sin().sum().backward()
    (ours.weight @ to_ours(x)).sin().sum().backward()
    np.testing.assert_allclose(host(ours.weight), theirs.weight.detach().numpy(), rtol=1e-11, atol=1e-13)
    a, b = (layer.parametrizations.weight.original.grad for layer in (ours, theirs))
    np.testing.assert_allclose(host(a), b.numpy(), rtol=1e-10, atol=1e-12)


def test_orthogonal_keeps_an_orthogonal_weight_and_refuses_other_maps():
    layer = nn.Linear(3, 3)
    with ta.no_grad():
        nn.init.orthogonal_(layer.weight)
    weight = layer.weight.detach().clone()
    nn.utils.parametrizations.orthogonal(layer)
    assert ta.allclose(layer.weight, weight, atol=1e-6)
    layer.weight = -weight
    assert ta.allclose(layer.weight, -weight, atol=1e-6)
    with pytest.raises(ValueError, match="orthogonal_map='euler'; expected one of matrix_exp, cayley, householder"):
        nn.utils.parametrizations.orthogonal(nn.Linear(2, 2), orthogonal_map="euler")
    with pytest.raises(ValueError, match=r"'bias' is of shape \(2,\); expected the name of a tensor of at least two"):
        nn.utils.parametrizations.orthogonal(nn.Linear(2, 2), "bias")
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(2, 2), use_trivialization=False)
    with pytest.raises(NotImplementedError, match="no value can be assigned with orthogonal_map='matrix_exp'"):
        layer.weight = ta.eye(2)


def test_parametrized_parameter_of_one_original_stays_the_same_object():
    for library in (nn, torch.nn):
        layer = library.Linear(3, 3)
        before = layer.weight
        library.utils.parametrizations.orthogonal(layer)
        assert layer.parametrizations.weight.original is before  # an optimizer made before still trains it
