"""Kernels that replaced slow ones: the same values as their definitions, at sizes that reach their fast paths."""

from __future__ import annotations

import itertools
import math
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from answers import torch

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn.backends import cpu
from tinyattn.backends.cpu.choices import select
from tinyattn.backends.cpu.indexing import _in_order

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from bench import cases

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1001])
@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_prod_gradients_with_zeros_equal_torch(size, zeros):
    x = 1 + RANDOM.normal(size=(3, size)) * 0.03
    x[:, : min(zeros, size)] = 0
    ours, theirs = ta.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    (b,) = torch.autograd.grad(torch.prod(theirs, 1).sum(), theirs, create_graph=True)
    for create_graph in (False, True):
        (a,) = ta.grad(ta.prod(ours, 1).sum(), ours, create_graph=create_graph)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-12)
    if size > 1:
        (a,), (b,) = ta.grad((a * a).sum(), ours), torch.autograd.grad((b * b).sum(), theirs)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", [1023, 1300, 300_001])
def test_prod_of_a_long_vector_equals_numpy(size):
    x = 1 + RANDOM.normal(size=size) * 1e-3
    np.testing.assert_allclose(cpu.prod(x), np.multiply.reduce(x), rtol=1e-11)


def test_prod_gradient_with_a_zero_takes_linear_memory():
    x = ta.ones(16000)
    x[7] = 0
    out = x.requires_grad_().prod()
    tracemalloc.start()
    ta.grad(out, x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # 64 KB an array


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floor_division_equals_numpy_exactly(dtype):
    b = np.concatenate([RANDOM.normal(size=9000), RANDOM.integers(1, 50, 9000) / 10]).astype(dtype)
    a = np.concatenate([RANDOM.normal(size=9000) * 100, b[9000:] * RANDOM.integers(-99, 99, 9000)]).astype(dtype)
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-300, 1e30]
    pairs = np.array(list(itertools.product(special, special)), dtype)
    a, b = np.concatenate([a, pairs[:, 0]]), np.concatenate([b, pairs[:, 1]])
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(cpu.floor_divide(a, b), np.floor_divide(a, b))
        np.testing.assert_array_equal(cpu.floor_divide(a, 0.1), np.floor_divide(a, 0.1))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool"])
def test_select_equals_where_for_every_operand(dtype):
    mask = RANDOM.random((80, 90)) < 0.4
    a, b = ((RANDOM.normal(size=s) * 9).astype(dtype) for s in ((80, 90), (90,)))
    operands = [
        a,
        b,
        a[:, ::-1],
        a.T.copy().T,
        np.asarray(a[0, 0]),
        0,
        *([0.0, -0.0, np.nan] if a.dtype.kind == "f" else []),
    ]
    for x, y in itertools.product(operands, operands):
        for condition in (mask, np.asfortranarray(mask), mask[:, :1] | mask):
            found, true = select(condition, x, y), np.where(condition, x, y)
            assert found.dtype == true.dtype
            np.testing.assert_array_equal(found, true)
            if true.dtype.kind == "f":
                np.testing.assert_array_equal(np.signbit(found), np.signbit(true))


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
@pytest.mark.parametrize("limit", [100, 2**40, 2**62])
def test_integer_matmul_is_exact_or_wraps_as_before(dtype, limit):
    limit = min(limit, np.iinfo(dtype).max)
    a, b = (RANDOM.integers(-limit if dtype[0] == "i" else 0, limit, (40, 40)).astype(dtype) for _ in range(2))
    np.testing.assert_array_equal(cpu.matmul(a, b), np.matmul(a, b))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(90, 7), (90, 33), (7, 90), (5, 33, 20), (5, 20, 33), (3, 400, 2)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_extremes_and_products_equal_numpy_reductions(dtype, shape, axis):
    x = (RANDOM.normal(size=shape) * 3).astype(dtype)
    x = x if x.dtype.kind != "f" else np.where(RANDOM.random(shape) < 0.01, x.dtype.type(np.nan), x)
    for keepdim in (False, True):
        np.testing.assert_array_equal(cpu.amax(x, axis, keepdim), x.max(axis, keepdims=keepdim), strict=True)
        np.testing.assert_array_equal(cpu.amin(x, axis, keepdim), x.min(axis, keepdims=keepdim), strict=True)
        if dtype != "float16":  # which the engine computes in float32
            found, true = cpu.prod(x / 3, axis, keepdim), (x / 3).prod(axis, np.float64, keepdims=keepdim)
            np.testing.assert_allclose(found, true.astype(found.dtype), rtol=1e-5, strict=True)


