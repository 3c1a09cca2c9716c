"""Where numbers end: overflow, log of zero, division by zero, NaN. All of it goes where PyTorch takes it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from answers import answer, as_arrays, torch
from oracle import host

import tinyattn as ta
from tinyattn import nn, optim, train

ON_EVERY_DEVICE = ("test_step_if_finite_skips_and_reports_nonfinite_steps",)
INF, NAN = float("inf"), float("nan")
HUGE, TINY = 3e38, 1e-45  # nearly the largest float32, and the smallest above zero


def both(make, *inputs, dtype=np.float32):
    """A computation here and in PyTorch: outputs and gradients, as arrays. `make(library, functional, *tensors)`."""

    def found(library):
        tensors = [
            library.tensor(np.array(x, dtype).tolist(), dtype=getattr(library, np.dtype(dtype).name)) for x in inputs
        ]
        for tensor in tensors:
            tensor.requires_grad_(True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "std.*degrees of freedom", UserWarning)  # torch's
            out = make(library, library.nn.functional, *tensors)
        out.sum().backward()
        return [out, *(t.grad for t in tensors if t.grad is not None)]

    return as_arrays(found(ta)), answer(lambda: found(torch))


EDGES = {
    # overflow in the softmax, and rows that are all one infinity
    "softmax of huge scores": (lambda T, F, x: F.softmax(x, -1), [[HUGE, -HUGE, 0.0], [1e4, 1e4, -1e4]]),
    "softmax with a masked score": (lambda T, F, x: F.softmax(x, -1), [[-INF, 0.0, 1.0]]),
    "softmax of nothing but -inf": (lambda T, F, x: F.softmax(x, -1), [[-INF, -INF]]),
    "softmax with +inf": (lambda T, F, x: F.softmax(x, -1), [[INF, 0.0]]),
    "softmax with NaN": (lambda T, F, x: F.softmax(x, -1), [[NAN, 0.0], [1.0, 2.0]]),
    "log_softmax of huge scores": (lambda T, F, x: F.log_softmax(x, -1), [[HUGE, -HUGE, 0.0], [200.0, 0.0, -200.0]]),
    "log_softmax with -inf": (lambda T, F, x: F.log_softmax(x, -1)[:, 1:], [[-INF, 0.0, 1.0]]),
    "logsumexp of huge numbers": (lambda T, F, x: T.logsumexp(x, -1), [[1e30, 1e30], [-1e30, -1e30]]),
    "cross-entropy of huge scores": (
        lambda T, F, x: F.cross_entropy(x, T.tensor([0, 1]), reduction="none"),
        [[1e30, 0.0, -1e30], [1e4, -1e4, 0.0]],
    ),
    "binary cross-entropy of huge scores": (
        lambda T, F, x: F.binary_cross_entropy_with_logits(x, T.zeros(4), reduction="none"),
        [1e30, -1e30, 100.0, -100.0],
    ),
    # logarithms, roots and powers of zero
    "log of zero": (lambda T, F, x: T.log(x), [0.0, 1.0]),
    "log of a negative number": (lambda T, F, x: T.log(x), [-1.0]),
    "log of a denormal": (lambda T, F, x: T.log(x), [TINY]),
    "log1p of -1": (lambda T, F, x: T.log1p(x), [-1.0]),
    "sqrt of zero": (lambda T, F, x: T.sqrt(x), [0.0]),
    "rsqrt of zero": (lambda T, F, x: T.rsqrt(x), [0.0]),
    "zero to the zero": (lambda T, F, x: x**0.0, [0.0]),
    "zero to a negative power": (lambda T, F, x: x**-1.0, [0.0]),
    "exp that overflows": (lambda T, F, x: T.exp(x), [89.0, -104.0]),
    # division by zero
    "one over zero": (lambda T, F, x: 1 / x, [0.0, -0.0]),
    "zero over zero": (lambda T, F, x, y: x / y, [0.0], [0.0]),
    "mean of nothing": (lambda T, F, x: x[:0].mean() + x.sum() * 0, [1.0]),
    "std of one": (lambda T, F, x: T.std(x, -1), [[1.0]]),
    # normalisation of a constant row, and of one so large that its square overflows
    "layer_norm of a constant row": (lambda T, F, x: F.layer_norm(x, (3,)), [[5.0, 5.0, 5.0], [0.0, 0.0, 0.0]]),
    "layer_norm with a weight": (
        lambda T, F, x, w, b: F.layer_norm(x, (2,), w, b), [[3.0, 3.0]], [2.0, 0.5], [1.0, -1.0],
    ),
    "layer_norm with NaN": (lambda T, F, x: F.layer_norm(x, (2,)), [[NAN, 0.0], [1.0, 2.0]]),
    # saturation
    "sigmoid": (lambda T, F, x: T.sigmoid(x), [1e30, -1e30, 100.0, -100.0]),
    "tanh": (lambda T, F, x: T.tanh(x), [1e30, -1e30, 20.0]),
    "gelu": (lambda T, F, x: F.gelu(x), [1e30, -1e30, 40.0, -40.0]),
    "gelu, tanh form": (lambda T, F, x: F.gelu(x, approximate="tanh"), [1e10, -1e10, 40.0, -40.0]),
    "silu": (lambda T, F, x: F.silu(x), [1e30, -1e30, 100.0, -100.0]),
    "softplus": (lambda T, F, x: F.softplus(x), [1e30, -1e30, 100.0, -100.0]),
    "logsigmoid": (lambda T, F, x: F.logsigmoid(x), [1e30, -1e30, 100.0, -100.0]),
    # attention
    "attention with huge scores": (
        lambda T, F, q, k, v: F.scaled_dot_product_attention(q, k, v),
        [[[1e19, 0.0], [0.0, 1e3]]], [[[1e18, 0.0], [0.0, 1e3]]], [[[1.0, 2.0], [3.0, 4.0]]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EDGES)
def test_extreme_numbers_as_torch(case):
    make, *inputs = EDGES[case]
    ours, theirs = both(make, *inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", EDGES)
def test_extreme_numbers_raise_no_warning(case):
    """Except NumPy's own, where +, - and * make them."""
    make, *inputs = EDGES[case]
    tensors = [ta.tensor(x, dtype=ta.float32, requires_grad=True) for x in inputs]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "invalid value encountered in|overflow encountered in (add|multiply)")
        make(ta, ta.nn.functional, *tensors).sum().backward()


