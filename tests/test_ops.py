"""One table, one row an operation: values, shapes, dtypes and gradients of two orders against PyTorch.

PyTorch's own samples (test_torch_samples.py) cover the common arguments; these rows add what they
leave out: every spelling of dims, empty and 0-d tensors, odd strides, and the arguments of the losses.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from answers import answer, torch
from oracle import compare, host, to_ours
from samples import TABLE

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn.backends.cpu import blocks
from tinyattn.engine.observer import Observer
from tinyattn.ops.attention import _attention, tiled_attention

ON_EVERY_DEVICE = True
TF = torch.nn.functional


def x(*shape, seed=0, positive=False, dtype="float64"):
    """A random tensor that requires a gradient, of the same numbers with every NumPy."""
    a = np.asarray(np.random.RandomState(seed + sum(shape)).standard_normal(shape))
    return ta.tensor((abs(a) + 0.5 if positive else a).astype(dtype), requires_grad=True)


def leaf(*values):
    return ta.tensor(values, dtype=ta.float64, requires_grad=True)


def strided(*shape, seed=0):
    """The same, transposed and with a step: no two elements lie beside each other."""
    if not shape:
        return x()
    wide = x(*reversed([2 * n for n in shape]), seed=seed).detach()
    return wide.permute(*reversed(range(len(shape))))[tuple(slice(None, None, 2) for _ in shape)].requires_grad_()


def ints(high, *shape, seed=0):
    return ta.tensor(np.asarray(np.random.RandomState(seed).randint(high, size=shape)))


def seeded(seed):
    """A generator of the device that the test runs on."""
    return ta.Generator(ta.get_default_device()).manual_seed(seed)


def same(method, *args, **kwargs):
    """Call the method of this name in both engines."""
    return lambda t, *more: getattr(t, method)(*more, *args, **kwargs)


SHAPES = [(), (1,), (5,), (0,), (2, 3), (2, 0, 3), (2, 3, 4), (1, 3, 1)]
ELEMENTWISE = """
    abs exp log log1p expm1 sqrt rsqrt reciprocal square sin cos tanh sigmoid erf neg relu sign
