"""torch.linalg beyond what tinyattn has: LAPACK factors matrices on the CPU, and a rule for each gives the gradients.

Of matrices (..., m, n) in float32 or float64, with PyTorch's names, results and errors. Synchronises a GPU.
"""

from __future__ import annotations

import functools
import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np

import tinyattn as ta
from tinyattn.autograd import Function
from tinyattn.ops.factors import _square, back_substitution

LinAlgError = RuntimeError  # what is raised here, and by ta.linalg, of singular matrices
Eigh = namedtuple("Eigh", "eigenvalues eigenvectors")
Svd = namedtuple("Svd", "U S Vh")
OldSvd = namedtuple("OldSvd", "U S V")
SlogDet = namedtuple("SlogDet", "sign logabsdet")
Triangular = namedtuple("Triangular", "solution cloned_coefficient")
Factored = namedtuple("Factored", "LU pivots")
Factors = namedtuple("Factors", "P L U")
Least = namedtuple("Least", "solution residuals rank singular_values")


def _operation(name: str, lapack: Callable[..., Any], rule: Callable[..., Any]) -> Callable[..., Any]:
    """A function of matrices A: `lapack` of arrays, and the gradient `rule(A, outputs, *gradients)`."""

    def forward(ctx: Any, A: Any) -> Any:
        if A.dtype not in (ta.float32, ta.float64):
            raise RuntimeError(f"{name}: dtype {A.dtype}; expected float32 or float64 (cast it with .float())")
        try:
            found = lapack(A.detach().cpu().numpy())
        except np.linalg.LinAlgError as error:
            raise LinAlgError(f"{name}: a matrix of shape {tuple(A.shape)}: {error}") from None
        out = tuple(ta.tensor(x, device=A.device) for x in (found if isinstance(found, tuple) else (found,)))
        ctx.save_for_backward(A, *out)
        return out if isinstance(found, tuple) else out[0]

    def backward(ctx: Any, *gradients: Any) -> Any:
        A, *out = ctx.saved_tensors
        return rule(A, out, *gradients)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (Function,), methods).apply  # type: ignore[attr-defined]


def _over(x: Any, y: Any) -> Any:
    """Divide x by y; 0 / 0 is 0: no gradient by a vector, as on a diagonal of distances."""
    return x / y.masked_fill((y == 0) & (x == 0), 1.0)


def _over_distances(x: Any, values: Any) -> Any:
    """Divide x (i, j) by values[j] - values[i]."""
    return _over(x, values[..., None, :] - values[..., :, None])


# --- rules ---


def _cholesky_rule(A: Any, out: Any, g: Any) -> Any:
    inside = (out[0].mT @ g).tril()
    half = solve_triangular(out[0].mT, (inside + inside.tril(-1).mT) / 2, upper=True)
    return solve_triangular(out[0].mT, half.mT, upper=True)


def _eigh_rule(A: Any, out: Any, g_values: Any, g_vectors: Any) -> Any:
    values, V = out
    turned = V.mT @ g_vectors
    return V @ (ta.diag_embed(g_values) + _over_distances((turned - turned.mT) / 2, values)) @ V.mT


def _svd_rule(A: Any, out: Any, gu: Any, gs: Any, gvh: Any) -> Any:
    U, S, Vh = out
    turned = U.mT @ gu, Vh @ gvh.mT
    left, right = (_over_distances(x - x.mT, S * S) for x in turned)
    inside = U @ (ta.diag_embed(gs) + left * S[..., None, :] + S[..., :, None] * right) @ Vh
    if A.shape[-2] > A.shape[-1]:  # of a square matrix 0: only rounding, which a small singular value magnifies
        inside = inside + _over(gu - U @ turned[0], S[..., None, :]) @ Vh
    return inside + U @ _over(gvh - turned[1].mT @ Vh, S[..., :, None]) if A.shape[-2] < A.shape[-1] else inside


def _pinv_rule(A: Any, out: Any, g: Any) -> Any:
    (P,) = out
    left, right = g.mT - A @ (P @ g.mT), g.mT - (g.mT @ P) @ A
    return -P.mT @ g @ P.mT + left @ P @ P.mT + P.mT @ P @ right


def _det_rule(A: Any, out: Any, g: Any) -> Any:
    """The cofactors: det(A) A^-T; of a nearly singular matrix by the products of all singular values but one."""
    S = svdvals(A.detach())
    regular = (1e-6 * S[..., :1] < S).all(-1)[..., None, None]
    one = ta.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    usual = (g * out[0])[..., None, None] * ta.inverse(ta.where(regular, A, one)).mT
    if regular.all():
        return usual
    U, S, Vh = svd(ta.where(regular, one * one.cumsum(0).sum(0), A))  # in place of regular ones: distinct values
    others = S[..., None, :].masked_fill(one > 0, 1.0).prod(-1)
    turns = slogdet(U.detach()).sign * slogdet(Vh.detach()).sign
    return ta.where(regular, usual, (turns * g)[..., None, None] * (U * others[..., None, :]) @ Vh)