# --- clipping ---


@pytest.mark.parametrize("norm_type", [1.0, 2.0, INF])
@pytest.mark.parametrize(
    "gradient", [[INF, 1.0], [-INF, INF], [NAN, 1.0], [HUGE, HUGE], [TINY, 0.0], [0.0, 0.0]], ids=str
)
def test_clip_grad_norm_of_nonfinite_gradients_as_torch(gradient, norm_type):
    def results(library):
        parameters = [library.zeros(2).requires_grad_(), library.zeros(1).requires_grad_()]
        parameters[0].grad, parameters[1].grad = library.tensor(gradient), library.tensor([2.0])
        norm = library.nn.utils.clip_grad_norm_(parameters, 1.0, norm_type)
        return norm, *(p.grad for p in parameters)

    for one, other in zip(as_arrays(results(ta)), answer(lambda: results(torch)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


# --- what training is told ---


@pytest.mark.parametrize(
    ("loss", "gradient", "said"),
    [
        (1.0, [1.0, 2.0], None),
        (1.0, [HUGE, -HUGE], None),  # the norm overflows, the gradient has not
        (NAN, [1.0, 2.0], "the loss is nan"),
        (-INF, [1.0, 2.0], "the loss is -inf"),
        (0.25, [1.0, NAN], "a gradient is nan, though the loss is 0.25"),
        (0.25, [-INF, 1.0], "a gradient is inf, though the loss is 0.25"),
        (1.0, None, None),
    ],
)
def test_step_if_finite_skips_and_reports_nonfinite_steps(loss, gradient, said, device):
    layer, tally = nn.Linear(2, 1, bias=False), train.Tally(epoch=3, step=40)
    optimizer = optim.AdamW(layer.parameters())
    layer.weight.grad = ta.ones(1, 2)
    optimizer.step()
    layer.weight.grad = ta.tensor([gradient]) if gradient else None
    everything = [layer.weight, *optimizer.state[layer.weight].values()]
    before = [host(t).copy() for t in everything]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        largest = train.step_if_finite(optimizer, ta.tensor(loss))
    changed = {not np.array_equal(host(t), was) for t, was in zip(everything, before, strict=True)}
    assert changed == {said is None and gradient is not None}
    tally.start_clock()
    tally.add(ta.stack([ta.tensor(loss), ta.tensor(1), largest]), np.array([5, 7]))
    assert [(batch.why, batch.epoch, batch.step) for batch in tally.read()] == ([(said, 3, 41)] if said else [])
    assert (tally.hits, tally.seen, tally.skipped) == ((0, 0, 1) if said else (1, 2, 0))
    layer.weight.grad = ta.ones(1, 2)
    optimizer.step()  # as always
    assert not np.array_equal(host(layer.weight), before[0])


@pytest.mark.parametrize("width", [8, 64, 300, 2000, 5000])
@pytest.mark.parametrize("mean", [0.0, 1.9, 2.1, 10.0, 1e4])
def test_layer_norm_is_exact_around_any_mean(width, mean):
    x = (np.random.default_rng(0).standard_normal((200, width)) + mean).astype(np.float32)
    wide = x.astype(np.float64)
    exact = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    ours = ta.nn.functional.layer_norm(ta.tensor(x), (width,)).numpy()
    assert np.abs(ours - exact).max() < 16 * np.finfo(np.float32).eps
