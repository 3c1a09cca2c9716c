"""Values, gradients and second gradients at the edges of domains: zeros, bounds, infinities, small integers, mixed dtypes."""

from __future__ import annotations

import itertools
import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from answers import torch
from oracle import host

import tinyattn as ta
import tinyattn.nn.functional as F

INF, NAN = math.inf, math.nan
F64 = "float64"


def evaluate(library: Any, text: str, inputs: dict[str, Any], dtype: str) -> list[Any]:
    """The result of `text` in the names T, F and the inputs', its gradients, and the gradients of their weighted sum."""
    names = {"T": library, "F": library.nn.functional}
    leaves = {name: library.tensor(x, dtype=getattr(library, dtype)) for name, x in inputs.items()}
    if dtype.startswith("float"):
        for x in leaves.values():
            x.requires_grad_()
    out = eval(text, names | leaves)
    found, total, wanted = [out], out, list(leaves.values())
    for _ in range(2):
        if not (dtype.startswith("float") and total.requires_grad):
            break
        grads = library.autograd.grad(total.sum(), wanted, create_graph=True, allow_unused=True)
        found += [library.zeros_like(x) if g is None else g for g, x in zip(grads, wanted, strict=True)]
        if any(word in text for word in ("margin", "grid", "pool")):  # PyTorch has no second derivative of these
            break
        total = sum((g * (i + 2) for i, g in enumerate(grads) if g is not None), start=library.zeros(()))
    return [x.detach().numpy(force=True) if library is torch else host(x.detach()) for x in found]


def assert_close(ours: Any, theirs: Any) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    scale = {"float16": 1e-3, "float32": 1e-6}.get(str(ours.dtype), 1e-12)
    np.testing.assert_allclose(ours, theirs, rtol=scale, atol=scale)


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        ("T.logaddexp(x, y)", {"x": [0.0, 1.0, -2.0, 40.0], "y": [0.0, 1.0, 3.0, 0.0]}),
        ("T.logaddexp2(x, y)", {"x": [0.0, 1.0, -2.0], "y": [0.0, 1.0, 3.0]}),
        ("T.xlogy(x, y)", {"x": [0.0, 0.0, 2.0, -1.0, 0.0], "y": [2.0, INF, 3.0, 0.5, 1.0]}),
        ("T.logit(x)", {"x": [0.0, 0.25, 0.5, 1.0]}),
        ("T.logit(x, 0.25)", {"x": [-1.0, 0.25, 0.5, 0.75, 2.0]}),
        ("T.remainder(x, y)", {"x": [1.0, -1.0, 7.5, -7.5], "y": [INF, INF, 2.0, -INF]}),
        ("T.fmod(x, y)", {"x": [1.0, -1.0, 7.5, -7.5], "y": [INF, -INF, 2.0, 2.0]}),
        ("F.huber_loss(x, y, reduction='none')", {"x": [0.0, 1.0, -1.0, 0.5, 3.0, INF], "y": [0.0] * 6}),
        ("F.huber_loss(x, y, reduction='none', delta=0.5)", {"x": [0.0, 0.5, -0.5, 0.25, 3.0], "y": [0.0] * 5}),
        ("F.smooth_l1_loss(x, y, reduction='none', beta=2.0)", {"x": [0.0, 2.0, -2.0, 0.5, 3.0], "y": [0.0] * 5}),
        ("F.smooth_l1_loss(x, y, reduction='none', beta=0.0)", {"x": [0.0, 2.0, -2.0], "y": [0.0] * 3}),
        ("F.multi_margin_loss(x, T.tensor([2, 0]))", {"x": [[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]]}),
        *(
            (text, {"x": x})
            for x in (
                [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
                [[-2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, -1.0]],
                [[2.0, 1.0, -3.0], [0.0, -1.0, 0.5], [0.0, 0.0, 4.0]],
                [[2.0, 0.0, 0.0], [1.0, -1.0, 0.0], [0.5, 3.0, 4.0]],
            )
            for text in (
                "T.inverse(x)",
                "T.linalg.solve(x, x[:, 1:] ** 2)",
                "T.cat(T.linalg.qr(x))",
                "T.cat(T.linalg.qr(x[:, :2]))",
            )
        ),
        ("F.multilabel_margin_loss(x, T.tensor([[2, -1, 0], [0, 1, -1]]))", {"x": [[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]}),
    ],
)
def test_second_gradients_at_edges_as_torch(text, inputs):
    for ours, theirs in zip(*(evaluate(library, text, inputs, F64) for library in (ta, torch)), strict=True):
        assert_close(ours, theirs)