_cholesky = _operation("cholesky", np.linalg.cholesky, _cholesky_rule)
_eigh = _operation("eigh", lambda a: tuple(np.linalg.eigh(a)), _eigh_rule)
_svd = _operation("svd", lambda a: tuple(np.linalg.svd(a, full_matrices=False)), _svd_rule)
_full_svd = _operation("svd", lambda a: tuple(np.linalg.svd(a)), _svd_rule)
_slogdet = _operation(
    "slogdet", lambda a: tuple(np.linalg.slogdet(a)), lambda A, out, _, g: g[..., None, None] * ta.inverse(A).mT
)
_det = _operation("det", np.linalg.det, _det_rule)

# --- PyTorch's names ---


def cholesky(A: Any, upper: bool = False) -> Any:
    """Return L with L L^T = A, or with `upper` its transpose; A is symmetric. As torch.linalg.cholesky."""
    _square("cholesky", A)
    return _cholesky(A).mT if upper else _cholesky(A)


def solve_triangular(A: Any, B: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """Return X with A X = B (or X A = B) by the upper or the lower triangle of A. As torch.linalg.solve_triangular."""
    _square("solve_triangular", A)
    if not left:
        return solve_triangular(A.mT, B.mT, upper=not upper, unitriangular=unitriangular).mT
    B = B.expand(*ta.broadcast_shapes(A.shape[:-2], B.shape[:-2]), *B.shape[-2:])
    if unitriangular:
        A = A.triu(1) + A.tril(-1) + ta.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return back_substitution(A, B) if upper else back_substitution(A.flip(-2, -1), B.flip(-2)).flip(-2)


def triangular_solve(b: Any, A: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False) -> Any:
    """Return X with A X = b, or, with `transpose`, A^T X = b, and a copy of A. As torch.triangular_solve."""
    left = A.mT if transpose else A
    return Triangular(solve_triangular(left, b, upper=upper != transpose, unitriangular=unitriangular), A.clone())


def cholesky_solve(B: Any, L: Any, upper: bool = False) -> Any:
    """Return X with L L^T X = B, or, with `upper`, L^T L X = B. As torch.cholesky_solve."""
    low = L.mT if upper else L
    return solve_triangular(low.mT, solve_triangular(low, B, upper=False), upper=True)


def cholesky_inverse(L: Any, upper: bool = False) -> Any:
    """Return the inverse of L L^T, or, with `upper`, of L^T L. As torch.cholesky_inverse."""
    return cholesky_solve(ta.eye(L.shape[-1], dtype=L.dtype, device=L.device), L, upper)


def lu_factor(A: Any, *, pivot: bool = True) -> Any:
    """Return L below the diagonal and U above it, (..., m, n), and the row, from 1, that each row changed places with,
    (..., min(m, n)). As torch.linalg.lu_factor."""
    found = _eliminated(A, pivot)
    if bool((found.LU.detach().diagonal(0, -2, -1) == 0).any()):
        raise LinAlgError(f"lu_factor: a matrix of shape {tuple(A.shape)} is singular; torch.linalg.lu factors it too")
    return found


def _eliminated(A: Any, pivot: bool) -> Any:
    """The factors of matrices that may be singular."""
    if A.ndim < 2 or 0 in A.shape or A.dtype not in (ta.float32, ta.float64):
        raise RuntimeError(f"lu: got {A.dtype} {tuple(A.shape)}; expected float32 or float64 matrices (..., m, n)")
    if not pivot:
        raise RuntimeError("lu: pivot=False is not supported, as on PyTorch's CPU; leave it out")
    m, pivots = A.shape[-2], []
    for i in range(min(A.shape[-2:])):
        pivots.append(i + A[..., i:, i].detach().abs().argmax(-1))
        A = A.gather(-2, _swapped(m, pivots[-1:], i)[..., None].expand(A.shape))
        top, here = A[..., i : i + 1, i + 1 :], A[..., i : i + 1, i : i + 1]
        factor = A[..., i + 1 :, i : i + 1] / here.masked_fill(here == 0, 1.0)  # then all below are 0 too
        below = ta.cat([A[..., i + 1 :, :i], factor, A[..., i + 1 :, i + 1 :] - factor @ top], -1)
        A = ta.cat([A[..., : i + 1, :], below], -2)
    return Factored(A, ta.stack(pivots, -1).to(ta.int32) + 1)


def _swapped(m: int, pivots: Any, first: int = 0) -> Any:
    """The order of m rows, (..., m), once rows first, first + 1, ... have changed places with `pivots`, in turn."""
    order = ta.arange(m, device=pivots[0].device).expand(*pivots[0].shape, m).clone()
    for i, row in enumerate(pivots, first):
        row, moved = row[..., None], order[..., i : i + 1].clone()
        order[..., i : i + 1] = order.gather(-1, row)
        order.scatter_(-1, row, moved)
    return order


def lu_unpack(LU_data: Any, LU_pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True) -> Any:
    """Return P, L and U of what lu_factor returns; empty where they are not unpacked. As torch.lu_unpack."""
    (m, n), like = LU_data.shape[-2:], {"dtype": LU_data.dtype, "device": LU_data.device}
    k, nothing = min(m, n), ta.empty(0, **like)
    order = _swapped(m, [row.long() - 1 for row in LU_pivots.unbind(-1)]) if unpack_pivots else None
    P = nothing if order is None else ta.eye(m, **like)[order].mT
    L = LU_data[..., :k].tril(-1) + ta.eye(m, k, **like) if unpack_data else nothing
    return Factors(P, L, LU_data[..., :k, :].triu() if unpack_data else nothing)


def lu(A: Any, *, pivot: bool = True) -> Any:
    """Return P, L and U with A = P L U: a permutation, unit lower and upper triangular. As torch.linalg.lu."""
    return lu_unpack(*_eliminated(A, pivot))


def lu_solve(LU: Any, pivots: Any, B: Any) -> Any:
    """Return X with A X = B by what lu_factor returns of A. As torch.linalg.lu_solve."""
    P, L, U = lu_unpack(LU, pivots)
    return solve_triangular(U, solve_triangular(L, P.mT @ B, upper=False), upper=True)


def eigh(A: Any, UPLO: str = "L") -> Any:
    """Return the eigenvalues, ascending, and eigenvectors, as columns, of symmetric matrices. As torch.linalg.eigh."""
    _square("eigh", A)
    return Eigh(*_eigh(A if UPLO.upper() == "L" else A.mT))


def svd(A: Any, full_matrices: bool = True) -> Any:
    """Return U, S, Vh with A = U diag(S) Vh, S descending; full: square U and Vh. As torch.linalg.svd.

    Raises RuntimeError if a gradient is needed of full ones of a matrix that is not square.
    """
    full = full_matrices and A.shape[-1] != A.shape[-2]
    if full and A.requires_grad and ta.is_grad_enabled():
        raise RuntimeError(
            f"svd: full_matrices=True has no gradient for a matrix of shape {tuple(A.shape)}; use full_matrices=False"
        )
    return Svd(*(_full_svd if full else _svd)(A))


def svdvals(A: Any) -> Any:
    """Return the singular values, descending. As torch.linalg.svdvals."""
    return svd(A, False).S


def pinv(A: Any, rcond: Any = None, *, rtol: Any = None) -> Any:
    """Return the pseudo-inverse (..., n, m). As torch.linalg.pinv; its gradient is that of a constant rank."""
    least = rcond if rtol is None else rtol
    least = max(A.shape[-2:]) * ta.finfo(A.dtype).eps if least is None else least
    least = least.cpu().numpy() if isinstance(least, ta.Tensor) else least
    return _operation("pinv", lambda a: np.linalg.pinv(a, least), _pinv_rule)(A)


def lstsq(A: Any, B: Any, rcond: Any = None, *, driver: str | None = None) -> Any:
    """Return X with the least |A X - B|, the shortest if there are several, and A's rank. As torch.linalg.lstsq.

    Fields that PyTorch leaves empty for the driver are empty here; X is the pseudo-inverse times B with each of them.
    """
    if B.ndim == 1 or B.shape == A.shape[:-1]:  # vectors
        found = lstsq(A, B[..., None], rcond, driver=driver)
        return found._replace(solution=found.solution[..., 0])
    X, rank, nothing = pinv(A, rcond) @ B, matrix_rank(A, rtol=rcond), A.new_zeros(0)
    known = driver not in (None, "gelsy") and A.shape[-2] > A.shape[-1] == rank.amin().item()
    far = (A @ X - B).detach().square().sum(-2) if known else nothing
    rank = rank.new_zeros(0) if driver == "gels" else rank
    return Least(X, far, rank, svdvals(A.detach()) if driver in ("gelsd", "gelss") else nothing)


def cond(A: Any, p: Any = None) -> Any:
    """Return the largest singular value over the least; with `p`, norm(A, p) norm(A^-1, p). As torch.linalg.cond."""
    S = svdvals(A) if p in (None, 2, -2) else None
    if S is None:
        return matrix_norm(A, p) * matrix_norm(ta.inverse(A), p)
    return S[..., -1] / S[..., 0] if p == -2 else S[..., 0] / S[..., -1]


def slogdet(A: Any) -> Any:
    """Return the sign of the determinant, and the logarithm of its absolute value. As torch.linalg.slogdet."""
    _square("slogdet", A)
    return SlogDet(*_slogdet(A))


def logdet(A: Any) -> Any:
    """Return the logarithm of the determinant: NaN if that is negative, -inf if it is 0. As torch.logdet."""
    sign, size = slogdet(A)
    return ta.where(sign < 0, math.nan, size)


def det(A: Any) -> Any:
    """Return the determinant. As torch.linalg.det; second gradients of singular A need distinct singular values."""
    _square("det", A)
    return _det(A)


def matrix_power(A: Any, n: int) -> Any:
    """Return the product of n matrices A; of -n inverses. As torch.linalg.matrix_power."""
    _square("matrix_power", A)
    if n < 0:
        return matrix_power(ta.inverse(A), -n)
    if n < 2:
        return A.clone() if n else ta.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(A.shape).clone()
    half = matrix_power(A, n // 2)
    return half @ half @ A if n % 2 else half @ half


def matrix_norm(A: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None) -> Any:
    """As torch.linalg.matrix_norm, with the norms of singular values too: 2, -2 and "nuc"."""
    if ord not in (2, -2, "nuc"):
        return ta.linalg.matrix_norm(A, ord, dim, keepdim, dtype=dtype)
    S = svdvals((A if dtype is None else A.to(dtype)).movedim(tuple(dim), (-2, -1)))
    out = S.sum(-1) if ord == "nuc" else S.amax(-1) if ord > 0 else S.amin(-1)
    for axis in sorted(d % A.ndim for d in dim) if keepdim else ():
        out = out.unsqueeze(axis)
    return out


def norm(A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """As torch.linalg.norm, with the norms of `matrix_norm`."""
    axes = tuple(range(A.ndim)) if dim is None else dim
    if ord in (2, -2, "nuc") and isinstance(axes, tuple | list) and len(axes) == 2:
        return matrix_norm(A, ord, axes, keepdim, dtype=dtype)
    return ta.linalg.norm(A, ord, dim, keepdim, dtype=dtype)


def _old_svd(input: Any, some: bool = True, compute_uv: bool = True) -> Any:
    U, S, Vh = svd(input, not some)
    return OldSvd(U, S, Vh.mT)


def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Any:
    """Return how many singular values exceed both limits: atol, and rtol times the greatest. As in torch.linalg."""
    values = svdvals(A.detach())
    atol = tol if atol is None else atol
    rtol = (0.0 if atol is not None else max(A.shape[-2:]) * ta.finfo(A.dtype).eps) if rtol is None else rtol
    least = (values[..., :1] * rtol).clamp(min=0.0 if atol is None else atol)
    return (values > least).sum(-1)


def multi_dot(tensors: Any) -> Any:
    """Return the product of matrices, of which the first and the last may be vectors. As torch.linalg.multi_dot."""
    return functools.reduce(ta.matmul, tensors)


def vander(x: Any, *, N: Any = None) -> Any:
    """Return the powers 0 to N - 1 of vectors (..., n), along a new axis. As torch.linalg.vander."""
    n = x.shape[-1] if N is None else N
    return x[..., None] ** ta.arange(n, dtype=x.dtype, device=x.device)


def diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Return the diagonal of matrices. As torch.linalg.diagonal, whose axes are the last two."""
    return ta.diagonal(A, offset, dim1, dim2)


def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    """Return the dot product along an axis. As torch.linalg.vecdot."""
    return (x * y).sum(dim)


def cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    """Compute the cross product along `dim`, of size 3. As torch.linalg.cross."""
    return ta.cross(input, other, dim)


METHODS: dict[str, Any] = {f.__name__: f for f in (cholesky, cholesky_inverse, cholesky_solve, det, logdet)}
METHODS |= {f.__name__: f for f in (matrix_power, slogdet, triangular_solve)}
METHODS.update(pinverse=pinv, svd=_old_svd, lu=lambda A, pivot=True: lu_factor(A, pivot=pivot))
METHODS["lu_solve"] = lambda b, LU_data, LU_pivots: lu_solve(LU_data, LU_pivots, b)
LINALG: dict[str, Any] = {
    f.__name__: f for f in (cholesky, det, eigh, lstsq, matrix_norm, matrix_power, norm, pinv, slogdet, svd, svdvals)
}
LINALG |= {"eigvalsh": lambda A, UPLO="L": eigh(A, UPLO).eigenvalues, "LinAlgError": LinAlgError}
LINALG |= {f.__name__: f for f in (cond, cross, diagonal, matrix_rank, multi_dot, solve_triangular, vander, vecdot)}
LINALG |= {f.__name__: f for f in (lu, lu_factor, lu_solve)}