@pytest.mark.parametrize(("first", "later"), [(1, 1), (1, 0), (0, np.inf), (1, np.nan), (1e-30, 1e20), (1e30, 1e-25)])
@pytest.mark.parametrize(("shape", "axis"), [((90, 100), 0), ((90, 100), 1), ((5, 37, 20), 1), ((70, 3, 16), 2)])
def test_cumprod_in_stretches_equals_numpy(shape, axis, first, later):
    x, middle = (1 + RANDOM.normal(size=shape) * 0.1).astype(np.float32), shape[axis] // 2
    np.moveaxis(x, axis, 0)[0] *= first
    np.moveaxis(x, axis, 0)[middle + 1 : middle + 3] *= later  # whose own product may overflow
    with cpu.quiet():
        np.testing.assert_allclose(cpu.cumprod(x, axis), np.cumprod(x, axis), rtol=1e-5)


@pytest.mark.parametrize("outputs", [1, 3])
def test_an_infinite_weight_of_conv2d_spoils_only_the_gradients_it_reaches(outputs):
    x, weight = ta.zeros(1, 2, 4, 5, requires_grad=True), ta.ones(outputs, 2, 3, 3)
    weight[0, 0, 0, 0] = math.inf
    (found,) = ta.grad(F.conv2d(x, weight, padding=1).sum(), x)
    assert found.isinf().sum() == 3 * 4 and found.isfinite().sum() == 40 - 3 * 4


@pytest.mark.parametrize("mode", ["replicate", "reflect", "circular"])
def test_pad_modes_name_the_same_elements_as_their_formulas(mode):
    place = {
        "reflect": lambda i, n: n - 1 - abs(n - 1 - abs(i)),
        "replicate": lambda i, n: min(max(i, 0), n - 1),
        "circular": lambda i, n: i % n,
    }[mode]
    for n, before, after in itertools.product(range(1, 5), range(-4, 5), range(-4, 5)):
        lost = [max(-before, 0), max(-after, 0)] if mode == "circular" else [0, 0]  # does not come round again
        inside = n - sum(lost)
        grown = [max(before, 0), max(after, 0)] if mode == "circular" else [before, after]
        if before + after < -n or inside < 1 or max(before, after) > (n - 1 if mode == "reflect" else inside):
            continue
        expected = [lost[0] + place(i, inside) for i in range(-grown[0], inside + grown[1])]
        found = ta.pad(ta.arange(n), (before, after), mode=mode)
        assert found.tolist() == expected, (n, before, after)


@pytest.mark.parametrize("shape", [(50, 30), (50, 1), (50,)])
@pytest.mark.parametrize("high", [1, 3, 50])  # one row many times, too
def test_index_gradients_count_repeated_rows(shape, high):
    index = RANDOM.integers(-high, high, 60)
    x = ta.zeros(shape, dtype="float64").requires_grad_()
    g = RANDOM.normal(size=(60, *shape[1:]))
    expected = np.zeros(shape)
    np.add.at(expected, index, g)
    (found,) = ta.grad(x[index], x, ta.tensor(g))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint16", "uint32", "uint64"])
