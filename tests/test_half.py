"""float16: every result is the float32 result rounded once, forward and backward, against float64 and PyTorch."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import TABLE
from test_properties import OPERATIONS

import tinyattn as ta
from tinyattn import nn, optim
from tinyattn.backends.cpu.halves import narrow, widen
from tinyattn.nn import functional as F

HALF = np.float16
ON_EVERY_DEVICE = ("test_float16_values_are_right",)


def half(values, **options):
    return ta.tensor(values, dtype=ta.float16, **options)


def same(ours, expected):
    """Equal bit for bit; a NaN equals any NaN."""
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


def rounded(x):
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(HALF)


# --- right values ---

RIGHT = {
    "mean": (lambda x: x.mean(), [4e4, 4e4], 4e4),
    "mean of many": (lambda x: x.mean(), np.ones(100_000), 1.0),
    "var": (lambda x: x.var(), [200, -200, 200, -200], 160_000 / 3),
    "std": (lambda x: x.std(correction=0), [300, -300], 300),
    "sum": (lambda x: x.sum(0), np.ones((5000, 2)), [5000, 5000]),
    "cumsum": (lambda x: x.cumsum(0)[-1], np.ones(5000), 5000),
    "prod": (lambda x: x.prod(), [300, 300, 0.5], 45_000),
    "softmax": (lambda x: x.softmax(0)[:1], np.zeros(65_536), [2.0**-16]),
    "logsumexp": (lambda x: x.logsumexp(0), np.zeros(65_536), math.log(65_536)),
    "log_softmax": (lambda x: F.log_softmax(x, 0)[:1], np.zeros(65_536), [-math.log(65_536)]),
    "softplus": (F.softplus, [12.0], [math.log1p(math.exp(12))]),
    "a number times float16": (lambda x: 1e-3 * x, [65_504.0], [65.504]),
    "float16 times a large number": (lambda x: x * 65_536, [1e-3], [float(HALF(1e-3)) * 65_536]),
    "float16 over a large number": (lambda x: x / 1e5, [6e4], [0.6]),
    "a 0-d tensor": (lambda x: x * ta.tensor(1e-7), [6e4], [6e-3]),
    "alpha": (lambda x: ta.add(x, x, alpha=65_536), [1e-2], [float(HALF(1e-2)) * 65_537]),
    "matmul": (lambda x: x @ x, np.full(5000, 1.0), 5000),
    "mse_loss": (lambda x: F.mse_loss(x, x * 0), [300, 0, 0, 0], 22_500),
    "l1_loss": (lambda x: F.l1_loss(x, x * 0), np.ones(100_000), 1),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, ta.zeros(70_000, dtype=ta.int64)), np.zeros((70_000, 2)), math.log(2)
    ),
    "weighted cross_entropy": (
        lambda x: F.cross_entropy(x, ta.zeros(70_000, dtype=ta.int64), half([3.0, 1.0])),
        np.zeros((70_000, 2)), math.log(2),
    ),
    "binary_cross_entropy_with_logits": (
        lambda x: F.binary_cross_entropy_with_logits(x, x * 0), np.zeros(70_000), math.log(2)
    ),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x, scale=1.0), [[[256.0]]], [[[256.0]]]),
    "packed_attention": (lambda x: F.packed_attention(x, 1, scale=1.0), [[[256.0, 256.0, 3.0]]], [[[3.0]]]),
    "attention weights": (
        lambda x: nn.MultiheadAttention(1, 1).to(ta.float16)(x, x, x)[1].sum(), np.full((1, 9, 1), 300.0), 9
    ),
    "dropout in attention": (
        lambda x: F.scaled_dot_product_attention(x, x, ta.ones_like(x), dropout_p=0.1).amax(), np.zeros((40, 1, 2)), 1 / 0.9
    ),
    "layer_norm": (lambda x: F.layer_norm(x, (2,)), [[3e4, -3e4]], [[1.0, -1.0]]),
    "addcmul": (lambda x: ta.addcmul(x, x, x, value=1e-4), [300.0], [309.0]),
    "addcdiv": (lambda x: ta.addcdiv(x, x, x / 3e6, value=1e-4), [300.0], [600.0]),
    "addmm": (lambda x: ta.addmm(x, x, x, alpha=1e-4), [[300.0]], [[309.0]]),
    "addmv": (lambda x: ta.addmv(x[0], x, x[0], alpha=1e-4), [[300.0]], [309.0]),
    "addr": (lambda x: ta.addr(x, x[0], x[0], alpha=1e-4), [[300.0]], [[309.0]]),
    "baddbmm": (lambda x: ta.baddbmm(x, x, x, alpha=1e-4), [[[300.0]]], [[[309.0]]]),
    "addbmm": (lambda x: ta.addbmm(x[0], x, x, alpha=1e-4), [[[300.0]]], [[309.0]]),
    "lerp": (lambda x: ta.lerp(x, -x, 0.5), [6e4], [0.0]),
    "trapezoid": (lambda x: ta.trapezoid(x, dx=1e-2), [6e4, 6e4], 600.0),
    "inverse": (lambda x: ta.linalg.inv(x) * 300, [[300.0, 0.0], [300.0, 300.0]], [[1.0, 0.0], [-1.0, 1.0]]),
    "solve": (lambda x: ta.linalg.solve(x, x[:, 0]), [[300.0, 0.0], [300.0, 300.0]], [1.0, 0.0]),
    "lp_pool1d": (lambda x: F.lp_pool1d(x, 2, 2), [[300.0, 400.0]], [[500.0]]),
    "local_response_norm": (lambda x: F.local_response_norm(x, 1, 1.0, 0.5, 0.0), [[[300.0]]], [[[1.0]]]),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["kernels", "definitions"])
@pytest.mark.parametrize("name", RIGHT)
def test_float16_values_are_right(name, mode):
    function, values, expected = RIGHT[name]
    ta.manual_seed(0)  # dropout keeps an element then
    with ta.definitions() if mode == "definitions" else ta.enable_grad():
        out = function(half(values))
    assert out.dtype == HALF
    np.testing.assert_allclose(out.cpu().numpy().astype(float), expected, rtol=2**-10)


def test_gradient_of_max_over_70000_ties_in_float16():
    x = ta.ones(70_000, dtype=ta.float16, requires_grad=True)
    x.max().backward()
    same(x.grad, np.full(70_000, 1 / 70_000, HALF))


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradient_of_gelu_tanh_at_300_in_float16(create_graph):
    x = half([300.0, -300.0, 3.0], requires_grad=True)
    (g,) = ta.grad(F.gelu(x, "tanh").sum(), x, create_graph=create_graph)
    t = torch.tensor([300.0, -300.0, 3.0], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(TF.gelu(t, approximate="tanh").sum(), t, create_graph=True)
    np.testing.assert_allclose(g.detach().numpy(), expected.detach(), rtol=2**-10)
    if create_graph:
        (second,) = ta.grad(g.sum(), x)
        (theirs,) = torch.autograd.grad(expected.sum(), t)
        np.testing.assert_allclose(second.numpy(), theirs, rtol=2**-9, atol=1e-7)


def test_gradient_of_a_float16_tensor_used_5000_times_is_counted():
    x = half([1.0, 1.0], requires_grad=True)
    sum((x for _ in range(5000)), ta.zeros(2)).sum().backward()
    same(x.grad, rounded([5000, 5000]))
    w = half([1.0], requires_grad=True)
    w.expand(5000).sum().backward()
    w[[0] * 5000].sum().backward()
    F.embedding(ta.zeros(5000, dtype=ta.int64), w.reshape(1, 1)).sum().backward()
    same(w.grad, rounded([15_000]))


def test_hooks_and_grads_of_float16_are_float16():
    x, seen = half([1.0, 2.0], requires_grad=True), []
    y = x * 2
    y.register_hook(lambda g: seen.append(g.dtype))
    y.register_hook(lambda g: g * 3)
    y.retain_grad()
    (y * y).sum().backward()
    assert seen == [HALF] and y.grad.dtype == x.grad.dtype == HALF
    same(x.grad, rounded([24, 48]))
    z = x.float() * 1e5  # a gradient that float16 cannot hold is infinite once it arrives, not before
    same(ta.grad(z.sum() * 1e-5, x)[0], rounded([1, 1]))


# --- all operations, whatever the numbers ---


def steps(ours, expected):
    """The largest distance of two arrays in units in the last place of float16."""
    ours, expected = (np.asarray(x, HALF).view(np.int16).astype(int) for x in (ours, expected))
    ordered = [np.where(x < 0, -(x & 0x7FFF), x) for x in (ours, expected)]
    return np.abs(ordered[0] - ordered[1]).max(initial=0)


def assert_rounded(ours, expected, exact=True):
    """`ours` is `expected` rounded once: equal, or without `exact` at most one unit in the last place away."""
    assert (ours.dtype == HALF) == (expected.dtype == np.float32) and ours.shape == expected.shape
    ours, expected = ours.numpy(), expected.numpy()
    expected = rounded(expected) if ours.dtype == HALF else expected
    if exact:
        same(ours, expected)
    else:
        known = np.isfinite(ours) & np.isfinite(expected)
        assert steps(ours[known], expected[known]) <= 1
        same(np.isnan(ours), np.isnan(expected))


# The statistics of batch_norm are inputs of the operation; the function computes them in float32 (next test).
@pytest.mark.parametrize("name", sorted(TABLE.keys() - {"batch_norm"}))
@settings(max_examples=6, derandomize=True, deadline=None, database=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-4, 1, 30, 3e4]), definition=st.booleans())
def test_float16_operations_round_float32_results_once(name, seed, scale, definition):
    rng = np.random.default_rng(seed)
    for case in TABLE[name]:
        arrays = [rounded(rng.uniform(case.low, case.high, shape) * scale) for shape in case.shapes]
        both = [[ta.tensor(a, dtype=dtype, requires_grad=True) for a in arrays] for dtype in (ta.float16, ta.float32)]
        with ta.definitions() if definition else ta.enable_grad():
            outs = [case.call(OPERATIONS[name], *xs) for xs in both]
        assert_rounded(*(out.detach() for out in outs))
        g = rounded(rng.normal(size=outs[0].shape))
        for out in outs:
            out.backward(ta.tensor(g, dtype=out.dtype))
        for mine, theirs in zip(*both, strict=True):
            assert (mine.grad is None) == (theirs.grad is None)
            if mine.grad is not None:
                assert_rounded(mine.grad, theirs.grad)


@pytest.mark.parametrize("scale", [1e-3, 1, 3e4])
def test_float16_batch_norm_rounds_float32_results_once(scale):
    rng = np.random.default_rng(0)
    arrays = [rounded(rng.normal(size=shape) * scale) for shape in ((8, 3, 5), (3,), (3,))]
    both = [[ta.tensor(a, dtype=dtype, requires_grad=True) for a in arrays] for dtype in (ta.float16, ta.float32)]
    running = [ta.zeros(3, dtype=dtype) for dtype in (ta.float16, ta.float32)]
    outs = [F.batch_norm(x, r, None, w, b, training=True) for (x, w, b), r in zip(both, running, strict=True)]
    assert_rounded(*(out.detach() for out in outs))
    assert_rounded(*running)
    g = rounded(rng.normal(size=outs[0].shape))
    for out in outs:
        out.backward(ta.tensor(g, dtype=out.dtype))
    for mine, theirs in zip(*both, strict=True):
        assert_rounded(mine.grad, theirs.grad)


@pytest.mark.parametrize("name", sorted(TABLE))
@settings(max_examples=3, derandomize=True, deadline=None, database=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_second_derivatives_of_float16_operations_round_once(name, seed):
    rng = np.random.default_rng(seed)
    for case in TABLE[name]:
        arrays = [rounded(rng.uniform(case.low, case.high, shape)) for shape in case.shapes]
        found, upstream = [], None
        for dtype in (ta.float16, ta.float32):
            xs = [ta.tensor(a, dtype=dtype, requires_grad=True) for a in arrays]
            out = case.call(OPERATIONS[name], *xs)
            upstream = rounded(rng.normal(size=out.shape)) if upstream is None else upstream
            first = ta.grad(out, xs, ta.tensor(upstream, dtype=out.dtype), create_graph=True)
            tracked = [g for g in first if g.requires_grad]
            ones = [ta.ones_like(g) for g in tracked]
            found.append((first, ta.grad(tracked, xs, ones, allow_unused=True) if tracked else ()))
        for mine, theirs in zip(*(first for first, _ in found), strict=True):
            assert_rounded(mine.detach(), theirs.detach(), exact=False)
        for mine, theirs in zip(*(second for _, second in found), strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:  # what cancels in float32 leaves its rounding errors
                scale = float(np.abs(theirs.numpy()).max(initial=0))
                np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=2**-10, atol=1e-6 * scale + 2**-25)


LONG = {
    "sum": lambda x: x.sum(0), "mean": lambda x: x.mean(0), "var": lambda x: x.var(0), "std": lambda x: x.std(0),
    "logsumexp": lambda x: x.logsumexp(0), "softmax": lambda x: x.softmax(0), "log_softmax": lambda x: F.log_softmax(x, 0),
    "amax": lambda x: x.amax(0), "layer_norm": lambda x: F.layer_norm(x, x.shape),
    "cross_entropy": lambda x: F.cross_entropy(x, ta.tensor(0)), "mse_loss": lambda x: F.mse_loss(x, ta.zeros_like(x)),
    "l1_loss": lambda x: F.l1_loss(x, ta.zeros_like(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
@settings(max_examples=5, derandomize=True, deadline=None, database=None)
@given(n=st.integers(2, 70_000), seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1, 100, 6e4]))
def test_float16_of_up_to_70000_elements_is_float64_rounded(name, n, seed, scale):
    rng = np.random.default_rng(seed)
    a, g, found = rounded(rng.uniform(0.3, 1, n) * scale), None, []
    for dtype in (ta.float16, ta.float64):
        x = ta.tensor(a, dtype=dtype, requires_grad=True)
        out = LONG[name](x)
        g = rounded(rng.normal(size=out.shape)) if g is None else g
        out.backward(ta.tensor(g, dtype=dtype))
        found.append((out.detach().numpy(), x.grad.numpy()))
    for mine, exact in zip(*found, strict=True):
        expected = rounded(exact)
        same(np.isinf(mine), np.isinf(expected))
        large = np.abs(exact).max(initial=0) * 1e-6  # float32, in which terms of this size cancel
        close = np.isfinite(expected)
        np.testing.assert_allclose(mine[close].astype(float), exact[close], rtol=2**-10, atol=large + 2**-24)


# --- optimizers and clipping ---


def test_adam_of_float16_does_not_freeze_on_large_gradients():
    for by_definition in (False, True):
        for name in ("Adam", "AdamW"):
            w = half([1.0], requires_grad=True)
            optimizer = getattr(optim, name)([w], lr=0.1)
            for _ in range(3):
                w.grad = half([256.0])
                with ta.definitions() if by_definition else ta.enable_grad():
                    optimizer.step()
            np.testing.assert_allclose(w.detach().numpy(), 0.7, rtol=5e-3)
            assert {x.dtype for x in optimizer.state[w].values()} == {np.dtype("float32")}


@pytest.mark.parametrize(("name", "options"), [("Adam", {"amsgrad": True}), ("SGD", {"momentum": 0.9})])
@pytest.mark.parametrize("count", [1, 6])  # six are bundled
def test_optimizers_of_float16_step_in_float32(name, options, count):
    rng = np.random.default_rng(0)
    starts = [rounded(rng.normal(size=(3, 2))) for _ in range(count)]
    ours = [half(a, requires_grad=True) for a in starts]
    wide = [torch.tensor(a).float().requires_grad_() for a in starts]
    optimizer, theirs = (
        getattr(optim, name)(ours, lr=0.01, **options),
        getattr(torch.optim, name)(wide, lr=0.01, **options),
    )
    for i in range(20):
        for p, q in zip(ours, wide, strict=True):
            g = rounded(rng.normal(size=(3, 2)) * 10.0 ** rng.integers(0, 4))
            p.grad, q.grad = half(g), torch.tensor(g).float()
        optimizer.step()
        theirs.step()
        with torch.no_grad():
            for p, q in zip(ours, wide, strict=True):
                assert steps(p.numpy(), q.numpy()) <= 1, i
                q.copy_(torch.tensor(p.numpy()))  # both go on from the rounded parameters
    again = getattr(optim, name)(ours, lr=0.01, **options)
    again.load_state_dict(optimizer.state_dict())
    for p in ours:
        for key, value in optimizer.state[p].items():
            assert again.state[p][key].dtype == np.float32
            same(again.state[p][key], value)


def test_clip_grad_norm_of_float16():
    ours = [half([0.0], requires_grad=True) for _ in range(4)]
    for p in ours:
        p.grad = half([300.0])
    norm = nn.utils.clip_grad_norm_(ours, 1.0)
    assert norm.item() == 600 and norm.dtype == HALF
    assert [p.grad.item() for p in ours] == [0.5] * 4
    for p in ours:
        p.grad = half([6e4])
    assert nn.utils.clip_grad_norm_(ours, 1.0, error_if_nonfinite=True).item() == math.inf  # 120,000, rounded
    assert [p.grad.item() for p in ours] == [0.5] * 4


# --- comparisons and conversions ---


def test_comparisons_of_float16_are_torchs():
    a = np.array([0.1, 1e-7, 6e4], HALF)
    for number, name in itertools.product((0.1, 1e-7, 6e4), ("eq", "ne", "lt", "le", "gt", "ge")):
        mine, theirs, t = getattr(ta, name), getattr(torch, name), torch.tensor(a)
        same(mine(ta.tensor(a), number), theirs(t, number))
        same(mine(ta.tensor(a), ta.tensor(number)), theirs(t, torch.tensor(number)))


EVERY = np.arange(65_536, dtype=np.uint16).view(HALF)


def test_every_float16_widens_as_numpy_has_it():
    for a in (EVERY, EVERY.reshape(256, 256).T, EVERY.reshape(256, 256)[:, ::2], EVERY[:0], EVERY[40_000]):
        a = np.asarray(a)
        same(widen(a), a.astype(np.float32))
        assert widen(a).dtype == np.float32 and widen(a).shape == a.shape


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7C01, 0xFC01, 0x7BFF, 0xFBFF])  # both signs: infinity, NaN, 65504
def test_one_extreme_float16_among_small_numbers_widens(bits):
    x = np.linspace(-2, 2, 600).astype(HALF)
    x.view(np.uint16)[7] = bits
    same(widen(x), x.astype(np.float32))


def test_numbers_narrow_to_float16_as_numpy_has_it():
    wide = EVERY[np.isfinite(EVERY)].astype(np.float32)
    halfway = (np.sort(wide)[1:] + np.sort(wide)[:-1]) / 2
    beside = [np.nextafter(halfway, np.float32(sign * np.inf)) for sign in (1, -1)]
    some = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint32).view(np.float32)
    for a in (wide, halfway, *beside, some, np.float32([65_519, 65_520, 65_536, 1e30, np.inf, -np.inf, np.nan] * 99)):
        ours, expected = narrow(a), rounded(a)
        same(ours, expected)
        same(np.signbit(ours)[ours == 0], np.signbit(expected)[expected == 0])
