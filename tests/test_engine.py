"""The rules that past engines broke, one test each."""

from __future__ import annotations

import ast
import contextvars
import copy
import gc
import inspect
import math
import os
import pathlib
import pickle
import platform
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from answers import answer, as_arrays, torch

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import backends, ops
from tinyattn.engine import walk
from tinyattn.engine.operation import operation


def leaf(*values: float, dtype: object = ta.float32) -> ta.Tensor:
    return ta.tensor(list(values), dtype=dtype, requires_grad=True)


# --- dtype ---


UNARY = [
    ta.exp, ta.log, ta.log1p, ta.expm1, ta.sqrt, ta.rsqrt, ta.reciprocal, ta.square, ta.sin, ta.cos, ta.tanh, ta.sigmoid,
    ta.erf, ta.abs, ta.neg, ta.relu, ta.gelu, ta.silu, ta.softplus, ta.logsigmoid, ta.clone, ta.sum, ta.mean, ta.var, ta.std,
    ta.prod, ta.amax, ta.max, lambda x: ta.softmax(x, -1), lambda x: ta.log_softmax(x, -1), lambda x: ta.cumsum(x, 0),
    lambda x: ta.logsumexp(x, 0), lambda x: x * 2.0, lambda x: 2.0 - x, lambda x: 1.0 / x, lambda x: x**2.5, lambda x: 2.0**x,
    lambda x: x * np.float64(2), lambda x: np.float64(2) * x, lambda x: x / np.sqrt(64), lambda x: x + np.float32(1),
    lambda x: ta.clamp(x, 0.5, 1.5), lambda x: ta.where(x > 1, x, 0.0), lambda x: F.gelu(x, "tanh"), lambda x: x.flip(0),
    lambda x: F.dropout(x, 0.5), lambda x: F.mse_loss(x, x * 0.5), lambda x: x * ta.tensor(2.0, dtype=ta.float64),
    lambda x: F.layer_norm(x, x.shape[-1:]), lambda x: x * ta.tensor([1, 2, 3]), lambda x: x[[0, 0, 2]], lambda x: x @ x,
]  # fmt: skip


@pytest.mark.parametrize(
    "function",
    UNARY,
    ids=[inspect.getsource(f).strip()[:50] if f.__name__ == "<lambda>" else f.__name__ for f in UNARY],
)
@pytest.mark.parametrize("dtype", [ta.float32, ta.float16, ta.float64], ids=str)
def test_no_dtype_is_widened(function, dtype):
    for values in ([0.5, 1.5, 2.0], [0.75] * 3):
        x = ta.tensor(values, dtype=dtype, requires_grad=True)
        out = function(x)
        assert out.dtype == dtype
        out.sum().backward()
        assert x.grad.dtype == dtype


def test_promotion_is_pytorchs():
    kinds = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
    shapes = [((2,), (2,)), ((2,), ()), ((), (2,)), ((), ())]
    rows = [(a, b, *each) for a in kinds for b in [*kinds, True, 3, 2.5] for each in shapes]

    def dtypes(lib):
        def ones(kind, shape):
            return lib.ones(shape, dtype=getattr(lib, kind)) if isinstance(kind, str) else kind

        pairs = [(ones(a, a_shape), ones(b, b_shape)) for a, b, a_shape, b_shape in rows]
        return [[str(as_arrays(each).dtype) for each in (x + y, x * y, x / y)] for x, y in pairs]

    for ours, theirs, row in zip(dtypes(ta), answer(lambda: dtypes(torch)), rows, strict=True):
        assert ours == theirs, row


def test_results_are_arrays_also_of_0d_inputs():
    x = ta.tensor(2.0, requires_grad=True)
    for out in (
        x * x,
        x.exp(),
        x + 1,
        x.sum(),
        x.mean(),
        x.var(correction=0),
        x.softmax(0),
        x.sigmoid(),
        x.max(),
        F.gelu(x),
    ):
        assert type(out.array) is np.ndarray
        assert type(ta.grad(out, x)[0].array) is np.ndarray


# --- gradients are owned ---


def test_no_two_tensors_share_a_gradient():
    a, b, c = leaf(1, 2), leaf(3, 4), leaf(5, 6)
    (a + b + c.reshape(2, 1).reshape(2)).sum().backward()
    arrays = [a.grad.array, b.grad.array, c.grad.array]
    for i, x in enumerate(arrays):
        assert x.flags.writeable and x.base is None
        assert not any(np.shares_memory(x, y) for y in arrays[i + 1 :])
    a.grad.array *= 10
    assert b.grad.tolist() == [1, 1]