def test_indices_of_every_dtype_reach_beyond_their_range(dtype):
    x, i = ta.zeros(300, 400, dtype="float64").requires_grad_(), np.array([1, 3, 3, 99, 0], dtype)
    wide = np.tile(i, (300, 1))
    for out, index in (
        (x[i], (i,)),
        (x[:, i], (slice(None), i)),
        (ta.gather(x, 1, ta.tensor(wide)), (np.arange(300)[:, None], wide)),
        (ta.gather(x, 0, ta.tensor(wide.T.copy())), (wide.T, np.arange(300))),
        (F.embedding(ta.tensor(i), x), (i,)),
    ):
        g = RANDOM.normal(size=out.shape)
        expected = np.zeros(x.shape)
        np.add.at(expected, index, g)
        np.testing.assert_allclose(ta.grad(out, x, ta.tensor(g))[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [5, 2**40, 2**55])
def test_order_of_indices_is_stable_in_tables_of_any_size(size):
    index = RANDOM.integers(0, size, 3000)
    index[::3] = size - 1
    order = np.argsort(index, kind="stable")
    for found, true in zip(_in_order(index, size), (order, index[order]), strict=True):
        np.testing.assert_array_equal(found, true)


@pytest.mark.parametrize("shape", [(30, 20), (30, 2)])
def test_index_add_broadcasts_what_it_adds(shape):
    index = RANDOM.integers(-30, 30, (4, 10))
    for values in (np.float64(2.0), RANDOM.normal(size=shape[1]), RANDOM.normal(size=(10, 1))):
        found, true = np.ones(shape), np.ones(shape)
        cpu.index_add(found, (index,), values)
        np.add.at(true, index, values)
        np.testing.assert_allclose(found, true)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_nonfinite_gradient_of_embedding_spoils_only_its_row(value):
    weight, index = ta.zeros(5, 3, requires_grad=True), np.arange(40) % 5
    g = RANDOM.normal(size=(40, 3)).astype("float32")
    g[7, 1] = value
    expected = np.zeros((5, 3))
    np.add.at(expected, index, g)
    (found,) = ta.grad(F.embedding(ta.tensor(index), weight), weight, ta.tensor(g))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_index_gradients_of_large_tables_equal_small_ones():
    x = ta.zeros(40, 30, 20, dtype="float64").requires_grad_()
    for index in [([1, -1, 1],), (slice(None), [2, 2]), ([0, 5], slice(1, 9, 2), [3, -3]), (..., [4, 4, -1])]:
        out = x[tuple(np.array(i) if isinstance(i, list) else i for i in index)]
        g = RANDOM.normal(size=out.shape)
        expected = np.zeros(x.shape)
        np.add.at(expected, index, g)
        np.testing.assert_allclose(ta.grad(out, x, ta.tensor(g))[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(300, 200), (3, 40000), (3, 70, 300), (5, 40, 1), (40, 500, 3), (70000,), (2, 0)])
@pytest.mark.parametrize("high", [1, 2, 1000])
def test_index_and_gather_gradients_in_float32_are_summed_in_blocks(shape, high):
    x = ta.zeros(shape).requires_grad_()
    for dim, n in enumerate(shape):
        one = RANDOM.integers(-min(n, high), min(n, high) or 1, 3 * n)
        wide = RANDOM.integers(0, min(n, high) or 1, [max(m - 1, 0) if d != dim else m for d, m in enumerate(shape)])
        places = list(np.meshgrid(*map(np.arange, wide.shape), indexing="ij"))
        places[dim] = wide
        selected = (slice(None),) * dim + (one,)
        for out, index in ((x[selected], selected), (ta.gather(x, dim, ta.tensor(wide)), tuple(places))):
            g = RANDOM.normal(size=out.shape).astype("float32")
            expected = np.zeros(shape)
            np.add.at(expected, index, g)
            (found,) = ta.grad(out, x, ta.tensor(g))
            np.testing.assert_allclose(found.numpy(), expected, rtol=2e-6, atol=2e-5)


def test_einsum_of_one_operand_is_a_view():
    x = ta.randn(3, 4)
    assert np.shares_memory(ta.einsum("ij->ji", x).numpy(), x.numpy())
    np.testing.assert_allclose(ta.einsum("ij->", x).item(), x.numpy().sum(), rtol=1e-5)


def test_gelu_in_float32_is_within_its_last_places():
    x = np.concatenate([np.linspace(-9, 9, 90001), [-1e30, -50, 50, 1e30]]).astype("float32")
    true = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.astype("float64")])
    found = F.gelu(ta.tensor(x)).numpy()
    assert np.abs(found - true)[x < 0].max() < 0.8 * 2**-24
    assert (np.abs(found - true) / np.spacing(np.maximum(true, 1e-9).astype("float32")))[x > 0].max() < 2.2


@pytest.mark.parametrize("name", ["erf", "sigmoid", "sign", "relu"])
def test_blockwise_kernels_take_any_layout(name):
    x = RANDOM.normal(size=(300, 500)).astype("float32")
    x[0, 0] = np.nan
    expected = getattr(cpu, name)(x)
    for other in (np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2], x[::-1][::-1], x[:, ::-1].copy()[:, ::-1]):
        np.testing.assert_array_equal(getattr(cpu, name)(other), expected)
    cube = RANDOM.normal(size=(50, 60, 70)).astype("float32").transpose(1, 2, 0)
    np.testing.assert_array_equal(getattr(cpu, name)(cube), getattr(cpu, name)(np.ascontiguousarray(cube)))


