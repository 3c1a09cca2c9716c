"""Attention in tiles equals the plain one, whatever the sizes and masks, in memory linear in the tokens."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.attention.flex_attention
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import compare

import tinyattn as ta
from tinyattn import backends, nn
from tinyattn.compat import flex
from tinyattn.nn import functional as F
from tinyattn.ops.attention import tiled_attention

MEGABYTE = 10**6


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles that leave a rest in both directions, and that sequences of a few tokens need several of."""
    monkeypatch.setattr("tinyattn.backends.cpu.SCORES_AT_ONCE", 3 * 13)


def array(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def attend(tiled, q, k, v, mask=None, **options):
    """Output and gradients, computed in one way or the other."""
    leaves = [ta.tensor(x, requires_grad=True) for x in (q, k, v)]
    with tiled_attention(tiled):
        out = F.scaled_dot_product_attention(*leaves, None if mask is None else ta.tensor(mask), **options)
    assert out.node.op.name == ("tiled_attention" if tiled else "attention")
    grads = ta.grad(out, leaves, ta.tensor(array(*out.shape, seed=7, dtype=out.dtype)))
    return [x.numpy() for x in (out, *grads)]


def assert_same(ours, plain, tolerance=1e-12):
    for name, a, b in zip(("out", "query", "key", "value"), ours, plain, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


def boolean(*shape, share=0.6):
    return np.random.default_rng(5).random(shape) < share


Q, K = 11, 13  # not multiples of any tile
SHAPES = {  # leading axes of query, key and value
    "a matrix": ((), (), ()),
    "a batch": ((2,), (2,), (2,)),
    "batch and heads": ((2, 3), (2, 3), (2, 3)),
    "one key for all": ((2, 3), (), ()),
    "one head of keys": ((2, 3), (2, 1), (2, 1)),
    "one query for all": ((), (2, 3), (2, 3)),
    "both stretched": ((2, 1), (1, 3), (3,)),
    "values alone": ((), (), (2, 3)),
    "five axes": ((2, 1, 3), (1, 2, 3), (2, 2, 1)),
    "empty": ((0, 2), (0, 2), (0, 2)),
}
OPTIONS = {
    "none": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "boolean": {"mask": boolean(Q, K)},
    "key padding": {"mask": boolean(K)},
    "one key column": {"mask": boolean(Q, 1)},
    "a mask each": {"mask": boolean(2, 1, Q, K)},
    "nobody sees anything": {"mask": np.zeros((Q, K), bool)},
    "additive": {"mask": array(Q, K, seed=4)},
    "additive with -inf": {"mask": np.where(boolean(Q, K, share=0.3), array(Q, K, seed=4), -np.inf)},
    "additive padding": {"mask": np.where(boolean(2, 1, 1, K), 0, -np.inf)},
}


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("leads", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_equals_the_plain_one(leads, options):
    mask = options.get("mask")
    if mask is not None and mask.ndim > 2 and leads == SHAPES["empty"]:
        pytest.skip("a mask of its own for each of no heads")
    if mask is not None and mask.ndim > 2 and leads == SHAPES["a batch"]:
        leads = ((2, 1), (2, 1), (2, 1))
    q, k, v = (
        array(*lead, n, d, seed=i) for i, (lead, n, d) in enumerate(zip(leads, (Q, K, K), (4, 4, 6), strict=True))
    )
    assert_same(attend(True, q, k, v, **options), attend(False, q, k, v, **options))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 13), (13, 1), (3, 5), (6, 10), (7, 11), (20, 4), (4, 20), (5, 0), (0, 5)]
)
@pytest.mark.parametrize("causal", [False, True])
def test_ragged_sizes(queries, keys, causal):
    q, k, v = array(2, queries, 4), array(2, keys, 4, seed=1), array(2, keys, 3, seed=2)
    assert_same(attend(True, q, k, v, is_causal=causal), attend(False, q, k, v, is_causal=causal))


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"mask": boolean(700)}], ids=["all", "causal", "padding"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 3e-5)])
def test_it_equals_the_plain_one_in_tiles_of_full_size(options, dtype, tolerance):
    q, k, v = (array(2, n, 16, seed=i, dtype=dtype) for i, n in enumerate((600, 700, 700)))
    assert_same(attend(True, q, k, v, **options), attend(False, q, k, v, **options), tolerance)


