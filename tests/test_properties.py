"""What must hold for whatever numbers, shapes and masks hypothesis draws."""

from __future__ import annotations

import contextlib
import importlib
import math
import pkgutil
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from samples import TABLE

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import nn, ops
from tinyattn.autograd import transforms
from tinyattn.engine.operation import Operation
from tinyattn.ops.attention import tiled_attention

SEEDS = st.integers(0, 2**32 - 1)


def examples(n: int) -> Any:
    return settings(max_examples=n, derandomize=True, deadline=None, database=None)


def leaf(array: Any) -> ta.Tensor:
    return ta.tensor(np.asarray(array, dtype="float64"), requires_grad=True)


def random(rng: np.random.Generator, shape: tuple[int, ...], low: float = -2, high: float = 2) -> ta.Tensor:
    return leaf(rng.uniform(low, high, shape))


def close(a: Any, b: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(getattr(a, "data", a), getattr(b, "data", b), rtol=tolerance, atol=tolerance)


# --- <J v, u> = <v, J' u>, for every operation ---


def differentiable_operations() -> dict[str, Operation]:
    """Every operation with a rule that a module of tinyattn.ops holds, by its name."""
    found: dict[int, Operation] = {}
    for module in pkgutil.iter_modules(ops.__path__):
        for value in vars(importlib.import_module(f"tinyattn.ops.{module.name}")).values():
            if isinstance(value, Operation) and (value.rules or value.backward):
                found[id(value)] = value
    names = [op.name for op in found.values()]
    assert len(set(names)) == len(names), "two operations share a name"
    return {op.name: op for op in found.values()}


OPERATIONS = differentiable_operations()


def test_every_differentiable_operation_is_in_the_table() -> None:
    assert len(OPERATIONS) > 60
    assert sorted(OPERATIONS) == sorted(TABLE)


def along(function: Any, xs: list[ta.Tensor], vs: list[Any], step: float = 1e-6) -> Any:
    """J v by central differences, which know nothing of rules."""
    sides = [function(*(leaf(x.array + h * v) for x, v in zip(xs, vs, strict=True))).array for h in (step, -step)]
    return (sides[0] - sides[1]) / (2 * step)


@pytest.mark.parametrize("name", sorted(TABLE))
@examples(4)
@given(seed=SEEDS, definition=st.booleans())
def test_the_rule_is_the_adjoint_of_the_derivative(name: str, seed: int, definition: bool) -> None:
    rng = np.random.default_rng(seed)
    for case in TABLE[name]:

        def function(*xs: ta.Tensor) -> ta.Tensor:
            with ta.definitions() if definition else contextlib.nullcontext():
                return case.call(OPERATIONS[name], *xs)  # noqa: B023 - called at once

        xs = [random(rng, shape, case.low, case.high) for shape in case.shapes]
        vs = [rng.standard_normal(shape) for shape in case.shapes]
        out = function(*xs)
        u = rng.standard_normal(out.shape)
        pulled = ta.grad(out, xs, leaf(u))  # each rule in turn, so that nothing hides in the sum
        for i, g in enumerate(pulled):
            alone = [v if j == i else v * 0 for j, v in enumerate(vs)]
            close(np.sum(along(function, xs, alone) * u), np.sum(g.array * vs[i]), 1e-6)
        _, pushed = transforms.jvp(function, tuple(xs), tuple(map(leaf, vs)))  # by the recorded rules
        close(np.sum(pushed.array * u), sum(np.sum(g.array * v) for g, v in zip(pulled, vs, strict=True)), 1e-10)


# --- linearity, broadcasting, the chain rule ---

FUNCTIONS: dict[str, Any] = {  # of vectors of any length, smooth on [-2, 2]
    "sin": ta.sin,
    "square": lambda x: x * x,
    "softmax": lambda x: x.softmax(0),
    "normalise": lambda x: F.layer_norm(x, x.shape),
    "gelu": F.gelu,
    "attend to itself": lambda x: F.scaled_dot_product_attention(*[x.reshape(-1, 1)] * 3).reshape(-1),
    "outer": lambda x: ta.outer(x, x.exp()).sum(0),
    "running": lambda x: x.cumsum(0) * x.flip(0),
    "twice": lambda x: ta.cat([x, x.tanh()]),
    "number": lambda x: x.logsumexp(0).reshape(1),
}
NAMES = st.sampled_from(sorted(FUNCTIONS))
NUMBERS = st.floats(-3, 3)
VECTORS = hnp.arrays(np.float64, st.integers(1, 5), elements=st.floats(-2, 2))


@examples(80)
@given(f=NAMES, g=NAMES, a=NUMBERS, b=NUMBERS, x=VECTORS, seed=SEEDS)
def test_the_gradient_is_linear(f: str, g: str, a: float, b: float, x: Any, seed: int) -> None:
    """In the function, and in what flows in from above."""
    x = leaf(x)
    f, g = FUNCTIONS[f], FUNCTIONS[g]
    (whole,) = ta.grad(a * f(x).sum() + b * g(x).sum(), x)
    (of_f,), (of_g,) = ta.grad(f(x).sum(), x), ta.grad(g(x).sum(), x)
    close(whole, a * of_f + b * of_g, 1e-10)
    out = f(x)
    u, w = np.random.default_rng(seed).standard_normal((2, *out.shape))
    of_u, of_w, of_both = (ta.grad(out, x, leaf(seed), retain_graph=True)[0] for seed in (u, w, a * u + b * w))
    close(of_both, a * of_u + b * of_w, 1e-10)


BINARY: dict[str, Any] = {
    "add": ta.add, "sub": ta.sub, "mul": ta.mul, "div": lambda x, y: x / (y * y + 1), "maximum": ta.maximum,
    "where": lambda x, y: ta.where(ta.as_tensor(y.array > 0), x, y), "pow": lambda x, y: (x * x + 1) ** y,
}  # fmt: skip


@examples(120)
@given(
    name=st.sampled_from(sorted(BINARY)),
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3),
    seed=SEEDS,
)
def test_broadcasting_sums_the_gradient_over_what_it_repeated(name: str, shapes: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    small = [random(rng, shape) for shape in shapes.input_shapes]
    full = [leaf(np.broadcast_to(x.array, shapes.result_shape)) for x in small]
    u = leaf(rng.standard_normal(shapes.result_shape))
    function = BINARY[name]
    for g, x, whole in zip(ta.grad(function(*small), small, u), small, ta.grad(function(*full), full, u), strict=True):
        ahead = whole.ndim - x.ndim
        axes = (*range(ahead), *(i + ahead for i, n in enumerate(x.shape) if n == 1))
        assert g.shape == x.shape
        close(g, whole.array.sum(axes).reshape(x.shape))


@examples(60)
@given(f=NAMES, g=NAMES, x=VECTORS)
def test_the_chain_rule(f: str, g: str, x: Any) -> None:
    x = leaf(x)
    f, g = FUNCTIONS[f], FUNCTIONS[g]
    whole = transforms.jacobian(lambda z: g(f(z)), x)
    close(whole, transforms.jacobian(g, f(x)).array @ transforms.jacobian(f, x).array, 1e-9)


@examples(40)
@given(f=NAMES, x=VECTORS)
def test_hessians_are_symmetric(f: str, x: Any) -> None:
    h = transforms.hessian(lambda z: (FUNCTIONS[f](z) * ta.arange(1, 1 + FUNCTIONS[f](z).numel())).sum(), leaf(x))
    close(h, h.T, 1e-9)


@examples(60)
@given(
    x=hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(-50, 50)),
    shift=st.floats(-1000, 1000), data=st.data(),
)  # fmt: skip
def test_softmax_does_not_notice_a_shift(x: Any, shift: float, data: Any) -> None:
    dim = data.draw(st.integers(-x.ndim, x.ndim - 1))
    for function in (ta.softmax, ta.log_softmax):
        a, b = leaf(x), leaf(x + shift)
        close(function(a, dim), function(b, dim), 1e-9)
        u = leaf(np.cos(np.arange(x.size).reshape(x.shape)))
        (g,) = ta.grad(function(a, dim), a, u)
        close(g, ta.grad(function(b, dim), b, u)[0], 1e-9)
        close(g.array.sum(dim), np.zeros_like(x.sum(dim)))  # no slope along the shift


