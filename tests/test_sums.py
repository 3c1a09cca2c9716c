"""Sums keep their numbers: along every axis, in every layout, at every length, and in the gradients."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from answers import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import nn
from tinyattn.backends import cpu
from tinyattn.backends.cpu import sums

MANY = 2**24 + 2**20  # ones that float32 cannot count one after the other
WIDE = {"float32": np.float64, "float64": np.longdouble}


# --- the same numbers, far from zero and many of them ---


def test_std_and_mean_of_offset_columns():
    a = np.full((60_000, 2), 10000.3, np.float32)
    a += (np.arange(60_000, dtype=np.float32) % 2)[:, None]
    x = ta.tensor(a)
    np.testing.assert_allclose(x.std(0).numpy(), a.astype(np.float64).std(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(x.mean(0).numpy(), a.astype(np.float64).mean(0), rtol=1e-7)


@pytest.mark.parametrize("dim", [0, (0,), (0, 1), None])
def test_mean_of_many_ones(dim):
    assert np.all(ta.ones(MANY, 2).mean(dim).numpy() == 1)


def test_sum_of_broadcast_ones_needs_no_memory():
    x = ta.ones(1, 3).expand(2**40, 3)
    assert x.sum(0).tolist() == [2.0**40] * 3
    assert x.mean().item() == 1


def test_std_of_images_by_channel():
    images = np.random.default_rng(0).integers(0, 256, (3000, 32, 32, 3)).astype(np.float32)
    found = ta.tensor(images).std((0, 1, 2)).numpy()
    np.testing.assert_allclose(found, images.astype(np.float64).std((0, 1, 2), ddof=1), rtol=1e-6)


def test_bias_gradient_counts_all_rows():
    bias, rows = ta.zeros(3, requires_grad=True), ta.zeros(MANY // 2 * 2, 3)
    (bias + rows).sum().backward()
    assert bias.grad.tolist() == [MANY] * 3
    assert cpu.sum_to(np.ones((MANY, 3), np.float32), (3,)).tolist() == [MANY] * 3
    assert cpu.sum_to(np.ones((MANY, 3), np.float32), (1, 3)).tolist() == [[MANY] * 3]


def test_cumsum_of_many_tenths_along_every_axis():
    for shape, dim in (((10**6,), 0), ((10**5, 4), 0), ((3, 10**5 + 7), 1), ((70_001, 40), 0), ((300_000, 3), 1)):
        x = np.full(shape, 0.1, np.float32)
        want = np.cumsum(x, dim, np.float64)
        np.testing.assert_allclose(ta.tensor(x).cumsum(dim).numpy(), want, rtol=4e-7)


def test_cumsum_with_infinity_keeps_what_comes_before():
    x = np.ones(5000)
    x[2500] = np.inf
    found = ta.tensor(x).cumsum(0).numpy()
    assert np.array_equal(found, np.cumsum(x))
    x[4000] = np.nan
    assert np.array_equal(ta.tensor(x).cumsum(0).numpy(), np.cumsum(x), equal_nan=True)


def test_logsumexp_and_softmax_over_many_rows():
    x = ta.zeros(MANY, 2)
    assert ta.logsumexp(x, 0).tolist() == pytest.approx([math.log(MANY)] * 2, rel=1e-7)
    assert ta.softmax(x, 0)[0].tolist() == pytest.approx([1 / MANY] * 2, rel=1e-6)
    assert ta.log_softmax(x, 0)[0].tolist() == pytest.approx([-math.log(MANY)] * 2, rel=1e-6)


@pytest.mark.parametrize("rows", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_gradients_of_look_ups_count_them_all(rows):
    index = ta.zeros(MANY, dtype="int64")
    for look_up in (
        lambda w: w[index],
        lambda w: F.embedding(index, w),
        lambda w: ta.gather(w, 0, index.reshape(-1, 1)),
        lambda w: ta.index_select(w, 0, index),
    ):
        weight = ta.zeros(rows, 1, requires_grad=True)
        look_up(weight).sum().backward()
        assert weight.grad[:2].tolist() == [[MANY], [0]]


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0])
def test_clip_grad_norm_of_many_gradients(norm_type):
    x = ta.zeros(2**24, requires_grad=True)
    x.grad = ta.full((2**24,), 0.1)
    want = float(np.float32(0.1)) * 2 ** (24 / norm_type)
    assert nn.utils.clip_grad_norm_([x], 1.0, norm_type).item() == pytest.approx(want, rel=2e-6)


def test_layer_norm_gradients_over_many_rows():
    rows = 2**22
    weight, bias = (ta.zeros(3, requires_grad=True) for _ in range(2))
    x = ta.tensor([[-1.0, 0.0, 1.0]]).expand(rows, 3)
    F.layer_norm(x, (3,), weight, bias).backward(ta.full((rows, 3), 0.1))
    scale = float(np.float32(0.1)) * rows
    np.testing.assert_allclose(bias.grad.numpy(), scale, rtol=1e-6)
    np.testing.assert_allclose(weight.grad.numpy()[2], scale / math.sqrt(2 / 3 + 1e-5), rtol=1e-6)


# --- constants, large and small numbers ---


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [0.1, 3333.3333, 1e-3, 1e20])
@pytest.mark.parametrize("n", [7, 100, 12_345, 1_000_003])
def test_std_of_constant_is_0_with_gradient_0(n, value, dtype):
    for shape, dim in (((n,), 0), ((n, 3), 0), ((3, n), 1)):
        x = ta.full(shape, value, dtype=dtype, requires_grad=True)
        spread = x.std(dim)
        spread.sum().backward()
        assert not spread.numpy().any()
        assert not x.grad.numpy().any()


@pytest.mark.parametrize("width", [7, 2049, 10_007])
@pytest.mark.parametrize("definition", [False, True])
def test_layer_norm_of_constant_row_is_0(width, definition):
    x = ta.full((4, width), 3333.3333)
    with ta.definitions() if definition else contextlib.nullcontext():
        assert not F.layer_norm(x, (width,), eps=1e-6).numpy().any()


def test_layer_norm_of_rows_far_from_0():
    x = (30000 + np.random.default_rng(0).normal(size=(50, 40))).astype(np.float32)
    wide = x.astype(np.float64)
    want = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(F.layer_norm(ta.tensor(x), (40,)).numpy(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e25, 1e-25, 3e38])
def test_std_whose_square_float32_cannot_hold(size):
    x = ta.tensor([0.0, size], requires_grad=True)
    x.std().backward()
    assert x.std().item() == pytest.approx(size / math.sqrt(2), rel=1e-6)
    assert x.grad.tolist() == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)], rel=1e-6)


@pytest.mark.parametrize("definition", [False, True])
def test_softplus_below_a_high_threshold(definition):
    x = [90.0, 0.0, -3.0, -200.0, 101.0]
    with ta.definitions() if definition else contextlib.nullcontext():
        found = F.softplus(ta.tensor(x), threshold=100).tolist()
    assert found == pytest.approx([np.logaddexp(0, each) for each in x], rel=1e-6)


def test_amax_of_short_rows_as_numpy():
    x = np.random.default_rng(0).normal(size=(5000, 7)).astype(np.float32)
    x[17, 3] = np.nan
    assert np.array_equal(ta.amax(ta.tensor(x), 1).numpy(), x.max(1), equal_nan=True)
    assert np.array_equal(ta.amin(ta.tensor(x), -1, keepdim=True).numpy(), x.min(1, keepdims=True), equal_nan=True)


# --- any shape, axes and layout: an error of a few units in the last place of the sum of sizes ---


@st.composite
def arrays(draw):
    """Numbers of one sign or two, in a layout that is transposed, strided, reversed, sliced or broadcast."""
    shape = draw(
        st.sampled_from(
            [
                (500, 2),
                (60,),
                (5000,),
                (70, 90),
                (3000, 3),
                (2, 5000),
                (300, 4, 5),
                (7, 300, 6),
                (9, 8, 7, 6),
                (1, 4000, 1),
            ]
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "offset", "tenths", "sizes"]))
    full = tuple(2 * n for n in shape)
    x = {
        "normal": lambda: rng.normal(size=full),
        "offset": lambda: 1e4 + rng.normal(size=full),
        "tenths": lambda: np.full(full, 0.1),
        "sizes": lambda: rng.normal(size=full) * 10.0 ** rng.integers(-6, 6, full),
    }[kind]().astype(draw(st.sampled_from(["float32", "float64"])))
    steps = [draw(st.sampled_from([1, 2, -1, -2])) for _ in shape]
    x = x[tuple(slice(None, None, s) for s in steps)]
    x = x[tuple(slice(n) for n in shape)]
    if draw(st.booleans()):
        x = np.ascontiguousarray(x)
    x = x.transpose(draw(st.permutations(range(x.ndim))))
    if draw(st.booleans()):
        axis = draw(st.integers(0, x.ndim - 1))
        x = np.broadcast_to(x[tuple(slice(1) if d == axis else slice(None) for d in range(x.ndim))], x.shape)
    dims = draw(st.sets(st.integers(0, x.ndim - 1), min_size=1))
    return x, tuple(dims)


def check(found, want, size, dtype, n, factor=1):
    """`found` differs from `want` by at most factor * (2 + log2(n)) units in the last place of `size`."""
    eps = np.finfo(dtype).eps
    assert found.dtype == dtype
    assert found.shape == want.shape
    assert np.all(np.abs(found - want) <= factor * (2 + math.log2(n)) * eps * size)


@settings(max_examples=200, deadline=None)
@given(arrays())
def test_sum_mean_var_error_in_any_layout(drawn):
    x, dims = drawn
    wide = x.astype(WIDE[x.dtype.name])
    n = math.prod(x.shape[d] for d in dims)
    t = ta.tensor(0.0, dtype=x.dtype.name)
    t.data = x
    size = np.abs(wide).sum(dims)
    check(t.sum(dims).numpy(), wide.sum(dims), size, x.dtype, n)
    check(t.mean(dims).numpy(), wide.mean(dims), size / n, x.dtype, n)
    kept = [1 if d in dims else m for d, m in enumerate(x.shape)]
    check(cpu.sum_to(x, kept), wide.sum(dims, keepdims=True), size.reshape(kept), x.dtype, n)
    if n > 1:
        centred = wide - wide.mean(dims, keepdims=True)
        want = (centred**2).sum(dims) / (n - 1)
        check(t.var(dims).numpy(), want, want + np.finfo(x.dtype).tiny, x.dtype, n)
        check(t.std(dims).numpy(), np.sqrt(want), np.sqrt(want) + np.finfo(x.dtype).tiny, x.dtype, n)


@settings(max_examples=200, deadline=None)
@given(arrays(), st.integers(0, 3))
def test_cumsum_error_in_any_layout(drawn, dim):
    x, dim = drawn[0], dim % drawn[0].ndim
    wide = x.astype(WIDE[x.dtype.name])
    n = x.shape[dim]
    check(cpu.cumsum(x, dim), np.cumsum(wide, dim), np.cumsum(np.abs(wide), dim), x.dtype, n, factor=2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2**22,), (2**21, 2), (2, 2**21), (3, 2**17, 5), (2**12, 2**10)])
def test_sum_error_grows_no_more_than_torchs(shape, dtype):
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(dtype)
    for dim in range(x.ndim):
        want = x.sum(dim, dtype=WIDE[dtype])
        ours, theirs = (
            float(np.max(np.abs(found - want) / want)) / np.finfo(dtype).eps
            for found in (ta.tensor(x).sum(dim).numpy(), torch.from_numpy(x).sum(dim).numpy())
        )
        assert ours <= 2 * theirs + 1


def test_pieces_of_an_array_cover_it_once():
    for shape in ((), (5,), (3 * sums._PIECE,), (2, 3, sums._PIECE + 1), (7, sums._PIECE // 2, 3)):
        seen = np.zeros(shape, np.int8)
        for part, _ in sums._pieces(shape, ()):
            assert seen[part].size <= sums._PIECE
            seen[part] += 1
        assert np.all(seen == 1)


@pytest.mark.parametrize("count", [65, 900, 5_000])
def test_few_additions_to_a_large_array_count_repeats(count):
    size = 100_000
    rng = np.random.default_rng(0)
    index = np.concatenate([rng.integers(0, size, count), rng.integers(0, 20, count), [size - 1, size - 1]])
    values = rng.standard_normal(len(index)).astype(np.float32)
    right = np.zeros(size)
    np.add.at(right, index, values.astype(np.float64))
    x = ta.ones(size, requires_grad=True)
    (x[ta.tensor(index)] * ta.tensor(values)).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("width", [2048, 2049, 3000, 4096 + 17])
def test_norms_and_layer_norm_read_rows_to_their_end(width):
    x = np.zeros((3, width), np.float32)
    x[:, -1] = [1.0, 2.0, 3.0]  # all that is not 0 stands at the end
    np.testing.assert_allclose(ta.linalg.norm(ta.tensor(x), dim=1).numpy(), [1.0, 2.0, 3.0], rtol=1e-6)
    assert ta.tensor(x[2]).norm().item() == pytest.approx(3.0)
    wide = x.astype(np.float64)
    right = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(F.layer_norm(ta.tensor(x), (width,)).numpy(), right, rtol=1e-4, atol=1e-6)