""".split()
ACTIVATIONS = [
    ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("silu", {}), ("softplus", {}), ("softplus", {"beta": 3.0, "threshold": 2.0}),
    ("logsigmoid", {}), ("relu", {}),
]  # fmt: skip
BINARY = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "pow": lambda a, b: (a * a + 0.5) ** b, "maximum": lambda a, b: a.maximum(b), "minimum": lambda a, b: a.minimum(b),
    "radd": lambda a, b: 2.0 + a * b, "rsub": lambda a, b: 2 - a * b, "rdiv": lambda a, b: 2 / (a * b), "rpow": lambda a, b: 2 ** (a * b),
    "add_alpha": lambda a, b: a.add(b, alpha=3), "sub_alpha": lambda a, b: a.sub(b, alpha=-0.5),
}  # fmt: skip
BROADCASTS = [((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2, 3)), ((2, 1, 4), (3, 1)), ((0, 3), (1,)), ((3,), (3,))]
REDUCTIONS = ["sum", "mean", "var", "std", "amax", "amin", "logsumexp"]
DIMS = [0, -1, 1, (0, 2), (-1, 0), (0, 1, 2), (), None]


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=name) for name, cases in TABLE.items() for case in cases if case.torch is not None],
)
def test_operations_of_the_shared_table_equal_torch(name, case):
    rng = np.random.default_rng(0)
    inputs = [ta.tensor(rng.uniform(case.low, case.high, shape), requires_grad=True) for shape in case.shapes]
    compare(lambda *xs: case.call(getattr(ta, name), *xs), case.torch, tuple(inputs))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name, shape, dtype):
    orders = 2 if dtype == "float64" else 1
    compare(same(name), same(name), (x(*shape, positive=True, dtype=dtype),), orders=orders)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_of_odd_strides(name):
    t = strided(3, 4).detach().abs().add(0.5)
    t = t.T.contiguous().T.requires_grad_()
    compare(same(name), same(name), (t,))


@pytest.mark.parametrize(("name", "options"), ACTIVATIONS, ids=str)
@pytest.mark.parametrize("make", [x, strided])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (0, 2)], ids=str)
def test_activations(name, options, make, shape):
    compare(getattr(F, name), getattr(TF, name), (make(*shape),), options)


@pytest.mark.parametrize("shapes", BROADCASTS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, shapes):
    compare(BINARY[name], BINARY[name], (x(*shapes[0], seed=1), x(*shapes[1], seed=2)))


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize(
    ("name", "dim"),
    # torch's logsumexp wants a dim
    [(name, dim) for name in REDUCTIONS for dim in DIMS if name != "logsumexp" or dim not in (None, ())],
)
def test_reductions(name, dim, keepdim):
    if name in ("amax", "amin") and dim is None:
        dim = ()
    # torch's var and std over dim=() reduce all, but their gradient does not know it
    theirs = None if dim == () and name in ("var", "std") else dim
    for make in (x, strided):
        compare(same(name, dim=dim, keepdim=keepdim), same(name, dim=theirs, keepdim=keepdim), (make(2, 3, 4),))


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.sum(), lambda t: t.mean(), lambda t: t.var(False), lambda t: t.var(1, True, True), lambda t: t.std(-1, correction=0),
        lambda t: t.std((0, 1), correction=2), lambda t: t.var(1, correction=5), lambda t: t.var(dim=2, unbiased=False), lambda t: t.prod(), lambda t: t.prod(1),
        lambda t: t.prod(-1, keepdim=True), lambda t: t.cumsum(1), lambda t: t.cumsum(-1), lambda t: t.max(), lambda t: t.min(),
        lambda t: tuple(t.max(1)), lambda t: tuple(t.min(-1, keepdim=True)), lambda t: t.argmax(), lambda t: t.argmin(1),
        lambda t: t.argmax(-1, keepdim=True), lambda t: t.sum(1).max(0).values, lambda t: t.mean((-2, -1), True),
        lambda t: t.softmax(0), lambda t: t.softmax(-1), lambda t: t.log_softmax(1), lambda t: t.transpose(0, 2).softmax(1),
    ],
)  # fmt: skip
def test_more_reductions(call):
    for t in (x(2, 3, 4), strided(2, 3, 4)):
        compare(call, call, (t,))


@pytest.mark.parametrize("values", [[1.0, 0, 3], [0, 0, 3], [0, 0, 0], [2, 3, 4]], ids=str)
def test_prod_with_zeros_to_second_order(values):
    t = leaf(values, [1.0, 2, 3])
    for call in (lambda t: t.prod(1), lambda t: t.prod(), lambda t: t.prod(0, keepdim=True)):
        compare(call, call, (t,))


@pytest.mark.parametrize("name", ["var", "std", "mean", "sum", "prod"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), (1, 3)], ids=str)
def test_reductions_of_hardly_anything(name, shape):
    compare(lambda t: getattr(t, name)(0), lambda t: getattr(t, name)(0), (x(*shape),), orders=1)


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("keepdim", [True, False])
def test_extremes_of_a_vector_and_of_a_number(name, keepdim):
    for t in (x(4), x()):
        compare(lambda t: tuple(getattr(t, name)(0, keepdim)), lambda t: tuple(getattr(t, name)(0, keepdim)), (t,))


@pytest.mark.parametrize("name", ["max", "min"])
def test_gradient_of_max_and_min_is_nan_at_the_extreme_only(name):
    for values in ([1.0, 5.0, 5.0, 2.0], [1.0, torch.nan, 2.0, 0.5]):
        t = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        compare(lambda t: getattr(t, name)() * np.nan, lambda t: getattr(t, name)() * np.nan, (t,), orders=1)
        compare(same(name), same(name), (t,))


def test_logarithms_of_sums_of_infinities():
    inf = np.inf
    t = ta.tensor(
        [[inf, 1, 2], [-inf, -inf, -inf], [-inf, 0, 1], [inf, -inf, inf], [1e300, -1e300, 1e300]], dtype=ta.float64
    )
    compare(lambda t: t.logsumexp(1), lambda t: t.logsumexp(1), (t,))
    compare(lambda t: t.logsumexp(1), lambda t: t.logsumexp(1), (t[2:3].requires_grad_(),))
    nothing = ta.full((2, 3), -np.inf, requires_grad=True)
    assert ta.grad(nothing.logsumexp(1).sum(), nothing)[0].tolist() == [[0, 0, 0]] * 2  # where torch gives NaN


def test_the_spread_of_a_constant_has_no_slope():
    t = leaf([2.0, 2, 2], [1, 2, 3])
    compare(lambda t: t.std(1), lambda t: t.std(1), (t,))


@pytest.mark.parametrize(
    "call", [lambda t: t.movedim(0, -1), lambda t: t.movedim(-1, 0), lambda t: t.mT, lambda t: t.T]
)
def test_movedim_and_transposes_of_a_number(call):
    compare(call, call, (x(),))


@pytest.mark.filterwarnings("ignore:.*is broadcast to input")
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss"])
def test_losses_of_numbers_and_mixed_dtypes(name):
    for shapes in [((), (2, 3)), ((2, 3), ()), ((), ()), ((3,), (2, 3))]:
        for dtypes in [("float32", "float64"), ("float64", "float32"), ("float64", "float64")]:
            pair = (x(*shapes[0], dtype=dtypes[0]), x(*shapes[1], seed=1, dtype=dtypes[1]))
            compare(getattr(F, name), getattr(TF, name), pair, orders=1)


def test_clone_of_an_expanded_tensor_lies_in_row_order():
    assert ta.arange(3).expand(2, 3).clone().is_contiguous()
    if ta.get_default_device() == "cpu":  # CuPy's copies are in row order
        assert ta.arange(6).reshape(2, 3).T.clone().stride() == (1, 3)


def test_flatten_of_one_axis_is_the_tensor_itself():
    for lib in (ta, torch):
        v, m = lib.arange(3), lib.zeros(2, 3)
        assert v.flatten() is v and m.flatten(1) is m and lib.tensor(1.0).flatten().shape == (1,)


@pytest.mark.parametrize("sizes", [(2, 0), (0, 0), (0, 2)], ids=str)
def test_attention_without_keys_or_queries(sizes):
    args = (x(sizes[0], 3), x(sizes[1], 3, seed=1), x(sizes[1], 3, seed=2))
    for mode in (ta.definitions(), ta.enable_grad()):
        with mode:
            compare(F.scaled_dot_product_attention, TF.scaled_dot_product_attention, args)


@pytest.mark.parametrize("weight", [0, 0.3, 0.5, 1, -1, 2.5, [0.0, 0.3, 1.0, -1.0, 0.5]], ids=str)
def test_lerp_is_exact_at_both_ends(weight):
    a, b = x(5), x(5, seed=1)
    if isinstance(weight, list):
        weight = ta.tensor(weight, dtype=ta.float64, requires_grad=True)
    compare(ta.lerp, torch.lerp, (a, b, weight))
    a, b = to_ours((a, b))
    for ends in ((0, 1), (ta.zeros(5, dtype=ta.float64), ta.ones(5, dtype=ta.float64))):
        assert [ta.lerp(a, b, w).tolist() for w in ends] == [a.tolist(), b.tolist()]


@pytest.mark.parametrize("name", ["addcmul", "addcdiv"])
def test_addcmul_and_addcdiv_compute_in_the_common_dtype(name):
    a = ta.tensor([20, 255], dtype="uint8" if name == "addcmul" else "float32")
    b = ta.tensor([19, 7], dtype="uint8")
    for t in (x(2), x(3, 1, dtype="float32")):
        compare(getattr(ta, name), getattr(torch, name), (t, a, b), {"value": 0.5})


@pytest.mark.parametrize("name", ["cat", "stack"])
def test_joined_tensors_lie_in_row_order(name):
    for t in (ta.arange(6).reshape(2, 3).T, ta.arange(2).expand(3, 2)):
        for dim in (0, 1):
            assert getattr(ta, name)([t, t], dim).is_contiguous()


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_indexed_rows_lie_in_row_order(dim):
    index = (slice(None),) * (dim % 3)
    picked = ta.arange(24).reshape(2, 3, 4).index_select(dim, ta.tensor([1, 0, 1]))
    assert picked.is_contiguous() and ta.arange(24).reshape(2, 3, 4)[(*index, [1, 0, 1])].is_contiguous()
    rows = torch.arange(24).reshape(2, 3, 4)[(*index, [1, 0, 1])]
    assert host(picked).tolist() == rows.tolist()


@pytest.mark.parametrize("name", ["amax", "amin", "max", "min", "maximum", "minimum"])
def test_ties_share_as_in_pytorch(name):
    t = leaf([1.0, 3, 3], [2, 2, 2])
    u = leaf(1.0, 2, 3)
    args = (t, u) if name.endswith("imum") else (t,)
    compare(same(name), same(name), args, orders=1)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.sum(), lambda t: t.sum(0), lambda t: t.prod(), lambda t: t.cumsum(0), lambda t: t.amax(0), lambda t: (t * 2).argmax(),
        lambda t: t.exp(), lambda t: t / 2, lambda t: t * 1.5, lambda t: t * 2, lambda t: t.sum(dtype=torch_or_ours(t, "float32")),
        lambda t: t.mean(dtype=torch_or_ours(t, "float64")), lambda t: t == 1, lambda t: t.sigmoid(), lambda t: t.sqrt(),
        lambda t: t.sign(), lambda t: t.square(),
    ],
)  # fmt: skip
def test_integers(call, dtype):
    compare(call, call, (ints(3, 2, 3).to(dtype),))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float32", "float64"])
@pytest.mark.parametrize("value", [1, True, 0])
def test_masked_fill_keeps_the_dtype(dtype, value):
    t, mask = ints(3, 2, 3).to(dtype), ta.tensor([True, False, True])
    compare(lambda t, m: t.masked_fill(m, value), lambda t, m: t.masked_fill(m, value), (t, mask))


def torch_or_ours(t, name):
    return getattr(torch if isinstance(t, torch.Tensor) else ta, name)


def rounding(mode):
    return lambda a, b: a.div(b, rounding_mode=mode)


@pytest.mark.parametrize("mode", ["floor", "trunc"])
def test_div_rounding(mode):
    for a, b in ((x(4), x(4, seed=1)), (ints(20, 6) - 10, ta.tensor([3, -3, 7, 2, -2, 1])), (x(3), ta.tensor(2.5))):
        compare(rounding(mode), rounding(mode), (a, b))


@pytest.mark.parametrize(
    "bounds", [(-0.5, 0.5), (None, 0.2), (-0.2, None), (0.5, -0.5), (x(3), None), (x(3), x(2, 3, seed=2)), (None, x(1))]
)
def test_clamp(bounds):
    compare(lambda t, a, b: t.clamp(a, b), lambda t, a, b: t.clamp(a, b), (x(2, 3), *bounds))


def test_clamp_at_its_bounds():
    values = [leaf(*v) for v in ([1.0, 2, 3, 4, 5], [1.0, 1, 4, 4, 6], [2.0, 2, 4, 3, 6])]
    for args in (values, (values[0], values[1], None), (values[0], None, values[2])):
        compare(lambda t, a, b: t.clamp(a, b), lambda t, a, b: t.clamp(a, b), tuple(args))


POWERS = [
    lambda t: 0.0 ** t, lambda t: 0 ** t, lambda t: 1.0 ** t, lambda t: (-2.0) ** t, lambda t: t ** t, lambda t: (t * 0) ** t, lambda t: (t.detach() * 0) ** t,
    lambda t: t ** 0, lambda t: t ** 1, lambda t: t ** 2, lambda t: t ** 3, lambda t: t ** 4, lambda t: t ** -1, lambda t: t ** -2.0,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", POWERS)
def test_powers_at_the_edge_of_their_domain(call):
    compare(call, call, (leaf(-2.0, -1, 0, 1, 3),), orders=1)


def test_integers_to_the_power_of_integers():
    bases, exponents = ta.tensor([1, -1, 2, -3, 2, 5, -1, 1]), ta.tensor([-1, -3, -2, -1, 3, 0, -2, 0])
    compare(lambda a, b: a**b, lambda a, b: a**b, (bases, exponents))
    compare(lambda a, b: a**b, lambda a, b: a**b, (bases, exponents.abs()))
    compare(lambda a, b: a**b, lambda a, b: a**b, (bases, -1 - exponents.abs()))
    compare(lambda a: 2**a, lambda a: 2**a, (exponents,))


# --- shapes and indexing ---

MOVES = [
    lambda t: t.reshape(4, 6), lambda t: t.reshape((-1, 2)), lambda t: t.view(24) if t.is_contiguous() else t.reshape(24),
    lambda t: t.flatten(), lambda t: t.flatten(1), lambda t: t.flatten(-2, -1), lambda t: t.transpose(0, -1), lambda t: t.permute(2, 0, 1),
    lambda t: t.permute((1, -1, 0)), lambda t: t.mT, lambda t: t.unsqueeze(0), lambda t: t.unsqueeze(-1), lambda t: t[:, :1].squeeze(1),
    lambda t: t[:1, :1].squeeze(), lambda t: t[:1, :, :1].squeeze((0, 2)), lambda t: t[:, :1].expand(2, 5, 4), lambda t: t.expand(3, -1, -1, 4),
    lambda t: t[0, 0].broadcast_to(2, 4), lambda t: t.flip(0), lambda t: t.flip((0, -1)), lambda t: t.roll(1), lambda t: t.roll(-2, 1),
    lambda t: t.roll((1, 2), (0, -1)), lambda t: t.tril(), lambda t: t.triu(1), lambda t: t.tril(-1), lambda t: t.movedim(0, -1),
    lambda t: t.movedim((0, 1), (1, 2)), lambda t: t.split(2, 1), lambda t: t.split([1, 3], -1), lambda t: t.chunk(3, 2), lambda t: t.unbind(1),
    lambda t: list(t), lambda t: t[1], lambda t: t[-1, 1:], lambda t: t[..., None, ::2], lambda t: t[:, [0, 2, 2]], lambda t: t[[1, 0], [2, 2]],
    lambda t: t[t.detach() > 0], lambda t: t[0, :, [1, 2]], lambda t: t[[0, 1], :, 2], lambda t: t[None, 0, :, [1, 1, 3]], lambda t: t[0, [1, 1], :],
    lambda t: t[1, 2, 3], lambda t: t[..., 0], lambda t: t[:0], lambda t: t[[]], lambda t: t.clone(), lambda t: t.contiguous(),
    lambda t: t[t.detach()[:, :, 0] > 0, 1], lambda t: t[[True, False]], lambda t: t[:, [True, False, True], 1], lambda t: t[[1, 1, 0]][:, 1], lambda t: t.T if t.ndim == 2 else t,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", MOVES)
def test_shapes_and_indexing(call):
    for t in (x(2, 3, 4), strided(2, 3, 4)):
        compare(call, call, (t,))


@pytest.mark.parametrize(
    "index", [np.array([0, 2, 2]), np.array([[0, 1], [2, 2]]), np.array([True, False, True]), np.int64(1)], ids=str
)
def test_indexing_with_arrays_and_tensors(index):
    t = x(3, 4)
    compare(lambda t: t[index], lambda t: t[torch.from_numpy(np.asarray(index))], (t,))
    compare(lambda t: t[ta.tensor(index)], lambda t: t[torch.from_numpy(np.asarray(index))], (t,))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_index_select_and_gather(dim):
    t = x(3, 4)
    select = ints(3, 5)
    compare(lambda t, i: ta.index_select(t, dim, i), lambda t, i: torch.index_select(t, dim, i), (t, select))
    index = ints(3, 2, 4)
    compare(lambda t, i: ta.gather(t, dim, i), lambda t, i: torch.gather(t, dim, i), (t, index))


def both(name, *args, **kwargs):
    """The function of this name in torch and in tinyattn."""
    return lambda *t: getattr(ta, name)(*t, *args, **kwargs), lambda *t: getattr(torch, name)(*t, *args, **kwargs)


def listed(name, **kwargs):
    return lambda *t: getattr(ta, name)(t, **kwargs), lambda *t: getattr(torch, name)(t, **kwargs)


TOGETHER = [
    (listed("cat"), [(2, 3), (1, 3)]), (listed("cat", dim=-1), [(2, 3), (2, 0), (2, 1)]), (listed("stack"), [(2, 3), (2, 3)]),
    (listed("stack", dim=-1), [(2,), (2,), (2,)]), (both("matmul"), [(3,), (3,)]), (both("matmul"), [(2, 3), (3,)]),
    (both("matmul"), [(3,), (3, 2)]), (both("matmul"), [(2, 3), (3, 4)]), (both("matmul"), [(5, 2, 3), (3, 4)]),
    (both("matmul"), [(5, 2, 3), (5, 3, 4)]), (both("matmul"), [(2, 1, 2, 3), (4, 3, 1)]), (both("matmul"), [(3,), (5, 3, 2)]),
    (both("matmul"), [(5, 2, 3), (3,)]), (both("matmul"), [(0, 3), (3, 2)]), (both("matmul"), [(2, 0), (0, 3)]),
    (both("mm"), [(2, 3), (3, 4)]), (both("bmm"), [(5, 2, 3), (5, 3, 4)]), (both("outer"), [(2,), (3,)]),
    (both("where", ), [(2, 3), (2, 3)]),
]  # fmt: skip


@pytest.mark.parametrize(("pair", "shapes"), TOGETHER[:-1], ids=lambda p: str(p) if isinstance(p, list) else "")
def test_products_and_joins(pair, shapes):
    for make in (x, strided):
        compare(*pair, tuple(make(*shape, seed=i) for i, shape in enumerate(shapes)))


EINSUM = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("bij,bjk", (2, 3, 4), (2, 4, 5)), ("ij->ji", (2, 3)), ("ij->", (2, 3)), ("ii->i", (3, 3)), ("ii", (3, 3)),
    ("i,j->ij", (2,), (3,)), ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)), ("...ij,...jk->...ik", (2, 3, 4), (4, 2)), ("b...i,i->b...", (2, 3, 4), (4,)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)), ("ijk,j->ik", (2, 3, 4), (3,)), ("iji->j", (2, 3, 2)), ("jii->j", (2, 3, 3)), ("aiib->ba", (2, 3, 3, 2)), ("ij,ij->i", (2, 3), (1, 3)), ("i,i->i", (3,), (1,)),
    ("ij , jk -> k i", (2, 3), (3, 4)), ("a,b,c->cab", (2,), (3,), (2,)), ("...->...", (2, 3)), ("ij...,jk...->ik...", (2, 3, 4), (3, 2, 4)),
]  # fmt: skip


@pytest.mark.parametrize("row", EINSUM, ids=lambda row: row[0])
def test_einsum(row):
    equation, *shapes = row
    args = tuple(x(*shape, seed=i) for i, shape in enumerate(shapes))
    compare(lambda *t: ta.einsum(equation, *t), lambda *t: torch.einsum(equation, *t), args)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad(mode):
    for pad in ((1, 2), (2, 1, 0, 3)) if mode == "constant" else ((1, 2), (2, 1, 1, 2)):
        t = x(2, 4, 5) if len(pad) == 2 else x(2, 2, 4, 5)
        compare(lambda t: F.pad(t, pad, mode), lambda t: TF.pad(t, pad, mode), (t,))  # noqa: B023
    compare(lambda t: F.pad(t, (1, -1, -1, 2), value=7.0), lambda t: TF.pad(t, (1, -1, -1, 2), value=7.0), (x(3, 4),))


# --- losses ---

CLASS_LOSSES = [
    {}, {"reduction": "sum"}, {"reduction": "none"}, {"ignore_index": 1}, {"label_smoothing": 0.1}, {"weight": True},
    {"weight": True, "ignore_index": 2, "label_smoothing": 0.3}, {"weight": True, "reduction": "sum", "ignore_index": 0},
    {"label_smoothing": 1.0}, {"weight": True, "reduction": "none", "label_smoothing": 0.2}, {"label_smoothing": 0.2, "reduction": "sum", "ignore_index": 1},
]  # fmt: skip


@pytest.mark.parametrize("shape", [(5, 4), (4,), (3, 4, 2), (2, 4, 3, 2)], ids=str)
@pytest.mark.parametrize(
    ("name", "target", "options"),
    [("cross_entropy", target, options) for target in ("index", "probabilities") for options in CLASS_LOSSES]
    + [("nll_loss", "index", options) for options in CLASS_LOSSES if "label_smoothing" not in options],
    ids=str,
)
def test_class_losses(name, target, shape, options):
    options = dict(options)
    axis = 0 if len(shape) == 1 else 1
    if options.get("weight"):
        options["weight"] = ta.tensor([0.5, 2.0, 1.0, 3.0], dtype=ta.float64)
    if target == "probabilities":
        options.pop("ignore_index", None)
        labels = x(*shape, seed=3).detach().softmax(axis).requires_grad_()
    else:
        labels = ints(4, *shape[:axis], *shape[axis + 1 :])
    compare(getattr(F, name), getattr(TF, name), (x(*shape), labels), options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_loss_equals_torchs(blank, zero_infinity, reduction):
    classes = [0, 1, 2, 3]
    classes.remove(blank)
    labels = np.array(classes)[np.random.RandomState(1).randint(0, 3, (4, 3))]
    labels[0] = labels[0, 0]  # the same class again needs a blank between
    inputs, lengths = [6, 5, 3, 1 if zero_infinity else 4], [3, 0, 2, 2]  # two classes do not fit into one step
    flat = np.concatenate([row[:n] for row, n in zip(labels, lengths, strict=True)])
    for targets in (labels, flat):
        args = [ta.tensor(targets), ta.tensor(inputs), ta.tensor(lengths)]
        compare(
            lambda scores, *others: F.ctc_loss(scores.log_softmax(2), *others, blank, reduction, zero_infinity),
            lambda scores, *others: TF.ctc_loss(scores.log_softmax(2), *others, blank, reduction, zero_infinity),
            (x(6, 4, 4), *args),
            orders=1,  # in PyTorch, it has no second derivative
        )
    compare(
        lambda scores, *others: F.ctc_loss(scores.log_softmax(1), *others, blank, reduction),
        lambda scores, *others: TF.ctc_loss(scores.log_softmax(1), *others, blank, reduction),
        (x(6, 4), ta.tensor(labels[1]), ta.tensor(6), ta.tensor(3)),
        orders=1,
    )


def test_ctc_loss_of_log_probs_is_differentiated_itself():
    targets, lengths = ta.tensor([[1, 2], [2, 2]]), ta.tensor([2, 2])
    log_probs = x(4, 2, 3).log_softmax(2).detach().requires_grad_()
    assert ta.gradcheck(lambda p: F.ctc_loss(p, targets, ta.tensor([4, 3]), lengths), (log_probs,))
    assert ta.gradgradcheck(lambda p: F.ctc_loss(p, targets, ta.tensor([4, 3]), lengths), (log_probs,))
    impossible = F.ctc_loss(log_probs, targets, ta.tensor([4, 2]), lengths, reduction="none")
    assert impossible.isinf().tolist() == [False, True]  # 2 2 in two steps
    diverged = F.ctc_loss(log_probs * ta.nan, targets, ta.tensor([4, 2]), lengths, reduction="none", zero_infinity=True)
    assert diverged.isnan()[0]


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        (([[1]], [5], [1]), ValueError, "log_probs has 4 steps"),
        (([[1]], [4, 4], [1]), ValueError, "expected 1 integers"),
        (([[1]], [4], [2]), ValueError, "do not fit targets"),
        (([1], [4], [2]), ValueError, "do not fit targets"),
        (([[3]], [4], [1]), IndexError, "3"),
        (([[1]], [4], [1], 7), IndexError, "7"),
    ],
)
def test_ctc_loss_refuses_what_does_not_fit(args, error, words):
    with pytest.raises(error, match=words):
        F.ctc_loss(x(4, 1, 3).log_softmax(2), *args)


def test_view_as_a_dtype_reads_the_same_bytes_as_in_torch():
    for shape, dtype, other in (((2, 3), "float32", "int32"), ((2, 4), "float32", "float64"), ((3,), "int16", "uint8")):
        array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        ours, theirs = ta.tensor(array), torch.tensor(array)
        view = ours.view(getattr(ta, other))
        np.testing.assert_array_equal(view.cpu().numpy(), theirs.view(getattr(torch, other)).numpy())
        view.fill_(7)
        assert np.array_equal(
            ours.cpu().numpy(), theirs.view(getattr(torch, other)).fill_(7).view(theirs.dtype).numpy()
        )
    with pytest.raises(RuntimeError, match=r"float32 \(2, 3\) as float64"):
        ta.ones(2, 3).view(ta.float64)
    z = x(3) * 1
    out = z.square().sum()
    z.detach().view(ta.int64).fill_(1)
    with pytest.raises(RuntimeError, match="changed it in place"):
        out.backward()


def test_the_mean_of_ignored_targets_alone_is_nan_as_in_pytorch():
    compare(F.cross_entropy, TF.cross_entropy, (x(2, 3), ta.tensor([-100, -100])), orders=1)


def test_losses_of_no_samples():
    for name in ("cross_entropy", "nll_loss"):
        for reduction in ("mean", "sum", "none"):
            compare(getattr(F, name), getattr(TF, name), (x(0, 4), ints(4, 0)), {"reduction": reduction}, orders=1)


def test_ignored_targets_of_a_single_class():
    compare(F.cross_entropy, TF.cross_entropy, (x(3, 1), ta.tensor([0, -100, 0])))


def test_an_ignored_row_of_infinities_stays_out():
    scores = ta.tensor([[1.0, 2.0], [np.inf, -np.inf]], requires_grad=True)
    loss = F.cross_entropy(scores, ta.tensor([1, -100]))
    loss.backward()
    assert np.isfinite(loss.item())
    assert scores.grad[0].isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "binary_cross_entropy_with_logits"])
def test_number_losses(name, reduction):
    target = x(3, 4, seed=1).detach().sigmoid().requires_grad_()
    compare(getattr(F, name), getattr(TF, name), (x(3, 4), target), {"reduction": reduction})
    if name.startswith("binary"):
        for options in (
            {"weight": x(4).detach()},
            {"pos_weight": x(4, positive=True).detach()},
            {"weight": x(3, 4).detach(), "pos_weight": x(1).detach()},
        ):
            compare(getattr(F, name), getattr(TF, name), (x(3, 4), target), {"reduction": reduction, **options})


# Many short rows take another way through the array library than the samples of PyTorch do.
@pytest.mark.parametrize("shape", [(70, 5), (7, 10, 3), (64, 256), (64, 257), (64, 1), (63, 4)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean", "var"])
def test_sums_of_many_short_rows(name, keepdim, dtype, shape):
    for dim in (-1, len(shape) - 1, 0):
        compare(getattr(ta, name), getattr(torch, name), (x(*shape, dtype=dtype),), {"dim": dim, "keepdim": keepdim})


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16"])
def test_sums_of_many_short_rows_of_other_kinds(dtype):
    compare(ta.sum, torch.sum, ((x(70, 5).detach() * 100).to(ta.int64).to(dtype),), {"dim": -1})


@pytest.mark.parametrize("width", [5, 300])
@pytest.mark.parametrize("scale", [1, 30, 1000, np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_softmax_of_many_rows(dtype, scale, width, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 20 * width)  # the large numbers are in the first block, the small in others
    a = x(2, 60, width, dtype=dtype).detach()
    a[0, 3] = abs(a[0, 3]) * scale
    a[0, 24] = -1000
    a[0, 45] = -np.inf
    a[1] = abs(a[1])
    for dim in (-1, 0, 1):
        compare(F.softmax, TF.softmax, (a.requires_grad_(),), {"dim": dim}, orders=0 if np.isnan(scale) else 1)


# --- embedding, norms, attention ---


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0,)], ids=str)
@pytest.mark.parametrize("rows", [4, 64, 65])  # small tables add up their gradients in another way
def test_embedding(rows, shape, padding_idx):
    orders = 2 if shape != (0,) else 1  # torch cannot differentiate twice through no rows
    compare(F.embedding, TF.embedding, (ints(rows, *shape), x(rows, 3)), {"padding_idx": padding_idx}, orders)


@pytest.mark.parametrize("rows", [4, 70])
def test_a_bad_gradient_reaches_only_the_rows_that_were_read(rows):
    weight = ta.ones(rows, 3, requires_grad=True)
    index, seed = ta.tensor([1, 3, 1]), ta.tensor([[1.0, 2.0, 3.0], [np.nan, np.inf, 0.0], [3.0, 4.0, 5.0]])
    (g,) = ta.grad(F.embedding(index, weight), weight, seed)
    assert g[1].tolist() == [4.0, 6.0, 8.0]
    assert np.isnan(g[3, 0].item()) and g[3, 1].item() == np.inf
    assert not g[[0, 2]].any()


def primitive_layer_norm(t, shape, weight, bias, eps=1e-5):
    """torch's fused layer_norm has a wrong third derivative (pytorch#175754), so compare with this."""
    dim = tuple(range(-len(shape), 0))
    centred = t - t.mean(dim, keepdim=True)
    return centred / (centred.square().mean(dim, keepdim=True) + eps).sqrt() * weight + bias