# --- attention ---

WAYS: dict[str, Any] = {
    "kernel": lambda: tiled_attention(False),
    "tiles": lambda: tiled_attention(True),
    "definition": ta.definitions,
    "recorded": lambda: tiled_attention(False),  # the kernel's output, the definition's gradients
}


@pytest.mark.parametrize("way", WAYS)
@examples(30)
@given(seed=SEEDS, queries=st.integers(1, 5), keys=st.integers(1, 5), lead=st.sampled_from([(), (2,), (2, 3)]))
def test_attention_is_permutation_equivariant(way: str, seed: int, queries: int, keys: int, lead: Any) -> None:
    """The order of keys does not matter, that of queries is that of the outputs; so it is with gradients."""
    rng = np.random.default_rng(seed)
    q, k, v = (random(rng, (*lead, n, 3)) for n in (queries, keys, keys))
    mask, u = rng.random((queries, keys)) < 0.7, rng.standard_normal((*lead, queries, 3))
    i, j = rng.permutation(queries), rng.permutation(keys)
    with WAYS[way]():
        out = F.scaled_dot_product_attention(q, k, v, ta.tensor(mask))
        moved = [leaf(q.array[..., i, :]), leaf(k.array[..., j, :]), leaf(v.array[..., j, :])]
        moved_out = F.scaled_dot_product_attention(*moved, ta.tensor(mask[i][:, j]))
    close(moved_out, out.array[..., i, :])
    expected = ta.grad(out, [q, k, v], leaf(u))
    for found, g, order in zip(ta.grad(moved_out, moved, leaf(u[..., i, :])), expected, (i, j, j), strict=True):
        close(found, g.array[..., order, :])