@pytest.mark.parametrize("shape", [(1,), (5, 1), (9000, 3), (7, 5000), (300, 1, 7), (1, 4), (0, 3)])
def test_gradients_of_sums_are_copies_of_expanded_arrays(shape):
    for ahead in [(), (1,), (3,), (10000,) if np.prod(shape) < 1000 else (40,)]:
        x = ta.zeros(*ahead, *shape).requires_grad_()
        out = x.sum(tuple(range(len(ahead))) or 0)
        g = ta.randn(*out.shape)
        (found,) = ta.grad(out, x, g)
        np.testing.assert_array_equal(found.numpy(), np.broadcast_to(g.numpy(), found.shape))
        assert found.numpy().flags.c_contiguous and found.numpy().flags.writeable


@pytest.mark.parametrize("dtype", ["float64", "bool"])
@pytest.mark.parametrize(
    ("shape", "dim"), [((9000, 3), 1), ((3, 9000), 1), ((3, 9000), 0), ((9000,), 0), ((90, 2, 50), 1)]
)
def test_clone_of_an_expanded_array_keeps_its_values(shape, dim, dtype):
    few = RANDOM.normal(size=[1 if d == dim else n for d, n in enumerate(shape)])
    x = np.broadcast_to(few > 0 if dtype == "bool" else few, shape)
    np.testing.assert_array_equal(cpu.clone(x), x)


@pytest.mark.parametrize("name", ["leaky_relu", "hardtanh", "relu6", "hardswish", "huber_loss"])
def test_piecewise_functions_equal_torch_at_their_bends(name):
    x = np.array([-np.inf, -7, -3, -1, -1e-30, -0.0, 0.0, 1e-30, 1, 3, 6, 7, np.inf, np.nan], "float32")
    x = x[:-1] if name == "hardswish" else x  # of NaN, PyTorch has the gradient 1 there
    arguments = (np.zeros_like(x),) if name == "huber_loss" else ()
    found, true = [], []
    for library, functions, results in ((ta, F, found), (torch, torch.nn.functional, true)):
        leaf = library.from_numpy(x.copy()).requires_grad_()
        out = getattr(functions, name)(
            leaf, *map(library.from_numpy, arguments), **({"reduction": "none"} if arguments else {})
        )
        out.sum().backward()
        results += [out.detach().numpy(), leaf.grad.numpy()]
    for a, b in zip(found, true, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("values", [2, 50, 10**6])  # many equal elements, or few
def test_topk_is_the_beginning_of_the_stable_order(largest, values):
    x = RANDOM.integers(0, values, (40, 90, 3)).astype("float32")
    x[:5, ::7] = np.nan
    x[5:9, 3] = np.inf
    for dim, k in itertools.product(range(3), (0, 1, 2, 20)):
        if k <= x.shape[dim]:
            for array in (x, x.transpose(1, 0, 2), np.nan_to_num(x, posinf=9).astype("int32"), x[:0]):
                if k <= array.shape[dim]:
                    given = ta.tensor(array)
                    order = ta.argsort(given, dim, descending=largest).numpy().take(range(k), dim)
                    found = ta.topk(given, k, dim, largest)
                    np.testing.assert_array_equal(found.indices.numpy(), order)
                    np.testing.assert_array_equal(found.values.numpy(), np.take_along_axis(array, order, dim))


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_topk_of_rows_with_one_nan_or_one_tie(k, largest):
    x = RANDOM.normal(size=(300, 40)).astype("float32")
    x[:200, 0] = np.nan
    x[200:] = [*[-1.0 if largest else 1.0] * k, *[0.0] * (40 - k)]  # as many on the other side as are asked for
    x = RANDOM.permuted(x, axis=1)
    found, order = ta.topk(ta.tensor(x), k, 1, largest).indices, ta.argsort(ta.tensor(x), 1, descending=largest)
    np.testing.assert_array_equal(found.numpy(), order.numpy()[:, :k])


def test_every_case_of_the_table_can_be_read():
    found = cases.cases()
    assert len(found) > 240 and len(set(found)) == len(found)
    task = cases.run(
        torch, torch.nn.functional, torch.autograd.grad, {"expression": "x * y", "inputs": "x 3; y 3", "backward": True}
    )
    out, dx, dy = task()
    assert out.shape == dx.shape == dy.shape == (3,)


def test_the_summary_of_the_table_counts_cliffs():
    assert cases.summary("forward", [1.0, 4.0, 2.0]) == "forward: 3 cases, geometric mean 2.00, 1 above 3, largest 4.00"
