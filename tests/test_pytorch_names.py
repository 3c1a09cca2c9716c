"""Names that only models written for PyTorch use (tinyattn/compat): values, gradients and errors as PyTorch's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from oracle import host, to_ours

import tinyattn as ta
from tinyattn.compat import distributions, functions, further_distributions, layers, matrices
from tinyattn.compat.complex_pairs import FFT
from tinyattn.nn.utils import clip_grads_with_norm_, get_total_norm

ON_EVERY_DEVICE = True
L, F = torch.linalg, torch.nn.functional
RNG = np.random.default_rng(0)


def randn(*shape):
    return torch.from_numpy(np.asarray(RNG.normal(size=shape)))


def gradients(library, out, inputs, orders):
    """The floating outputs, then the gradients of each order of a fixed function of them."""
    out = out if isinstance(out, tuple | list) else [out]
    found, rounds = [t for t in out if hasattr(t, "shape")], []
    for order in range(orders + 1):
        rounds += [None if t is None else host(t) if library is ta else t.detach().numpy() for t in found]
        used = [t for t in found if t is not None and t.requires_grad]
        if not used or order == orders:
            break
        total = sum(((t.abs() + 0.3 * i) ** 2 * (1.5 + i)).sum() for i, t in enumerate(used))
        grad = ta.grad if library is ta else torch.autograd.grad
        found = grad(total, inputs, create_graph=order + 1 < orders, allow_unused=True)
    return rounds


def compare(ours, theirs, *args, orders=2, tolerance=1e-8, **options):
    """Both functions on the same arguments, whose floating tensors require gradients."""

    def run(library, function):
        given = [to_ours(x) if library is ta else x.clone() if torch.is_tensor(x) else x for x in args]
        inputs = [x for x in given if hasattr(x, "shape") and x.is_floating_point()]
        for x in inputs:
            x.requires_grad_(orders > 0)
        return gradients(library, function(*given, **options), inputs, orders)

    found, wanted = run(ta, ours), run(torch, theirs)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        a, b = (np.zeros(()) if x is None else x for x in (a, b))  # no gradient, or zeros
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


A, TALL, WIDE = randn(2, 4, 4), randn(2, 5, 3), randn(3, 5)
SYMMETRIC = A + A.mT
POSITIVE = A @ A.mT + 0.5 * torch.eye(4, dtype=torch.float64)
VALUES = lambda f: lambda *x, **o: (f(*x, **o)[0], f(*x, **o)[1].abs())  # noqa: E731 - signs of vectors differ
MATRICES = {
    "cholesky": (matrices.cholesky, L.cholesky, POSITIVE),
    "cholesky, upper": (lambda x: matrices.cholesky(x, upper=True), lambda x: L.cholesky(x, upper=True), POSITIVE),
    "eigvalsh": (matrices.LINALG["eigvalsh"], L.eigvalsh, SYMMETRIC), "eigh": (VALUES(matrices.eigh), VALUES(L.eigh), SYMMETRIC),
    "eigh, upper": (*[VALUES(lambda x, f=f: f(x, UPLO="U")) for f in (matrices.eigh, L.eigh)], A),
    "svdvals": (matrices.svdvals, L.svdvals, TALL), "pinv": (matrices.pinv, L.pinv, TALL), "pinv, wide": (matrices.pinv, L.pinv, WIDE),
    **{f"svd of {tuple(x.shape)}": (*[lambda x, f=f: [t.abs() for t in f(x, False)] for f in (matrices.svd, L.svd)], x) for x in (A, TALL, WIDE)},
    "torch.svd": (*[lambda x, f=f: [t.abs() for t in f(x)] for f in (matrices.METHODS["svd"], torch.svd)], TALL),
    "det": (matrices.det, L.det, A), "slogdet": (matrices.slogdet, L.slogdet, A), "logdet": (matrices.logdet, torch.logdet, POSITIVE),
    **{f"matrix_power {n}": (*[lambda x, n=n, f=f: f(x, n) for f in (matrices.matrix_power, L.matrix_power)], A) for n in (-2, 1, 2, 5)},
    **{f"matrix_norm {o}": (*[lambda x, o=o, f=f: f(x, o, (0, 2), True) for f in (matrices.matrix_norm, L.matrix_norm)], A) for o in (2, -2, "nuc", "fro", 1)},
    **{f"norm {o}": (*[lambda x, o=o, f=f: f(x, o) for f in (matrices.norm, L.norm)], WIDE) for o in (2, "nuc", None)},
    **{f"cond {p}": (*[lambda x, p=p, f=f: f(x, p) for f in (matrices.cond, L.cond)], A) for p in (None, 2, -2, "nuc")},
    "lstsq": (*[lambda a, b, f=f: f(a, b).solution for f in (matrices.lstsq, L.lstsq)], TALL, randn(2, 5, 2)),
    "lstsq, wide": (*[lambda a, b, f=f: f(a, b).solution for f in (matrices.lstsq, L.lstsq)], WIDE, randn(3, 2)),
    "vecdot": (matrices.vecdot, L.vecdot, TALL, randn(2, 5, 3)),
    "vecdot, dim": (*[lambda a, b, f=f: f(a, b, dim=0) for f in (matrices.vecdot, L.vecdot)], WIDE, randn(3, 5)),
    **{
        f"{f}, upper={u}": (*[lambda *x, f=f, u=u: f(*x[:-1], x[-1].triu() if u else x[-1].tril(), upper=u) for f in (matrices.METHODS[f], getattr(torch, f))], *x)
        for u in (True, False) for f, x in (("cholesky_solve", (randn(2, 4, 3), L.cholesky(POSITIVE))), ("cholesky_inverse", (POSITIVE[0].tril(),)))
    },
    **{
        f"solve_triangular {u, left, one}": (*[lambda a, b, f=f, u=u, left=left, one=one: f(a, b, upper=u, left=left, unitriangular=one)
         for f in (matrices.solve_triangular, L.solve_triangular)], A, randn(4, 4))
        for u in (True, False) for left in (True, False) for one in (True, False)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
def test_factors_and_their_gradients_are_those_of_pytorch(name):
    ours, theirs, *args = MATRICES[name]
    compare(ours, theirs, *args, tolerance=1e-7)


def _leibniz(x):
    """The determinant of a 3 x 3 matrix, as the sum of its products."""
    return sum(
        x[0, i] * (x[1, (i + 1) % 3] * x[2, (i + 2) % 3] - x[1, (i + 2) % 3] * x[2, (i + 1) % 3]) for i in range(3)
    )


def test_factors_of_singular_and_narrow_matrices():
    rank_two = randn(4, 2) @ randn(2, 4)
    compare(matrices.pinv, L.pinv, rank_two, orders=1)
    for singular in (torch.tensor([[1.0, 2], [2, 4]]).double(), torch.zeros(2, 2).double(), torch.ones(3, 3).double()):
        compare(matrices.det, L.det, singular, orders=1)
    for singular in (
        torch.tensor([[1.0, 2, 0], [2, 4, 0], [1, 1, 1]]).double(),
        torch.diag(torch.tensor([0.0, 1, 2])).double(),
        torch.arange(1.0, 10).reshape(3, 3).double(),  # of determinant 6e-16, as LAPACK rounds it
        torch.diag(torch.tensor([1e-9, 1, 2])).double(),
    ):
        compare(matrices.det, _leibniz, singular)  # PyTorch's own second derivative of a singular matrix is wrong
    for regular in (
        torch.eye(3).double(),
        torch.linalg.qr(A)[0][0, :3, :3],
        torch.diag(torch.tensor([2.0, 2, 2])).double(),
    ):
        compare(matrices.det, L.det, regular)
    both = torch.stack([torch.eye(2), torch.ones(2, 2)]).double()
    compare(matrices.det, lambda x: x[:, 0, 0] * x[:, 1, 1] - x[:, 0, 1] * x[:, 1, 0], both)
    compare(matrices.svdvals, L.svdvals, torch.zeros(3, 4).double(), orders=1)
    for power in (matrices.matrix_power(one := ta.eye(2), 1), one):
        assert power.zero_().sum() == 0
        assert power is one or one.sum() == 2
    same = torch.eye(3, dtype=torch.float64)  # equal values: those have gradients, vectors have none
    compare(matrices.LINALG["eigvalsh"], L.eigvalsh, same, orders=1)
    compare(matrices.svdvals, L.svdvals, same, orders=1)
    np.testing.assert_array_equal(host(matrices.slogdet(to_ours(A)).sign), L.slogdet(A).sign.numpy())
    assert matrices.matrix_power(to_ours(A), 0).tolist() == L.matrix_power(A, 0).tolist()
    u, s, vh = matrices.svd(to_ours(TALL))
    assert (u.shape, s.shape, vh.shape) == ((2, 5, 5), (2, 3), (2, 3, 3))
    assert ta.allclose(u[..., :3] * s[..., None, :] @ vh, to_ours(TALL))
    assert matrices.cholesky(ta.eye(2)).dtype == ta.float32
    for p in (1, "fro"):  # PyTorch's own backward fails
        compare(lambda x, p=p: matrices.cond(x, p), lambda x, p=p: L.cond(x, p), A, orders=0)
    B = randn(2, 5, 2)
    for driver, x in itertools.product((None, "gels", "gelsd", "gelss", "gelsy"), (TALL, TALL.mT)):
        args = x, B[:, : x.shape[1]]
        for a, b in zip(matrices.lstsq(*map(to_ours, args), driver=driver), L.lstsq(*args, driver=driver), strict=True):
            assert a.dtype == to_ours(b).dtype
            np.testing.assert_allclose(host(a), b.numpy(), rtol=1e-9, atol=1e-9)
    for options in ({}, {"atol": 1e-3}, {"rtol": 1e-20}, {"atol": 1e-20, "rtol": 0.9}, {"tol": 10.0}):
        for x in (rank_two, TALL, torch.zeros(2, 3, dtype=torch.float64)):
            found, true = matrices.matrix_rank(to_ours(x), **options), L.matrix_rank(x, **options)
            assert found.tolist() == true.tolist() and found.dtype == ta.int64


REFUSED = {
    "cholesky: a matrix of shape": lambda: matrices.cholesky(-ta.eye(2)),
    "svd: full_matrices=True has no gradient": lambda: matrices.svd(ta.ones(3, 2, requires_grad=True)),
    "det: shape": lambda: matrices.det(ta.ones(2, 3)),
    "eigh: dtype float16": lambda: matrices.eigh(ta.eye(2).half()),
}


@pytest.mark.parametrize("message", REFUSED)
def test_factors_refuse_in_a_sentence(message):
    with pytest.raises(RuntimeError, match=message):
        REFUSED[message]()


# --- functions ---

X = torch.cat([torch.linspace(-3.4, 5.1, 9), torch.tensor([1e-3, 30.0, 1e4])]).double()
BIG = randn(3, 4) * 3
INDEX = torch.tensor([1, 0, 1])
FUNCTIONS = {
    **{name: (getattr(functions, name), getattr(torch, name), X) for name in ("lgamma", "digamma", "erfc")},
    **{f"polygamma {n}": (lambda x, n=n: functions.polygamma(n, x), lambda x, n=n: torch.polygamma(n, x), X.abs()) for n in (0, 1, 2, 3)},
    **{f"renorm {p}": (*[lambda x, p=p, f=f: f(x, p, 1, 2.0) for f in (functions.renorm, torch.renorm)], BIG) for p in (1, 2)},
    **{f"pdist {p}": (*[lambda x, p=p, f=f: f(x, p) for f in (functions.pdist, F.pdist)], BIG) for p in (2.0, 1.0)},
    **{f"index_reduce {how} {own}": (*[lambda x, i, s, how=how, own=own, f=f: f(x, 0, i, s, how, include_self=own) for f in (functions.index_reduce, torch.index_reduce)], randn(3, 4), INDEX, randn(3, 4))
       for how in ("prod", "mean", "amax", "amin") for own in (True, False)},
    "float_power": (*[lambda x, f=f: f(x.abs(), 2.5) for f in (functions.FUNCTIONS["float_power"], torch.float_power)], BIG),
    "rsub": (*[lambda x, y, f=f: f(x, y, alpha=2) for f in (functions.FUNCTIONS["rsub"], torch.rsub)], BIG, randn(3, 4)),
    "msort": (functions.FUNCTIONS["msort"], torch.msort, BIG),
    "rrelu": (layers.rrelu, F.rrelu, BIG),
    "conv_transpose3d": (*[lambda *x, f=f: f(*x, stride=(2, 1, 3), padding=(1, 0, 1), output_padding=(1, 0, 2), groups=2, dilation=(1, 2, 1)) for f in (ta.nn.functional.conv_transpose3d, F.conv_transpose3d)], randn(2, 4, 3, 2, 2), randn(4, 3, 2, 2, 3), randn(6)),
    "conv_transpose3d, one": (ta.nn.functional.conv_transpose3d, F.conv_transpose3d, randn(2, 3, 2, 2), randn(2, 1, 3, 1, 2)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_their_gradients_are_those_of_pytorch(name):
    ours, theirs, *args = FUNCTIONS[name]
    once = name.startswith(("index_reduce", "renorm", "pdist", "polygamma 3")) or name == "conv_transpose3d"
    compare(ours, theirs, *args, orders=1 if once else 2, tolerance=1e-8)  # PyTorch's trigamma is no better


def test_gamma_functions_at_poles_limits_and_other_dtypes():
    t = torch.tensor([0.0, -1.0, -2.0, 1.0, 2.0, np.inf, np.nan, -250.5])
    for name in ("lgamma", "digamma", "erfc"):
        for x in (t, t.double(), torch.tensor([1, 5])):
            found, wanted = getattr(functions, name)(to_ours(x)), getattr(torch, name)(x)
            assert str(found.dtype) == str(wanted.dtype).removeprefix("torch.")
            np.testing.assert_allclose(
                host(found), wanted.numpy(), rtol=2e-6 if x.dtype != torch.float64 else 1e-11, atol=1e-14
            )
    far = torch.tensor([3.0, 10.0, 25.0, -30.0, np.inf, -np.inf], dtype=torch.float64)  # where 1 - erf is 0
    np.testing.assert_allclose(host(functions.erfc(to_ours(far))), torch.erfc(far).numpy(), rtol=1e-8)
    with pytest.raises(RuntimeError, match=r"polygamma: n=2 of -1001\.5; expected at least -1000"):
        functions.polygamma(2, ta.tensor([-1001.5]))


def test_derivatives_of_the_gamma_function_beside_scipy():
    special = pytest.importorskip("scipy.special")
    x = np.concatenate([np.linspace(0.01, 30, 500), [1e3, 1e6]])
    for n in (0, 1, 2, 3):
        np.testing.assert_allclose(
            host(functions.polygamma(n, ta.tensor(x))), special.polygamma(n, x), rtol=1e-12, atol=1e-14
        )
    (slope,) = ta.grad(functions.digamma(y := ta.tensor(x, requires_grad=True)).sum(), y)
    np.testing.assert_allclose(host(slope), special.polygamma(1, x), rtol=1e-12)
    below = -np.linspace(0.05, 2000.05, 300)
    (slope,) = ta.grad(functions.lgamma(y := ta.tensor(below, requires_grad=True)).sum(), y)
    np.testing.assert_allclose(host(slope), special.psi(below), rtol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_max_unpool_returns_what_pooling_took(n):
    x = randn(2, 3, *(7, 6, 5)[:n])
    pools = [getattr(library.nn.functional, f"max_pool{n}d") for library in (ta, torch)]
    for options in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}):
        (ours, at), (theirs, where) = (
            pool(y, **options, return_indices=True) for pool, y in zip(pools, (to_ours(x), x), strict=True)
        )
        kept = {"output_size": x.shape}
        undo = getattr(torch.nn, f"MaxUnpool{n}d")(**options)
        found = layers.NN[f"MaxUnpool{n}d"](**options)(ours, at, **kept)
        np.testing.assert_allclose(host(found), undo(theirs, where, **kept).numpy())
    with pytest.raises(ValueError, match=f"max_unpool{n}d: output_size=.*; expected less than the stride"):
        layers.FUNCTIONAL[f"max_unpool{n}d"](ours, at, 2, output_size=(50,) * n)


def test_adaptive_softmax_is_that_of_pytorch():
    options = {"in_features": 16, "n_classes": 20, "cutoffs": [5, 9, 15], "div_value": 2.0, "head_bias": True}
    theirs, ours = (
        torch.nn.AdaptiveLogSoftmaxWithLoss(**options).double(),
        layers.AdaptiveLogSoftmaxWithLoss(**options).double(),
    )
    ours.load_state_dict({name: x.numpy() for name, x in theirs.state_dict().items()})
    x, target = randn(12, 16), torch.tensor([0, 4, 5, 8, 9, 14, 15, 19, 1, 2, 6, 18])
    for n in (12, 8, 1):  # the last two without a cluster or more
        given, wanted = to_ours(x[:n]).requires_grad_(), x[:n].clone().requires_grad_()
        a, b = ours(given, to_ours(target[:n])), theirs(wanted, target[:n])
        np.testing.assert_allclose(host(a.output), b.output.detach().numpy())
        a.loss.backward(), b.loss.backward()
        np.testing.assert_allclose(host(given.grad), wanted.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(host(ours.log_prob(to_ours(x))), theirs.log_prob(x).detach().numpy())
    np.testing.assert_array_equal(host(ours.predict(to_ours(x))), theirs.predict(x).numpy())
    assert ours(to_ours(x[0]), ta.tensor(3)).output.shape == ()
    with pytest.raises(RuntimeError, match="1 targets for 1 rows; expected as many, below 20"):
        ours(to_ours(x[:1]), ta.tensor([20]))
    with pytest.raises(ValueError, match="cutoffs="):
        layers.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 5])


@pytest.mark.parametrize(
    "options",
    [{}, {"lr": 0.5, "weight_decay": 0.1, "d": 2.0, "eps": (1e-3, 1e-2)}, {"maximize": True, "beta2_decay": -0.5}],
)
def test_adafactor_steps_as_in_pytorch(options):
    start = [randn(3, 4), randn(5), randn(2, 3, 4)]
    theirs = [torch.nn.Parameter(x.clone()) for x in start]
    ours = [ta.nn.Parameter(to_ours(x)) for x in start]
    make = lambda params: layers.Adafactor(params, **options)  # noqa: E731
    one, two = torch.optim.Adafactor(theirs, **options), make(ours)
    for step in range(6):
        for a, b in zip(ours, theirs, strict=True):
            b.grad = randn(*b.shape)
            a.grad = to_ours(b.grad)
        one.step(), two.step()
        if step == 2:
            two, saved = make(ours), two.state_dict()
            two.load_state_dict(saved)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(host(a), b.detach().numpy(), rtol=1e-11)
    with pytest.raises(ValueError, match=r"Adafactor: .*; expected lr"):
        layers.Adafactor(ours, lr=-1.0)


@pytest.mark.parametrize("name", ["ConstantLR", "LinearLR", "PolynomialLR"])
def test_schedules_of_no_epochs_are_those_of_pytorch(name):
    def rates(library):
        optimizer = library.optim.SGD([library.ones(1, requires_grad=True)], lr=0.5)
        schedule = getattr(library.optim.lr_scheduler, name)(optimizer, total_iters=0)
        found = [schedule.get_last_lr()]
        for _ in range(3):
            optimizer.step(), schedule.step()
            found.append(schedule.get_last_lr())
        return found

    np.testing.assert_allclose(rates(ta), rates(torch))


@pytest.mark.parametrize("distance", [None, lambda a, b: 1 - (a * b).sum(-1)])
@pytest.mark.parametrize("options", [{}, {"margin": 0.2, "swap": True, "reduction": "sum"}, {"reduction": "none"}])
def test_triplets_by_any_distance(distance, options):
    options = {**options, "distance_function": distance}
    ours, theirs = (
        layers.NN["TripletMarginWithDistanceLoss"](**options),
        torch.nn.TripletMarginWithDistanceLoss(**options),
    )
    compare(ours, theirs, *(randn(5, 3) for _ in range(3)), orders=1)


@pytest.mark.parametrize("kind", ["Conv1d", "Conv2d", "ConvTranspose2d", "Linear"])
@pytest.mark.parametrize("plain", [False, True])  # without biases, scales and shifts
def test_batch_norm_fused_into_the_layer_before(kind, plain):
    size = 3 if kind == "Linear" else 1 + int(kind[-2])

    def fused(library, functions):
        options = {"bias": not plain} if kind == "Linear" else {"kernel_size": 3, "bias": not plain}
        norm = library.nn.BatchNorm1d if size == 3 and kind != "Conv2d" else library.nn.BatchNorm2d
        layer, norm = (
            getattr(library.nn, kind)(3, 4, **options).double(),
            norm(4, affine=not plain or kind == "Linear").double(),
        )
        numbers = np.random.default_rng(0)
        for x in (*layer.state_dict().values(), *norm.state_dict().values()):
            if x.ndim:
                x.copy_(library.tensor(numbers.random(tuple(x.shape)) + 0.1))
        kept = {name: x.clone() for name, x in layer.state_dict().items()}
        if kind == "Linear":
            out = functions["fuse_linear_bn_eval"](layer.eval(), norm.eval())
        else:
            out = functions["fuse_conv_bn_eval"](layer.eval(), norm.eval(), kind.startswith("ConvTranspose"))
        assert all((layer.state_dict()[name] == x).all() for name, x in kept.items())  # a copy was changed
        return out

    ours, theirs = fused(ta, layers.FUSION), fused(torch, vars(torch.nn.utils.fusion))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.requires_grad and a.is_leaf
        np.testing.assert_allclose(host(a.detach()), b.detach().numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match="fuse: the layers are in training mode"):
        layers.FUSION["fuse_conv_bn_eval"](ours.train(), ours)


@pytest.mark.parametrize("p", [2.0, 1.0, float("inf")])
def test_clipping_by_a_given_norm(p):
    given = [randn(3), randn(2, 2)]

    def clipped(library, functions, convert):
        params = [library.zeros(x.shape, dtype=library.float64, requires_grad=True) for x in given]
        for param, x in zip(params, given, strict=True):
            param.grad = convert(x)
        norm = functions[0]([x.grad for x in params], p)
        functions[1](params, 0.5, norm)
        return norm, *(x.grad for x in params)

    theirs = clipped(torch, (torch.nn.utils.get_total_norm, torch.nn.utils.clip_grads_with_norm_), torch.clone)
    for a, b in zip(clipped(ta, (get_total_norm, clip_grads_with_norm_), to_ours), theirs, strict=True):
        np.testing.assert_allclose(host(a), b.numpy(), rtol=1e-12)
    with pytest.raises(RuntimeError, match="of nan, so they cannot be clipped"):
        get_total_norm(ta.tensor([np.nan]), error_if_nonfinite=True)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_frequencies_of_spectra(n):
    for name in ("fftfreq", "rfftfreq"):
        ours, theirs = FFT[name](n, 0.25), getattr(torch.fft, name)(n, 0.25)
        assert ours.dtype == ta.float32
        np.testing.assert_array_equal(host(ours), theirs.numpy())
        assert FFT[name](n, dtype=ta.float64).tolist() == getattr(torch.fft, name)(n, dtype=torch.float64).tolist()


# --- distributions ---

KINDS = {**distributions.NAMES, **further_distributions.NAMES}
PROBS = randn(3, 4).exp()
DISTRIBUTIONS = {
    "Uniform": (randn(3) - 9, randn(3) + 9, randn(2, 3)), "Laplace": (randn(3), randn(3).exp(), randn(2, 3)),
    "Exponential": (randn(3).exp(), randn(2, 3).abs()),
    "Gamma": (randn(3).exp(), randn(3).exp(), randn(2, 3).exp()), "Beta": (randn(3).exp(), randn(3).exp(), randn(2, 3).sigmoid()),
    "Gumbel": (randn(3), randn(3).exp(), randn(2, 3)), "Cauchy": (randn(3), randn(3).exp(), randn(2, 3)),
    "LogNormal": (randn(3), randn(3).sigmoid(), randn(2, 3).exp()), "Poisson": (randn(3).exp(), torch.tensor([[0.0, 1, 5]] * 2)),
    "Dirichlet": (PROBS, randn(2, 3, 4).softmax(-1)),
    "MultivariateNormal": (randn(2, 4), POSITIVE, randn(3, 2, 4)),
    "OneHotCategorical": (PROBS, F.one_hot(torch.tensor([1, 0, 3]), 4).double()),
    "OneHotCategoricalStraightThrough": (PROBS, F.one_hot(torch.tensor([1, 0, 3]), 4).double()),
}  # fmt: skip


def said(library, name, convert):
    """What a distribution says, and the gradients by its parameters."""
    kinds = KINDS if library is ta else vars(torch.distributions)
    *given, value = DISTRIBUTIONS[name]
    given = [convert(x).requires_grad_() for x in given]
    p, q = (kinds[name](*(x * by for x in given)) for by in (1, 1.3))
    alone = kinds["Independent"](p, len(p.batch_shape))
    out = [p.log_prob(convert(value)), p.mean, p.variance, p.stddev, alone.log_prob(convert(value))]
    if name != "Poisson":
        out += [p.entropy(), alone.entropy()]
    if name in ("Gamma", "Beta", "Dirichlet", "MultivariateNormal", "OneHotCategorical"):
        out += [
            kinds["kl_divergence"](p, q),
            kinds["kl_divergence"](alone, kinds["Independent"](q, len(q.batch_shape))),
        ]
    assert tuple(p.sample((6,)).shape) == (6, *p.batch_shape, *p.event_shape) == tuple(alone.sample((6,)).shape)
    assert not p.sample().requires_grad and (not p.has_rsample or p.rsample().requires_grad)
    sum((x.sin() * (i + 1)).sum() for i, x in enumerate(out)).backward()
    return [*out, *(x.grad for x in given)]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_further_distributions_are_those_of_pytorch(name):
    theirs, ours = said(torch, name, lambda x: x.clone()), said(ta, name, to_ours)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(host(a), b.detach().numpy(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if name != "Cauchy"])  # which has no mean
def test_further_distributions_draw_what_they_say(name):
    ta.manual_seed(0)
    p = KINDS[name](*map(to_ours, DISTRIBUTIONS[name][:-1]))
    x = p.sample((40_000,))
    np.testing.assert_allclose(host(x.mean(0)), host(p.mean), atol=0.1 * host(p.stddev).max())
    np.testing.assert_allclose(host(x.std(0)), host(p.stddev), rtol=0.1)


def test_transformed_distributions_are_those_of_pytorch():
    shift, scale, value = randn(3), randn(3), randn(5, 3)

    def out(library, convert):
        kinds = KINDS if library is ta else vars(torch.distributions)
        base = (ta if library is ta else torch).distributions.Normal(convert(shift).requires_grad_(), 2.0)
        affine = kinds["AffineTransform"](convert(shift), convert(scale))
        found = []
        for parts, y in (
            ([affine], value), ([kinds["TanhTransform"]()], value.tanh()), (kinds["SigmoidTransform"](), value.sigmoid()),
            ([kinds["ExpTransform"](), affine], value.exp() * scale + shift), ([affine.inv], value),
        ):  # fmt: skip
            p = kinds["TransformedDistribution"](base, parts)
            found.append(p.log_prob(convert(y)))
            found.append(kinds["TransformedDistribution"](kinds["Independent"](base, 1), parts).log_prob(convert(y)))
            assert p.rsample((2,)).requires_grad and not p.sample().requires_grad
        return found

    for a, b in zip(out(ta, to_ours), out(torch, lambda x: x.clone()), strict=True):
        np.testing.assert_allclose(host(a), b.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize("vectors", [False, True])
def test_mixtures_are_those_of_pytorch(vectors):
    logits, shift, scale, value = randn(3, 4), randn(3, 4, 2), randn(3, 4, 2), randn(5, 3, 2)

    def make(library, convert):
        kinds = KINDS if library is ta else vars(torch.distributions)
        given = [convert(x).requires_grad_() for x in (logits, shift, scale)]
        parts = library.distributions.Normal(given[1], given[2].exp())
        parts = kinds["Independent"](parts, 1) if vectors else library.distributions.Normal(given[1][..., 0], 1.0)
        return given, kinds["MixtureSameFamily"](library.distributions.Categorical(logits=given[0]), parts)

    def out(library, convert):
        given, p = make(library, convert)
        found = [p.log_prob(convert(value if vectors else value[..., 0])), p.mean, p.variance, p.stddev]
        sum(x.sin().sum() for x in found).backward()
        return [*found, *(x.grad for x in given[: 3 if vectors else 2])]

    for a, b in zip(out(ta, to_ours), out(torch, lambda x: x.clone()), strict=True):
        np.testing.assert_allclose(host(a), b.detach().numpy(), rtol=1e-10)
    ta.manual_seed(0)
    _, p = make(ta, to_ours)
    x = p.sample((40_000,))
    assert tuple(x.shape) == (40_000, *p.batch_shape, *p.event_shape) and not x.requires_grad
    np.testing.assert_allclose(host(x.mean(0)), host(p.mean), atol=0.05 * host(p.stddev).max())
    np.testing.assert_allclose(host(x.std(0)), host(p.stddev), rtol=0.05)


def test_relaxed_one_hot_vectors_are_those_of_pytorch():
    value = randn(6, 3, 4).softmax(-1)

    def out(library, convert):
        kinds = KINDS if library is ta else vars(torch.distributions)
        probs = convert(PROBS).requires_grad_()
        p = kinds["RelaxedOneHotCategorical"](convert(torch.tensor(0.7).double()), probs=probs)
        assert p.rsample((2,)).requires_grad and not p.sample().requires_grad
        x = p.log_prob(convert(value))
        x.sum().backward()
        return x, probs.grad, p

    (a, ga, p), (b, gb, _) = out(ta, to_ours), out(torch, lambda x: x.clone())
    np.testing.assert_allclose(host(a), b.detach().numpy(), rtol=1e-10)
    np.testing.assert_allclose(host(ga), gb.numpy(), rtol=1e-10)
    ta.manual_seed(0)
    x = p.rsample((40_000,))
    np.testing.assert_allclose(host(x.sum(-1)), 1)
    which = F.one_hot(torch.tensor(host(x.argmax(-1))), 4).double().mean(0)
    np.testing.assert_allclose(which.numpy(), host(p.probs), atol=0.01)  # the largest is drawn by the probabilities


def test_divergence_of_bernoullis_and_of_registered_types():
    def found(library, convert):
        kinds = KINDS if library is ta else vars(torch.distributions)
        p, q = (library.distributions.Bernoulli(logits=convert(x)) for x in (BIG, BIG.flip(0) / 2))
        return kinds["kl_divergence"](p, q)

    np.testing.assert_allclose(host(found(ta, to_ours)), found(torch, lambda x: x).numpy())

    class Mine(ta.distributions.Normal):
        pass

    @distributions.register_kl(Mine, Mine)
    def divergence(p, q):
        return ta.tensor(7.0)

    try:
        assert distributions.kl_divergence(Mine(0.0, 1.0), Mine(0.0, 1.0)).item() == 7
    finally:
        del distributions.KL[Mine, Mine]


def test_further_distributions_refuse_in_a_sentence():
    kinds = KINDS
    with pytest.raises(TypeError, match=r"Uniform: got \['low'\]; expected low, high"):
        kinds["Uniform"](0.0)
    with pytest.raises(ValueError, match="MultivariateNormal: expected one of"):
        kinds["MultivariateNormal"](ta.zeros(2))
    with pytest.raises(NotImplementedError, match="Beta has no rsample; use sample and log_prob"):
        kinds["Beta"](1.0, 1.0).rsample()
