"""Names that only models written for PyTorch use (tinyattn/compat): values, gradients and errors as PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import host, to_ours

import tinyattn as ta
from tinyattn.compat import matrices

ON_EVERY_DEVICE = True
L = torch.linalg
RNG = np.random.default_rng(0)


def randn(*shape):
    return torch.from_numpy(np.asarray(RNG.normal(size=shape)))


def gradients(library, out, inputs, orders):
    """The floating outputs, then the gradients of each order of a fixed function of them."""
    out = out if isinstance(out, tuple | list) else [out]
    found, rounds = [t for t in out if hasattr(t, "shape")], []
    for _ in range(orders + 1):
        rounds += [None if t is None else host(t) if library is ta else t.detach().numpy() for t in found]
        used = [t for t in found if t is not None and t.requires_grad]
        if not used:
            break
        total = sum(((t.abs() + 0.3 * i) ** 2 * (1.5 + i)).sum() for i, t in enumerate(used))
        grad = ta.grad if library is ta else torch.autograd.grad
        found = grad(total, inputs, create_graph=True, allow_unused=True)
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
FACTOR = L.cholesky(POSITIVE)
VALUES = lambda f: lambda *x, **o: (f(*x, **o)[0], f(*x, **o)[1].abs())  # noqa: E731 - signs of vectors differ
MATRICES = {
    "cholesky": (matrices.cholesky, L.cholesky, POSITIVE),
    "cholesky, upper": (lambda x: matrices.cholesky(x, upper=True), lambda x: L.cholesky(x, upper=True), POSITIVE),
    "cholesky_solve": (*[lambda b, x, f=f: f(b, x.tril()) for f in (matrices.cholesky_solve, torch.cholesky_solve)], randn(2, 4, 2), FACTOR),
    "cholesky_solve, upper": (*[lambda b, x, f=f: f(b, x.triu(), True) for f in (matrices.cholesky_solve, torch.cholesky_solve)], randn(4, 2), FACTOR.mT),
    "cholesky_inverse": (*[lambda x, f=f: f(x.tril()) for f in (matrices.cholesky_inverse, torch.cholesky_inverse)], FACTOR),
    "eigvalsh": (matrices.eigvalsh, L.eigvalsh, SYMMETRIC), "eigh": (VALUES(matrices.eigh), VALUES(L.eigh), SYMMETRIC),
    "eigh, upper": (*[VALUES(lambda x, f=f: f(x, UPLO="U")) for f in (matrices.eigh, L.eigh)], A),
    "svdvals": (matrices.svdvals, L.svdvals, TALL), "pinv": (matrices.pinv, L.pinv, TALL), "pinv, wide": (matrices.pinv, L.pinv, WIDE),
    **{f"svd of {tuple(x.shape)}": (*[lambda x, f=f: [t.abs() for t in f(x, False)] for f in (matrices.svd, L.svd)], x) for x in (A, TALL, WIDE)},
    "torch.svd": (*[lambda x, f=f: [t.abs() for t in f(x)] for f in (matrices.old_svd, torch.svd)], TALL),
    "det": (matrices.det, L.det, A), "slogdet": (*[lambda x, f=f: f(x)[1] for f in (matrices.slogdet, L.slogdet)], A), "logdet": (matrices.logdet, torch.logdet, POSITIVE),
    **{f"matrix_power {n}": (*[lambda x, n=n, f=f: f(x, n) for f in (matrices.matrix_power, L.matrix_power)], A) for n in (-2, 1, 2, 5)},
    **{f"matrix_norm {o}": (*[lambda x, o=o, f=f: f(x, o, (0, 2), True) for f in (matrices.matrix_norm, L.matrix_norm)], A) for o in (2, -2, "nuc", "fro", 1)},
    **{f"norm {o}": (*[lambda x, o=o, f=f: f(x, o) for f in (matrices.norm, L.norm)], WIDE) for o in (2, "nuc", None)},
    **{f"cond {p}": (*[lambda x, p=p, f=f: f(x, p) for f in (matrices.cond, L.cond)], A) for p in (None, -2)},
    "vecdot": (matrices.vecdot, L.vecdot, A, randn(4, 4)), "diagonal": (matrices.diagonal, L.diagonal, A),
    "lstsq": (lambda a, b: tuple(matrices.lstsq(a, b)), lambda a, b: tuple(L.lstsq(a, b)), TALL, randn(2, 5, 2)),
    **{
        f"solve_triangular {u, left, one}": (*[lambda a, b, f=f, u=u, left=left, one=one: f(a, b, upper=u, left=left, unitriangular=one)
         for f in (matrices.solve_triangular, L.solve_triangular)], A, randn(4, 4))
        for u in (True, False) for left in (True, False) for one in (True, False)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
def test_factors_and_their_gradients_are_those_of_pytorch(name):
    ours, theirs, *args = MATRICES[name]
    compare(ours, theirs, *args, orders=1 if name == "lstsq" else 2, tolerance=1e-7)


def test_factors_of_singular_and_narrow_matrices():
    rank_two = randn(4, 2) @ randn(2, 4)
    compare(matrices.pinv, L.pinv, rank_two, orders=1)
    assert matrices.matrix_rank(to_ours(rank_two)).item() == 2
    for singular in (torch.tensor([[1.0, 2], [2, 4]]).double(), torch.zeros(2, 2).double(), torch.ones(3, 3).double()):
        compare(matrices.det, L.det, singular, orders=1)
    same = torch.eye(3, dtype=torch.float64)  # equal values: those have gradients, vectors have none
    compare(matrices.eigvalsh, L.eigvalsh, same, orders=1)
    compare(matrices.svdvals, L.svdvals, same, orders=1)
    np.testing.assert_array_equal(host(matrices.slogdet(to_ours(A)).sign), L.slogdet(A).sign.numpy())
    assert matrices.matrix_power(to_ours(A), 0).tolist() == L.matrix_power(A, 0).tolist()
    np.testing.assert_allclose(host(matrices.cond(to_ours(A), 1)), L.cond(A, 1).numpy())
    u, s, vh = matrices.svd(to_ours(TALL))
    assert (u.shape, s.shape, vh.shape) == ((2, 5, 5), (2, 3), (2, 3, 3))
    assert ta.allclose(u[..., :3] * s[..., None, :] @ vh, to_ours(TALL))
    assert matrices.cholesky(ta.eye(2)).dtype == ta.float32


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