@pytest.mark.usefixtures("small_tiles")
@settings(max_examples=60, deadline=None)
@given(
    mask=hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 16))),
    size=st.sampled_from([1e-3, 1.0, 30.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_any_mask_and_any_size_of_scores(mask, size, seed):
    queries, keys = mask.shape
    q, k, v = array(queries, 3, seed=seed) * size, array(keys, 3, seed=seed + 1), array(keys, 2, seed=seed + 2)
    tolerance = 1e-12 * max(1, size)  # what rounding does to scores of this size
    assert_same(attend(True, q, k, v, mask), attend(False, q, k, v, mask), tolerance)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("shift", [2000, -2000])
def test_a_mask_may_add_what_no_exponential_can_hold(shift):
    q, k, v = array(Q, 3), array(K, 3, seed=1), array(K, 2, seed=2)
    mask = array(Q, K, seed=3) + shift
    assert_same(attend(True, q, k, v, mask), attend(False, q, k, v, mask), 1e-12 * abs(shift))


LOWEST = np.finfo(np.float32).min
EXTREMES = {  # what a query finds added to its scores
    "nothing": 0.0, "a large number": -1e9, "another": -3e4, "the lowest": LOWEST, "half the lowest": LOWEST / 2,
    "minus infinity": -np.inf, "a large positive": 1e9,
}  # fmt: skip


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", EXTREMES.values(), ids=EXTREMES)
def test_a_finite_mask_on_all_keys_of_a_query_leaves_weights_that_sum_to_1(value, dtype):
    q, k, v = (array(2, n, d, seed=i, dtype=dtype) for i, (n, d) in enumerate(((Q, 4), (K, 4), (K, 6))))
    mask = np.zeros((Q, K), dtype)
    mask[::3] = value
    ours, plain = (attend(tiled, q, k, v, mask) for tiled in (True, False))
    with ta.definitions():
        defined = attend_defined(q, k, v, mask)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert_same(ours, defined, tolerance)
    assert_same(plain, defined, tolerance)
    if np.isfinite(value):  # the gradient of the values then sums to that of the output, weights being shares of 1
        np.testing.assert_allclose(ours[3].sum(-2), array(2, Q, 6, seed=7).sum(-2), rtol=1e-4, atol=1e-4)


def attend_defined(q, k, v, mask):
    """Output and gradients from first principles."""
    leaves = [ta.tensor(x, requires_grad=True) for x in (q, k, v)]
    out = F.scaled_dot_product_attention(*leaves, ta.tensor(mask))
    return [
        x.numpy() for x in (out.detach(), *ta.grad(out, leaves, ta.tensor(array(*out.shape, seed=7, dtype=out.dtype))))
    ]


@pytest.mark.usefixtures("small_tiles")
@settings(max_examples=80, deadline=None)
@given(
    mask=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 9), st.integers(1, 16)), elements=st.sampled_from(list(EXTREMES.values()))
    ),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_any_extreme_mask_in_tiles_equals_the_definition(mask, dtype, seed):
    queries, keys = mask.shape
    mask = mask.astype(dtype)
    q, k, v = (array(n, d, seed=seed + i, dtype=dtype) for i, (n, d) in enumerate(((queries, 3), (keys, 3), (keys, 2))))
    ours, plain = (attend(tiled, q, k, v, mask) for tiled in (True, False))
    with ta.definitions():
        defined = attend_defined(q, k, v, mask)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert_same(ours, defined, tolerance)
    assert_same(plain, defined, tolerance)


def test_1100_tokens_of_which_some_see_only_keys_masked_by_a_finite_number():
    q, k, v = (array(1, 8, 1100, 4, seed=i, dtype="float32") for i in range(3))
    mask = np.zeros((1100, 1100), "float32")
    mask[[5, 700]], mask[[7, 1099]], mask[9] = -1e9, LOWEST, -np.inf
    assert_same(attend(True, q, k, v, mask), attend(False, q, k, v, mask), 1e-5)


@pytest.mark.usefixtures("small_tiles")
def test_scores_that_float16_cannot_take_to_the_power():
    q, k, v = (array(n, 3, seed=i, dtype="float16") * 2 for i, n in enumerate((Q, K, K)))
    assert (q.astype(float) @ k.T).max() > 12  # exp(12) is beyond float16, though not beyond float32
    assert np.linalg.norm(q.astype(float), axis=1).max() * np.linalg.norm(k.astype(float), axis=1).max() < 60
    assert_same(attend(True, q, k, v, scale=1.0), attend(False, q, k, v, scale=1.0), 0.05)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"mask": boolean(Q, K)}], ids=["all", "causal", "mask"])
def test_it_is_torchs(options):
    mask = options.get("mask")
    if mask is not None:
        mask = mask.copy()
        mask[:, 0] = True  # torch gives NaN where nothing can be seen
    args = [torch.tensor(array(2, n, 4, seed=i), requires_grad=True) for i, n in enumerate((Q, K, K))]
    args.append(None if mask is None else torch.tensor(mask))
    options = {k: v for k, v in options.items() if k != "mask"}
    with tiled_attention():
        compare(
            F.scaled_dot_product_attention, torch.nn.functional.scaled_dot_product_attention, args, options, orders=1
        )