@examples(15)
@given(seed=SEEDS, tokens=st.integers(1, 6), heads=st.sampled_from([1, 2]))
def test_a_transformer_layer_is_permutation_equivariant(seed: int, tokens: int, heads: int) -> None:
    layer = nn.TransformerEncoderLayer(4, heads, 8, dropout=0.0).double()
    rng = np.random.default_rng(seed)
    x, order = rng.standard_normal((2, tokens, 4)), rng.permutation(tokens)
    close(layer(leaf(x[:, order])), layer(leaf(x)).array[:, order], 1e-10)


class Drawn:
    """Inputs of an attention and its mask: what to pass, and, spelt out, who sees what."""

    def __init__(self, draw: Any, kinds: tuple[str, ...]) -> None:
        side = st.integers(1, 4)
        lead = draw(st.sampled_from([(), (2,), (1,), (2, 2), (2, 1), (1, 3)]))
        queries, keys = draw(side), draw(side)
        rng = np.random.default_rng(draw(SEEDS))
        self.q, self.k = rng.standard_normal((*lead, queries, 3)), rng.standard_normal((*lead, keys, 3))
        self.v, self.u = rng.standard_normal((*lead, keys, 2)), rng.standard_normal((*lead, queries, 2))
        scores = (*lead, queries, keys)
        self.kind = draw(st.sampled_from(kinds))
        self.mask, self.bias = None, np.zeros(scores)
        if self.kind == "causal":
            self.sees = np.broadcast_to(np.tri(queries, keys, dtype=bool), scores)
            return
        shape = [n if draw(st.booleans()) else 1 for n in scores]  # each axis whole or broadcast
        while len(shape) > 1 and shape[0] == 1 and draw(st.booleans()):
            shape.pop(0)
        if "padding" in self.kind:
            shape = [1] * len(scores)
            shape[0] = lead[0] if lead else 1
            shape[-1] = keys
        share = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
        allowed = rng.random(shape) < share
        self.mask = allowed & np.tri(queries, keys, dtype=bool) if "causal" in self.kind else allowed
        self.sees = np.broadcast_to(self.mask, scores)
        if self.kind == "additive":
            self.mask = np.where(allowed, rng.standard_normal(shape), -np.inf)
            self.bias = np.broadcast_to(self.mask, scores)

    def __repr__(self) -> str:
        return f"{self.kind} {None if self.mask is None else self.mask.shape}, who sees what: {self.sees.tolist()}"

    def attend(self, way: str) -> list[Any]:
        """Output, and gradients of query, key and value."""
        leaves = [leaf(x) for x in (self.q, self.k, self.v)]
        mask = None if self.mask is None else ta.tensor(self.mask)
        with WAYS[way]():
            out = F.scaled_dot_product_attention(*leaves, mask, is_causal=self.kind == "causal")
        return [x.array for x in (out, *ta.grad(out, leaves, leaf(self.u), create_graph=way == "recorded"))]


def attentions(*kinds: str) -> Any:
    return st.composite(Drawn)(kinds or ("boolean", "additive", "causal", "key padding", "causal and padding"))