def test_gradients_that_nobody_else_holds_are_not_copied(monkeypatch):
    model = ta.models.AttentionClassifier(patch_size=14, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    loss = F.cross_entropy(model(ta.rand(3, 28, 28)), ta.tensor([1, 2, 3]))
    monkeypatch.setattr(backends.cpu, "clone", lambda array: pytest.fail(f"copied a gradient of shape {array.shape}"))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_gradients_that_somebody_else_holds_are_copied():
    kept = []

    @operation(backward=lambda F, g: kept.append(np.ones((2, 3), g.dtype)) or tuple(kept[-1] * g.sum()))
    def rows_of_one_array(F, a, b):
        return a + b

    @operation(x=lambda F, g: kept[-1].reshape(6))
    def a_view_of_what_is_kept(F, x):
        return x + 1

    @operation(x=lambda F, g: np.broadcast_to(g + 1, (1,)))
    def one_number_read_only(F, x):
        return x + 1

    @operation(x=lambda F, g: np.ones(1000, g.dtype)[:2])
    def part_of_much(F, x):
        return x + 1

    a, b, c, d, e = leaf(1, 2, 3), leaf(1, 2, 3), leaf(*range(6)), leaf(1), leaf(1, 2)
    rows_of_one_array(a, b).sum().backward()
    a_view_of_what_is_kept(c).sum().backward()
    one_number_read_only(d).sum().backward()
    part_of_much(e).sum().backward()
    for x in (a, b, c, d, e):
        x.grad.array += 1
        assert x.grad.array.base is None
    assert a.grad.tolist() == b.grad.tolist() == [4, 4, 4]
    assert not np.shares_memory(a.grad.array, b.grad.array)
    assert kept[-1].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert (c.grad.tolist(), d.grad.tolist()) == ([2] * 6, [3])


def test_the_seed_is_not_handed_out():
    x, seed = leaf(1, 2), ta.ones(2)
    x.backward(seed)
    assert not np.shares_memory(x.grad.array, seed.array)
    (g,) = ta.grad(x + 0, x, seed)
    assert not np.shares_memory(g.array, seed.array)


def test_gradients_recorded_with_create_graph_are_owned_too():
    a, b = leaf(1, 2), leaf(3, 4)
    (a + b).sum().backward(create_graph=True)
    assert not np.shares_memory(a.grad.array, b.grad.array)


def test_gradients_recorded_with_create_graph_accumulate():
    x = leaf(1, 2)
    for _ in range(2):
        (x * x).sum().backward(create_graph=True)
    assert x.grad.tolist() == [4, 8]
    assert ta.grad(x.grad.sum(), x)[0].tolist() == [4, 4]


def test_gradients_accumulate_in_place():
    x = leaf(1, 2)
    x.sum().backward()
    first = x.grad
    x.sum().backward()
    assert x.grad is first
    assert first.tolist() == [2, 2]


# --- changes in place ---


def test_a_saved_array_changed_in_place_is_named_with_both_lines():
    x = leaf(1, 2)
    y = x * 2
    here = inspect.currentframe().f_lineno
    z = y * y
    y += 1
    with pytest.raises(RuntimeError) as error:
        z.sum().backward()
    message = str(error.value)
    assert "mul (made at" in message
    assert f"{__file__}:{here + 1}" in message
    assert f"add_ at {__file__}:{here + 2}" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.add_(1), lambda y: y.mul_(3), lambda y: y.zero_(), lambda y: y.copy_(ta.ones(2)), lambda y: y.fill_(2),
        lambda y: y.__setitem__(0, 5.0), lambda y: y.clamp_(0, 1), lambda y: y.detach().add_(1),
        lambda y: y.detach()[:1].add_(1), lambda y: y.detach().reshape(2, 1).zero_(), lambda y: y.normal_(),
    ],
)  # fmt: skip
def test_every_way_to_write_is_caught(change):
    x = leaf(1, 2)
    y = x * 2
    z = (y * y).sum()
    with ta.no_grad():
        change(y)
    with pytest.raises(RuntimeError, match="changed it in place before backward"):
        z.backward()


def test_writes_that_harm_nobody_are_allowed():
    x = leaf(1, 2)
    y = x * 2
    z = (y + y).sum()  # saves nothing
    y += 1
    z.backward()
    assert x.grad.tolist() == [4, 4]