# --- masks hide ---


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("additive", [False, True], ids=["boolean", "additive"])
def test_what_a_mask_hides_does_not_leak(bad, additive):
    allowed = boolean(Q, K)
    allowed[:, 7] = False  # a key that nobody sees
    allowed[4] = False  # a query that sees nobody
    mask = np.where(allowed, 0.0, -np.inf) if additive else allowed
    q, k, v = array(2, Q, 4), array(2, K, 4, seed=1), array(2, K, 3, seed=2)
    clean = attend(True, q, k, v, mask)
    assert (clean[0][:, 4] == 0).all() and (clean[1][:, 4] == 0).all()
    assert (clean[2][:, 7] == 0).all() and (clean[3][:, 7] == 0).all()
    q[:, 4], k[:, 7], v[:, 7] = bad, bad, bad
    assert_same(attend(True, q, k, v, mask), clean)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_comes_later_does_not_leak(bad):
    q, k, v = array(K, 4), array(K, 4, seed=1), array(K, 3, seed=2)
    clean = attend(True, q, k, v, is_causal=True)
    k[10], v[10] = bad, bad  # in one tile with queries that see it and queries that do not
    dirty = attend(True, q, k, v, is_causal=True)
    np.testing.assert_allclose(dirty[0][:10], clean[0][:10], atol=1e-12)
    assert not np.isfinite(dirty[0][10]).any()
    k[3], v[10] = np.nan, 0
    assert np.isnan(attend(True, q, k, v, is_causal=True)[0][3:]).all()


# --- what it is part of ---


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"attn_mask": ta.tensor(boolean(7, 7))}], ids=["all", "causal", "mask"]
)
def test_second_derivatives(options):
    def second(tiled):
        x = ta.tensor(array(2, 7, 3), requires_grad=True)
        with tiled_attention(tiled):
            y = F.scaled_dot_product_attention(x, x, x, **options)
        (g,) = ta.grad(y.square().sum(), x, create_graph=True)
        return ta.grad(g.square().sum(), x)[0].numpy()

    np.testing.assert_allclose(second(True), second(False), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("small_tiles")
def test_fewer_key_heads_and_whole_layers():
    q, k, v = array(2, 4, Q, 4), array(2, 2, K, 4, seed=1), array(2, 2, K, 4, seed=2)
    assert_same(attend(True, q, k, v, enable_gqa=True), attend(False, q, k, v, enable_gqa=True))
    ta.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=True, dtype=ta.float64)
    x, hidden = ta.tensor(array(2, 9, 8)), ta.tensor(boolean(2, 9, share=0.3))
    outs = []
    for tiled in (True, False):
        with tiled_attention(tiled):
            outs.append(layer(x, x, x, key_padding_mask=hidden, need_weights=False)[0].numpy())
    np.testing.assert_allclose(*outs, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("small_tiles")
def test_definitions_and_kernels_agree():
    options = {"mask": boolean(Q, K)}
    q, k, v = array(2, Q, 4), array(2, K, 4, seed=1), array(2, K, 3, seed=2)
    kernel = attend(True, q, k, v, **options)
    leaves = [ta.tensor(x, requires_grad=True) for x in (q, k, v)]
    with ta.definitions(), tiled_attention():
        out = F.scaled_dot_product_attention(*leaves, ta.tensor(options["mask"]))
    grads = ta.grad(out, leaves, ta.tensor(array(*out.shape, seed=7)))
    assert_same(kernel, [x.numpy() for x in (out, *grads)])


def test_the_heads_of_a_token_lie_together():
    q = ta.tensor(array(2, 3, 5, 4))
    with tiled_attention():
        out = F.scaled_dot_product_attention(q, q, q)
    assert np.shares_memory(out.transpose(1, 2).reshape(2, 5, 12).numpy(), out.numpy())


# --- when it is chosen ---


def kind(q, k=None, mask=None, **options):
    k = q if k is None else k
    return F.scaled_dot_product_attention(q, k, k, mask, **options).node.op.name


def test_size_and_flag_choose():
    short, long = (ta.zeros(*shape, requires_grad=True) for shape in ((1, 1024, 2), (9, 1024, 2)))
    many = ta.zeros(1500, 4, 49, 2, requires_grad=True)  # more scores than `long`, but none of its heads is long
    assert [kind(x) for x in (short, long, many)] == ["attention", "tiled_attention", "attention"]
    with tiled_attention():
        assert [kind(x) for x in (short, long)] == ["tiled_attention"] * 2
        with tiled_attention(False):
            assert kind(long) == "attention"
        with tiled_attention(None):
            assert kind(short) == "attention"
    assert kind(short) == "attention"


def test_dropout_and_the_gradient_of_a_mask_take_the_plain_way():
    q = ta.tensor(array(5, 2), requires_grad=True)
    mask = ta.zeros(5, 5, dtype=ta.float64, requires_grad=True)
    with tiled_attention():
        assert kind(q, mask=mask) == "attention"
        assert kind(q, mask=mask.detach()) == "tiled_attention"
        assert kind(q, dropout_p=0.5) == "attention"
        ta.manual_seed(3)
        inside = F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)
    ta.manual_seed(3)
    np.testing.assert_array_equal(inside.numpy(), F.scaled_dot_product_attention(q, q, q, dropout_p=0.5).numpy())