def test_layer_norm_of_single_numbers():
    compare(F.layer_norm, TF.layer_norm, (x(3, 1), (1,), x(1, seed=1), x(1, seed=2)), orders=1)


@pytest.mark.parametrize("shape", [(4,), (3, 4)], ids=str)
def test_layer_norm_to_third_order(shape):
    for make in (x, strided):
        args = (make(2, 3, 4), x(*shape, seed=1), x(*shape, seed=2))
        compare(
            lambda t, w, b: F.layer_norm(t, shape, w, b),
            lambda t, w, b: primitive_layer_norm(t, shape, w, b),
            args,
            orders=3,
        )
    for options in ((None, None), (x(*shape, seed=1), None), (None, x(*shape, seed=1))):
        compare(
            lambda t, w, b: F.layer_norm(t, shape, w, b),
            lambda t, w, b: TF.layer_norm(t, shape, w, b),
            (x(2, 3, 4), *options),
            orders=1,
        )


def primitive_attention(q, k, v, mask=None, is_causal=False, scale=None):
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -np.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v


MASKS = {
    "none": {}, "causal": {"is_causal": True}, "scale": {"scale": 0.3}, "boolean": {"mask": ta.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]]).bool()},
    "additive": {"mask": x(4, 3, seed=9)}, "a row for all": {"mask": ta.tensor([1, 0, 1]).bool()}, "a head each": {"mask": x(2, 1, 4, 3, seed=9)},
}  # fmt: skip


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("lead", [(), (2,), (1, 2), (2, 2)], ids=str)
def test_attention_to_third_order(lead, options):
    options = dict(options)
    mask = options.pop("mask", None)
    args = (x(*lead, 4, 2, seed=1), x(*lead, 3, 2, seed=2), x(*lead, 3, 5, seed=3), mask)
    compare(
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, **options),
        lambda q, k, v, m: primitive_attention(q, k, v, m, **options),
        args,
        orders=3,
    )