@pytest.mark.parametrize(
    "step",
    [
        lambda x, w: x.add_(w), lambda x, w: x.mul_(w), lambda x, w: x.div_(w), lambda x, w: x.sub_(w, alpha=2),
        lambda x, w: x.pow_(2), lambda x, w: x.copy_(w), lambda x, w: x.clamp_(-0.5, 0.5), lambda x, w: x.zero_(),
        lambda x, w: x.__setitem__(slice(0, 2), w[:2]), lambda x, w: x.__setitem__([0, 2], 3.0),
        lambda x, w: x.masked_fill_(x.detach() > 0, 0.0),
        lambda x, w: x.__setitem__((slice(None), None), w[None, :, None]),
    ],
)  # fmt: skip
def test_recorded_writes_have_pytorchs_gradients(step):
    values = np.random.default_rng(0).normal(size=(2, 3))

    def found(lib):
        a, w = (lib.tensor(each, requires_grad=True) for each in values)
        x = a * 2
        y = x * x
        x = x * 1
        step(x, w)
        loss = (x * x).sum() + y.sum()
        loss.backward()
        return [np.zeros(3) if t.grad is None else t.grad for t in (a, w)] + [x]

    for ours, theirs in zip(as_arrays(found(ta)), answer(lambda: found(torch)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-11)


def test_leaves_that_need_gradients_refuse_in_place_writes():
    x = leaf(1, 2)
    with pytest.raises(RuntimeError, match="a leaf that requires a gradient"):
        x.add_(1)
    with pytest.raises(RuntimeError, match="a view of a leaf that requires a gradient"):
        x[:1].add_(1)
    base = x * 2
    with ta.no_grad():
        view = base[:1]
    with pytest.raises(RuntimeError, match="was taken under no_grad"):
        view.mul_(x[:1])
    assert base.tolist() == [2, 4]


VIEWS = {  # of a tensor of shape (3, 4); two levels deep in some
    "slice": lambda x: x[1:], "one element": lambda x: x[1:2, 2], "column": lambda x: x[:, 1], "steps": lambda x: x[::2, 1::2], "row": lambda x: x[1],
    "transpose": lambda x: x.transpose(0, 1), "reshape": lambda x: x.reshape(-1, 2), "flatten": lambda x: x.flatten(),
    "unsqueeze": lambda x: x.unsqueeze(1), "permute": lambda x: x.permute(1, 0), "view of a view": lambda x: x.t()[1:].unsqueeze(0)[..., 0],
}  # fmt: skip
WRITES = {
    "add_": lambda v, w: v.add_(w), "mul_": lambda v, w: v.mul_(3), "item": lambda v, w: v.__setitem__(0, w),
    "mask": lambda v, w: v.__setitem__(v > 1, -5.0), "fill_": lambda v, w: v.fill_(2), "copy_": lambda v, w: v.copy_(w),
    "own value": lambda v, w: v.add_(v), "masked_fill_": lambda v, w: v.masked_fill_(v > 1, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("plain", [False, True])  # True: the base requires no gradient before the write
def test_in_place_write_to_a_view_gives_pytorchs_gradients(view, write, plain):
    def found(lib):
        x = lib.tensor([[0.5, -1.0, 2.0, 3.0], [1.5, 0.25, -2.0, 1.0], [2.5, -0.5, 0.75, -1.5]], requires_grad=True)
        w = lib.tensor(1.25, requires_grad=True)
        base = lib.ones(3, 4) * 1.5 if plain else x * x
        other, part = base[0], VIEWS[view](base)  # `other` shows what the write may change
        before = (base * 2).sum() + other.sum() * w
        WRITES[write](part, w)
        after = (base.sin() * x).sum() + (part * part).sum() + (other * 3).sum()
        first = lib.autograd.grad((before + after) ** 2, (x, w), create_graph=True)
        second = lib.autograd.grad((first[0] * first[0]).sum(), (x, w))
        return base, part, other, *first, *second

    for ours, theirs in zip(as_arrays(found(ta)), answer(lambda: found(torch)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)


def test_in_place_write_to_a_reversed_view_of_foreign_memory():
    memory = np.arange(6.0)
    base, w = ta.from_numpy(memory[::-1]), ta.tensor(2.0, requires_grad=True, dtype=ta.float64)
    base[1:3].mul_(w)
    assert memory.tolist() == [0, 1, 2, 6, 8, 5]
    assert ta.grad((base * ta.arange(6)).sum(), w)[0].item() == 4 * 1 + 3 * 2


def test_view_of_a_detached_tensor_shows_the_new_values():
    base = leaf(1, 2) * 1
    alias = base.detach()
    base.mul_(3)
    assert (alias * 2).tolist() == [6, 12]


def test_optimizer_style_updates_between_backwards_are_caught():
    w = leaf(1, 2)
    loss = (w * w).sum()
    with ta.no_grad():
        w.sub_(0.1)
    with pytest.raises(RuntimeError, match=r"saved .* sub_ at"):
        loss.backward()


def test_numpy_of_a_graph_tensor_is_read_only_and_shares_memory():
    x = leaf(1, 2)
    assert np.shares_memory(x.numpy(), x.array)
    with pytest.raises(ValueError, match="read-only"):
        x.numpy()[0] = 5
    plain = ta.zeros(2)
    plain.numpy()[0] = 5
    assert plain.tolist() == [5, 0]


# --- the walk ---


def test_a_chain_of_100000_operations():
    x = leaf(1)
    y = x
    for _ in range(100_000):
        y = y + 1
    y.backward()
    assert x.grad.tolist() == [1]
    del y  # and its release does not recurse either


def test_a_diamond_10000_wide():
    x = leaf(1, dtype=ta.float64)
    total = ta.stack([x * i for i in range(10_000)]).sum()
    total.backward()
    assert x.grad.item() == sum(range(10_000))


def test_60_doublings():
    x = leaf(1, dtype=ta.float64)
    y = x
    for _ in range(60):
        y = y + y
    y.backward()
    assert x.grad.item() == 2.0**60


def test_graphs_have_no_cycles_and_free_their_arrays():
    gc.disable()
    try:
        x = leaf(*range(1000))
        y = (F.softmax(x, 0) * x).exp()
        array = weakref.ref(y.node.saved["out"].array)
        inner = weakref.ref(y)
        y.sum().backward(retain_graph=True)
        del y
        assert inner() is None and array() is None
    finally:
        gc.enable()


def test_what_was_saved_is_freed_as_the_walk_passes():
    x = leaf(1, 2)
    y = x.exp()
    z = y * y
    z.sum().backward()
    assert z.node.saved is None and y.node.saved is None


def test_only_gradients_that_someone_needs_are_computed():
    calls = []

    @ta.operation(a=lambda F, g: calls.append("a") or g, b=lambda F, g: calls.append("b") or g)
    def watched(F, a, b):
        return a + b

    a, b = leaf(1), leaf(2)
    watched(a, b.detach()).backward()
    assert calls == ["a"]
    calls.clear()
    side = watched(a, b)
    ta.grad(side * a, a)  # reaches watched, whose input b leads nowhere anybody asked for
    assert a.grad.tolist() == [1]


def test_rows_taken_one_by_one_cost_no_full_gradient_each(monkeypatch):
    made = []
    zeros = backends.cpu.zeros
    monkeypatch.setattr(backends.cpu, "zeros", lambda *a: made.append(a) or zeros(*a))
    x = ta.ones(500, 20, requires_grad=True)
    total = sum((row.sum() for row in x), start=ta.zeros(()))
    total.backward()
    assert x.grad.tolist() == np.ones((500, 20)).tolist()
    assert len(made) <= 2


@pytest.mark.parametrize("index", [[0, 0, 2], (slice(None), [1, 1, 3]), 1, slice(1, 3)], ids=str)
def test_rows_are_added_to_a_gradient_of_any_memory_order(index):
    values, factors = np.arange(12.0).reshape(3, 4), np.asfortranarray(np.arange(12.0).reshape(3, 4) ** 2)

    def gradient(lib):
        x = lib.tensor(values, requires_grad=True)
        rows, start = x[index], lib.from_numpy(np.asfortranarray(values + 1))
        lib.autograd.backward([rows, x * lib.from_numpy(factors)], [lib.ones_like(rows), start])
        return x.grad

    np.testing.assert_array_equal(as_arrays(gradient(ta)), answer(lambda: gradient(torch)))


def test_rows_are_not_added_to_a_gradient_that_another_tensor_has_too():
    a, b = leaf(1, 2), leaf(3, 4)
    rows = a[[0, 0]]
    ta.autograd.backward([rows, a + b], [ta.ones(2), ta.ones(2)])  # the sum is newer: it gives both one array first
    assert (a.grad.tolist(), b.grad.tolist()) == ([3, 1], [1, 1])


def test_the_same_tensor_in_every_slot_of_a_fused_operation():
    def gradients(lib):
        x = lib.tensor(np.random.default_rng(0).normal(size=(1, 5, 4)), requires_grad=True)
        out = lib.nn.functional.scaled_dot_product_attention(x, x, x)
        (first,) = lib.autograd.grad(out.square().sum(), x, create_graph=True)
        return first, *lib.autograd.grad(first.square().sum(), x)

    def with_second_order():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return gradients(torch)

    for ours, theirs in zip(as_arrays(gradients(ta)), answer(with_second_order), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_shared_arrays_are_told_apart_by_name():
    x = ta.tensor([3.0], dtype=ta.float64, requires_grad=True)
    (g,) = ta.grad(x * x.detach(), x, create_graph=True)  # the same array in both slots
    assert g.item() == 3.0
    assert not g.requires_grad  # d(x c)/dx = c is a constant
    (g,) = ta.grad(x * x, x, create_graph=True)
    assert ta.grad(g, x)[0].item() == 2.0


def test_grad_reaches_inputs_in_the_middle_and_the_output_itself():
    x = leaf(2)
    y = x * x
    z = y * y
    assert [g.tolist() for g in ta.grad(z, [z, y, x])] == [[1], [8], [32]]


def test_several_outputs_and_retain_graph():
    x = leaf(2)
    a, b = x * 3, x * x
    assert ta.grad([a, b], x, [ta.tensor([1.0]), ta.tensor([10.0])], retain_graph=True)[0].tolist() == [43]
    assert ta.grad([a, b], x, [ta.tensor([1.0]), ta.tensor([10.0])])[0].tolist() == [43]


def test_hooks_in_a_recorded_backward_pass_return_the_gradient():
    x = leaf(2.0)
    y = x * x
    y.register_hook(lambda g: None)
    (slope,) = ta.grad((y * y).sum(), x, create_graph=True)
    assert slope.tolist() == [32]
    assert ta.grad(slope, x)[0].tolist() == [48]


def test_hooks_of_0d_tensors_get_tensors_and_may_return_a_kept_one():
    kept, seen = ta.tensor(5.0, dtype=ta.float64), []
    x = ta.tensor(1.0, dtype=ta.float64, requires_grad=True)
    x.register_hook(lambda g: seen.append(type(g.array)) or kept)
    (x * 2 + x).backward()
    x.grad.array += 1
    assert seen == [np.ndarray] and x.grad.item() == 6 and kept.item() == 5


def test_post_accumulate_grad_hooks_run_in_the_order_of_pytorch():
    def order(library):
        found = []
        w = [library.ones(2, requires_grad=True) for _ in range(4)]
        for i, each in enumerate(w):
            each.register_post_accumulate_grad_hook(lambda p, i=i: found.append((i, p.grad.tolist())))
        x = library.ones(2)
        for each in (*w[:3], w[1]):  # the second is used twice, the last not at all
            x = (x * each).exp()
        x.register_hook(lambda g: found.append("end"))
        for _ in range(2):
            x.sum().backward(retain_graph=True)
        return found

    ours = order(ta)
    assert [f if f == "end" else f[0] for f in ours] == ["end", 2, 1, 0] * 2
    assert [ours[i + 4][1] for i in (1, 2, 3)] == [[2 * g for g in ours[i][1]] for i in (1, 2, 3)]  # of the sum
    if hasattr(torch, "__version__"):
        theirs = order(torch)
        assert [f[0] for f in theirs] == [f[0] for f in ours]
    with pytest.raises(RuntimeError, match="expected a leaf that requires a gradient"):
        (ta.ones(2, requires_grad=True) * 2).register_post_accumulate_grad_hook(print)


def test_hooks_see_and_replace_the_complete_gradient():
    x = leaf(1, 2)
    y = x * 2
    seen = []
    handle = y.register_hook(lambda g: seen.append(g.tolist()) or g * 10)
    (y + y).sum().backward()
    assert seen == [[2, 2]] and x.grad.tolist() == [40, 40]
    handle.remove()
    y = x * 2
    y.retain_grad()
    (y * y).sum().backward()
    assert y.grad.tolist() == [4, 8]


def test_an_error_inside_a_forward_keeps_its_cause():
    @ta.operation(x=lambda F, g: g)
    def failing(F, x):
        raise LookupError("no such thing") from KeyError("the cause")

    with pytest.raises(LookupError, match="no such thing") as error:
        failing(leaf(1))
    assert isinstance(error.value.__cause__, KeyError)


# --- attention masks ---


def masked_attention(mask, bad=None):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 4, 3)) for _ in range(3))
    if bad is not None:
        k[:, -1], v[:, -1] = bad, bad
    q, k, v = (ta.tensor(x, requires_grad=True) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, mask)
    out.square().sum().backward()
    return out.numpy(), q.grad.numpy(), k.grad.numpy(), v.grad.numpy()


@pytest.mark.parametrize("additive", [False, True])
def test_a_fully_masked_row_gives_zeros_and_zero_gradients(additive):
    allowed = np.ones((4, 4), bool)
    allowed[1] = False
    mask = np.where(allowed, 0.0, -np.inf) if additive else allowed
    for run in (lambda: masked_attention(ta.tensor(mask)),):
        out, dq, dk, dv = run()
        assert (out[:, 1] == 0).all() and (dq[:, 1] == 0).all()
        assert all(np.isfinite(x).all() for x in (out, dq, dk, dv))
    with ta.definitions():
        again = masked_attention(ta.tensor(mask))
    for a, b in zip((out, dq, dk, dv), again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("additive", [False, True])
def test_what_a_mask_hides_does_not_leak(bad, additive):
    allowed = np.ones((4, 4), bool)
    allowed[:, -1] = False
    mask = np.where(allowed, 0.0, -np.inf) if additive else allowed
    clean = masked_attention(ta.tensor(mask))
    dirty = masked_attention(ta.tensor(mask), bad)
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


# --- modes, threads, reproducibility ---


def test_modes_nest_decorate_and_stay_in_their_thread():
    x = leaf(1)

    @ta.no_grad()
    def quiet(depth):
        assert not ta.is_grad_enabled()
        return quiet(depth - 1) if depth else (x * 2)

    assert not quiet(3).requires_grad
    with ta.no_grad():
        with ta.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
        seen = {}
        plain = threading.Thread(target=lambda: seen.update(plain=ta.is_grad_enabled()))
        context = contextvars.copy_context()
        copied = threading.Thread(target=lambda: seen.update(copied=context.run(ta.is_grad_enabled)))
        for thread in (plain, copied):
            thread.start()
            thread.join()
        assert seen == {"plain": True, "copied": False}
    ta.set_grad_enabled(False)
    assert not ta.is_grad_enabled()
    ta.set_grad_enabled(True)
    with ta.set_grad_enabled(False):
        assert not ta.is_grad_enabled()
    assert ta.is_grad_enabled()


def train_a_little(seed):
    generator = ta.Generator().manual_seed(seed)
    w = ta.randn(20, 20, generator=generator, requires_grad=True)
    x = ta.randn(50, 20, generator=generator)
    for _ in range(30):
        loss = F.dropout(F.gelu(x @ w), 0.2, generator=generator).square().mean()
        (g,) = ta.grad(loss, w)
        with ta.no_grad():
            w.sub_(g)
    return w.numpy().tobytes()


def test_two_threads_train_as_each_alone():
    alone = [train_a_little(1), train_a_little(2)]
    together = [b"", b""]

    def work(i):
        together[i] = train_a_little(i + 1)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_one_seed_gives_one_stream_and_streams_can_be_restored():
    ta.manual_seed(7)
    first = [
        ta.rand(3).tolist(),
        ta.randn(3).tolist(),
        ta.randint(0, 9, (3,)).tolist(),
        F.dropout(ta.ones(5), 0.5).tolist(),
    ]
    ta.manual_seed(7)
    assert first == [
        ta.rand(3).tolist(),
        ta.randn(3).tolist(),
        ta.randint(0, 9, (3,)).tolist(),
        F.dropout(ta.ones(5), 0.5).tolist(),
    ]
    state = ta.default_generator.get_state()
    after = ta.rand(4).tolist()
    ta.default_generator.set_state(state)
    assert ta.rand(4).tolist() == after
    a, b = ta.Generator().manual_seed(-3).spawn(2)
    assert a.uniform((3,)).tolist() != b.uniform((3,)).tolist()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other habits")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_freed_memory_is_kept_for_the_next_step(workers: int):
    """Otherwise the system clears the same pages again in every step: some 40,000 faults of 0.25 us and more."""
    code = """
import resource, sys, tinyattn as ta
class Layers(ta.nn.Module):
    def forward(self, x):
        for _ in range(40):
            x = x.relu()  # keeps its result
        return x
x = ta.ones(2, 1 << 19, requires_grad=True)  # 4 MiB
net = ta.nn.DataParallel(Layers(), int(sys.argv[1]))
def step():
    net(x).sum().backward()
    x.grad = None
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def faults(**more: str) -> int:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))} | more
        command = [sys.executable, "-c", code, str(workers)]
        return int(subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout)

    assert faults() < 1000
    assert faults(MALLOC_TRIM_THRESHOLD_="100000") > 10_000  # what the user has set holds


# --- interop ---


def test_what_is_no_number_equals_no_tensor():
    x = ta.ones(2)
    assert (x == None, x != None, x == "x", None in [x]) == (False, True, False, False)  # noqa: E711 - as a user may write
    assert (x == [1, 1], x != (1, 1)) == (False, True)  # as in PyTorch
    with pytest.raises(RuntimeError, match="do not broadcast"):
        _ = x == ta.ones(3)


def test_arrays_on_the_left_are_our_operations():
    x = leaf(1, 2)
    for out in (
        np.ones(2, np.float32) * x,
        np.ones(2, np.float32) + x,
        np.ones((2, 2), np.float32) @ x,
        np.exp(x),
        np.float64(3) * x,
        np.maximum(x, 1),
        np.arctan2(np.ones(2, np.float32), x),
        np.floor(x),
    ):
        assert isinstance(out, ta.Tensor) and out.requires_grad and out.dtype == np.float32
    assert np.isnan(ta.tensor([1.0, np.nan])).tolist() == [False, True] and np.logical_and(
        [True, False], x > 0
    ).tolist() == [True, False]
    array = np.ones(2)
    with pytest.raises(TypeError, match="does not work on a tinyattn"):
        array += x


def test_a_loop_over_rows_and_membership():
    x = leaf(1, 2, 3)
    assert [row.item() for row in x] == [1, 2, 3]
    assert 2.0 in x and 5.0 not in x
    with pytest.raises(TypeError, match="0-d"):
        iter(ta.tensor(1.0))
    a, b = ta.ones(2, 3)
    assert a.shape == b.shape == (3,)


def test_dlpack_both_ways_shares_memory():
    t = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    ours = ta.from_dlpack(t)
    assert ours.array.__array_interface__["data"][0] == t.data_ptr()
    back = torch.from_dlpack(ta.zeros(2, 3))
    assert back.shape == (2, 3)
    with pytest.raises(BufferError, match="detach"):
        torch.from_dlpack(leaf(1))
    assert ta.tensor(t).tolist() == t.tolist()


def test_creation_copies_and_from_numpy_shares():
    a = np.ones(3)
    assert not np.shares_memory(ta.tensor(a).array, a)
    assert np.shares_memory(ta.from_numpy(a).array, a)
    assert np.shares_memory(ta.as_tensor(a).array, a)
    assert ta.tensor([1.5, 2]).dtype == np.float32 and ta.tensor(a).dtype == np.float64
    assert ta.tensor([ta.tensor(1.0), 2]).tolist() == [1, 2]
    assert np.asarray(ta.ones(2), dtype=np.float64).dtype == np.float64


def test_leaves_can_be_copied_and_pickled():
    x = leaf(1, 2)
    x.sum().backward()
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert twin.tolist() == [1, 2] and twin.requires_grad and not np.shares_memory(twin.array, x.array)
    assert copy.deepcopy(x).grad.tolist() == [1, 1]


# --- numbers that float arithmetic makes hard ---


def test_the_articles_softmax_corrected():
    z = ta.tensor([2.3, 1.1, 0.7], dtype=ta.float64)
    assert [round(v, 4) for v in z.exp().tolist()] == [9.9742, 3.0042, 2.0138]
    assert [round(v, 4) for v in F.softmax(z, 0).tolist()] == [0.6653, 0.2004, 0.1343]


@pytest.mark.parametrize("dtype", [ta.float32, ta.float64], ids=str)
def test_softmax_of_large_numbers(dtype):
    x = ta.tensor([1000.0, 1001.0], dtype=dtype)
    expected = [1 / (1 + math.e), math.e / (1 + math.e)]
    np.testing.assert_allclose(F.softmax(x, 0).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(F.log_softmax(x, 0).numpy(), np.log(expected), rtol=1e-6)
    np.testing.assert_allclose(ta.logsumexp(x, 0).item(), 1001 + math.log1p(1 / math.e), rtol=1e-6)
    with ta.definitions():
        np.testing.assert_allclose(F.softmax(x, 0).numpy(), expected, rtol=1e-6)


def test_the_error_function_is_exact():
    x = np.concatenate([np.linspace(-7, 7, 4001), 10.0 ** np.arange(-300, 0, 10), [0.0, np.inf, -np.inf]])
    np.testing.assert_allclose(ta.erf(ta.tensor(x)).numpy(), [math.erf(v) for v in x], rtol=5e-16)
    x = x[(x == 0) | (np.abs(x) > 1e-30)].astype(np.float32)  # float32 has nothing much smaller
    np.testing.assert_allclose(ta.erf(ta.tensor(x)).numpy(), [math.erf(v) for v in x], rtol=2e-7)
    half = x[np.abs(x) > 1e-3].astype(np.float16)
    np.testing.assert_allclose(ta.erf(ta.tensor(half)).numpy(), [math.erf(v) for v in half], rtol=1e-3)
    assert math.isnan(ta.erf(ta.tensor(math.nan)).item())


# --- inputs by keyword, and rules that nobody needs ---


def affine(log=None):
    def rule(name, gradient):
        def run(xp, g, x, w):
            if log is not None:
                log.append(name)
            return gradient(g, x, w)

        return run

    return ta.operation(
        x=rule("x", lambda g, x, w: g if w is None else g * w), w=rule("w", lambda g, x, w: g * x), b=lambda xp, g: g
    )(lambda xp, x, w=None, b=None: (x if w is None else x * w) + (0 if b is None else b))


def test_operation_keyword_after_an_omitted_input():
    x, b = ta.tensor([1.0, 2.0], requires_grad=True), ta.tensor([10.0, 20.0], requires_grad=True)
    y = affine()(x, b=b)
    assert y.tolist() == [11, 22]
    y.sum().backward()
    assert x.grad.tolist() == b.grad.tolist() == [1, 1]
    both = ta.operation(x=lambda xp, g: g)(lambda xp, x, w, b=0.0: x * w + b)
    with pytest.raises(TypeError, match=r"an input before 'b' is missing; its inputs are \['x', 'w', 'b'\]"):
        both(x, b=b)
    assert both(x, other=b).tolist() == [10, 40]


def test_grad_runs_only_the_rules_it_needs():
    log, x, w = [], ta.tensor(2.0, requires_grad=True), ta.tensor(3.0, requires_grad=True)
    y = affine(log)(x, w)
    assert ta.grad(y, x, retain_graph=True)[0].item() == 3
    assert log == ["x"]
    assert ta.grad(y, (x, w))[1].item() == 2
    assert log == ["x", "x", "w"]


# --- the two namespaces of xp ---


def calls_of_xp() -> list[tuple[str, int, list[str]]]:
    """Every xp.name(...) in the core: the name, how many arguments by place, which by keyword."""
    root = pathlib.Path(ops.__file__).parent
    found = []
    for path in [*root.glob("*.py"), *(root.parent / "engine").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "xp"
                and not any(isinstance(a, ast.Starred) for a in node.args)
            ):
                found.append((node.func.attr, len(node.args), [k.arg for k in node.keywords]))
    return found


@pytest.mark.parametrize("kind", [tuple, list])
def test_extras_are_taken_where_they_are_declared_and_nowhere_else(kind):
    x = ta.tensor([1.0, 2.0, 3.0], requires_grad=True)
    twice = ta.Operation(lambda F, x: kind((x, x)), name="twice")  # no extras: an output of two rows
    assert twice(x).shape == (2, 3)
    square = ta.Operation(
        lambda F, x: kind((x * x, x + x)), name="square", extras=("slope",), x=lambda F, g, slope: g * slope
    )
    out, slope = square(x)
    np.testing.assert_array_equal(slope.numpy(), [2, 4, 6])
    np.testing.assert_array_equal(ta.grad(out.sum(), x)[0].numpy(), [2, 4, 6])


def test_a_rule_with_an_extra_that_has_no_gradient_is_not_differentiated_twice():
    cube = ta.Operation(
        lambda xp, x: (x * x * x, 3 * x), name="cube", extras=("t",), x=lambda xp, g, x, t: g * t * x
    )  # fmt: skip
    x = ta.tensor(2.0, requires_grad=True)
    out, _ = cube(x)
    assert ta.grad(out, x, retain_graph=True)[0].item() == 12
    with pytest.raises(RuntimeError, match=r"cube .* rule uses the extra 't', which has no gradient for second deriv"):
        ta.grad(out, x, create_graph=True)


@pytest.mark.parametrize("name", ["out", "needed"])
def test_inputs_have_no_name_that_rules_use_otherwise(name):
    forward = {"out": lambda xp, out: out * out, "needed": lambda xp, needed: needed * 2}[name]
    with pytest.raises(TypeError, match=rf"twice: an input, option or extra is named \['{name}'\]"):
        ta.Operation(forward, name="twice")
    with pytest.raises(TypeError, match=f"twice: .*{name}"):
        ta.Operation(lambda xp, x: (x, x), name="twice", extras=(name,))


def test_rules_receive_the_default_of_an_input_that_was_left_out():
    scale = ta.Operation(
        lambda xp, a, b=None: a * 2 if b is None else a * b,
        name="scale",
        a=lambda xp, g, b, b_shape: g * 2 if b is None and b_shape is None else g * b,
        b=lambda xp, g, a: g * a,
    )
    x, y = ta.tensor(3.0, requires_grad=True), ta.tensor(5.0, requires_grad=True)
    assert ta.grad(scale(x), x)[0].item() == 2
    assert [g.item() for g in ta.grad(scale(x, y), (x, y))] == [5, 3]


def test_a_hook_of_a_tensor_that_is_gone_is_not_called():
    x = ta.ones(2, requires_grad=True)
    seen = []
    x.register_post_accumulate_grad_hook(seen.append)
    y = (x * 2).sum()
    y.backward(retain_graph=True)
    assert seen == [x]
    seen.clear()
    del x
    y.backward()
    assert seen == []


def test_a_definition_without_a_gradient_has_second_derivatives_of_0():
    steps = ta.Operation(
        lambda xp, x: xp.sign(x),
        name="steps",
        definition=lambda xp, x: xp.sign(x).detach(),
        backward=lambda xp, g, x: (xp.zeros_like(x),),
    )
    x = ta.tensor([-1.0, 2.0], requires_grad=True)
    (g,) = ta.grad((steps(x) + x * x).sum(), x, create_graph=True)
    assert g.tolist() == [-2, 4]
    assert ta.grad(g.sum(), x)[0].tolist() == [2, 2]


def test_the_end_of_a_backward_pass_is_asked_for_in_one():
    with pytest.raises(RuntimeError, match="at_end_of_backward: no backward pass is running"):
        walk.at_end_of_backward(lambda: None)


FORWARD_ONLY = {  # kernels, and what only forwards and the walk call: no rule that must record itself
    "arange", "argtop", "asarray", "channel_blocks", "exponentials", "floor_divide", "index_for", "perhaps", "scores", "zeros",
    "gelu_and_slope", "layer_norm_backward", "linear_gelu_and_slope", "packed_attention", "packed_attention_backward", "spread",
    "cross_entropy_backward", "softmax_backward", "trunc_divide",
}  # fmt: skip


def test_every_call_a_rule_makes_fits_both_namespaces():
    calls = calls_of_xp()
    assert {"exp", "sum_to", "place", "masked_fill", "embedding_gradient"} <= {name for name, _, _ in calls}
    for name, count, keywords in calls:
        array_version, recorded = getattr(backends.cpu, name, None), getattr(ops, name, None)
        assert array_version is not None, f"F.{name} is missing from the array library"
        if isinstance(array_version, np.ufunc):
            assert (array_version.nin, keywords) == (count, []), name
        elif not hasattr(array_version, "__wrapped__"):
            inspect.signature(array_version).bind(*range(count), **dict.fromkeys(keywords))
        if name in FORWARD_ONLY:
            continue
        assert recorded is not None, f"F.{name} is missing from tinyattn.ops"
        if isinstance(recorded, ta.Operation):
            assert (len(recorded.inputs), keywords) == (count, []), name
        else:
            inspect.signature(recorded).bind(*range(count), **dict.fromkeys(keywords))


def test_import_needs_numpy_alone_and_is_quick(tmp_path):
    code = (
        "import sys, time; t = time.process_time(); import numpy; u = time.process_time(); import tinyattn; "
        "print((time.process_time() - u) / (u - t), [m for m in ('matplotlib', 'tqdm', 'pooch', 'sklearn', 'scipy', 'torch', 'cupy', "
        "'graphviz') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(4)  # the first compiles the source
    ]
    assert all(run.endswith("[]\n") for run in runs), runs
    assert min(float(run.split()[0]) for run in runs[1:]) < 3  # times NumPy's own: 0.6 to 1.7, by NumPy and machine


# --- .data ---


def test_data_is_a_tensor_without_history():
    x = leaf(1, 2, 3)
    y = x * 2
    assert type(y.data) is ta.Tensor and not y.data.requires_grad
    assert (
        y.data.std().item() == 2
        and y.data.max(0)[1].item() == 2
        and y.data.reshape(3, 1).transpose(0, 1).shape == (1, 3)
    )
    x.data.sub_(1)
    x.data -= 1
    assert x.tolist() == [-1, 0, 1] and x.requires_grad and x.is_leaf


def test_data_write_spoils_a_saved_value():
    x = leaf(1, 2)
    loss = (x * x).sum()
    x.data.add_(1)
    with pytest.raises(RuntimeError, match=r"saved 'input|saved '.*add_ at"):
        loss.backward()


def test_data_may_be_set_to_a_tensor():
    x, source = leaf(1, 2), ta.tensor([3.0, 4.0, 5.0])
    x.data = source
    (x * x).sum().backward()
    assert x.grad.tolist() == [6, 8, 10]
    source.mul_(2)
    assert x.tolist() == [6, 8, 10]  # one memory
    with pytest.raises(RuntimeError, match="int64 cannot require a gradient"):
        x.data = ta.tensor([1, 2])