# --- memory ---


def peak(tokens, **options):
    """Bytes above its inputs of attention there and back, one head of 64 in float32."""
    leaves = [ta.tensor(array(1, tokens, 64, seed=i, dtype="float32"), requires_grad=True) for i in range(3)]
    seed = ta.ones(1, tokens, 64)
    gc.collect()
    tracemalloc.start()
    try:
        F.scaled_dot_product_attention(*leaves, **options).backward(seed)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("causal", [pytest.param(False, marks=pytest.mark.slow), True])
def test_memory_is_linear_in_the_tokens(causal):
    with tiled_attention():
        small, large = (peak(tokens, is_causal=causal) for tokens in (2048, 4096))
    assert large < 2 * small < 300 * MEGABYTE / 4  # and 4096 tokens are a quarter of 16,384
    with tiled_attention(False):
        assert small < 2048**2 * 4 < peak(2048, is_causal=causal) / 2  # twice the scores


@pytest.mark.slow
def test_16384_tokens_in_under_300_megabytes():
    assert peak(16_384) < 300 * MEGABYTE


@pytest.mark.parametrize(
    ("keys", "dtype", "gap"), [(2048, "float32", 64), (3072, "float64", 128), (2049, "float32", 0)]
)
def test_scores_of_long_rows_have_a_gap_and_the_same_values(keys, dtype, gap):
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 3, 5, 4)).astype(dtype), rng.standard_normal((1, 3, keys, 4)).astype(dtype)
    found = backends.cpu.scores(q, k)
    assert found.strides[-2] == keys * found.itemsize + gap
    np.testing.assert_allclose(found, np.einsum("bhqd,xhkd->bhqk", q, k), rtol=1e-4, atol=1e-5)


def test_attention_with_2048_keys_and_a_mask_that_requires_a_gradient():
    rng = np.random.default_rng(0)
    leaves = [ta.tensor(rng.standard_normal(s), requires_grad=True) for s in ((5, 4), (2048, 4), (2048, 4), (5, 2048))]
    g = ta.tensor(rng.standard_normal((5, 4)))
    found = ta.grad(F.scaled_dot_product_attention(*leaves), leaves, g)
    with ta.definitions():
        expected = ta.grad(F.scaled_dot_product_attention(*leaves), leaves, g)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-9, atol=1e-12)


FLEX = {
    "plain": (None, None),
    "scores": (lambda score, b, h, q, k: score * (h + 1) - abs(q - k), None),
    "mask": (None, lambda b, h, q, k: (q >= k) & (q > 1)),  # the first two queries look at no key
    "both": (lambda score, b, h, q, k: score - (q - k), lambda b, h, q, k: abs(q - k) < 3),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("case", FLEX)
def test_flex_attention_equals_torchs(case, shared):
    theirs, heads = torch.nn.attention.flex_attention, 2 if shared else 4
    score_mod, mask_mod = FLEX[case]
    inputs = [array(2, 4, 5, 8), array(2, heads, 6, 8, seed=1), array(2, heads, 6, 8, seed=2)]
    found = []
    for library, of in ((torch, theirs), (ta, flex)):
        mask = mask_mod and of.create_block_mask(mask_mod, None, None, 5, 6, device="cpu")
        options = {"score_mod": score_mod, "block_mask": mask, "enable_gqa": shared}
        found.append(of.flex_attention(*map(library.from_numpy, inputs), **options).numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12, atol=1e-13)


def test_flex_attention_has_the_gradient_of_attention():
    leaves = [ta.tensor(array(1, 2, 4, 3, seed=i), requires_grad=True) for i in range(3)]
    mask = flex.create_block_mask(flex.and_masks(lambda b, h, q, k: q >= k, lambda b, h, q, k: k < 3), 1, 2, 4, 4)
    either = flex.create_mask(flex.or_masks(lambda b, h, q, k: q < k, lambda b, h, q, k: k > 2), None, None, 4, 4)
    assert ta.equal(either[0, 0], ta.logical_not(mask.mask[0, 0]))
    seed = ta.tensor(array(1, 2, 4, 3, seed=7))
    ours = ta.grad(flex.flex_attention(*leaves, block_mask=mask), leaves, seed)
    plain = ta.grad(F.scaled_dot_product_attention(*leaves, mask.to("cpu").mask), leaves, seed)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-14)