def primitive_packed_attention(qkv, heads, mask=None, is_causal=False, scale=None):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(-3, -2) for t in qkv.chunk(3, -1))
    return primitive_attention(q, k, v, mask, is_causal, scale).transpose(-3, -2).flatten(-2)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (0,)], ids=str)
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}], ids=str)
def test_packed_attention(lead, options):
    compare(F.packed_attention, primitive_packed_attention, (x(*lead, 4, 18), 2), options, orders=2)


@pytest.mark.parametrize("tiled", [False, True])
def test_packed_attention_masked_and_in_tiles(tiled):
    mask = np.array([[True, False, True, True]] * 4)
    with tiled_attention(tiled):
        compare(
            lambda t: F.packed_attention(t, 2, ta.tensor(mask)),
            lambda t: primitive_packed_attention(t, 2, torch.from_numpy(mask)),
            (x(2, 4, 12),),
        )
        out = F.packed_attention(ta.ones(1, 4, 12, requires_grad=True), 2)
        assert ("tiled_attention" in describe_graph(out)) == tiled


def describe_graph(out):
    """The names of the operations behind `out`."""
    names, stack = set(), [out.node]
    while stack:
        node = stack.pop()
        if node is not None and node.op is not None:
            names.add(node.op.name)
            stack.extend(node.edges)
    return names