IMAGE = [[[[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]]]]
PLACES = [[[[-1.0, -1.0], [1.0, 1.0], [0.0, 0.25]], [[-1.5, 0.5], [2.5, -1.25], [0.9, 0.5]]]]
LEAST = [[[-INF, -INF, -INF, -INF, 2.0, -INF]]]


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        *(
            (f"F.grid_sample(x, y, {mode!r}, {outside!r}, {align})", {"x": IMAGE, "y": PLACES})
            for mode in ("bilinear", "nearest")
            for outside in ("border", "reflection")
            for align in (True, False)
        ),
        ("F.grid_sample(x, y, padding_mode='reflection', align_corners=True)", {"x": [[[[2.0]]]], "y": PLACES}),
        ("F.max_pool1d(x, 3, 2, 1)", {"x": LEAST}),
        ("F.max_pool1d(x, 3, 2, 1, return_indices=True)[1]", {"x": LEAST}),
        ("F.max_pool2d(x, (2, 3), 1, 1, (1, 2), return_indices=True)[1]", {"x": [LEAST]}),
        ("F.max_pool3d(x, 2, 2, 1, return_indices=True)[1]", {"x": [[LEAST]]}),
        ("F.embedding_bag(T.tensor([[0, 1], [0, 1]]), x, mode='max')", {"x": [[2.0, 1.0], [2.0, 3.0]]}),
        ("F.kl_div(x, y, reduction='none')", {"x": [-1.0, -INF, -2.0], "y": [0.5, 0.0, 0.0]}),
    ],
)
def test_images_and_losses_at_borders_as_torch(text, inputs):
    with np.errstate(invalid="ignore"):
        found = zip(evaluate(ta, text, inputs, F64), evaluate(torch, text, inputs, F64), strict=True)
    for ours, theirs in found:
        assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["prod", "cumprod"])
@pytest.mark.parametrize("factors", [[2.0, 1e-30, 3.0, 4.0], [1e-200, 3.0, 1e-200, 2.0], [0.0, 3.0, 1e-30, 0.0, 2.0]])
def test_second_gradient_of_products_with_small_factors(name, factors):
    """Sums of products of all factors but two, which fractions give exactly."""
    n, x = len(factors), ta.tensor(factors, dtype=ta.float64, requires_grad=True)
    (slopes,) = ta.grad(getattr(x, name)(0).sum(), x, create_graph=True)
    exact = [Fraction(f) for f in factors]
    ends = range(n - 1, n) if name == "prod" else range(n)
    expected = [
        sum(math.prod(exact[k] for k in range(end + 1) if k not in (i, j)) for i in range(n) for end in ends
            if i != j and max(i, j) <= end)
        for j in range(n)
    ]  # fmt: skip
    np.testing.assert_allclose(ta.grad(slopes.sum(), x)[0].array, np.array(expected, float), rtol=1e-12)


def test_second_gradients_of_a_power_of_0_as_a_tensor():
    x, power = (ta.tensor(a, dtype=ta.float64, requires_grad=True) for a in ([0.0, 2.0, 4.0], [0.0, 0.0, 0.0]))
    (slope,) = ta.grad((x**power).sum(), x, create_graph=True)
    assert ta.grad(slope.sum(), x, retain_graph=True)[0].tolist() == [0.0, 0.0, 0.0]
    assert ta.grad(slope[1:].sum(), power)[0].tolist() == [0.0, 0.5, 0.25]  # 1 / x


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("outside", ["border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_grid_sample_reads_nan_as_the_first_pixel(mode, outside, align):
    """As PyTorch says, and does in the forward pass; its backward pass writes outside the image."""
    image, places = ta.tensor(IMAGE), ta.tensor([[[[NAN, 0.5], [0.25, NAN]]]], requires_grad=True)
    first = ta.tensor([[[[-1.0, 0.5], [0.25, -1.0]]]])
    out = F.grid_sample(image, places, mode, outside, align)
    assert out.tolist() == F.grid_sample(image, first, mode, outside, align).tolist()
    if mode == "bilinear":
        assert np.isfinite(ta.grad(out.sum(), places)[0].array).all()


@pytest.mark.parametrize(
    "text",
    [
        "F.interpolate(T.ones(1, 1, 3), size=5, align_corners=True)",
        "F.interpolate(T.ones(1, 1, 3), size=5, mode='area', align_corners=False)",
        "F.gaussian_nll_loss(T.ones(2), T.ones(2), T.tensor([1.0, -1.0]))",
        "F.binary_cross_entropy(T.tensor([0.5, 0.5]), T.tensor([0.0, 2.0]))",
        *(f"T.ones(()).{name}(1)" for name in ("argmax", "argmin", "prod", "sum", "amax", "median", "cumsum")),
        "T.histc(T.tensor([1.0, T.nan]))",
        *(
            f"T.ones(2, 3).{name}(True)"
            for name in ("sum", "mean", "amax", "max", "argmax", "cumsum", "softmax", "squeeze")
        ),
        "T.diff(T.ones(3), n=-1)",
        "T.normal(T.zeros(2), T.tensor([1.0, -1.0]))",
        "T.normal(T.zeros(2), -1.0)",
        "T.zeros(2).normal_(0, -1)",
        "T.zeros(2).uniform_(1, 0)",
        "T.zeros(2).exponential_(0)",
        "T.zeros(2).bernoulli_(2.0)",
        "T.bernoulli(T.tensor([0.5, T.nan]))",
        "T.zeros(2).random_(0)",
        "T.randperm(-1)",
    ],
)
def test_what_means_nothing_is_refused(text):
    for library in (ta, torch):
        with pytest.raises((ValueError, RuntimeError, IndexError, TypeError)):
            eval(text, {"T": library, "F": library.nn.functional})


@pytest.mark.parametrize("name", ["max", "min"])
def test_max_along_a_dimension_that_is_a_tensor(name):
    """With keepdim the second argument is no other operand."""
    for library in (ta, torch):
        found = getattr(library.tensor([[1.0, 5.0], [3.0, 2.0]]), name)(dim=library.tensor(1), keepdim=True)
        assert found.indices.tolist() == ([[1], [0]] if name == "max" else [[0], [1]])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("text", "inputs", "expected"),
    [
        ("T.logaddexp(x, y)", {"x": [INF, -INF, INF, -INF], "y": [INF, INF, -INF, -INF]}, [INF, INF, INF, -INF]),
        ("T.logaddexp2(x, y)", {"x": [INF, -INF, INF, -INF], "y": [INF, INF, -INF, -INF]}, [INF, INF, INF, -INF]),
        ("T.norm(x, 0)", {"x": [NAN, 1.0, 0.0, INF]}, 3.0),
        ("T.logit(x)", {"x": [-1.0, 2.0, 0.0, 1.0]}, [NAN, NAN, -INF, INF]),
    ],
)
def test_values_at_infinities(text, inputs, expected, dtype):
    out = evaluate(ta, text, inputs, dtype)[0]
    np.testing.assert_array_equal(out, np.array(expected, dtype))


def test_gradient_of_logaddexp_of_two_minus_infinities_is_0():
    _, x, y, *_ = evaluate(ta, "T.logaddexp(x, y)", {"x": [-INF], "y": [-INF]}, F64)
    assert (x, y) == (0, 0)


def test_gradient_of_logit_outside_0_to_1_is_nan():
    assert np.isnan(evaluate(ta, "T.logit(x)", {"x": [-1.0, -1e-9, 1.5]}, F64)[1]).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 3e-6)])
