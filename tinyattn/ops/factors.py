"""QR factors of matrices."""

from __future__ import annotations

from typing import NamedTuple

from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.choices import eq, where
from tinyattn.ops.joins import cat
from tinyattn.ops.products import matmul
from tinyattn.ops.reductions import sum
from tinyattn.ops.shape import unsqueeze


class QR(NamedTuple):
    """The factors: columns of unit length at right angles, and a triangular matrix."""

    Q: Tensor
    R: Tensor


def _reflector(column: Tensor) -> tuple[Tensor, Tensor]:
    """v, with 1 first, and tau of the reflection I - tau v v^T that makes all but the first number of (..., m) 0."""
    first, rest = column[..., :1], column[..., 1:]
    tail = sum(rest * rest, -1, True)
    done = eq(tail, 0.0)
    length = where(done, 1.0, first * first + tail).sqrt()
    beta = where(first < 0, length, -length)
    v = cat([creation.ones_like(first), rest / where(done, 1.0, first - beta)], -1)
    return v, where(done, 0.0, (beta - first) / beta)


def _reflected(v: Tensor, tau: Tensor, x: Tensor) -> Tensor:
    return x - unsqueeze(tau, -1) * unsqueeze(v, -1) * matmul(unsqueeze(v, -2), x)


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
    k, rest, rows, steps = min(m, n), A, [], []
    for _ in range(k):
        v, tau = _reflector(rest[..., 0])
        rest = _reflected(v, tau, rest)
        rows.append(rest[..., :1, :])
        rest = rest[..., 1:, 1:]
        steps.append((v, tau))
    zeros = [creation.zeros((*A.shape[:-2], 1, i), dtype=A.dtype, device=A.device) for i in range(k)]
    r = cat([A[..., :0, :], *(cat([z, row], -1) for z, row in zip(zeros, rows, strict=True))], -2)
    if mode == "r":
        return QR(creation.empty(0, dtype=A.dtype, device=A.device), r)
    q = creation.eye(m, m if mode == "complete" else k, dtype=A.dtype, device=A.device).expand(*A.shape[:-2], -1, -1)
    if not k:  # a matrix of no elements, recorded all the same
        q = q + sum(A, (-2, -1), True)
    for i, (v, tau) in reversed(list(enumerate(steps))):
        q = cat([q[..., :i, :], _reflected(v, tau, q[..., i:, :])], -2) if i else _reflected(v, tau, q)
    if mode == "complete" and m > k:
        r = cat([r, creation.zeros((*A.shape[:-2], m - k, n), dtype=A.dtype, device=A.device)], -2)
    return QR(q, r)
