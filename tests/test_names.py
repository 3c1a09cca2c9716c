"""Methods and names that other people's models use, beside PyTorch's; the differentiable ones have rows in test_ops.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from answers import answer, as_arrays, torch
from oracle import compare, host, to_ours, to_torch

import tinyattn as ta

ON_EVERY_DEVICE = True
A = ta.arange(12.0).reshape(3, 4) / 4 - 1.3
UNIT = ta.tensor(np.linspace(-0.9, 0.9, 12, dtype="float32").reshape(3, 4))
INDEX = ta.tensor([[0, 2, 1, 0], [2, 0, 0, 1]])

IN_PLACE = {
    **dict.fromkeys("abs cos erf exp expm1 neg reciprocal sign sin square tanh relu sigmoid ceil floor trunc round".split(), ()),
    **dict.fromkeys("frac nan_to_num logical_not tan sinh cosh asin acos atan tril triu".split(), ()),
    "clamp_min": (0.1,), "clamp_max": (0.1,), "clip": (-0.2, 0.3), "fmod": (0.4,), "cumsum": (1,), "eq": (0.0,),
    "lerp": (A, 0.3), "addcmul": (A, A), "addcdiv": (A, A + 9), "scatter": (0, INDEX, A), "scatter_add": (0, INDEX, A),
    "index_add": (0, ta.tensor([1, 1]), A[:2]), "index_copy": (0, ta.tensor([2, 0]), A[:2]),
    "index_fill": (1, ta.tensor([2, 0]), 5.0), "masked_scatter": (A > 0, A), "fill_diagonal": (7.0, True),
    **dict.fromkeys("sinc deg2rad rad2deg sgn".split(), ()), "hypot": (A,), "copysign": (A,), "xlogy": (A + 9,),
    "scatter_reduce": (0, INDEX, A[:2], "prod"), "addmm": (A[:, :3], A), "squeeze": (0,), "unsqueeze": (1,), "transpose": (0, 1), "t": (),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_forms_write_and_return_the_tensor(name):
    x = to_ours(UNIT.clone())
    out = getattr(x, f"{name}_")(*to_ours(IN_PLACE[name]))
    theirs = answer(lambda: getattr(to_torch(UNIT), f"{name}_")(*to_torch(IN_PLACE[name])))
    assert out is x
    np.testing.assert_allclose(host(x), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in IN_PLACE if name not in ("eq", "logical_not")])
def test_in_place_forms_have_the_gradient_of_pytorch(name):
    def run(x, *args):
        y = x * 1
        return getattr(y, f"{name}_")(*args)

    args = [a.double() if isinstance(a, ta.Tensor) and a.is_floating_point() else a for a in IN_PLACE[name]]
    compare(run, run, (UNIT.double().requires_grad_(), *args), orders=1)


METHODS = {
    "new_zeros": lambda t: t.new_zeros(2, 3), "new_ones": lambda t: t.new_ones((2,)), "new_full": lambda t: t.new_full((2,), 3.5),
    "new_empty": lambda t: t.new_empty(2, 0), "new_tensor": lambda t: t.new_tensor([1, 2]), "half": lambda t: t.half(),
    "byte": lambda t: t.abs().byte(), "short": lambda t: t.short(), "char": lambda t: t.char(), "double": lambda t: t.double(),
    "type": lambda t: (t.type(), t.type("torch.LongTensor"), t.long().type()), "stride": lambda t: (t.t().stride(), t.stride(0)),
    "element_size": lambda t: t.double().element_size(), "nelement": lambda t: t.nelement(), "ndimension": lambda t: t.ndimension(),
    "is_floating_point": lambda t: (t.is_floating_point(), t.long().is_floating_point()), "pos": lambda t: +t,
    "repeat": lambda t: (t.repeat(2, 3), t.repeat(2, 1, 2), t.repeat((1, 1)), t.repeat(0, 2)),
    "contiguous": lambda t: t.t().contiguous().stride(), "expand_as": lambda t: t[:1].expand_as(t),
    "any": lambda t: ((t > 0).any(), (t > 0).any(1), (t > 0).any(0, True), (t > 9).any(dim=1, keepdim=True)),
    "all": lambda t: ((t > 0).all(), (t > 0).all(1), (t > 0).all(0, True), t[:0].all(0), t.abs().byte().all(1)),
    "sort": lambda t: (*t.sort(), *t.sort(0, descending=True), *t.sort(stable=True, dim=1)),
    "topk": lambda t: (*t.topk(2), *t.topk(1, 0, largest=False)), "tolist": lambda t: t.tolist(),
    "to": lambda t: (t.to("cpu", non_blocking=True, copy=True), t.type(t.dtype)),
    "unique": lambda t: t.round().unique(return_inverse=True, return_counts=True), "flip": lambda t: t.flip(0).flip([0, 1]),
    "fill_diagonal_": lambda t: [t.repeat(n, 1).fill_diagonal_(9.0, w) for n in (1, 3) for w in (False, True)],
    "real": lambda t: (t.real, t.conj(), t.mH),
    "median": lambda t: (*t.median(1), t.median()), "nonzero": lambda t: ((t > 0).nonzero(), *(t > 0).nonzero(as_tuple=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_return_what_pytorch_returns(name):
    if name in ("type", "to") and ta.get_default_device() != "cpu":
        return
    theirs, ours = answer(lambda: METHODS[name](to_torch(A))), as_arrays(METHODS[name](to_ours(A)))
    for a, b in zip(ours, theirs, strict=True) if isinstance(theirs, list) else [(ours, theirs)]:
        if isinstance(b, np.ndarray):
            assert a.tolist() == b.tolist()
            assert a.dtype == b.dtype
        else:
            assert a == b


def test_sort_puts_nan_last_and_keeps_ties_in_order():
    t = ta.tensor([2.0, np.nan, 1.0, 2.0, -np.inf, 1.0, np.nan])
    for d in (False, True):
        values, indices = answer(lambda d=d: to_torch(t).sort(descending=d, stable=True))
        ours = t.sort(descending=d)
        np.testing.assert_array_equal(host(ours.values), values)
        np.testing.assert_array_equal(host(ours.indices), indices)
    np.testing.assert_array_equal(host(t.median()), answer(lambda: to_torch(t).median()))


def test_as_subclass_has_the_same_memory_and_history():
    class Named(ta.Tensor):
        pass

    x = ta.ones(2, requires_grad=True)
    y = (x * 2).as_subclass(Named)
    assert type(y) is Named and type(y * 1) is ta.Tensor
    y.sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_diagonal_is_a_view():
    x = ta.zeros(3, 3)
    x.diagonal().fill_(2)
    x.diagonal(1).add_(1)
    assert x.tolist() == [[2, 1, 0], [0, 2, 1], [0, 0, 2]]


def test_multinomial_draws_with_the_given_probabilities():
    p = ta.tensor([[0.0, 1.0, 3.0, 0.0], [2.0, 0.0, 0.0, 2.0]])
    for n, replacement in ((1, False), (4000, True)):
        drawn = (
            ta.multinomial(p.repeat(4000 // n, 1), n, replacement).reshape(-1, 2, n)
            if n == 1
            else ta.multinomial(p, n, replacement)
        )
        counts = [np.bincount(host(d).reshape(-1), minlength=4) for d in (drawn.unbind(1) if n == 1 else drawn)]
        np.testing.assert_allclose(np.array(counts) / 4000, host(p / p.sum(1, True)), atol=0.05)
    both = host(ta.multinomial(p, 2)).tolist()
    assert [sorted(row) for row in both] == [[1, 2], [0, 3]]
    with pytest.raises(RuntimeError, match="multinomial: 5 draws from 4"):
        ta.multinomial(p, 5)


def test_bernoulli_and_normal_and_exponential_have_their_moments():
    x = ta.zeros(20_000)
    assert abs(x.bernoulli_(0.3).mean().item() - 0.3) < 0.02
    assert abs(ta.bernoulli(ta.full((20_000,), 0.7)).mean().item() - 0.7) < 0.02
    assert abs(x.exponential_(2.0).mean().item() - 0.5) < 0.03
    drawn = ta.normal(ta.full((20_000,), 3.0), 2.0)
    assert abs(drawn.mean().item() - 3) < 0.1 and abs(drawn.std().item() - 2) < 0.1


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_finfo_has_the_limits_of_pytorch(dtype):
    theirs, ours = torch.finfo(getattr(torch, dtype)), ta.finfo(getattr(ta, dtype))
    for name in ("min", "max", "eps", "tiny", "bits", "smallest_normal"):
        assert getattr(ours, name) == getattr(theirs, name)
        assert type(getattr(ours, name)) in (int, float)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_iinfo_has_the_limits_of_pytorch(dtype):
    theirs, ours = torch.iinfo(getattr(torch, dtype)), ta.iinfo(getattr(ta, dtype))
    assert (ours.min, ours.max, ours.bits) == (theirs.min, theirs.max, theirs.bits)


def test_constants_and_old_constructors():
    assert (ta.inf, ta.pi, ta.e, ta.newaxis) == (math.inf, math.pi, math.e, None) and math.isnan(ta.nan)
    for name in ("FloatTensor", "LongTensor", "ByteTensor", "DoubleTensor", "BoolTensor"):
        ours, theirs = getattr(ta, name)([[0, 1]]), getattr(torch, name)([[0, 1]])
        assert ours.tolist() == theirs.tolist() and ours.dtype == theirs.numpy().dtype
    assert ta.FloatTensor(2, 3).shape == (2, 3)


@pytest.mark.parametrize("order", [1, -1, math.inf, -math.inf, "fro", None])
def test_linalg_norm_of_a_matrix(order):
    t = A.double().requires_grad_()
    compare(lambda x: ta.linalg.norm(x, order), lambda x: torch.linalg.norm(x, order), (t,), orders=1)


@pytest.mark.parametrize("order", ["fro", 1, -1, math.inf, -math.inf])
def test_matrix_norm_of_two_axes(order):
    t = ta.arange(24.0, dtype="float64").reshape(2, 3, 4).sin().requires_grad_()
    for dims in ((-2, -1), (2, 0)):
        compare(lambda x, d=dims: ta.linalg.matrix_norm(x, order, d, keepdim=True),
                lambda x, d=dims: torch.linalg.matrix_norm(x, order, d, keepdim=True), (t,), orders=1)  # fmt: skip


SYNONYMS = {
    **{
        name: {"axis": 1, "keepdims": True}
        for name in "sum mean var std amax amin argmax argmin prod logsumexp any all max min median".split()
    },
    **{name: {"axis": 0} for name in "softmax log_softmax cumsum cumprod sort argsort".split()},
}  # fmt: skip


@pytest.mark.parametrize("name", SYNONYMS)
def test_axis_and_keepdims_are_dim_and_keepdim(name):
    call = lambda x: getattr(x, name)(**SYNONYMS[name])  # noqa: E731
    compare(call, call, (A.double().requires_grad_(),), orders=1)


def test_out_is_refused_in_a_sentence():
    with pytest.raises(TypeError, match=r"sum: out= is not supported; write x.copy_\(sum"):
        ta.sum(ta.ones(2), 0, out=ta.ones(()))


def test_inference_mode_records_nothing():
    x = ta.ones(2, requires_grad=True)
    with ta.inference_mode():
        assert not (x * 2).requires_grad
    with ta.inference_mode(False):
        assert (x * 2).requires_grad


def test_cumprod_has_a_gradient_at_zeros():
    rows = [[1.0, 0, 3, 2], [2, 0, 0, 3], [0, 0, 5, 0], [1, 2, 3, 4], [0, 7, 0, 2]]
    t = ta.tensor(rows, dtype=ta.float64, requires_grad=True)
    for dim in (0, 1):
        compare(lambda x, dim=dim: x.cumprod(dim), lambda x, dim=dim: x.cumprod(dim), (t,))


SECOND_NAMES = """
absolute:A negative:A subtract:A,B multiply:A,B divide:A,B true_divide:A,B arctan2:A,B greater:A,B greater_equal:A,B less:A,B
less_equal:A,B not_equal:A,B clip:A,-0.2,0.3
""".split()


@pytest.mark.parametrize("name", SECOND_NAMES)
def test_second_names_are_functions_methods_and_in_place_forms(name):
    name, _, given = name.partition(":")
    first, *others = [{"A": A, "B": UNIT}.get(x) if x in "AB" else float(x) for x in given.split(",")]
    for call in (
        lambda x, *more: getattr(ta if isinstance(x, ta.Tensor) else torch, name)(x, *more),
        lambda x, *more: getattr(x, name)(*more),
        lambda x, *more: getattr(x.clone(), f"{name}_")(*more),
    ):
        compare(call, call, (first, *others))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-7), ("float64", 1e-12)])
def test_erfinv_in_place_and_its_limits(dtype, tolerance):
    t = torch.tensor([0.5, -0.999999, 1.0, -1.0, 2.0, math.nan, 0.0, 1e-30], dtype=getattr(torch, dtype))
    x = to_ours(t)
    assert x.erfinv_() is x
    np.testing.assert_allclose(host(x), t.erfinv().numpy(), rtol=tolerance)


def test_index_put_and_put_in_place():
    for write in (
        lambda x, t: x.index_put_((t.tensor([1, 1]), t.tensor([0, 0])), t.tensor([1.0, 2.0]), accumulate=True),
        lambda x, t: x.index_put_((t.tensor([2]),), t.tensor(7.0)),
        lambda x, t: x.index_put_((t.tensor([True, False, True]),), t.tensor([1.0, 2.0, 3.0, 4.0])),
        lambda x, t: x.put_(t.tensor([[0, 11]]), t.tensor([[5.0, 6.0]])),
        lambda x, t: x.put_(t.tensor([0, 0]), t.tensor([5.0, 6.0]), accumulate=True),
    ):
        x = to_ours(A.clone())
        assert write(x, ta) is x
        assert host(x).tolist() == write(to_torch(A), torch).tolist()


def test_random_draws_integers_of_the_range():
    x = ta.zeros(1000)
    assert set(x.random_(2, 5).tolist()) == {2, 3, 4} and set(x.random_(2).tolist()) == {0, 1}
    for dtype in ("uint8", "int64", "float32", "bool"):
        drawn = host(ta.zeros(1000, dtype=dtype).random_())
        assert drawn.min() >= 0 and drawn.max() > drawn.min()


def test_detach_in_place_makes_a_leaf():
    x = ta.ones(2, requires_grad=True)
    y = x * 2
    assert y.grad_fn is y.node and x.grad_fn is None
    assert y.detach_() is y and y.is_leaf and not y.requires_grad and y.grad_fn is None
    with pytest.raises(RuntimeError, match="detach_: a view"):
        (x * 2)[:1].detach_()


@pytest.mark.parametrize("name", ["acosh", "atanh", "asinh", "arcsinh", "arccosh", "arctanh"])
def test_inverse_hyperbolic_in_place_forms(name):
    t = UNIT.abs() + (1.5 if "cosh" in name else 0)
    x = to_ours(t.clone())
    assert getattr(x, f"{name}_")() is x
    np.testing.assert_allclose(host(x), answer(lambda: getattr(to_torch(t), name)()), rtol=1e-6)


def test_scatter_reduce_of_integers_and_booleans():
    index = ta.tensor([0, 0, 2, 0, 2])
    for dtype, names in (("int32", "sum prod mean amax amin"), ("uint8", "prod amax amin"), ("bool", "amax amin")):
        src, own = (ta.tensor(values).to(dtype) for values in ([3, 0, 5, 7, 2], [1, 1, 0, 4]))
        for name in names.split():
            for include_self in (True, False):
                call = lambda x, i, s, n=name, own=include_self: x.scatter_reduce(0, i, s, n, include_self=own)  # noqa: E731
                compare(call, call, (own, index, src))


def test_running_extremes_of_nan_and_equal_elements():
    t = ta.tensor([[1.0, 3.0, 3.0, math.nan, 5.0], [2.0, 2.0, 1.0, 2.0, math.nan]])
    for name in ("cummax", "cummin"):
        call = lambda x, n=name: tuple(getattr(x, n)(1))  # noqa: E731
        compare(call, call, (t,))


def test_quantiles_with_nan_and_every_interpolation():
    t = ta.tensor([[1.0, 3.0, math.nan, 5.0], [2.0, 7.0, 1.0, 4.0]], dtype=ta.float64, requires_grad=True)
    q = ta.tensor([0.0, 0.3, 0.5, 1.0], dtype=ta.float64)
    for how in ("linear", "lower", "higher", "nearest", "midpoint"):
        for name in ("quantile", "nanquantile"):
            call = lambda x, q, n=name, how=how: getattr(x, n)(q, 1, keepdim=True, interpolation=how)  # noqa: E731
            compare(call, call, (t, q), orders=1)


def test_nanmedian_and_mode_and_runs():
    t = ta.tensor([[1.0, math.nan, 3.0, 3.0], [math.nan] * 4, [5.0, 5.0, 5.0, 2.0]])
    for call in (
        lambda x: x.nanmedian(), lambda x: x.nanmedian(1).values, lambda x: x.nan_to_num().mode(1).values,
        lambda x: x.nan_to_num().unique_consecutive(return_inverse=True, return_counts=True),
        lambda x: x.nan_to_num().round().unique_consecutive(return_inverse=True, return_counts=True, dim=1),
    ):  # fmt: skip
        compare(call, call, (t,))


REFUSED = {
    "t: a tensor of shape": lambda: ta.ones(1, 2, 3).t(), "histc: a tensor of int64": lambda: ta.histc(ta.tensor([1])),
    "do not broadcast": lambda: ta.broadcast_shapes((2,), (3,)), "expected size 3": lambda: ta.cross(ta.ones(2), ta.ones(2)),
    "differ over the axes": lambda: ta.tensordot(ta.ones(2, 3), ta.ones(2, 3), dims=1),
    "hsplit: 2 parts of shape": lambda: ta.hsplit(ta.ones(3), 2), "rot90: dims": lambda: ta.rot90(ta.ones(2, 2), 1, (0, 0)),
    "kthvalue: k=4": lambda: ta.kthvalue(ta.ones(3), 4), "quantile: q=1.5": lambda: ta.quantile(ta.ones(3), 1.5),
    "quantile: interpolation='up'": lambda: ta.quantile(ta.ones(3), 0.5, interpolation="up"),
    "nanquantile: input .* of int64": lambda: ta.nanquantile(ta.tensor([1]), 0.5),
    "select_scatter: src has shape": lambda: ta.select_scatter(ta.ones(2, 2), ta.ones(3), 0, 0),
    "vander: a tensor of shape": lambda: ta.vander(ta.ones(2, 2)),
    "index_put: the values have dtype int64": lambda: ta.ones(2).index_put((ta.tensor([0]),), ta.tensor([1])),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_derived_functions_refuse_in_a_sentence(message):
    with pytest.raises(RuntimeError, match=message):
        REFUSED[message]()


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample_reads_and_differentiates_as_in_pytorch(mode, padding, align):
    rng = np.random.default_rng(0)
    for sizes in ((4, 3), (1, 1), (1, 5), (2, 4, 3), (1, 1, 2)):
        n = len(sizes)
        if mode == "bicubic" and n == 3:
            continue
        image = ta.tensor(rng.standard_normal((2, 3, *sizes)), requires_grad=True)
        grid = ta.tensor(rng.uniform(-2.5, 2.5, (2, *(3, 4, 5)[-n:], n)), requires_grad=True)
        options = {"mode": mode, "padding_mode": padding, "align_corners": align}

        def run(image, grid, options=options):
            functional = ta.nn.functional if isinstance(image, ta.Tensor) else torch.nn.functional
            return functional.grid_sample(image, grid, **options)

        compare(
            run, run, (image, grid), orders=2 if mode == "bilinear" and n == 2 else 1
        )  # PyTorch has no second of volumes
        if mode == "nearest":
            assert not ta.grad(run(image, grid).sum(), grid)[0].any()


@pytest.mark.parametrize("align", [False, True])
def test_affine_grid_as_in_pytorch(align):
    for size in ((2, 1, 3, 4), (2, 1, 1, 1), (2, 1, 3, 4, 2), (2, 1, 1, 2, 1)):
        n = len(size) - 2
        theta = ta.tensor(np.random.default_rng(0).standard_normal((2, n, n + 1)), requires_grad=True)

        def run(theta, size=size):
            functional = ta.nn.functional if isinstance(theta, ta.Tensor) else torch.nn.functional
            return functional.affine_grid(theta, size, align_corners=align)

        compare(run, run, (theta,), orders=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda F, x: F.grid_sample(x, x),
            r"grid_sample: input \(1, 1, 2, 3\), grid \(1, 1, 2, 3\); expected \(n, c, h, w\)",
        ),
        (lambda F, x: F.grid_sample(x, x, mode="cubic"), "mode='cubic'"),
        (lambda F, x: F.grid_sample(x[None], x[None], mode="bicubic"), "mode='bicubic'"),
        (lambda F, x: F.affine_grid(x, (1, 1, 2, 2)), r"affine_grid: theta \(1, 1, 2, 3\)"),
    ],
)
def test_grids_refuse_other_shapes_and_modes(call, message):
    with pytest.raises(ValueError, match=message):
        call(ta.nn.functional, ta.ones(1, 1, 2, 3))
