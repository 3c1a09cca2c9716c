"""entmax and sparsemax: equal to their definition solved by bisection, and to the entmax package where it is there."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import host, to_ours

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn.debug.differences import gradcheck, gradgradcheck

ON_EVERY_DEVICE = True
ALPHAS = [1.01, 1.2, 1.5, 1.75, 2.0]
SCORES = {  # of 50 classes; the geometric ones leave the support one at a time
    "normal": np.random.RandomState(0).normal(size=(20, 50)),
    "large": 30 * np.random.RandomState(1).normal(size=(20, 50)),
    "geometric": -(2.0 ** -np.arange(50.0))[None],
    "equal": np.zeros((1, 50)),
}


def by_bisection(scores, alpha):
    scores = (alpha - 1) * (scores - scores.max(-1, keepdims=True))
    low, high = np.full((len(scores), 1), -1.0), np.zeros((len(scores), 1))
    for _ in range(100):
        middle = (low + high) / 2
        above = (np.maximum(scores - middle, 0) ** (1 / (alpha - 1))).sum(-1, keepdims=True) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.maximum(scores - low, 0) ** (1 / (alpha - 1))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("kind", SCORES)
def test_entmax_equals_its_definition_by_bisection(kind, alpha):
    expected = by_bisection(SCORES[kind], alpha)
    scores = to_ours(ta.tensor(SCORES[kind]))
    np.testing.assert_allclose(host(F.entmax(scores, alpha)), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(host(F.entmax(scores.T, alpha, 0)), expected.T, rtol=0, atol=1e-12)
    if alpha == 2:
        np.testing.assert_allclose(host(F.sparsemax(scores)), expected, rtol=0, atol=1e-12)


def test_entmax_has_right_first_and_second_derivatives():
    scores = ta.tensor(2 * np.random.RandomState(2).normal(size=(4, 7)), requires_grad=True)
    alpha = ta.tensor([[1.05], [1.3], [1.5], [1.8]], dtype=ta.float64, requires_grad=True)
    assert gradcheck(F.entmax, (scores, alpha))
    assert gradgradcheck(F.entmax, (scores, alpha))
    assert gradcheck(F.sparsemax, (scores,))


def test_entmax_equals_the_package():
    package, torch = pytest.importorskip("entmax"), pytest.importorskip("torch")
    data, weights = np.random.RandomState(3).normal(size=(2, 4, 7))
    alphas = np.array([[1.05], [1.3], [1.5], [1.8]])
    cases = [
        (F.sparsemax, lambda x: package.sparsemax(x, -1), (data,)),
        (F.entmax, lambda x: package.entmax15(x, -1), (data,)),
        (F.entmax, lambda x, alpha: package.entmax_bisect(x, alpha, n_iter=100), (data, alphas)),
    ]
    for ours, theirs, arrays in cases:
        inputs = [to_ours(ta.tensor(a, requires_grad=True)) for a in arrays]
        others = [torch.tensor(a, requires_grad=True) for a in arrays]
        out, other = ours(*inputs), theirs(*others)
        np.testing.assert_allclose(host(out.detach()), other.detach().numpy(), rtol=0, atol=1e-12)
        gradients = ta.autograd.grad((out * to_ours(ta.tensor(weights))).sum(), inputs)
        expected = torch.autograd.grad((other * torch.tensor(weights)).sum(), others)
        for mine, its in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(host(mine), its.numpy(), rtol=0, atol=1e-10)


def test_entmax_gives_masked_scores_zero_and_no_nan():
    scores = ta.tensor([[1.0, -np.inf, 0.5], [0.0, 0.0, -9.0]], requires_grad=True)
    alpha = ta.tensor(1.5, requires_grad=True)
    out = F.entmax(scores, alpha)
    (out * out).sum().backward()
    assert out.detach().tolist()[1] == pytest.approx([0.5, 0.5, 0.0])
    assert out.detach()[0, 1].item() == scores.grad[0, 1].item() == 0
    assert np.isfinite([*scores.grad.flatten().tolist(), alpha.grad.item()]).all()
    with np.errstate(invalid="ignore"):  # -inf - -inf
        assert np.isnan(F.sparsemax(ta.tensor([-np.inf, -np.inf])).tolist()).all()


def test_entmax_takes_empty_integer_and_half_inputs():
    assert F.entmax(ta.zeros(0, 3)).shape == (0, 3)
    assert F.sparsemax(ta.tensor([2, 0])).tolist() == [1.0, 0.0]
    assert F.entmax(ta.zeros(2).half()).dtype == ta.float16
    assert F.entmax(ta.tensor([0.0, 1.0]), 1).tolist() == F.softmax(ta.tensor([0.0, 1.0]), 0).tolist()


def test_entmax_refuses_other_alphas_in_one_sentence():
    with pytest.raises(ValueError, match=r"entmax: alpha=3; expected a number from 1 \(softmax\) to 2 \(sparsemax\)"):
        F.entmax(ta.zeros(2), 3)
    with pytest.raises(ValueError, match=r"alpha of shape \(2,\) differs along dim=1; give one alpha a slice"):
        F.entmax(ta.zeros(3, 2), ta.ones(2) + 0.5)
