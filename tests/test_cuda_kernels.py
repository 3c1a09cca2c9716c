"""The CUDA sources, run on the processor by tests/cuda_shim: every kernel equals the CPU's, which works in float64 here.

Each launch runs with its threads in three orders, on arrays between guard zones (`cuda_shim.thorough`). Sizes are chosen
around what the kernels treat differently: one element, four neighbours, a warp, a block, a tile, and more than each.
On a GPU (TINYATTN_GPU=1) it is the GPU that runs them.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cuda_shim
import gpus
import numpy as np
import pytest

gpus.install()

import cupy as cp  # noqa: E402 - after install()

import tinyattn as ta  # noqa: E402
from tinyattn.backends import cpu  # noqa: E402
from tinyattn.backends import cuda as gpu  # noqa: E402
from tinyattn.backends.cuda import launch, layers, rows, tensors  # noqa: E402
from tinyattn.backends.cuda import random as philox  # noqa: E402
from tinyattn.ops import attention  # noqa: E402

pytestmark = pytest.mark.gpu
TYPES = ["float32", "float64"]
COVERED: set[str] = set()
shim_launches: list[str] = []
TOLERANCE = {"float32": 4e-6, "float64": 2e-14}  # of the largest element


@functools.cache
def on_the_shim(source: str, kernel: str, dtype: str) -> Any:
    """In the place of launch.function."""
    function = cuda_shim.Module(launch.text(source), launch.options(dtype)).get_function(kernel)
    return lambda *args, **options: (shim_launches.append(kernel), function(*args, **options))


@pytest.fixture(autouse=True)
def _thoroughly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not gpus.FAKE:
        yield
        return
    monkeypatch.setattr(launch, "function", on_the_shim)
    from fakecuda import blocks

    monkeypatch.setattr(cuda_shim.guarded, "memory_at", blocks.at)
    with cp.cuda.using_allocator(blocks.allocate), cuda_shim.thorough(), np.errstate(all="ignore"):
        yield


def covers(*kernels: str) -> Callable[[Any], Any]:
    """Says which kernels a test is about."""
    COVERED.update(kernels)
    return lambda test: test


def random(*shape: int, seed: int = 0, dtype: str = "float32") -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def on_gpu(x: Any) -> Any:
    return cp.asarray(x) if isinstance(x, np.ndarray) else x


def wide(x: Any) -> Any:
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x


def assert_close(got: Any, expected: Any, factor: float = 1.0) -> None:
    """Within `factor` tolerances of the largest finite element; NaN and infinities at the same places."""
    got = got.get() if isinstance(got, cp.ndarray) else got
    assert got.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    np.testing.assert_array_equal(got[~finite], expected[~finite].astype(got.dtype))
    size = max(np.abs(expected[finite]).max(initial=0), 0.1)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=0, atol=factor * TOLERANCE[got.dtype.name] * size)


def compare(name: str, *args: Any, factor: float = 1.0, reference: Callable[..., Any] | None = None) -> None:
    """The GPU's function and the CPU's, in float64, on the same arguments."""
    got = getattr(gpu, name)(*map(on_gpu, args))
    expected = (reference or getattr(cpu, name))(*map(wide, args))
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    for a, b in pairs:
        if b is None:
            assert a is None
        else:
            assert_close(a, np.asarray(b), factor)


def compare_in_place(name: str, arrays: list[Any], *args: Any, factor: float = 1.0, **options: Any) -> None:
    """The same for what writes to its arrays."""
    ours = [on_gpu(x) for x in arrays]
    theirs = [wide(x) for x in arrays]
    getattr(gpu, name)(*ours, *map(on_gpu, args), **options)
    getattr(cpu, name)(*theirs, *map(wide, args), **options)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert_close(a, b, factor)


# --- softmax ---

ROWS = [((1, 1), 1), ((5, 10), -1), ((3, 49), 1), ((2, 3, 64), 2), ((9, 257), 1), ((2, 4100), 1), ((1, 8197), 1)]
COLUMNS = [((4, 5, 6), 1), ((4, 5, 6), 0), ((300, 3), 0), ((2, 1, 3), 1)]
SPECIAL = {
    "large": [[1e4, 1e4 - 1, -1e4], [-1e30, 0, 1e30]],
    "-inf": [[-np.inf, 0.5, -np.inf], [-np.inf, -np.inf, -np.inf]],
    "inf": [[np.inf, 1, 2], [np.inf, np.inf, 0]],
    "nan": [[np.nan, 1, 2], [3, 2, 1]],
}


@covers("softmax_rows", "log_softmax_rows")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("shape", "dim"), ROWS + COLUMNS)
def test_softmax(shape, dim, dtype):
    x = random(*shape, dtype=dtype) * 3
    compare("softmax", x, dim)
    compare("log_softmax", x, dim, factor=2)


@covers("softmax_backward")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("shape", "dim"), [case for case in ROWS if case[1] in (-1, len(case[0]) - 1)])
def test_softmax_backward_is_the_rule_of_softmax(shape, dim, dtype):
    y, g = cpu.softmax(random(*shape, dtype=dtype) * 3, dim), random(*shape, seed=1, dtype=dtype)
    rule = ta.ops.softmaxes._softmax.rules["x"]
    expected = rule(cpu, wide(g), wide(y), dim)
    assert_close(gpu.softmax_backward(on_gpu(g), on_gpu(y), None, False), expected, 3)
    assert_close(cpu.softmax_backward(g, y, lambda: (g * y).sum(dim, keepdims=True), False), expected, 3)


def test_softmax_backward_counts_nan_behind_a_mask_as_0():
    y = np.array([[0.5, 0, 0.5, 0], [0, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    g = np.array([[1, np.nan, 3, np.inf], [np.nan, np.inf, -np.inf, 1], [2, 5, np.nan, 7]], np.float32)
    ours = gpu.softmax_backward(on_gpu(g), on_gpu(y), None, True).get()
    np.testing.assert_array_equal(ours, [[-0.5, 0, 0.5, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(cpu.softmax_backward(g.copy(), y, lambda: [[2], [0], [5]], True), ours)
    assert np.isnan(gpu.softmax_backward(on_gpu(g), on_gpu(y), None, False).get()).all()


@pytest.mark.parametrize("turned", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("which", SPECIAL)
def test_softmax_of_what_is_not_finite(which, turned):
    x = np.array(SPECIAL[which], np.float32)
    x, dim = (np.ascontiguousarray(x.T), 0) if turned else (x, 1)
    compare("softmax", x, dim)
    compare("log_softmax", x, dim)


# --- layer norm ---

MATRICES = [(1, 1), (5, 3), (33, 64), (130, 129), (7, 500), (3, 3000), (2, 8200), (700, 16)]


@covers("layer_norm_forward", "layer_norm_backward", "column_sums")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "width"), MATRICES)
def test_layer_norm(rows, width, dtype):
    x, g = random(rows, width, dtype=dtype) + 2, random(rows, width, seed=1, dtype=dtype)
    weight, bias, shape = random(width, dtype=dtype), random(width, seed=1, dtype=dtype), (width,)
    compare("layer_norm", x, weight, bias, shape, 1e-5, factor=3)
    compare("layer_norm", x, None, None, shape, 1e-5, factor=3)
    _, normal, rstd = cpu.layer_norm(x, weight, bias, shape, 1e-5)
    for w, needed in ((weight, (True, True, True)), (None, (True, False, False)), (weight, (False, True, False))):
        compare("layer_norm_backward", g, normal, rstd, w, shape, needed, factor=5)


def test_layer_norm_of_more_rows_than_blocks_adds_both_sums_in_one_launch(monkeypatch):
    monkeypatch.setattr(layers, "_BLOCKS", 3)
    for count, width in ((130, 129), (500, 16)):
        x, g, weight = random(count, width) + 2, random(count, width, seed=1), random(width)
        _, normal, rstd = cpu.layer_norm(x, weight, None, (width,), 1e-5)
        args = g, normal, rstd, weight, (width,), (True, True, True)
        compare("layer_norm_backward", *args, factor=5)
        ours = [on_gpu(x) for x in args]
        assert launches_of(lambda: gpu.layer_norm_backward(*ours)) in (2, None)  # noqa: B023


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 200, 130), (1, 2100, 4)], ids=str)
def test_column_sums_of_several_matrices(shape, dtype):
    x, by = random(*shape, dtype=dtype), random(*shape, seed=1, dtype=dtype)
    assert_close(rows.column_sums(on_gpu(x)), wide(x).sum(1), 10)
    assert_close(rows.column_sums(on_gpu(x), on_gpu(by)), (wide(x) * wide(by)).sum(1), 10)


@pytest.mark.parametrize("dtype", TYPES)
def test_column_sums_give_the_same_bits_however_often(dtype):
    x = on_gpu(random(3000, 37, dtype=dtype))
    first = rows.column_sums(x).get()
    assert_close(rows.column_sums(x), x.get().astype(np.float64).sum(0), 10)
    assert rows.stripes(3000) > 1
    assert rows.column_sums(x).get().tobytes() == first.tobytes()


def test_the_gradient_of_a_bias_is_summed_down_columns():
    x = random(3, 50, 7)
    compare("sum_to", x, (7,), factor=3)
    compare("sum_to", x.transpose(1, 0, 2), (7,), factor=3)
    compare("sum_to", x, (50, 1), factor=3)


# --- activations ---


@covers("gelu_forward")
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "width"), MATRICES)
def test_gelu(rows, width, dtype, approximate):
    x = random(rows, width, dtype=dtype) * 3
    compare("gelu", x, approximate)
    compare("gelu_and_slope", x, approximate)
    features = min(width, 300) + 1
    weight = random(features, width, seed=1, dtype=dtype) / np.float32(width)  # so that the sums keep their digits
    bias = random(features, dtype=dtype)
    for b in (bias, bias[:1], None):
        compare("linear_gelu", x, weight, b, approximate, factor=10)
        compare("linear_gelu_and_slope", x, weight, b, approximate, factor=10)


def test_gelu_of_a_slice_that_no_four_neighbours_fit():
    x = random(1001)
    for part in (slice(1, None), slice(2, 8), slice(3, 4), slice(None, None, 2)):
        assert_close(gpu.gelu(on_gpu(x)[part]), cpu.gelu(wide(x[part])))


# --- losses ---


@covers("cross_entropy_forward", "cross_entropy_backward")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "classes"), MATRICES)
def test_cross_entropy(rows, classes, dtype):
    x = random(rows, classes, dtype=dtype) * 4
    target = np.random.default_rng(0).integers(0, classes, rows)
    compare("cross_entropy", x, target)
    compare("cross_entropy", x, target.astype(np.int32))
    g = random(rows, seed=1, dtype=dtype)
    compare("cross_entropy_backward", g, x, target, factor=2)
    compare("cross_entropy_backward", g[:1].repeat(rows), x, target.astype(np.int32), factor=2)


def test_a_class_out_of_range_reads_nothing():
    x = random(4, 3)
    target = np.array([0, -1, 3, 1 << 40])
    losses = gpu.cross_entropy(on_gpu(x), on_gpu(target)).get()
    assert np.isfinite(losses).tolist() == [True, False, False, False]
    gradient = gpu.cross_entropy_backward(cp.ones(4, np.float32), on_gpu(x), on_gpu(target)).get()
    np.testing.assert_allclose(gradient.sum(1), [0, 1, 1, 1], atol=1e-6)


# --- embedding ---

LOOKUPS = [  # look-ups, rows, dim
    (1, 1, 1), (50, 10, 16), (3000, 7, 5), (64, 1, 1), (33, 1, 3), (600, 300, 8), (1500, 2, 130), (2000, 70000, 3),
]  # fmt: skip


@covers("embedding_rows", "sort_count", "sort_scan", "sort_place", "embedding_sums", "embedding_join")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("count", "rows", "dim"), LOOKUPS)
def test_embedding(count, rows, dim, dtype):
    index = np.random.default_rng(0).integers(0, rows, count)
    if count % 2 == 0:
        index.sort()  # long runs of one row, over the ends of stretches
    g = random(count, dim, seed=1, dtype=dtype)
    compare("embedding", random(rows, dim, dtype=dtype), index)
    compare("embedding_gradient", g, index, rows, factor=10)
    compare("embedding_gradient", g, index, rows, int(index[-1]), factor=10)


def test_embedding_of_indices_with_axes():
    index = np.array([[1, 4, 1], [0, 0, 1]])
    compare("embedding", random(5, 6), index)
    compare("embedding_gradient", random(2, 3, 6), index, 5)
    compare("embedding_gradient", random(2, 3), index, 5)


def test_rows_out_of_range_are_left_alone():
    index = on_gpu(np.array([1, -1, 5, 1 << 40, 1]))
    assert gpu.embedding(on_gpu(np.ones((5, 2), np.float32)), index).get().tolist() == [
        [1, 1],
        [0, 0],
        [0, 0],
        [0, 0],
        [1, 1],
    ]
    gradient = gpu.embedding_gradient(on_gpu(np.ones((5, 2), np.float32)), index, 5).get()
    assert np.isfinite(gradient).all()


# --- optimizers ---

ADAM = {
    "lr": 0.01,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "decoupled": False,
    "maximize": False,
}
SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1, "nesterov": False, "maximize": False}


@covers("adam_step")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("changed", [{}, {"decoupled": True}, {"maximize": True, "weight_decay": 0.0}], ids=str)
@pytest.mark.parametrize("n", [1, 7, 1024, 5001])
def test_adam(n, changed, dtype):
    moments = [random(n, seed=2, dtype=dtype), random(n, seed=3, dtype=dtype) ** 2]
    arrays = [random(n, dtype=dtype), random(n, seed=1, dtype=dtype), *moments]
    for top in (None, random(n, seed=4, dtype=dtype) ** 2):
        compare_in_place("adam_step", [*arrays, top], 3, factor=5, **{**ADAM, **changed})


@covers("sgd_step")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "changed", [{"momentum": 0.0}, {"nesterov": True, "dampening": 0.0}, {"maximize": True}], ids=str
)
@pytest.mark.parametrize("n", [1, 7, 5001])
def test_sgd(n, changed, dtype):
    options = {**SGD, **changed}
    buffer = random(n, seed=2, dtype=dtype) if options["momentum"] else None
    for first in (True, False):
        arrays = [random(n, dtype=dtype), random(n, seed=1, dtype=dtype), buffer]
        compare_in_place("sgd_step", arrays, first=first, **options)


def test_numbers_of_a_step_may_lie_on_the_gpu():
    arrays = [on_gpu(random(9, seed=seed)) for seed in range(3)] + [on_gpu(random(9, seed=3) ** 2)]
    others = [x.copy() for x in arrays]
    gpu.adam_step(*arrays, None, 7, **ADAM)
    lr = cp.asarray(np.array(ADAM["lr"]))
    gpu.adam_step(*others, None, cp.asarray(np.array(7, np.float32)), **{**ADAM, "lr": lr})
    assert all((a.get() == b.get()).all() for a, b in zip(arrays, others, strict=True))


def test_optimizers_rest_while_the_flag_is_up(monkeypatch):
    monkeypatch.setattr("tinyattn.backends.cuda.optimizer.flag", lambda: cp.asarray(np.array([3, 0, 0, 0])))
    arrays = [random(9, seed=seed) for seed in range(4)]
    ours = [on_gpu(x) for x in arrays]
    gpu.adam_step(*ours, None, 1, **ADAM)
    gpu.sgd_step(*ours[:3], first=False, **SGD)
    assert all((a.get() == b).all() for a, b in zip(ours, arrays, strict=True))


def test_a_parameter_with_strides_is_updated_where_it_lies():
    whole = on_gpu(random(6, 4))
    before, grad = whole.get(), on_gpu(random(6, 2, seed=1))
    gpu.sgd_step(whole[:, ::2], grad, None, first=False, **{**SGD, "momentum": 0.0, "weight_decay": 0.0})
    after = whole.get()
    np.testing.assert_array_equal(after[:, 1::2], before[:, 1::2])
    np.testing.assert_allclose(after[:, ::2], before[:, ::2] - 0.1 * grad.get(), rtol=1e-6)


@covers("count_steps")
def test_steps_are_counted():
    before, mask = np.arange(300, dtype=np.float32), (np.arange(300) % 3 > 0).astype(np.float32)
    steps = on_gpu(before)
    gpu.count(steps, on_gpu(mask))
    np.testing.assert_array_equal(steps.get(), before + mask)


# --- many tensors in one launch ---

SIZES = [1, 0, 7, 1024, 1025, 3, 5001, 4, 2]


def launches_of(call: Callable[[], Any]) -> Any:
    if not gpus.FAKE:
        call()
        return None
    before = len(shim_launches)
    with gpus.counting() as cost:
        call()
    assert not cost["upload"] + cost["download"] + cost["synchronise"]
    return cost["launch"] + len(shim_launches) - before


def several(sizes: list[int], roles: int, dtypes: list[str]) -> list[list[Any]]:
    """For each role the arrays of all tensors, on the GPU; the last role is not negative."""
    found = []
    for role in range(roles):
        arrays = [
            random(n, seed=100 * role + i, dtype=dtypes[i % len(dtypes)]) if dtypes != ["float16"] else
            random(n, seed=100 * role + i).astype("float16") for i, n in enumerate(sizes)
        ]  # fmt: skip
        found.append([on_gpu(abs(x) if role == roles - 1 else x) for x in arrays])
    return found


def adam_of(roles: list[list[Any]], steps: list[Any], lr: Any) -> None:
    p, g, m, v, *top = roles
    gpu.adam_steps(p, g, m, v, top[0] if top else None, steps, **{**ADAM, "lr": lr})


def assert_same_bits(ours: list[list[Any]], theirs: list[list[Any]]) -> None:
    for a, b in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
        np.testing.assert_array_equal(a.get(), b.get())


@pytest.mark.parametrize("roles", [4, 5], ids=["adam", "amsgrad"])
@pytest.mark.parametrize(
    ("sizes", "dtypes", "expected"),
    [(SIZES, ["float32"], 1), (SIZES, ["float64"], 1), (SIZES, ["float32", "float64"], 2), ([0, 0], ["float32"], 0),
     ([1, 5, 0] * 32, ["float32"], 1), ([1, 5, 0] * 33, ["float32"], 2)],
    ids=["float32", "float64", "both", "empty", "64 tensors", "66 tensors"],
)  # fmt: skip
def test_adam_of_many_is_adam_of_each(sizes, dtypes, expected, roles):
    together, alone = several(sizes, roles, dtypes), several(sizes, roles, dtypes)
    steps = [on_gpu(np.asarray(1 + i % 4, np.float32)) for i in range(len(sizes))]
    lr = on_gpu(np.asarray(0.01))
    assert launches_of(lambda: adam_of(together, steps, lr)) in (expected, None)
    for i in range(len(sizes)):
        adam_of([[role[i]] for role in alone], [steps[i]], lr)
    assert_same_bits(together, alone)


@pytest.mark.parametrize("dtype", TYPES)
def test_sgd_of_many_is_sgd_of_each(dtype):
    together, alone = several(SIZES, 3, [dtype]), several(SIZES, 3, [dtype])
    first, lr = [i % 3 == 0 for i in range(len(SIZES))], on_gpu(np.asarray(0.1))
    options = {**SGD, "lr": lr}
    assert launches_of(lambda: gpu.sgd_steps(*together, first=first, **options)) in (2, None)
    for i in range(len(SIZES)):
        gpu.sgd_step(*(role[i] for role in alone), first=first[i], **options)
    assert_same_bits(together, alone)


def test_adam_of_float16_is_computed_in_float32():
    halves = several(SIZES, 4, ["float16"])
    wider = [[x.astype(np.float32) for x in role] for role in halves]
    steps = [on_gpu(np.asarray(2, np.float32))] * len(SIZES)
    for roles in (halves, wider):
        adam_of(roles, steps, on_gpu(np.asarray(0.01)))
    assert_same_bits(halves, [[x.astype(np.float16) for x in role] for role in wider])


def test_parameters_that_share_memory_are_updated_one_after_the_other():
    whole = random(3000)
    results = []
    for at_once in (True, False):
        x = on_gpu(whole)
        params, grads = [x[:2000], x[1000:], x[:3000:1]], [on_gpu(random(n, seed=5)) for n in (2000, 2000, 3000)]
        options = {**SGD, "momentum": 0.0, "weight_decay": 0.5}
        if at_once:
            gpu.sgd_steps(params, grads, None, first=[False] * 3, **options)
        else:
            for p, g in zip(params, grads, strict=True):
                gpu.sgd_step(p, g, None, first=False, **options)
        results.append(x.get())
    np.testing.assert_array_equal(*results)


def test_blocks_do_more_where_there_is_much(monkeypatch):
    monkeypatch.setattr(tensors, "_CROWD", 2)
    assert tensors.share_of(SIZES) == 4 * 1024 and tensors.share_of([1]) == 1024
    expected, found = several(SIZES, 4, ["float32"]), several(SIZES, 4, ["float32"])
    steps, lr = [on_gpu(np.asarray(1, np.float32))] * len(SIZES), on_gpu(np.asarray(0.01))
    adam_of(found, steps, lr)
    monkeypatch.undo()
    adam_of(expected, steps, lr)
    assert_same_bits(found, expected)


def test_the_arguments_of_a_kernel_have_room():
    """A list and what else a kernel takes: 4 KB in all."""
    assert tensors._LIST.itemsize + 16 * 8 <= 4096


def test_norms_and_clipping_of_many():
    arrays = [random(n, seed=i) for i, n in enumerate(SIZES * 8)]  # of 72, 64 have elements
    ours, theirs, found = [on_gpu(x) for x in arrays], [wide(x) for x in arrays], []
    for p in (2.0, 1.0, 0.0, np.inf):
        assert launches_of(lambda p=p: found.append(gpu.total_norm(ours, p))) in (1 + 1, None)  # all shares; the whole
        assert_close(found.pop(), np.asarray(cpu.total_norm(theirs, p)), 5)
    norm = on_gpu(np.asarray(9, np.float32))
    assert launches_of(lambda: gpu.clip_to_norm(ours, norm, 3.0)) in (1, None)
    cpu.clip_to_norm(theirs, np.asarray(9.0), 3.0)
    assert launches_of(lambda: gpu.clip_to_value(ours, 0.01)) in (1, None)
    cpu.clip_to_value(theirs, 0.01)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b)


@pytest.mark.skipif(gpus.CHOICE == "1", reason="a GPU does not look")
def test_a_list_of_tensors_that_are_gone_is_found():
    x = on_gpu(random(3))
    ((found, blocks),) = tensors.lists([[x]], 1024)
    assert blocks == 1
    args = ([found, 0.5], 0, np.float32)
    launch.launch("norms", "clip_to_value", (1,), (256,), *args)
    assert abs(x.get()).max() <= 0.5
    with pytest.raises(cuda_shim.KernelError, match="argument 0 is 2 structs of"):
        launch.launch("norms", "clip_to_value", (1,), (256,), [np.zeros(2, tensors._LIST), 0.5], 0, np.float32)
    del x
    with pytest.raises(cuda_shim.KernelError, match="a struct points to memory that nobody holds, 0x"):
        launch.launch("norms", "clip_to_value", (1,), (256,), *args)


@covers("norm_parts", "norm_whole", "clip_to_norm", "clip_to_value")
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("n", [1, 7, 20001])
def test_norms_and_clipping(n, dtype):
    arrays = [random(n, dtype=dtype), random(3, n, seed=1, dtype=dtype)]
    for p in (2.0, 1.0, 0.0, 3.0, 0.5, np.inf, -np.inf):
        got = gpu.total_norm([on_gpu(x) for x in arrays], p)
        assert_close(got, cpu.total_norm([wide(x) for x in arrays], p), 5)
    for name, options in (
        ("clip_to_norm", (np.asarray(3.0), 2.0)),
        ("clip_to_norm", (np.asarray(3.0), 4.0)),
        ("clip_to_value", (0.5,)),
    ):
        ours, theirs = [on_gpu(x) for x in arrays], [wide(x) for x in arrays]
        getattr(gpu, name)(ours, *map(on_gpu, options))
        getattr(cpu, name)(theirs, *options)
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b)


def test_norms_of_what_is_not_finite():
    for values in ([1, np.nan], [np.inf, 1], [0.0, 0.0]):
        x = np.array(values, np.float32)
        for p in (2.0, 1.0, 0.0, np.inf, -np.inf):
            assert_close(gpu.total_norm([on_gpu(x)], p), np.asarray(cpu.total_norm([x], p)))
    x = on_gpu(np.array([np.nan, 3, -3, 0.1], np.float32))
    gpu.clip_to_value([x], 1.0)
    np.testing.assert_array_equal(x.get(), np.array([np.nan, 1, -1, 0.1], np.float32))


# --- attention ---

SHAPES = [  # leading axes, queries, keys, dim, value_dim
    ((), 1, 1, 1, 1), ((2, 3), 5, 7, 4, 6), ((3,), 33, 70, 16, 8), ((2, 1, 2), 10, 9, 3, 3), ((1, 2), 66, 97, 5, 5),
    ((1,), 9, 8, 300, 200), ((1,), 3, 2, 900, 1),
]  # fmt: skip


def heads(lead, queries, keys, dim, value_dim, dtype):
    shapes = ((queries, value_dim), (queries, dim), (keys, dim), (keys, value_dim))
    return [random(*lead, *shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]  # g, q, k, v


def masks(queries, keys, dtype):
    """Additive and boolean; in both, the first query may look at nothing."""
    allowed = np.random.default_rng(1).random((queries, keys)) > 0.3
    allowed[0] = False
    added = random(queries, keys, seed=9, dtype=dtype)
    added[0] = -np.inf
    return added, allowed


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_exponentials_over_their_sums_are_softmax(sizes, dtype):
    lead, queries, keys, *_ = sizes
    scores, hidden = random(*lead, queries, keys, dtype=dtype) * 9, ~masks(queries, keys, dtype)[1]
    for given in ((scores,), (scores, hidden)):
        ours, theirs = gpu.exponentials(*map(on_gpu, given)), cpu.exponentials(*(wide(x).copy() for x in given))
        assert ours[1] is None
        assert_close(ours[0], theirs[0] / theirs[1], 2)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("which", ["plain", "added", "allowed and dropout", "both"])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_attention(sizes, which, dtype):
    lead, queries, keys, *_ = sizes
    g, q, k, v = heads(*sizes, dtype)
    added, allowed = masks(queries, keys, dtype)
    added = added if which in ("added", "both") else None
    allowed = None if which in ("plain", "added") else allowed
    keep = (np.random.default_rng(2).random((*lead, queries, keys)) > 0.2) * 1.25
    keep = keep.astype(dtype) if "dropout" in which else None
    results = []
    for xp, there in ((gpu, on_gpu), (cpu, wide)):
        inputs = [there(x) for x in (q, k, v, added, allowed, keep)]
        out, e, total = attention._attend(xp, *inputs, 0.4)
        grads = attention._gradients(xp, there(g), *inputs[:3], out, e, total, which != "plain", inputs[5], 0.4)
        results.append((out, *grads))
    for a, b in zip(*results, strict=True):
        assert_close(a, b, 10)


@pytest.mark.parametrize("block", [1 << 24, 100], ids=["at once", "in blocks"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("which", ["plain", "added", "allowed", "causal"])
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_attention_in_tiles(sizes, which, dtype, block, monkeypatch):
    monkeypatch.setattr(gpu, "SCORES_AT_ONCE", block)
    g, q, k, v = heads(*sizes, dtype)
    added, allowed = masks(*sizes[1:3], dtype)
    hiding = added if which == "added" else None, allowed if which == "allowed" else None
    results = []
    for xp, there in ((gpu, on_gpu), (cpu, wide)):
        inputs, causal = [there(x) for x in (q, k, v, *hiding)], which == "causal"
        out = attention._tiled_attention.forward(xp, *inputs, causal=causal, scale=0.4)
        grads = attention._tiled_backward(xp, there(g), *inputs[:3], out, *inputs[3:], causal, 0.4)
        results.append((out, *grads[:3]))
    for a, b in zip(*results, strict=True):
        assert_close(a, b, 10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["added", "allowed"])
@pytest.mark.parametrize("tiled", [False, True], ids=["plain", "tiled"])
def test_nothing_leaks_through_a_mask_of_attention(tiled, kind, bad):
    g, q, k, v = (on_gpu(x) for x in heads((2,), 5, 40, 4, 4, "float32"))
    allowed = np.ones((5, 40), bool)
    allowed[:, -1] = allowed[2] = False
    added = on_gpu(np.where(allowed, 0, -np.inf).astype(np.float32)) if kind == "added" else None
    hiding = (added, None if kind == "added" else on_gpu(allowed))
    results = []
    for value in (0.0, bad):
        k[:, -1] = v[:, -1] = value
        if tiled:
            out = attention._tiled_attention.forward(gpu, q, k, v, *hiding, causal=False, scale=0.5)
            back = attention._tiled_backward(gpu, g, q, k, v, out, *hiding, False, 0.5)[:3]
        else:
            out, *kept = attention._attend(gpu, q, k, v, *hiding, None, 0.5)
            back = attention._gradients(gpu, g, q, k, v, out, *kept, True, None, 0.5)
        results.append([out, *back])
    for clean, dirty in zip(*results, strict=True):
        assert np.isfinite(dirty.get()).all()
        np.testing.assert_array_equal(dirty.get(), clean.get())
    assert not results[0][0].get()[:, 2].any()  # it may look at nothing


def test_attention_without_keys_or_queries():
    for queries, keys in ((3, 0), (0, 3)):
        g, q, k, v = (on_gpu(x) for x in heads((2,), queries, keys, 4, 4, "float32"))
        out, *kept = attention._attend(gpu, q, k, v, None, None, None, 0.5)
        grads = attention._gradients(gpu, g, q, k, v, out, *kept, False, None, 0.5)
        assert not any(x.get().any() for x in (out, *grads))
        out = attention._tiled_attention.forward(gpu, q, k, v, None, None, causal=False, scale=0.5)
        grads = attention._tiled_backward(gpu, g, q, k, v, out, None, None, False, 0.5)[:3]
        assert not any(x.get().any() for x in (out, *grads))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("batch", "tokens", "count", "dim"), [(1, 1, 1, 1), (2, 5, 2, 3), (2, 49, 4, 16), (1, 130, 2, 16), (1, 33, 1, 8)]
)
def test_packed_attention(batch, tokens, count, dim, dtype):
    qkv = random(batch, tokens, 3 * count * dim, dtype=dtype)
    g, results = random(batch, tokens, count * dim, seed=1, dtype=dtype), []
    for device, there in (("cuda", lambda x: x), ("cpu", wide)):
        x = ta.tensor(there(qkv), device=device, requires_grad=True)
        out = ta.nn.functional.packed_attention(x, count, scale=0.3)
        results.append((out.array, ta.grad(out, x, ta.tensor(there(g), device=device))[0].array))
    for a, b in zip(*results, strict=True):
        assert_close(a, b, 10)


# --- indices and random numbers ---


@covers("check_indices")
@pytest.mark.parametrize(
    ("values", "found"),
    [([0, 4, 2], None), ([], None), ([0, 5, 7, 7], (7, 2)), ([9, -1, -3, -3], (-3, 2)), ([1] * 3000 + [-2], (-2, 3000))],
    ids=str,
)  # fmt: skip
def test_indices_are_checked_on_the_gpu(values, found):
    index, flag, host = (cp.asarray(np.array(x, np.int64)) for x in (values, [0] * 4, [0] * 4))
    args = [index, len(values), 0, 5, 42, flag, host, None]
    launch.launch("flags", "check_indices", (1,), (256,), args, shared_bytes=16 * 256)
    for there in (flag, host):
        assert there.get().tolist() == ([42, *found, 0] if found else [0] * 4)
    launch.launch(
        "flags",
        "check_indices",
        (1,),
        (32,),
        [on_gpu(np.array([77])), 1, 0, 5, 43, flag, host, None],
        shared_bytes=16 * 32,
    )
    assert flag.get().tolist() == ([42, *found, 0] if found else [43, 77, 0, 0])  # the first to be found stays


@covers("settle_indices")
@pytest.mark.parametrize(
    "bad", [{}, {0: 5}, {8191: 9, 8192: 9}, {4095: 7, 12_287: -1}, {9000: -2, 300: -2}, {12_287: 6}]
)
def test_check_indices_of_several_blocks_names_the_first_worst(bad):
    index = np.arange(12_288) % 5
    for place, value in bad.items():
        index[place] = value
    gpu.check()
    gpu.check_indices("gather", on_gpu(index), 5)
    if not bad:
        gpu.check()
        return
    value = min(bad.values()) if min(bad.values()) < 0 else max(bad.values())
    place = min(place for place in bad if bad[place] == value)
    cp.cuda.Device().synchronize()
    with pytest.raises(IndexError, match=rf"gather: index {value} at position \({place},\) is out of range"):
        gpu.check()


def philox_words(seed: int, place: int) -> list[int]:
    """Philox4x32-10, written once more, in Python."""
    c, k = [place & 0xFFFFFFFF, place >> 32, 0, 0], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_philox_in_python_gives_the_words_its_authors_publish():
    assert philox_words(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@covers("philox_uniform", "philox_bits", "philox_keep", "philox_advance")
def test_random_numbers_are_philox_of_seed_and_counter():
    seed, counter = 0x123456789ABCDEF, (1 << 32) - 2  # the counter's upper half is reached
    words = [w for place in range(counter, counter + 3) for w in philox_words(seed, place)]

    def stream():
        found = philox.stream(seed)
        found.bit_generator.state = {"key": seed, "counter": counter}
        return found

    expected = np.array([w >> 8 for w in words[:11]], np.float32) * np.float32(2**-24)
    np.testing.assert_array_equal(stream().random(11, np.float32).get(), expected)
    keep = stream().keep(11, 0.4).get()
    np.testing.assert_array_equal(keep, expected >= np.float32(0.4))
    pairs = [low | high << 32 for low, high in zip(words[::2], words[1::2], strict=True)]
    np.testing.assert_array_equal(stream().bits(5).get(), np.array(pairs[:5], np.uint64))
    doubles = np.array([p >> 11 for p in pairs[:5]]) * 2.0**-53
    np.testing.assert_array_equal(stream().random(5, np.float64).get(), doubles)

    one = stream()
    parts = [one.random(n, np.float32).get() for n in (4, 3)]
    np.testing.assert_array_equal(np.concatenate(parts), expected[:7])  # one draw goes on after the other
    assert one.bit_generator.state == {"key": seed, "counter": counter + 2}


@covers("philox_normal")
@pytest.mark.parametrize("dtype", TYPES)
def test_normal_numbers_are_normal(dtype):
    x = philox.stream(7).standard_normal(20_001, dtype).get()
    assert np.isfinite(x).all()
    assert (
        abs(x.mean()) < 0.03 and abs(x.std() - 1) < 0.02 and abs((x**3).mean()) < 0.1 and abs((x**4).mean() - 3) < 0.3
    )
    assert abs(np.corrcoef(x[:-1:2], x[1::2])[0, 1]) < 0.03
    assert abs((np.abs(x) < 1).mean() - 0.6827) < 0.01


# --- all of them ---


def test_every_kernel_has_a_test():
    kernels = {name for source in launch.sources() for name in cuda_shim.kernels(launch.text(source))}
    assert kernels == COVERED


def test_shared_memory_is_declared_once():
    """The shim knows one array of it; a `__shared__` inside a kernel would be each thread's own there."""
    declared = [
        line
        for path in launch.KERNELS.iterdir()
        for line in path.read_text(encoding="utf-8").splitlines()
        if "__shared__" in line
    ]
    assert declared == ["alignas(16) extern __shared__ unsigned char block_memory[];"]


def test_embedding_of_float16_reads_the_same_numbers():
    table, index = random(7, 5).astype(np.float16), np.array([6, 0, 0])
    out = gpu.embedding(on_gpu(table), on_gpu(index)).get()
    assert out.dtype == np.float16
    np.testing.assert_array_equal(out, table[index])


@pytest.mark.slow
def test_all_of_this_with_the_sanitizers():
    """Once more, in float32, with every access to memory looked at: beyond an array, beyond shared memory, out of a stack."""
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    settings = {
        "LD_PRELOAD": str(Path(runtime).resolve()),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "CUDA_SHIM_SANITIZE": "1",
    }
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-k",
        "not float64",
        __file__,
    ]
    done = subprocess.run(
        tests, env={**os.environ, **settings}, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