def test_sinc_near_0_has_exact_derivatives(dtype, tolerance):
    """sinc'(x) = -pi^2 x / 3 + pi^4 x^3 / 30 - ..., of which (cos(pi x) - sinc(x)) / x keeps no digit."""
    x = np.array([0.0, 1e-30, 1e-8, -1e-4, 1e-2])
    _, first, second = evaluate(ta, "T.sinc(x)", {"x": x.tolist()}, dtype)
    angle = np.pi * x
    slope = np.pi * (-angle / 3 + angle**3 / 30 - angle**5 / 840)
    bend = np.pi**2 * (-1 / 3 + angle**2 / 10 - angle**4 / 168)
    np.testing.assert_allclose(first, slope, rtol=tolerance)
    np.testing.assert_allclose(second, 2 * bend, rtol=tolerance)


def test_sinc_is_smooth_where_the_series_ends():
    x = np.linspace(0.3, 0.34, 9)  # the series ends at 1 / pi
    _, first, second = evaluate(ta, "T.sinc(x)", {"x": x.tolist()}, F64)
    angle = np.pi * x
    np.testing.assert_allclose(first, (np.cos(angle) - np.sinc(x)) / x, rtol=1e-13)
    bend = -np.pi * np.sin(angle) / x - 2 * (np.cos(angle) - np.sinc(x)) / x**2
    np.testing.assert_allclose(second, 2 * bend, rtol=1e-12)


def test_second_gradient_of_atan2_at_the_origin_is_0():
    found = evaluate(ta, "T.atan2(x, y)", {"x": [0.0, 1.0], "y": [0.0, 2.0]}, F64)
    assert [x[0] for x in found] == [0, 0, 0, 0, 0]
    assert (found[3][1], found[4][1]) != (0, 0)


def test_fmod_gradient_counts_whole_divisors():
    """1.0 / 0.1 rounds to 10, and 1.0 holds 0.1 nine times: its remainder is 0.0999..."""
    out, _, slope, *_ = evaluate(ta, "T.fmod(x, y)", {"x": [1.0], "y": [0.1]}, F64)
    assert slope == -np.round((1.0 - out) / 0.1) == -9


