"""torch.linalg beyond what tinyattn has: LAPACK factors a matrix on the CPU, and the rules below give gradients.

Of matrices (..., m, n) in float32 or float64, with PyTorch's names, results and errors.
"""

from __future__ import annotations

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
Lstsq = namedtuple("Lstsq", "solution residuals rank singular_values")


def _lapack(name: str, function: Callable[..., Any], A: Any) -> Any:
    """The arrays that a function of numpy.linalg returns, as tensors on the device of A. Synchronises a GPU."""
    if A.dtype not in (ta.float32, ta.float64):
        raise RuntimeError(f"{name}: dtype {A.dtype}; expected float32 or float64 (cast it with .float())")
    try:
        found = function(A.detach().cpu().numpy())
    except np.linalg.LinAlgError as error:
        raise LinAlgError(f"{name}: a matrix of shape {tuple(A.shape)}: {error}") from None
    made = [ta.tensor(x, device=A.device) for x in (found if isinstance(found, tuple) else (found,))]
    return tuple(made) if isinstance(found, tuple) else made[0]


def _over_distances(x: Any, values: Any) -> Any:
    """Divide x (i, j) by values[j] - values[i]; 0 / 0 is 0: no gradient by a vector, as on the diagonal."""
    apart = values[..., None, :] - values[..., :, None]
    return x / apart.masked_fill((apart == 0) & (x == 0), 1.0)


# --- triangular factors ---


