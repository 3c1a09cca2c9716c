"""QR factors, inverses and exponentials of matrices."""

from __future__ import annotations

import math
from typing import NamedTuple

from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.choices import eq, where
from tinyattn.ops.copies import cast
from tinyattn.ops.joins import cat
from tinyattn.ops.products import matmul
from tinyattn.ops.promotion import opmath
from tinyattn.ops.reductions import sum
from tinyattn.ops.shape import unsqueeze


class QR(NamedTuple):
    """The factors: columns of unit length at right angles, and a triangular matrix."""

    Q: Tensor
    R: Tensor


def _reflector(column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v, with 1 first, and tau of the reflection I - tau v v^T that makes all but the first number of (..., m) 0.

    And a sign for what comes out of it: -1 where those were 0 before, since LAPACK does not reflect there. Here it is
    done all the same: leaving it out would lose the derivative.
    """
    first, rest = column[..., :1], column[..., 1:]
    tail = sum(rest * rest, -1, True)
    square = first * first + tail
    nothing = eq(square, 0.0)
    length = where(nothing, 1.0, square).sqrt()
    beta = where(first < 0, length, -length)
    v = cat([creation.ones_like(first), rest / (first - beta)], -1)
    tau = where(nothing, 2.0, (beta - first) / beta)
    if rest.shape[-1]:
        lost = where(nothing, square, 1.0).sqrt()  # 0, with the gradient NaN: zeros have no direction
        tau = tau + where(nothing, lost, 0.0)
    return v, tau, where(eq(tail, 0.0), -1.0, 1.0).to(column.dtype)


def _reflected(v: Tensor, tau: Tensor, x: Tensor) -> Tensor:
    return x - unsqueeze(tau, -1) * unsqueeze(v, -1) * matmul(unsqueeze(v, -2), x)


def reflections(A: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor], list[Tensor]]:
    """Return Householder's reflections (v, tau) that make A triangular, the rows of that triangle, and their signs."""
    steps, rows, signs = [], [], []
    for _ in range(min(A.shape[-2:])):
        v, tau, sign = _reflector(A[..., 0])
        A = _reflected(v, tau, A)
        rows.append(A[..., :1, :])
        A = A[..., 1:, 1:]
        steps.append((v, tau))
        signs.append(sign)
    return steps, rows, signs


def reflected_eye(steps: list[tuple[Tensor, Tensor]], like: Tensor, columns: int) -> Tensor:
    """Return the product of reflections, its first `columns`: (..., m, columns) for `like` (..., m, n)."""
    q = creation.eye(like.shape[-2], columns, dtype=like.dtype, device=like.device).expand(*like.shape[:-2], -1, -1)
    for i, (v, tau) in reversed(list(enumerate(steps))):
        q = cat([q[..., :i, :], _reflected(v, tau, q[..., i:, :])], -2) if i else _reflected(v, tau, q)
    return q


def qr(A: Tensor, mode: str = "reduced") -> QR:
    """Return Q and R with A = Q R, by Householder's reflections: A (..., m, n), with k = min(m, n).

    mode: "reduced": (..., m, k) and (..., k, n); "complete": (..., m, m) and (..., m, n); "r": an empty Q. Raises
    ValueError for another. As torch.linalg.qr.

    >>> q, r = ta.linalg.qr(ta.tensor([[3.0, 1.0], [4.0, 2.0]]))
    >>> ta.allclose(q @ r, ta.tensor([[3.0, 1.0], [4.0, 2.0]])), r[1, 0].item()
    (True, 0.0)
    """
    if mode not in ("reduced", "complete", "r"):
        raise ValueError(f"qr: mode={mode!r}; expected 'reduced', 'complete' or 'r'")
    if A.ndim < 2:
        raise RuntimeError(f"qr: shape {tuple(A.shape)}; expected a matrix, or a batch of them")
    m, n = A.shape[-2:]
    k = min(m, n)
    steps, rows, signs = reflections(A)
    rows = [row * unsqueeze(sign, -1) for row, sign in zip(rows, signs, strict=True)]
    zeros = [creation.zeros((*A.shape[:-2], 1, i), dtype=A.dtype, device=A.device) for i in range(k)]
    r = cat([A[..., :0, :], *(cat([z, row], -1) for z, row in zip(zeros, rows, strict=True))], -2)
    if mode == "r":
        return QR(creation.empty(0, dtype=A.dtype, device=A.device), r)
    q = reflected_eye(steps, A, m if mode == "complete" else k)
    if k:
        q = cat([q[..., :k] * unsqueeze(cat(signs, -1), -2), q[..., k:]], -1)
    else:  # a matrix of no elements, recorded all the same
        q = q + sum(A, (-2, -1), True)
    if mode == "complete" and m > k:
        r = cat([r, creation.zeros((*A.shape[:-2], m - k, n), dtype=A.dtype, device=A.device)], -2)
    return QR(q, r)


def _square(name: str, A: Tensor) -> None:
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise RuntimeError(f"{name}: shape {tuple(A.shape)}; expected a square matrix, or a batch of them")


def back_substitution(r: Tensor, right: Tensor) -> Tensor:
    """Return X with R X = right (..., n, k), for the upper triangle R of `r` (..., n, n)."""
    x = right[..., r.shape[-1] :, :]
    for i in reversed(range(r.shape[-1])):
        row = (right[..., i : i + 1, :] - matmul(r[..., i : i + 1, i + 1 :], x)) / r[..., i : i + 1, i : i + 1]
        x = cat([row, x], -2)
    return x


@opmath
def solve(A: Tensor, B: Tensor) -> Tensor:
    """Return X with A X = B: A (..., n, n), B (..., n, k) or, of one axis less than A, (..., n).

    By QR factors and back substitution. Raises RuntimeError for another shape, and for a matrix that is exactly
    singular. As torch.linalg.solve.

    >>> ta.linalg.solve(ta.tensor([[2.0, 0.0], [0.0, 4.0]]), ta.tensor([2.0, 2.0])).tolist()
    [1.0, 0.5]
    """
    _square("solve", A)
    n, vector = A.shape[-1], B.ndim == 1 or (B.ndim == A.ndim - 1 and B.shape == A.shape[:-1])
    right = unsqueeze(B, -1) if vector else B
    if right.shape[-2:-1] != (n,):
        raise RuntimeError(f"solve: A of shape {tuple(A.shape)} and B of shape {tuple(B.shape)}; expected n rows of B")
    q, r = qr(A)
    if n and not (r.detach().diagonal(0, -2, -1) != 0).all():
        raise RuntimeError("solve: the matrix is singular; add a small number to its diagonal")
    x = back_substitution(r, matmul(q.transpose(-2, -1), right))
    return x[..., 0] if vector else x


@opmath
def inv(A: Tensor) -> Tensor:
    """Return the inverse of A (..., n, n). Raises RuntimeError as `solve`. As torch.linalg.inv and torch.inverse.

    >>> ta.inverse(ta.tensor([[2.0, 1.0], [0.0, 1.0]])).tolist()
    [[0.5, -0.5], [0.0, 1.0]]
    """
    _square("inverse", A)
    return solve(A, creation.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand(A.shape))


def matrix_exp(A: Tensor) -> Tensor:
    """Return the exponential of A (..., n, n): the sum of A^i / i!.

    Of A / 2^s by 18 terms, squared s times, in float64, since squares double the error; s depends on the norm, which
    synchronises a GPU. Raises RuntimeError for another shape. As torch.matrix_exp.

    >>> ta.matrix_exp(ta.zeros(2, 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    _square("matrix_exp", A)
    norm = A.detach().abs().sum(-1).max().item() if A.numel() else 0.0
    squarings = max(math.frexp(norm)[1] + 1, 0) if math.isfinite(norm) else 0  # then the norm is below 1/2
    one, part = creation.eye(A.shape[-1], dtype="float64", device=A.device), cast(A, "float64") / 2.0**squarings
    found = one
    for i in range(18, 0, -1):
        found = one + matmul(part, found) / i
    for _ in range(squarings):
        found = matmul(found, found)
    return cast(found, A.dtype)