def test_packed_attention_drops_out_its_weights():
    qkv, options = ta.randn(2, 4, 12), {"dropout_p": 0.5}
    q, k, v = (t.reshape(2, 4, 2, 2).transpose(1, 2) for t in qkv.chunk(3, -1))
    ours = F.packed_attention(qkv, 2, generator=seeded(3), **options)
    apart = F.scaled_dot_product_attention(q, k, v, generator=seeded(3), **options)
    np.testing.assert_array_equal(host(ours), host(apart).swapaxes(1, 2).reshape(2, 4, 4))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("mode", [ta.enable_grad, ta.definitions])
def test_packed_attention_of_extreme_numbers(mode, bad):
    a = np.random.default_rng(0).normal(size=(3, 4, 12))
    a[1, 2, 0] = bad  # in a query of the first head
    with np.errstate(all="ignore"), mode():
        expected = answer(lambda: primitive_packed_attention(torch.from_numpy(a), 2))
        out = F.packed_attention(ta.from_numpy(a), 2).array
    np.testing.assert_allclose(out, expected, atol=1e-12)


# Wide enough for float16 to overflow where float32 does not: scores of 12 and more, squares of 40.


@pytest.mark.parametrize(("q", "k", "v"), [(12, 0.5, 2), (10, 0.9, 10), (-14, 0.5, 2), (-50, 0.5, 2)])
def test_attention_in_float16(q, k, v):
    qkv = torch.tensor([[[q, 1.0, v / 2], [q, k, v]]], dtype=torch.float16)
    expected = primitive_packed_attention(qkv.double(), 1, scale=1.0).numpy()
    x = ta.from_numpy(qkv.numpy()).requires_grad_()
    for out in (F.packed_attention(x, 1, scale=1.0), F.scaled_dot_product_attention(*x.split(1, -1), scale=1.0)):
        np.testing.assert_allclose(out.array, expected, rtol=2e-3)
        assert np.isfinite(ta.grad(out.sum(), x)[0].array).all()