def by_deleting_keys(d: Drawn) -> list[Any]:
    """Attention of each query to the keys it sees and to no others: output, gradients of q, k and v."""
    out, dq, dk, dv = np.zeros_like(d.u), np.zeros_like(d.q), np.zeros_like(d.k), np.zeros_like(d.v)
    scale = 1 / math.sqrt(d.q.shape[-1])
    for at in np.ndindex(*d.q.shape[:-1]):
        here, seen = at[:-1], np.flatnonzero(d.sees[at])
        if not seen.size:
            continue
        q, k, v, u = d.q[at], d.k[here][seen], d.v[here][seen], d.u[at]
        scores = k @ q * scale + d.bias[at][seen]
        w = np.exp(scores - scores.max())
        w /= w.sum()
        out[at] = w @ v
        ds = w * (v @ u - out[at] @ u)
        dq[at] = ds @ k * scale
        dk[here][seen] += np.outer(ds, q) * scale
        dv[here][seen] += np.outer(w, u)
    return [out, dq, dk, dv]


@pytest.mark.parametrize("way", WAYS)
@examples(100)
@given(d=attentions())
def test_a_mask_deletes_keys(way: str, d: Drawn) -> None:
    for ours, expected in zip(d.attend(way), by_deleting_keys(d), strict=True):
        close(ours, expected)
    blind = ~d.sees.any(-1)
    out, dq, dk, dv = d.attend(way)
    assert not out[blind].any()
    assert not dq[blind].any()
    assert not dk[~d.sees.any(-2)].any()
    assert not dv[~d.sees.any(-2)].any()


BAD = st.sampled_from([np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("way", WAYS)
@examples(100)
@given(d=attentions(), bad=BAD, which=st.sampled_from("q k v kv qkv".split()))
def test_what_nobody_sees_does_not_leak(way: str, d: Drawn, bad: float, which: str) -> None:
    """NaN and infinity in keys that no query sees, and in queries that see no key."""
    expected = by_deleting_keys(d)
    unseen, blind = ~d.sees.any(-2), ~d.sees.any(-1)
    assume(blind.any() if which == "q" else unseen.any())
    for name, place in (("q", blind), ("k", unseen), ("v", unseen)):
        if name in which:
            getattr(d, name)[place] = bad
    for ours, right in zip(d.attend(way), expected, strict=True):
        close(ours, right)


@pytest.mark.parametrize("way", WAYS)
@examples(100)
@given(d=attentions(), bad=BAD, data=st.data())
def test_a_bad_value_reaches_only_who_sees_it(way: str, d: Drawn, bad: float, data: Any) -> None:
    expected = by_deleting_keys(d)[0]
    key = data.draw(st.integers(0, d.k.shape[-2] - 1))
    d.v[..., key, :] = bad
    sees = d.sees[..., key]
    out = d.attend(way)[0]
    close(out[~sees], expected[~sees])
    assert not np.isfinite(out[sees]).any()


@pytest.mark.parametrize("way", ["kernel", "definition"])
@examples(30)
@given(d=attentions("additive"))
def test_an_additive_mask_has_the_gradient_of_the_scores(way: str, d: Drawn) -> None:
    mask = leaf(np.where(np.isfinite(d.mask), d.mask, -1.0))
    with WAYS[way]():
        out = F.scaled_dot_product_attention(leaf(d.q), leaf(d.k), leaf(d.v), mask)
    d.sees, d.bias = np.ones_like(d.sees), np.broadcast_to(mask.array, d.sees.shape)
    close(out, by_deleting_keys(d)[0])
    (g,) = ta.grad(out, mask, leaf(d.u))
    v = np.random.default_rng(0).standard_normal(mask.shape)
    slope = along(lambda m: F.scaled_dot_product_attention(leaf(d.q), leaf(d.k), leaf(d.v), m), [mask], [v])
    close(np.sum(slope * d.u), np.sum(g.array * v), 1e-6)


@examples(25)
@given(seed=SEEDS, keys=st.integers(1, 5), padding=st.lists(st.booleans(), min_size=5, max_size=5))
def test_key_padding_of_multihead_attention_deletes_keys(seed: int, keys: int, padding: list[bool]) -> None:
    padded = np.array(padding[:keys])
    assume(not padded.all())
    attention = nn.MultiheadAttention(4, 2, batch_first=True).double()
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((1, 3, 4)), rng.standard_normal((1, keys, 4))
    out, _ = attention(leaf(q), leaf(k), leaf(k), key_padding_mask=ta.tensor(padded[None]))
    short = leaf(k[:, ~padded])
    close(out, attention(leaf(q), short, short)[0], 1e-10)
