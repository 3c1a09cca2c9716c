"""Distributions: log-probabilities, entropies, divergences and moments as PyTorch's, and samples that have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import host, to_ours

import tinyattn as ta

ON_EVERY_DEVICE = True
RNG = np.random.default_rng(0)


def randn(*shape):
    return torch.from_numpy(RNG.normal(size=shape))


CASES = {
    "Normal": (randn(3, 4), randn(4).exp(), randn(2, 3, 4)),
    "Normal of a number": (randn(3, 4), 2.0, randn(3, 4)),
    "Categorical": (randn(3, 4).exp(), None, torch.from_numpy(RNG.integers(0, 4, (5, 3)))),
    "Categorical of logits": (None, randn(3, 4), torch.from_numpy(RNG.integers(0, 4, 3))),
    "Bernoulli": (randn(3, 4).sigmoid(), None, torch.from_numpy(RNG.integers(0, 2, (2, 3, 4))).double()),
    "Bernoulli of logits": (None, randn(3, 4), torch.from_numpy(RNG.integers(0, 2, (3, 4))).double()),
}


def outcome(library, case, convert):
    """What the distribution says, and the gradients by its parameters."""
    kind, (*given, value) = getattr(library.distributions, case.split()[0]), CASES[case]
    given = [convert(x).requires_grad_() if isinstance(x, torch.Tensor) else x for x in given]
    p, value = kind(*given), convert(value)
    out = [p.log_prob(value), p.entropy()]
    out += (
        [p.mean, p.mode, p.stddev, p.variance, p.cdf(value), p.icdf(value.sigmoid())]
        if case.startswith("Normal")
        else [p.probs, p.logits]
    )
    if not case.startswith("Bernoulli"):
        out.append(library.distributions.kl_divergence(p, kind(*(x if x is None else x * 0.7 + 0.2 for x in given))))
    assert tuple(p.sample((6,)).shape) == (6, *p.batch_shape) and not p.sample().requires_grad
    sum((x.sin() * (i + 1)).sum() for i, x in enumerate(out)).backward()
    return [*out, *(x.grad for x in given if not isinstance(x, float) and x is not None)]


@pytest.mark.parametrize("case", CASES)
def test_distributions_have_the_values_and_gradients_of_pytorch(case):
    theirs, ours = outcome(torch, case, lambda x: x.clone()), outcome(ta, case, to_ours)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(host(a), b.detach().numpy(), rtol=1e-11, atol=1e-12)


def test_distributions_draw_what_they_say():
    ta.manual_seed(0)
    loc, scale = ta.tensor([1.0, -2.0], requires_grad=True), ta.tensor([0.5, 2.0])
    drawn = ta.distributions.Normal(loc, scale).rsample((20000,))
    assert ta.allclose(drawn.mean(0), loc, atol=0.05) and ta.allclose(drawn.std(0), scale, rtol=0.05)
    drawn.sum().backward()
    assert loc.grad.tolist() == [20000, 20000]
    probs = ta.tensor([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    chosen = ta.distributions.Categorical(probs).sample((20000,))
    assert ta.allclose(ta.nn.functional.one_hot(chosen, 3).float().mean(0), probs, atol=0.02)
    assert ta.allclose(ta.distributions.Bernoulli(probs).sample((20000,)).mean(0), probs, atol=0.02)


def test_distributions_say_what_they_lack():
    kinds = ta.distributions
    with pytest.raises(ValueError, match="Categorical: expected either probs or logits"):
        kinds.Categorical()
    assert kinds.Categorical(ta.tensor([[1.0, 3.0], [2.0, 1.0]])).mode.tolist() == [1, 0]
    with pytest.raises(NotImplementedError, match="Categorical has no rsample; use sample and log_prob"):
        kinds.Categorical(ta.ones(2)).rsample()
    with pytest.raises(NotImplementedError, match="kl_divergence: Normal and Bernoulli; write the formula"):
        kinds.kl_divergence(kinds.Normal(0, 1), kinds.Bernoulli(0.5))