def test_layer_norm_in_float16():
    a = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).mul(40).half()
    w, b = torch.full((64,), 2.0).half(), torch.ones(64).half()
    leaves = [t.clone().requires_grad_() for t in (a, w, b)]
    theirs = TF.layer_norm(leaves[0], (64,), *leaves[1:])
    ours_in = [ta.from_numpy(t.numpy()).requires_grad_() for t in (a, w, b)]
    ours = F.layer_norm(ours_in[0], (64,), *ours_in[1:])
    assert ours.dtype == np.float16
    np.testing.assert_allclose(ours.array, theirs.detach().cpu().numpy(), rtol=5e-3, atol=5e-3)
    ours_g, theirs_g = (
        ta.grad((ours * ours).sum() / 64, ours_in),
        torch.autograd.grad((theirs * theirs).sum() / 64, leaves),
    )
    for mine, other in zip(ours_g, theirs_g, strict=True):
        assert mine.dtype == np.float16
        np.testing.assert_allclose(mine.array, other.numpy(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("low", [-57.0, -30.0, -8.0])
def test_softmax_of_low_scores_keeps_small_probabilities(low):
    a = np.full((64, 2), low, "float32")
    a[:, 1] -= 47
    np.testing.assert_allclose(F.softmax(ta.from_numpy(a), -1).array[:, 1], np.exp(-47.0), rtol=1e-5)
    q = np.stack([np.full(64, low), np.tile([1.0, 1 + 47 / abs(low)], 32), np.tile([0.0, 1.0], 32)], -1)[None]
    expected = answer(lambda: primitive_packed_attention(torch.from_numpy(q), 1, scale=1.0))
    out = F.packed_attention(ta.from_numpy(q.astype("float32")), 1, scale=1.0)
    np.testing.assert_allclose(out.array, expected, rtol=1e-4)


def test_both_masks_at_once_hide_what_either_hides():
    q, k, v = (np.random.default_rng(i).normal(size=(2, 3, 4)) for i in range(3))
    mask, allowed = ta.tensor([0.0, -np.inf, 0.0], dtype=ta.float64), ta.tensor([True, True, False])
    (alone,) = (_attention(*map(ta.tensor, (q, k, v)), mask, allowed, None, scale=0.5),)
    np.testing.assert_allclose(host(alone), np.broadcast_to(v[:, :1], alone.shape))  # only the first key is seen
    k[:, 1:], v[:, 1:] = np.nan, np.nan
    for mode in (ta.enable_grad(), ta.definitions()):
        with mode:
            out = _attention(*map(ta.tensor, (q, k, v)), mask, allowed, None, scale=0.5)
        np.testing.assert_allclose(host(out), host(alone))


def test_weights_of_attention_where_a_hidden_key_is_nan():
    ta.manual_seed(0)
    q, k = ta.randn(2, 4), ta.randn(3, 4)
    allowed = ta.tensor([True, True, False])
    plain = ta.ops.attention_weights(q, k, allowed)
    k.array[2] = np.nan
    np.testing.assert_allclose(host(ta.ops.attention_weights(q, k, allowed)), host(plain), rtol=1e-6)
    assert (host(plain).sum(-1) - 1 < 1e-6).all() and (host(plain)[:, :2] > 0).all()


def test_attention_with_fewer_key_heads():
    args = (x(2, 6, 3, 5), x(2, 2, 6, 5, seed=1), x(2, 2, 6, 5, seed=2))
    compare(F.scaled_dot_product_attention, TF.scaled_dot_product_attention, args, {"enable_gqa": True}, orders=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("additive", [True, False])
def test_a_single_bad_number_behind_a_mask_stays_there(tiled, additive, bad):
    allowed = ta.tensor(np.tri(4, 5, dtype=bool))  # nobody sees the last key
    mask = ta.where(allowed, 0.0, -np.inf).to(ta.float64) if additive else allowed
    found = []
    for hidden in (0.5, bad):
        q, k, v = (x(2, n, 3, seed=i).detach().cpu().numpy() for i, n in enumerate((4, 5, 5)))
        k[0, -1, 1], v[1, -1, 2] = hidden, hidden
        leaves = [ta.tensor(a, requires_grad=True) for a in (q, k, v)]
        with tiled_attention(tiled):
            out = F.scaled_dot_product_attention(*leaves, mask)
        found.append([out, *ta.grad(out, leaves, ta.tensor(x(2, 4, 3, seed=7).detach().cpu().numpy()))])
    for clean, dirty in zip(*found, strict=True):
        np.testing.assert_allclose(host(dirty), host(clean), atol=1e-12)


def test_masks_and_factors_may_be_arrays():
    q, mask = x(4, 3), np.tri(4, dtype=bool)
    compare(
        lambda q: F.scaled_dot_product_attention(q, q, q, mask),
        lambda q: primitive_attention(q, q, q, torch.from_numpy(mask)),
        (q,),
    )
    array = np.arange(6.0).reshape(3, 2)
    compare(lambda q: ta.matmul(q, array), lambda q: torch.matmul(q, torch.from_numpy(array)), (q,))
    compare(
        lambda q: F.binary_cross_entropy_with_logits(q[:3, :2], array),
        lambda q: TF.binary_cross_entropy_with_logits(q[:3, :2], torch.from_numpy(array)),
        (q,),
    )
    labels = np.array([[0, 2], [1, 1]])
    compare(
        lambda t: F.cross_entropy(t, labels), lambda t: TF.cross_entropy(t, torch.from_numpy(labels)), (x(2, 3, 2),)
    )
    compare(lambda t: F.nll_loss(t, labels), lambda t: TF.nll_loss(t, torch.from_numpy(labels)), (x(2, 3, 2),))
    labels = np.array([0, 2, 1, 1])
    compare(lambda q: F.cross_entropy(q, labels), lambda q: TF.cross_entropy(q, torch.from_numpy(labels)), (q,))
    compare(lambda q: ta.matmul(array.T, q.mT), lambda q: torch.matmul(torch.from_numpy(array.T), q.mT), (q,))


def test_attention_of_single_numbers():
    args = (x(2, 4, 1, seed=1), x(2, 3, 1, seed=2), x(2, 3, 1, seed=3))
    compare(F.scaled_dot_product_attention, primitive_attention, args)


def test_attention_drops_out_its_weights():
    q, k, v = (ta.tensor(x(2, 4, 3, seed=i).detach().cpu().numpy(), requires_grad=True) for i in range(3))
    seed = ta.tensor(x(2, 4, 3, seed=5).detach().cpu().numpy())
    for options in ({}, {"is_causal": True}):
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=0.4, generator=seeded(1), **options)
        scores = q @ k.mT / 3**0.5
        if options:
            scores = scores.masked_fill(ta.ones(4, 4, dtype=bool).triu(1), -np.inf)
        dropped = F.dropout(scores.softmax(-1), 0.4, generator=seeded(1))
        for a, b in zip(
            [out, *ta.grad(out, (q, k, v), seed)], [dropped @ v, *ta.grad(dropped @ v, (q, k, v), seed)], strict=True
        ):
            np.testing.assert_allclose(host(a), host(b), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shift", [-1000.0, -70.0, 70.0, 1000.0])
def test_what_is_added_to_all_scores_of_a_query_does_not_matter(shift, dtype):
    q, k, v = (x(2, 4, 3, seed=i, dtype=dtype) for i in range(3))
    shifts = ta.tensor([[0.0], [shift], [0.0], [shift]], dtype=dtype)
    compare(
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), lambda q, k, v, m: primitive_attention(q, k, v), (q, k, v, shifts),
        orders=1,
    )  # fmt: skip


def test_dropout_keeps_the_mean_and_scales_the_gradient():
    t = ta.ones(200, 200, dtype=ta.float64, requires_grad=True)
    for p in (0.1, 0.5, 0.9):
        out = F.dropout(t, p)
        kept = host(out) != 0
        np.testing.assert_allclose(kept.mean(), 1 - p, atol=0.01)
        np.testing.assert_allclose(host(out)[kept], 1 / (1 - p))
        np.testing.assert_array_equal(host(ta.grad(out.sum(), t)[0]), host(out))
    assert (host(F.dropout(t, 1.0)) == 0).all()
    assert F.dropout(t, 0.5, training=False) is t
    plain = ta.ones(50)
    assert F.dropout(plain, 0.5, inplace=True) is plain
    assert set(plain.tolist()) == {0.0, 2.0}


# --- definitions and kernels ---


def in_tiles(q, k, v, **options):
    with tiled_attention():
        return F.scaled_dot_product_attention(q, k, v, **({"is_causal": True} | options))


FUSED = {
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), [(4, 3, 2), (3,), (3,)]),
    "batch_norm of images": (lambda x: F.batch_norm(x, None, None, training=True, eps=1e-2), [(2, 3, 2, 2)]),
    "convolve": (lambda x, w, b: F.conv2d(x, w, b, padding=1), [(2, 2, 5, 4), (3, 2, 3, 3), (3,)]),
    "convolve to fewer channels": (
        lambda x, w: F.conv2d(x, w, padding=1, dilation=(1, 2), groups=2), [(2, 4, 5, 6), (2, 2, 3, 2)],
    ),
    "convolve in groups": (lambda x, w: F.conv2d(x, w, stride=2, groups=2), [(2, 4, 5, 4), (6, 2, 3, 2)]),
    "recurrent tanh": (
        lambda x, w, b, h: ta.ops.recurrent(x, w, b, h, None, None, kind="tanh", reverse=False), [(3, 2, 2), (2, 2), (2,), (2, 2)],
    ),
    "recurrent relu": (
        lambda x, w, h: ta.ops.recurrent(x, w, None, h, None, ta.tensor([[[True], [True]], [[False], [True]]]), kind="relu", reverse=True),
        [(2, 2, 2), (2, 2), (2, 2)],
    ),
    "recurrent gru": (
        lambda x, w, b, h: ta.ops.recurrent(x, w, b, h, None, None, kind="gru", reverse=True), [(3, 2, 6), (6, 2), (6,), (2, 2)],
    ),
    "recurrent lstm": (
        lambda x, w, h, c: ta.ops.recurrent(x, w, None, h, c, ta.tensor([[[True], [True]], [[False], [True]]]), kind="lstm", reverse=False),
        [(2, 2, 8), (8, 2), (2, 2), (2, 2)],
    ),
    "linear": (lambda x, w, b: F.linear(x, w, b), [(2, 3, 4), (5, 4), (5,)]),
    "linear alone": (lambda x, w: F.linear(x, w), [(2, 3, 4), (5, 4)]),
    "embedding": (lambda w: F.embedding(ta.tensor([[0, 2], [2, 3]]), w), [(4, 3)]),
    "embedding with a padding row": (lambda w: F.embedding(ta.tensor([[0, 2], [2, 3]]), w, padding_idx=-2), [(4, 3)]),
    "embedding of a large table": (lambda w: F.embedding(ta.tensor([[0, 66], [66, 3]]), w), [(67, 3)]),
    "softmax": (lambda x: F.softmax(x, 1), [(2, 3, 4)]),
    "softmax over columns": (lambda x: F.softmax(x, 0), [(3, 4)]), "log_softmax over columns": (lambda x: F.log_softmax(x, 0), [(3, 4)]),
    "log_softmax": (lambda x: F.log_softmax(x, -1), [(2, 3, 4)]),
    "sigmoid": (ta.sigmoid, [(3, 4)]), "silu": (ta.silu, [(3, 4)]), "relu": (ta.relu, [(3, 4)]),
    "gelu": (F.gelu, [(3, 4)]), "gelu tanh": (lambda x: F.gelu(x, "tanh"), [(3, 4)]),
    "linear_gelu": (F.linear_gelu, [(2, 3, 4), (5, 4), (5,)]), "linear_gelu without bias": (F.linear_gelu, [(3, 4), (5, 4)]),
    "linear_gelu tanh": (lambda x, w, b: F.linear_gelu(x, w, b, "tanh"), [(2, 3, 4), (5, 4), (5,)]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), [(2, 3, 4), (4,), (4,)]),
    "layer_norm with a large eps": (lambda x, w, b: F.layer_norm(x, (4,), w, b, 0.5), [(2, 3, 4), (4,), (4,)]),
    "layer_norm scaled": (lambda x, w: F.layer_norm(x, (4,), w), [(2, 3, 4), (4,)]),
    "layer_norm shifted": (lambda x, b: F.layer_norm(x, (4,), None, b), [(2, 3, 4), (4,)]),
    "layer_norm alone": (lambda x: F.layer_norm(x, (3, 4)), [(2, 3, 4)]),
    "packed_attention": (lambda x: F.packed_attention(x, 2), [(5, 4, 18)]),
    "packed_attention of three heads": (lambda x: F.packed_attention(x, 3), [(5, 4, 18)]),
    "packed_attention causal": (lambda x: F.packed_attention(x, 2, is_causal=True), [(5, 4, 18)]),
    "packed_attention masked": (lambda x: F.packed_attention(x, 2, ta.tensor([True, False, True, True])), [(5, 4, 18)]),
    "packed_attention with one query far down": (
        lambda x: F.packed_attention(x + ta.tensor([[11.0 * (i == 0)] * 4 + [-11.0] * 4 + [0.0] * 4 for i in range(3)]).to(x.dtype), 2, scale=0.5),
        [(5, 3, 12)],
    ),
    "packed_attention of like tokens": (
        lambda x: F.packed_attention(x * 0.1 + ta.tensor([1.0] * 8 + [0.0] * 4).to(x.dtype), 2), [(5, 3, 12)],
    ),
    "packed_attention far down": (
        lambda x: F.packed_attention(x + ta.tensor([11.0] * 4 + [-11.0] * 4 + [0.0] * 4).to(x.dtype), 2, scale=0.5),
        [(5, 3, 12)],
    ),
    "packed_attention scaled": (lambda x: F.packed_attention(x + ta.tensor([11.0] * 8 + [0.0] * 4), 2, scale=0.5), [(5, 3, 12)]),
    "cross_entropy": (lambda x: F.cross_entropy(x, ta.tensor([1, 0, 2])), [(3, 4)]),
    "cross_entropy weighted": (lambda x: F.cross_entropy(x, ta.tensor([1, 0, 2]), ta.tensor([1.0, 2, 3, 4]).to(x.dtype)), [(3, 4)]),
    "cross_entropy smoothed": (lambda x: F.cross_entropy(x, ta.tensor([1, 0, 2]), label_smoothing=0.3), [(3, 4)]),
    "cross_entropy of some": (lambda x: F.cross_entropy(x, ta.tensor([1, 0, 2]), ignore_index=0, reduction="none"), [(3, 4)]),
    "cross_entropy of probabilities": (lambda x: F.cross_entropy(x, ta.tensor([[0.1, 0.2, 0.3, 0.4]] * 3).to(x.dtype), reduction="sum"), [(3, 4)]),
    "attention scaled": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=2.0), [(2, 4, 3), (2, 5, 3), (2, 5, 6)]),
    "attention grouped": (lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), [(4, 4, 3), (2, 5, 3)]),
    "attention dropped": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.4, generator=seeded(1)), [(2, 4, 3), (2, 5, 3), (2, 5, 6)],
    ),
    "attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), [(2, 4, 3), (2, 5, 3), (2, 5, 6)]),
    "attention of one sample": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), [(4, 3), (5, 3), (5, 6)]),
    "attention causal": (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), [(2, 4, 3)]),
    "tiled_attention of all keys": (lambda q, k, v: in_tiles(q, k, v, is_causal=False, scale=2.0), [(2, 4, 3), (2, 5, 3), (2, 5, 6)]),
    "tiled_attention": (in_tiles, [(2, 4, 3), (2, 5, 3), (2, 5, 6)]),
    "attention both masks": (
        lambda q, k, v: _attention(q, k, v, ta.tensor([0.0, 1.0, -np.inf]).to(q.dtype), ta.tensor([True, False, True]), None, scale=0.5),
        [(2, 4, 3), (2, 3, 3), (2, 3, 6)],
    ),
    "attention mask": (lambda x, m: F.scaled_dot_product_attention(x, x, x, m), [(2, 4, 3), (4, 4)]),
    "dropout": (lambda x: F.dropout(x, 0.4, generator=seeded(1)), [(3, 4)]),
    "dropout of most": (lambda x: F.dropout(x, 0.8, generator=seeded(1)), [(3, 4)]),
}  # fmt: skip