ACTIVATIONS = "celu elu hardsigmoid hardswish leaky_relu logsigmoid mish selu silu softmin softplus softsign tanhshrink"


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int32", "int64"])
@pytest.mark.parametrize("name", ACTIVATIONS.split())
def test_activations_of_integers_are_those_of_floats(name, dtype):
    """-x of uint8 and x + 3 of int8 wrap around, and NumPy computes the exponential of 8 bits in float16."""
    values = {"bool": [0, 1], "uint8": [0, 1, 200, 255], "int8": [-128, -3, 0, 127]}.get(dtype, [-700, -3, 0, 5, 700])
    numbers = np.array(values).astype(dtype)
    function, axis = getattr(ta.nn.functional, name), (0,) if name == "softmin" else ()
    out = function(ta.tensor(numbers), *axis)
    assert out.dtype == ta.float32
    assert_close(host(out), host(function(ta.tensor(numbers.astype("float32")), *axis)))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_hypot_and_dropout_of_integers_are_those_of_floats(dtype):
    x = ta.tensor([100, 3], dtype=dtype)
    assert_close(host(ta.hypot(x, x)), host(ta.hypot(x.float(), x.float())))
    out = F.dropout(x, 0.5)
    assert out.dtype == ta.float32
    assert set(out.tolist()) <= {0.0, 200.0, 6.0}


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int64"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
def test_losses_of_integers_are_those_of_floats(name, dtype):
    """0 - 1 is 255 in uint8."""
    pairs = [[0, 1], [1, 0]] if dtype == "bool" else [[0, 1, 127], [1, 0, 0]]
    loss = getattr(ta.nn.functional, name)
    x, y = (ta.tensor(np.array(numbers).astype(dtype)) for numbers in pairs)
    out, right = loss(x, y, reduction="none"), host(loss(x.float(), y.float(), reduction="none"))
    whole = name == "l1_loss" and dtype != "bool"  # PyTorch's gives integers
    assert_close(host(out), right.astype(dtype) if whole else right)
    assert_close(host(loss(x, y.double())), host(loss(x.double(), y.double())))
    assert_close(host(loss(x.double(), y)), host(loss(x.double(), y.double())))


@pytest.mark.parametrize("name", ["celu", "elu", "selu"])
def test_gradient_of_exponential_units_at_nan_is_as_torch(name):
    for ours, theirs in zip(*(evaluate(t, f"F.{name}(x)", {"x": [NAN]}, F64)[:2] for t in (ta, torch)), strict=True):
        assert_close(ours, theirs)


MIXED = """T.fmax(x, y)|T.fmin(x, y)|T.copysign(x, y)|T.xlogy(x, y)|T.logaddexp(x, y)|T.hypot(x, y)|T.atan2(x, y)|F.mse_loss(x, y)
F.l1_loss(x, y)|F.smooth_l1_loss(x, y)|F.kl_div(x, y, reduction='sum')|F.poisson_nll_loss(x, y)|T.addcmul(x, y, y)
F.cosine_similarity(x, y, 0)|T.where(x > 0, x, y)|T.clamp(x, y)|T.add(x, y, alpha=2)|T.nn.functional.mse_loss(y, x)"""


@pytest.mark.parametrize("text", MIXED.replace("\n", "|").split("|"))
def test_float16_beside_float32_gives_float32(text):
    def found(library, single, double=False):
        y = library.tensor(1.25 if single else [1.25, 0.3], dtype=library.float32)
        both = [z.double() if double else z for z in (library.tensor([0.1, 2.0]).half(), y)]
        return eval(text, {"T": library, "F": library.nn.functional} | dict(zip("xy", both, strict=True)))

    for single in (False, True)[: 1 + all(word not in text for word in ("loss", "cosine", "kl"))]:
        ours = host(found(ta, single))
        assert str(ours.dtype) == str(found(torch, single).dtype)[6:]
        np.testing.assert_allclose(ours, host(found(ta, single, True)), rtol=1e-3 if ours.dtype == "float16" else 1e-6)


SHAPES = """
T.addbmm(x, x[None], x[None])|T.baddbmm(x[None], x[None], x[None])|T.addmm(x, x, x)
T.trapezoid(x[:0], dim=0)|T.trapezoid(x[:, :0])|T.trapezoid(x[:1], dim=0)|T.trapezoid(x)|T.trapezoid(x[:0], x[:0], dim=0)
F.nll_loss(x[0].double(), x[0, :1], reduction='none')|F.nll_loss(x[0].double(), x[0, :1])|F.cross_entropy(x[0].double(), x[0, :1])
F.cross_entropy(x[0].double(), x[0, :1], x[0].double() + 1, reduction='none')|F.nll_loss(x[0].double(), x[0, 0])
F.multi_margin_loss(x[0].double(), x[0, :1], reduction='none')|F.multi_margin_loss(x[0].double(), x[0, 0], reduction='none')
F.instance_norm(x.double()[None, :0])|F.instance_norm(x.double()[None, :0, :0])|F.instance_norm(x.double()[:0, None])
"""


@pytest.mark.parametrize("text", SHAPES.strip().replace("\n", "|").split("|"))
def test_shapes_and_dtypes_of_little_and_of_integers_are_as_torch(text):
    dtype = "int64" if "loss" in text or "cross" in text else "int32"
    ours, theirs = (evaluate(t, text, {"x": [[0, 1], [2, 3]]}, dtype)[0] for t in (ta, torch))
    assert_close(ours, theirs)