def solve_triangular(A: Any, B: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """Return X with A X = B (or X A = B) by the upper or the lower triangle of A. As torch.linalg.solve_triangular."""
    _square("solve_triangular", A)
    if not left:
        return solve_triangular(A.mT, B.mT, upper=not upper, unitriangular=unitriangular).mT
    B = B.expand(*ta.broadcast_shapes(A.shape[:-2], B.shape[:-2]), *B.shape[-2:])
    if unitriangular:
        A = A.triu(1) + A.tril(-1) + ta.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return back_substitution(A, B) if upper else back_substitution(A.flip(-2, -1), B.flip(-2)).flip(-2)


class _Cholesky(Function):
    @staticmethod
    def forward(ctx: Any, A: Any) -> Any:
        L = _lapack("cholesky", np.linalg.cholesky, A)
        ctx.save_for_backward(L)
        return L

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (L,) = ctx.saved_tensors
        inside = (L.mT @ g).tril()
        half = solve_triangular(L.mT, (inside + inside.tril(-1).mT) / 2, upper=True)
        return solve_triangular(L.mT, half.mT, upper=True)


def cholesky(A: Any, upper: bool = False) -> Any:
    """Return L with L L^T = A, or with `upper` its transpose; A is symmetric. As torch.linalg.cholesky."""
    _square("cholesky", A)
    L = _Cholesky.apply(A)
    return L.mT if upper else L


def cholesky_solve(input: Any, L: Any, upper: bool = False) -> Any:
    """Return X with A X = input, where `L` is a factor of A by `cholesky`. As torch.cholesky_solve."""
    L = L.mT if upper else L
    return solve_triangular(L.mT, solve_triangular(L, input, upper=False), upper=True)


def cholesky_inverse(L: Any, upper: bool = False) -> Any:
    """Return the inverse of the matrix of which `L` is a factor by `cholesky`. As torch.cholesky_inverse."""
    return cholesky_solve(ta.eye(L.shape[-1], dtype=L.dtype, device=L.device), L, upper)


# --- eigenvalues and singular values ---


class _Eigh(Function):
    @staticmethod
    def forward(ctx: Any, A: Any, UPLO: str) -> Any:
        ctx.save_for_backward(*(found := _lapack("eigh", lambda a: tuple(np.linalg.eigh(a, UPLO)), A)))
        return found

    @staticmethod
    def backward(ctx: Any, g_values: Any, g_vectors: Any) -> Any:
        values, V = ctx.saved_tensors
        turned = V.mT @ g_vectors
        return V @ (ta.diag_embed(g_values) + _over_distances((turned - turned.mT) / 2, values)) @ V.mT, None


def eigh(A: Any, UPLO: str = "L") -> Any:
    """Return the eigenvalues, ascending, and eigenvectors, as columns, of symmetric matrices. As torch.linalg.eigh."""
    _square("eigh", A)
    return Eigh(*_Eigh.apply(A, UPLO))


def eigvalsh(A: Any, UPLO: str = "L") -> Any:
    """Return the eigenvalues of `eigh`. As torch.linalg.eigvalsh."""
    return eigh(A, UPLO).eigenvalues


class _Svd(Function):
    @staticmethod
    def forward(ctx: Any, A: Any) -> Any:
        ctx.save_for_backward(*(found := _lapack("svd", lambda a: tuple(np.linalg.svd(a, full_matrices=False)), A)))
        return found

    @staticmethod
    def backward(ctx: Any, gu: Any, gs: Any, gvh: Any) -> Any:
        U, S, Vh = ctx.saved_tensors
        turned = U.mT @ gu, Vh @ gvh.mT
        left, right = (_over_distances(x - x.mT, S * S) for x in turned)
        out = U @ (ta.diag_embed(gs) + left * S[..., None, :] + S[..., :, None] * right) @ Vh
        out = out + (gu - U @ turned[0]) / S[..., None, :] @ Vh  # 0 of a square matrix
        return out + U @ ((gvh - turned[1].mT @ Vh) / S[..., :, None])


def svd(A: Any, full_matrices: bool = True) -> Any:
    """Return U, S, Vh with A = U diag(S) Vh, S descending; full: square U and Vh. As torch.linalg.svd.

    Raises RuntimeError if a gradient is needed of full ones of a matrix that is not square.
    """
    if not full_matrices or A.shape[-1] == A.shape[-2]:
        return Svd(*_Svd.apply(A))
    if A.requires_grad and ta.is_grad_enabled():
        raise RuntimeError(
            f"svd: full_matrices=True has no gradient for a matrix of shape {tuple(A.shape)}; use full_matrices=False"
        )
    return Svd(*_lapack("svd", lambda a: tuple(np.linalg.svd(a)), A))


def svdvals(A: Any) -> Any:
    """Return the singular values, descending. As torch.linalg.svdvals."""
    return svd(A, False).S


def old_svd(input: Any, some: bool = True, compute_uv: bool = True) -> Any:
    """As torch.svd: U, S and V, not its transpose; without compute_uv, zeros for U and V."""
    U, S, Vh = svd(input, not some)
    return OldSvd(U, S, Vh.mT) if compute_uv else OldSvd(ta.zeros_like(U), S, ta.zeros_like(Vh.mT))


def _least(A: Any, S: Any, atol: Any, rtol: Any) -> Any:
    """The singular values below which the others count as 0."""
    usual = max(A.shape[-2:]) * ta.finfo(A.dtype).eps if atol is None else 0.0
    largest = S.amax(-1, True) if S.shape[-1] else S.sum(-1, True)
    return ta.maximum(largest * (usual if rtol is None else rtol), ta.zeros_like(largest) + (atol or 0.0))


def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Any:
    """Return the number of singular values above a tolerance. As torch.linalg.matrix_rank."""
    S = svdvals(A.detach())
    return (S > _least(A, S, tol if atol is None else atol, rtol)).sum(-1)


class _Pinv(Function):
    @staticmethod
    def forward(ctx: Any, A: Any, atol: Any, rtol: Any) -> Any:
        U, S, Vh = svd(A, False)
        inverse = ta.where(S > _least(A, S, atol, rtol), 1 / S, 0.0)
        P = Vh.mT @ (inverse[..., :, None] * U.mT)
        ctx.save_for_backward(A, P)
        return P

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        A, P = ctx.saved_tensors
        left, right = g.mT - A @ (P @ g.mT), g.mT - (g.mT @ P) @ A
        return -P.mT @ g @ P.mT + left @ P @ P.mT + P.mT @ P @ right, None, None


def pinv(A: Any, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None) -> Any:
    """Return the pseudo-inverse (..., n, m). As torch.linalg.pinv; its gradient is that of a constant rank."""
    return _Pinv.apply(A, atol, rcond if rtol is None else rtol)


def lstsq(A: Any, B: Any, rcond: Any = None, *, driver: Any = None) -> Any:
    """Return the X that minimises the norm of A X - B, and ranks; the rest is empty. As torch.linalg.lstsq (gelsy)."""
    return Lstsq(pinv(A, rcond) @ B, A.new_empty(0), matrix_rank(A, rtol=rcond), A.new_empty(0))


# --- determinants and powers ---


class _SlogDet(Function):
    @staticmethod
    def forward(ctx: Any, A: Any) -> Any:
        ctx.save_for_backward(A)
        sign, size = _lapack("slogdet", lambda a: tuple(np.linalg.slogdet(a)), A)
        ctx.mark_non_differentiable(sign)
        return sign, size

    @staticmethod
    def backward(ctx: Any, g_sign: Any, g: Any) -> Any:
        return g[..., None, None] * ta.inverse(ctx.saved_tensors[0]).mT


def slogdet(A: Any) -> Any:
    """Return the sign of the determinant, and the logarithm of its absolute value. As torch.linalg.slogdet."""
    _square("slogdet", A)
    return SlogDet(*_SlogDet.apply(A))


def logdet(A: Any) -> Any:
    """Return the logarithm of the determinant: NaN if that is negative, -inf if it is 0. As torch.logdet."""
    sign, size = slogdet(A)
    return ta.where(sign < 0, math.nan, size)


class _Det(Function):
    @staticmethod
    def forward(ctx: Any, A: Any) -> Any:
        ctx.save_for_backward(A)
        return _lapack("det", np.linalg.det, A)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        """The cofactors, also of a singular matrix: by the products of all singular values but one."""
        U, S, Vh = svd(ctx.saved_tensors[0], False)
        alone = ta.eye(S.shape[-1], device=S.device) > 0
        others = S[..., None, :].masked_fill(alone, 1.0).prod(-1)
        turns = (slogdet(U.detach()).sign * slogdet(Vh.detach()).sign * g)[..., None, None]
        return turns * (U * others[..., None, :]) @ Vh


def det(A: Any) -> Any:
    """Return the determinant. As torch.linalg.det; second derivatives need distinct singular values."""
    _square("det", A)
    return _Det.apply(A)


def matrix_power(A: Any, n: int) -> Any:
    """Return the product of n matrices A; of -n inverses. As torch.linalg.matrix_power."""
    _square("matrix_power", A)
    if n < 0:
        return matrix_power(ta.inverse(A), -n)
    if n == 0:
        return ta.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(A.shape).clone()
    half = matrix_power(A, n // 2) if n > 1 else A
    return half if n == 1 else half @ half @ A if n % 2 else half @ half


# --- norms by singular values ---


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


def cond(A: Any, p: Any = None) -> Any:
    """Return the norm of A times that of its inverse, by default of singular values. As torch.linalg.cond."""
    if p in (None, 2, -2):
        S = svdvals(A)
        return S[..., 0] / S[..., -1] if p != -2 else S[..., -1] / S[..., 0]
    return matrix_norm(A, p) * matrix_norm(ta.inverse(A), p)


def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    """Return the sums of the products along `dim`. As torch.linalg.vecdot."""
    return (x * y).sum(dim)


def diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Return the diagonals of the last two axes. As torch.linalg.diagonal."""
    return ta.diagonal(A, offset, dim1, dim2)


METHODS = {f.__name__: f for f in (cholesky, cholesky_inverse, cholesky_solve, det, logdet, matrix_power, slogdet)}
METHODS |= {"pinverse": pinv, "svd": old_svd}
NAMES = "cholesky cond det diagonal eigh eigvalsh lstsq matrix_norm matrix_power matrix_rank norm pinv slogdet".split()
NAMES += "solve_triangular svd svdvals vecdot LinAlgError".split()
LINALG = {name: globals()[name] for name in NAMES}