@pytest.mark.parametrize("block", [None, 8])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("name", FUSED)
def test_kernels_equal_their_definitions(name, contiguous, dtype, block, monkeypatch, device):
    if block:  # so small that every kernel which takes its arrays in pieces has several, the last one short
        monkeypatch.setattr(blocks, "BLOCK", block)
    function, shapes = FUSED[name]
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=[2 * n for n in s])[tuple(slice(0, None, 2) for _ in s)].astype(dtype, order="K")
        for s in shapes
    ]
    arrays = [np.ascontiguousarray(a) if contiguous else np.asfortranarray(a) for a in arrays]
    results = []
    for mode in (ta.definitions(), ta.enable_grad()):
        inputs = [ta.from_numpy(a).to(device).requires_grad_() for a in arrays]
        with mode:
            out = function(*inputs)
        weights = ta.tensor(np.random.default_rng(1).normal(size=out.shape), dtype=dtype)
        results.append([out, *ta.grad((out * weights).sum(), inputs)])
    with ta.no_grad():  # where kernels may leave out what only gradients need
        np.testing.assert_allclose(host(function(*inputs)), host(results[-1][0]), rtol=1e-6, atol=1e-6)
    for defined, kernel in zip(*results, strict=True):
        assert defined.dtype == kernel.dtype == dtype
        tolerance = 1e-12 if dtype == "float64" else 2e-5
        np.testing.assert_allclose(host(kernel), host(defined), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in FUSED if name.split()[0] not in ("dropout", "embedding", "linear")])
def test_definitions_and_kernels_stay_finite(name):
    function, shapes = FUSED[name]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s) * 1000 for s in shapes]
    for mode in (ta.definitions(), ta.enable_grad()):
        inputs = [ta.tensor(a, requires_grad=True) for a in arrays]
        with mode, np.errstate(all="ignore"):
            out = function(*inputs)
            found = [out, *ta.grad(out.sum(), inputs)]
        assert all(t.isfinite().all() for t in found), str(mode)