@pytest.mark.parametrize("g", [NAN, INF])
@pytest.mark.parametrize(
    "text",
    "x.median()|x.nanmedian()|x.max()|x.min()|x.median(0)[0]|x.mode(0)[0]|F.softshrink(x)|F.hardshrink(x)".split("|"),
)
def test_gradients_that_are_no_numbers_reach_only_what_was_chosen(text, g):
    found = []
    for library in (ta, torch):
        x = library.tensor([1.0, -2.0, 3.0, 0.5], dtype=library.float64, requires_grad=True)
        y = eval(text, {"x": x, "F": library.nn.functional})
        found.append(library.autograd.grad(y, x, library.full_like(y, g))[0].tolist())
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("to", ["uint8", "int8", "int32", "int64", "bool", "float32"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int64"])
@pytest.mark.parametrize("dim", ["", "0, "])
def test_prod_has_the_dtype_that_is_given(dim, dtype, to):
    values = [1, 0, 1] if dtype == "bool" else [1, 5, 100]
    text = f"T.prod(x, {dim}dtype=T.{to})"
    ours, theirs = (evaluate(library, text, {"x": values}, dtype)[0] for library in (ta, torch))
    assert ours.dtype == theirs.dtype and ours == theirs


def test_logaddexp2_of_integers_and_float64_is_float64():
    ours, theirs = (host(t.logaddexp2(t.tensor([5]), t.tensor([0.25], dtype=t.float64))) for t in (ta, torch))
    assert_close(ours, theirs)


def test_binary_cross_entropy_with_logits_has_the_dtype_of_the_target():
    for one, other in itertools.product(["float32", "float64"], repeat=2):
        found = []
        for library in (ta, torch):
            x = library.tensor([0.25, -2.0], dtype=getattr(library, one), requires_grad=True)
            y = library.tensor([1.0, 0.5], dtype=getattr(library, other))
            loss = library.nn.functional.binary_cross_entropy_with_logits(x, y)
            loss.backward()
            assert str(loss.dtype).removeprefix("torch.") == other
            found.append([loss.detach().numpy().astype(one), x.grad.numpy()])  # as exact as the input
        for ours, theirs in zip(*found, strict=True):
            assert_close(ours, theirs)


def test_logaddexp2_of_two_equal_numbers_is_one_more():
    x = ta.arange(-8, 8, dtype=ta.float64) * 0.5
    assert ta.logaddexp2(x, x).tolist() == (x + 1).tolist()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of broadcasting
def test_l1_loss_of_small_integers_beside_a_single_large_one():
    x, y = ta.tensor([-5, 2], dtype=ta.int8), ta.tensor(-250, dtype=ta.int32)
    assert F.l1_loss(x, y, reduction="sum").item() == F.l1_loss(y, x, reduction="sum").item() == 245 + 252


@pytest.mark.parametrize(
    ("text", "kinks"),
    [
        ("F.elu(x)", [0.0]), ("F.elu(x, 0.5)", [0.0]), ("F.elu(x, -2.0)", [0.0]), ("F.selu(x)", [0.0]),
        ("F.celu(x, 0.5)", [0.0]), ("F.hardswish(x)", [-3.0, 3.0]),
    ],
)  # fmt: skip
def test_both_slopes_at_a_kink_are_as_torch(text, kinks):
    for ours, theirs in zip(*(evaluate(t, text, {"x": kinks}, F64) for t in (ta, torch)), strict=True):
        assert_close(ours, theirs)


def test_dtypes_beside_a_0d_tensor_are_as_torch():
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "cosine_similarity"):
        for one, other in itertools.permutations(["float16", "float32", "float64"], 2):
            found = []
            for library in (ta, torch):
                x, y = (
                    library.tensor(0.75, dtype=getattr(library, one)),
                    library.tensor([0.5, 1.5], dtype=getattr(library, other)),
                )
                function = getattr(library.nn.functional, name)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of broadcasting
                    options = {"dim": 0} if name == "cosine_similarity" else {"reduction": "none"}
                    found += [
                        [str(function(*pair, **options).dtype).removeprefix("torch.") for pair in ((x, y), (y, x))]
                    ]
            assert found[0] == found[1], (name, one, other)


@pytest.mark.parametrize("dtype", ["int64", "float32", "float64"])
def test_embedding_losses_have_the_dtype_of_their_inputs(dtype):
    x, target = ta.ones(1, 2, dtype=ta.float16), ta.ones(1, dtype=dtype)
    assert ta.nn.functional.hinge_embedding_loss(x, target).dtype == ta.float16
    assert ta.nn.functional.cosine_embedding_loss(x, x, target).dtype == ta.float16


def test_index_add_keeps_the_dtype():
    for dtype in (ta.bool, ta.uint8, ta.float16):
        x = ta.ones(2, dtype=dtype)
        assert x.index_add(0, ta.tensor([0, 0]), x, alpha=2).dtype == dtype


def test_gradient_of_prelu_at_nan_is_that_below_0():
    x = ta.tensor([NAN, 1.0, -1.0], requires_grad=True)
    (F.prelu(x, ta.tensor(0.5)) * ta.tensor([2.0, 3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [1.0, 3.0, 2.0]


def test_gradient_of_qr_of_a_column_of_zeros_is_nan():
    for values, lost in (([[0.0, 1.0], [0.0, 2.0]], True), ([[1.0, 1.0], [1.0, 1.0]], False), ([[0.0, 1.0]], False)):
        x = ta.tensor(values, requires_grad=True)
        q, r = ta.linalg.qr(x)
        (q.sum() + r.sum()).backward()
        assert x.grad.isnan().any() == lost
        assert ta.allclose(q @ r, x)


@pytest.mark.parametrize("right", [False, True])
def test_bucketize_with_nan_among_the_boundaries(right):
    """NaN is above all numbers; PyTorch's search stops at it."""
    sequence, values = [-INF, -INF, -1.0, 0.0, 0.0, 1.0, INF, NAN, NAN], [-INF, -2.0, -1.0, 0.0, 0.5, INF]
    found = ta.bucketize(ta.tensor(values), ta.tensor(sequence), right=right)
    assert found.tolist() == np.searchsorted(sequence, values, "right" if right else "left").tolist()
    assert ta.bucketize(ta.tensor(NAN), ta.tensor(sequence), right=right).item() == 9


@pytest.mark.parametrize("name", ["any", "all", "count_nonzero", "sum", "amax"])
def test_reductions_over_no_axes_as_torch(name):
    for values, dtype, dim in itertools.product(([[0.0, 2.0], [1.0, 3.0]], 2.0), ("float32", "uint8"), ((), [])):
        if name == "sum" and dtype == "uint8":
            continue
        ours, theirs = (
            getattr(lib, name)(lib.tensor(values, dtype=getattr(lib, dtype)), dim=dim) for lib in (ta, torch)
        )
        np.testing.assert_array_equal(host(ours), theirs.numpy())
        assert host(ours).dtype == theirs.numpy().dtype


@pytest.mark.parametrize("second", [0.6, 1 / 3])
def test_radam_of_betas_whose_average_has_length_4_or_2(second):
    found = []
    for lib in (ta, torch):
        w = lib.ones(1, requires_grad=True)
        optimizer = lib.optim.RAdam([w], lr=0.1, betas=(0.9, second))
        for i in range(7):
            w.grad = lib.full((1,), i + 1.0)
            optimizer.step()
        found.append(w.item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_median_of_nothing_has_a_gradient_of_nothing():
    for name in ("median", "nanmedian"):
        for x in (ta.zeros(0, requires_grad=True), ta.full((2,), NAN, requires_grad=True)):
            out = getattr(x, name)()
            assert np.isnan(out.item()) and out.requires_grad
            out.backward()
            assert x.grad.shape == x.shape


@pytest.mark.parametrize("name", ["fmod", "remainder", "floor_divide"])
@pytest.mark.parametrize("other", [0, [3, 0], False])
def test_integer_remainders_of_0_are_refused(name, other):
    for dtype in ("int64", "uint8"):
        with pytest.raises(ZeroDivisionError, match="divisor is 0"):
            getattr(ta, name)(ta.tensor([7, 3], dtype=dtype), ta.tensor(other) if isinstance(other, list) else other)
    assert np.isnan(host(ta.fmod(ta.tensor([7.0]), 0))).all()


def test_round_to_decimals():
    assert ta.round(ta.tensor([6e4, 1.26], dtype=ta.float16), decimals=1).tolist() == [6e4, np.float16(1.3)]
    with pytest.raises(TypeError, match="decimals=-1 of dtype int64"):
        ta.round(ta.tensor([15]), decimals=-1)  # not 15


def test_hardtanh_refuses_bounds_in_the_wrong_order():
    with pytest.raises(ValueError, match=r"min_val=2\.0 and max_val=1\.0"):
        ta.nn.functional.hardtanh(ta.zeros(2), 2.0, 1.0)  # not 2 for one element and 1 for the next


def test_isclose_of_small_integers_does_not_wrap_around():
    low, high = (ta.tensor([x], dtype=ta.int8) for x in (-128, 127))
    assert not ta.isclose(low, high, atol=2).item()  # -128 - 127 is 1 in int8
    assert ta.isclose(high, ta.tensor([126], dtype=ta.int8), atol=2).item()
    assert ta.isclose(ta.tensor([True]), ta.tensor([False]), atol=1).item()


LOOK_UPS = {  # each with an index that is the size, the first one out of range
    "embedding": lambda x: F.embedding(ta.tensor([0, 4]), x),
    "embedding_bag": lambda x: F.embedding_bag(ta.tensor([[0, 4]]), x),
    "index_select": lambda x: x.index_select(0, ta.tensor([0, 4])),
    "index_add": lambda x: x.index_add(0, ta.tensor([0, 4]), ta.ones(2, 3)),
    "index_fill": lambda x: x.index_fill(0, ta.tensor([0, 4]), 1.0),
    "index_copy": lambda x: x.index_copy(0, ta.tensor([0, 4]), ta.ones(2, 3)),
    "index_put": lambda x: x.index_put((ta.tensor([0, 4]),), ta.tensor(1.0)),
    "gather": lambda x: x.gather(0, ta.tensor([[0], [4]])),
    "scatter": lambda x: x.scatter(0, ta.tensor([[0], [4]]), 1.0),
    "scatter_add": lambda x: x.scatter_add(0, ta.tensor([[0], [4]]), ta.ones(2, 1)),
    "take": lambda x: x.take(ta.tensor([0, 12])),
    "one_hot": lambda x: F.one_hot(ta.tensor([0, 4]), 4),
    "cross_entropy": lambda x: F.cross_entropy(x.T, ta.tensor([0, 4, 1])),
    "nll_loss": lambda x: F.nll_loss(x.T, ta.tensor([0, 4, 1])),
    "multi_margin_loss": lambda x: F.multi_margin_loss(x.T, ta.tensor([0, 4, 1])),
}


@pytest.mark.parametrize("name", LOOK_UPS)
def test_an_index_that_is_the_size_is_out_of_range(name):
    x = ta.arange(12.0).reshape(4, 3)
    with pytest.raises(IndexError, match="12 is out" if name == "take" else r"(index|class) 4 .*is out of"):
        LOOK_UPS[name](x)


@pytest.mark.parametrize("slope", [-2.0, 0.0, 0.5, 1.0, 3.0])
def test_leaky_relu_of_any_slope(slope):
    x = np.array([-2.0, -0.5, 0.0, 1.0, 3.0])
    found = F.leaky_relu(ta.tensor(x), slope).numpy()
    np.testing.assert_array_equal(found, np.where(x > 0, x, slope * x))


def test_signbit_tells_the_two_zeros_apart():
    x = np.array([-math.inf, -2.0, -0.5, -0.0, 0.0, 0.5, 2.0, math.inf])
    assert ta.signbit(ta.tensor(x)).tolist() == torch.signbit(torch.tensor(x)).tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("p", [0.5, 1.5, 2, 3])
def test_vector_norm_gradients_beside_zeros_and_ones_as_torch(p):
    values, found = [[0.0, 1.0, -2.0], [0.6, 0.0, 0.8], [0.0] * 3, [1.0, 0.0, 0.0]], []
    for library, grad in ((ta, ta.grad), (torch, torch.autograd.grad)):
        x, w = (library.tensor(v, dtype=library.float64, requires_grad=True) for v in (values, [1.0, 2.0, 3.0, 4.0]))
        (first,) = grad((library.linalg.vector_norm(x, p, 1) * w).sum(), x, create_graph=True)
        second = grad((first * library.tensor(np.arange(12.0).reshape(4, 3))).sum(), (x, w))
        found.append([part.detach().numpy() for part in (first, *second)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, np.nan_to_num(theirs), rtol=1e-12)  # NaN at 0, where ours is 0


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kernel", [(1, 1), (1, 2), (3, 2), (2, 3), (5, 4)])
def test_max_pool2d_of_every_window_as_torch(kernel, ceil_mode):
    x = np.random.default_rng(0).integers(-3, 4, (1, 2, 10, 9)).astype(F64)
    x[0, 0, 2:9, 3:] = x[0, 1, :8, :8] = -INF
    for stride, half, dilation in itertools.product([(1, 2), (2, 1), (3, 3)], [0, 1], [(1, 2), (2, 1)]):
        results, padding = [], tuple(half * (k // 2) for k in kernel)
        for library, grad in ((ta, ta.grad), (torch, torch.autograd.grad)):
            leaf = library.tensor(x, requires_grad=True)
            pool = library.nn.functional.max_pool2d
            out, at = pool(leaf, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
            weights = library.tensor(np.arange(math.prod(out.shape), dtype=F64).reshape(tuple(out.shape)))
            results.append([host(out.detach()), host(at), host(grad(out, leaf, weights)[0])])
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_array_equal(ours, theirs, strict=True)


def test_max_pool2d_of_integers_large_windows_and_single_elements():
    x = np.random.default_rng(0).permutation(18 * 17).reshape(1, 1, 18, 17)
    x[0, 0, 17, 16] = 1000
    for given in (x, -x):
        value, at = F.max_pool2d(ta.tensor(given), (18, 17), return_indices=True)
        assert (value.item(), at.item()) == (given.max(), given.argmax())  # 306 elements: more than uint8 counts
    wide = np.full((1, 1, 2, 2), -5)
    assert F.max_pool2d(ta.tensor(wide), 2, 1, 1).tolist() == np.full((1, 1, 3, 3), -5).tolist()
    assert F.max_pool1d(ta.tensor([[2.0]]), 5, 9, ceil_mode=True).tolist() == [[2.0]]  # four places over the edge
    leaf = ta.tensor(x)
    assert not np.shares_memory(F.max_pool2d(leaf, 1).numpy(), leaf.numpy())


def test_infinities_have_signs():
    x = ta.tensor([-math.inf, -1.0, 0.0, math.nan, math.inf])
    assert ta.isneginf(x).tolist() == [True, False, False, False, False]
    assert ta.isposinf(x).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("shapes", [((), (1,)), ((1,), ()), ((2,), ()), ((), ()), ((1,), (1,))])
@pytest.mark.parametrize("index", [0, [0]])
def test_scatter_and_gather_take_a_number_as_one_axis(index, shapes):
    calls = [
        lambda x, i, s: x.scatter(0, i, s),
        lambda x, i, s: x.scatter_add(0, i, s),
        lambda x, i, s: x.scatter_reduce(0, i, s, "amax"),
        lambda x, i, s: x.gather(0, i) + s.sum(),
    ]
    for call in calls:
        found = {}
        for library in (ta, torch):
            x = library.full(shapes[0], 2.0, requires_grad=True)
            s = library.full(shapes[1], 3.0, requires_grad=True)
            try:
                y = call(x, library.tensor(index), s)
                y.sum().backward()
            except RuntimeError:  # PyTorch refuses some of them, mostly in the backward pass
                assert library is torch
                continue
            found[library] = tuple(y.shape), y.tolist(), x.grad.tolist(), s.grad.tolist()
        assert found[ta] == found.get(torch, found[ta])


def test_cross_entropy_of_no_classes_is_smoothed_too():
    scores = ta.zeros(2, 0)
    assert F.cross_entropy(scores, scores, label_smoothing=0.1).item() == F.cross_entropy(scores, scores).item()


@pytest.mark.parametrize("name", ["elu", "selu", "celu"])
def test_gradient_of_exponential_units_does_not_cancel(name):
    x = torch.tensor([-5.0, -20.0, -60.0], dtype=torch.float64)
    (right,) = torch.autograd.grad(getattr(torch.nn.functional, name)(leaf := x.requires_grad_()).sum(), leaf)
    ours = ta.tensor([-5.0, -20.0, -60.0], requires_grad=True)  # float32
    getattr(F, name)(ours).sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), right.numpy(), rtol=1e-6)


TAILS = {
    "silu": lambda f, x: f.silu(x),
    "silu, recorded": lambda f, x: f.silu(x),
    "binary_cross_entropy_with_logits": lambda f, x: f.binary_cross_entropy_with_logits(x, x.detach() * 0),
    "logsigmoid": lambda f, x: f.logsigmoid(-x),
    "soft_margin_loss": lambda f, x: f.soft_margin_loss(x, x.detach() * 0 - 1),
}


@pytest.mark.parametrize("name", TAILS)
def test_gradients_far_below_0_do_not_cancel(name):
    numbers, orders = [-5.0, -20.0, -60.0], {"create_graph": True} if "recorded" in name else {}
    found = []
    for library, f, dtype in ((ta, F, "float32"), (torch, torch.nn.functional, "float64")):
        x = library.tensor(numbers, dtype=getattr(library, dtype), requires_grad=True)
        (g,) = library.autograd.grad(TAILS[name](f, x).sum(), x, **orders)
        found.append(g.detach().numpy())
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_tensordot_keeps_the_dtype_of_small_integers():
    a, b = ta.ones(2, 1, dtype=ta.uint8), ta.ones(2, 2, dtype=ta.uint8)
    assert ta.tensordot(a, b, 1).dtype == ta.uint8


def test_cov_of_no_observations_is_nan():
    assert np.isnan(ta.cov(ta.zeros(2, 0)).numpy()).all()


BOTH_SIDES = {  # of a branch, a border or a threshold
    "erfinv": lambda t: t.erfinv(t.tensor([-1.0, 1.0, 2.0, -2.0, 0.5])),
    "heaviside": lambda t: t.heaviside(t.tensor([-0.5, 0.0, 0.5, 1.0]), t.tensor([7.0, 8.0, 9.0, 2.0])),
    "cumsum of a transposed matrix": lambda t: t.cumsum(t.arange(2000.0).reshape(40, 50).T, 0),
    "cumsum of a row": lambda t: t.cumsum(t.arange(3000.0, dtype=t.float64), 0),
    "products of large integers": lambda t: (
        ((t.arange(60 * 70) % 127 - 63).reshape(60, 70)) @ (((t.arange(70 * 50) % 2**20) * 2**40).reshape(70, 50))
    ),
    "shifts": lambda t: t.stack([t.bitwise_left_shift(t.tensor([-3, 1, 5]), n) for n in (0, 1, 31, 62, 63)]),
}


@pytest.mark.parametrize("name", BOTH_SIDES)
def test_values_on_both_sides_of_a_branch_as_in_pytorch(name):
    ours, theirs = (host(BOTH_SIDES[name](t)) for t in (ta, torch))
    assert_close(ours, theirs)


def test_gradient_of_xlogy_beside_the_number_0():
    found = []
    for library in (ta, torch):
        x = library.tensor([2.0, 0.0, -1.0], requires_grad=True)
        y = library.xlogy(x, 0)
        y.sum().backward()
        found.append([host(y), host(x.grad)])
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8", "bool"])
@pytest.mark.parametrize("values", [2, [1, 0, 1]])
def test_logcumsumexp_refuses_integers(values, dtype):  # as PyTorch: logarithms rounded to integers are wrong numbers
    with pytest.raises(NotImplementedError, match="logcumsumexp"):
        ta.logcumsumexp(ta.tensor(values).to(dtype), 0)


def test_cross_entropy_of_probabilities_ignores_no_class():
    for lib, functional in ((torch, torch.nn.functional), (ta, F)):
        with pytest.raises(RuntimeError, match="ignore_index"):
            functional.cross_entropy(lib.zeros(2, 3), lib.ones(2, 3) / 3, ignore_index=1)