@pytest.mark.parametrize("options", [{}, {"threshold": 2.0}, {"beta": 0.5, "threshold": 1.0}], ids=str)
def test_softplus_at_its_threshold(options):
    t = leaf(-20.0, 1, 2, 3, 19, 20, 21)
    compare(F.softplus, TF.softplus, (t,), options, orders=1)
    with ta.definitions():
        compare(F.softplus, TF.softplus, (t,), options, orders=1)


def test_signs_of_what_is_no_number():
    compare(same("sign"), same("sign"), (ta.tensor([np.nan, np.inf, -np.inf, -0.0]),))


@pytest.mark.parametrize(
    "lists",
    [([0, 1, 2], [0, 2, 1], [1]), ([..., 30, 2], [..., 2, 30], [...]), ([0, 1, 2], [0, 2, 4])],
    ids=["output", "dots", "implicit"],
)
def test_einsum_of_operands_and_lists_of_labels(lists):
    def product(library, a, b):
        return library.einsum(a, lists[0], b, lists[1], *lists[2:])

    compare(lambda *t: product(ta, *t), lambda *t: product(torch, *t), (x(2, 3, 4), x(2, 4, 3)))


def test_as_strided_reads_overlapping_windows():
    for size, stride, offset in (((3, 4), (2, 1), 0), ((2, 3, 2), (6, 1, 2), 5), ((), (), 7), ((0, 2), (1, 1), 0)):
        for form in (lambda t, a, *args: t.as_strided(a, *args), lambda t, a, *args: a.as_strided(*args)):
            compare(
                lambda a, f=form, args=(size, stride, offset): f(ta, a, *args),
                lambda a, f=form, args=(size, stride, offset): f(torch, a, *args), (x(4, 6),),
            )  # fmt: skip
    for make in (lambda a: a.mT, lambda a: a.reshape(2, 2, 6).transpose(0, 2), lambda a: a[:2]):
        for size, stride in (((3, 4), (2, 1)), ((2, 3), (1, 3)), ((12,), (1,))):
            compare(
                lambda a, f=make, args=(size, stride): f(a).as_strided(*args),
                lambda a, f=make, args=(size, stride): f(a).as_strided(*args), (x(4, 6),),
            )  # fmt: skip
    compare(lambda a: a[1:].as_strided((2, 2), (3, 1), 7), lambda a: a[1:].as_strided((2, 2), (3, 1), 7), (x(4, 6),))
    with pytest.raises(RuntimeError, match="reach elements outside of the input"):
        ta.as_strided(ta.ones(24), (2,), (24,))
    with pytest.raises(RuntimeError, match="expected as many numbers of both"):
        ta.ones(2, 3).as_strided((2,), (1, 1))


LISTS = {
    "slices": lambda make: [slice(None), slice(0, 2)],
    "a slice and a number": lambda make: [slice(None), 1],
    "lists": lambda make: [[0, 1], [1, 0]],
    "None": lambda make: [None, 0],
    "dots": lambda make: [..., 0],
    "tensors": lambda make: [make([0, 1]), make([1, 0])],
    "a mask": lambda make: [make([True, False]), 1],
    "a number and a list": lambda make: [0, [1, 2]],
    "numbers": lambda make: [1, 0, 1],
    "a list in a tuple": lambda make: (slice(None), [[0, 1], [1, 2]]),
}


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("name", LISTS)
def test_indexing_by_a_list_counts_as_a_tuple_where_pytorch_does(name):
    compare(lambda a: a[LISTS[name](ta.tensor)], lambda a: a[LISTS[name](torch.tensor)], (x(2, 3, 4),))


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), (2, 1), (1, 1)])
def test_linear_broadcasts_a_bias_of_several_axes(shape):
    compare(ta.linear, torch.nn.functional.linear, (x(2, 3), x(4, 3), x(*shape)))
    with pytest.raises(RuntimeError, match=r"linear: bias \(3, 4\) for 4 output features"):
        ta.linear(x(2, 3), x(4, 3), x(3, 4))


@pytest.mark.parametrize("constant", [0, 1, 2])
def test_einsum_with_a_constant_operand(constant):
    args = [x(2, 3), x(3, 4), x(4, 2)]
    args[constant] = args[constant].detach()
    compare(lambda *t: ta.einsum("ij,jk,kl->il", *t), lambda *t: torch.einsum("ij,jk,kl->il", *t), tuple(args))


def test_linear_without_features():
    compare(F.linear, TF.linear, (x(2, 0), x(3, 0), x(3)), orders=1)


def test_a_flip_is_a_copy_also_of_a_number():
    compare(same("flip", ()), same("flip", ()), (x(),))
    t = ta.tensor(1.0)
    assert t.flip(()).zero_() == 0 and t == 1


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_an_empty_tensor_is_a_new_one(name):
    nothing = ta.zeros(0)
    with ta.definitions():
        assert getattr(ta, name)(nothing, 0).array is not nothing.array


def test_the_definition_of_relu_keeps_integers():
    t = torch.tensor([[-2, 0], [3, 1]], dtype=torch.int32)
    for mode in (ta.definitions(), ta.enable_grad()):
        with mode:
            compare(F.relu, TF.relu, (t,))


def test_the_definition_of_relu_has_no_slope_at_0():
    with ta.definitions():
        compare(F.relu, TF.relu, (leaf(-1.0, 0, 1, np.nan),))


@pytest.mark.parametrize("shape", [(1,), (0,), (3, 0), (1, 1)], ids=str)
@pytest.mark.parametrize(
    "name", ["relu", "silu", "softplus", "gelu", "sigmoid", "softmax", "log_softmax", "logsigmoid"]
)
def test_definitions_of_hardly_anything(name, shape):
    options = {"dim": 0} if "softmax" in name else {}
    theirs = getattr(TF, name, None) or getattr(torch, name)
    with ta.definitions():
        compare(getattr(F, name), theirs, (x(*shape),), options)


def defined_operations():
    modules = [m for name, m in sys.modules.items() if name.startswith("tinyattn.ops.")]
    operations = {value for m in modules for value in vars(m).values() if isinstance(value, ta.Operation)}
    return {op for op in operations if op.definition}


def test_every_operation_with_a_definition_is_in_the_table_above():
    assert {name.split()[0] for name in FUSED} == {op.name for op in defined_operations()}


def test_every_option_of_a_definition_varies_in_the_table_above():
    """A definition that forgets an option differs from its kernel only where the option is not always the same."""
    seen = {(op.name, option): set() for op in defined_operations() for option in op.options}

    class Options(Observer):
        def before_forward(self, op, inputs, options):
            for option in options if op.definition else ():
                seen[op.name, option].add(options[option])

    with Options():
        for function, shapes in FUSED.values():
            function(*(ta.ones(*s, requires_grad=True) for s in shapes))
    assert {key for key, values in seen.items() if len(values) < 2} == set()


@pytest.mark.parametrize("name", ["hann_window", "hamming_window"])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_windows_of_signals(name, periodic, length):
    found = getattr(ta, name)(length, periodic, dtype=ta.float64)
    np.testing.assert_allclose(
        host(found), answer(lambda: getattr(torch, name)(length, periodic, dtype=torch.float64)), atol=1e-15
    )
    assert getattr(ta, name)(4).dtype == ta.get_default_dtype()


@pytest.mark.parametrize(
    "options",
    [{}, {"correction": 0}, {"fweights": True}, {"aweights": True, "fweights": True}, {"aweights": True}],
    ids=str,
)
def test_covariances_and_correlations(options):
    weights = {
        "fweights": torch.tensor([1, 2, 1, 3]),
        "aweights": torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64),
    }
    theirs = {key: weights.get(key) if value is True else value for key, value in options.items()}
    ours = {key: to_ours(value) for key, value in theirs.items()}
    compare(lambda t: t.cov(**(ours if isinstance(t, ta.Tensor) else theirs)), lambda t: t.cov(**theirs), (x(3, 4),))
    compare(lambda t: t.corrcoef(), lambda t: t.corrcoef(), (x(3, 4),))
    with pytest.raises(ValueError, match="cov: a tensor of shape"):
        ta.cov(ta.ones(2, 2, 2))
