"""Lengths of vectors, and what is made of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import clamp, where
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import abs, sign
from tinyattn.ops.extremes import amax, amin
from tinyattn.ops.mathematics import isnan
from tinyattn.ops.promotion import floating
from tinyattn.ops.reductions import restore, sum
from tinyattn.ops.shape import broadcast_to


def _norm_rule(xp: Any, g: Any, x: Any, out: Any, p: float, dim: Any) -> Any:
    flat = out == 0  # where all elements are 0, so is the gradient, as in PyTorch
    length = xp.masked_fill(out, flat, 1.0)
    if p == 2:
        return x * restore(xp, xp.where(flat, 0.0, g / length), x.shape, dim)
    size = xp.abs(x)
    slope = xp.where(size == 0, 0.0, xp.sign(x) * xp.pow(xp.masked_fill(size, size == 0, 1.0), p - 1))
    return slope * restore(xp, xp.where(flat, 0.0, g * xp.pow(length, 1 - p)), x.shape, dim)


@operation(promote=floating, traits="valley", x=_norm_rule)
def _vector_norm(xp: Any, x: Any, *, p: float, dim: Any, keepdim: bool) -> Any:
    if p == 2:
        return xp.sqrt(xp.sum(xp.square(x), dim, keepdim))
    return xp.pow(xp.sum(xp.pow(xp.abs(x), p), dim, keepdim), 1 / p)


def vector_norm(x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return sum(|x| ** ord) ** (1 / ord) over `dim` (all axes if None): the length of vectors.

    ord: a number; inf and -inf: the largest and smallest |x|; 0: how many are not 0, with NaN. The gradient of 0 is 0.
    As torch.linalg.vector_norm.

    >>> ta.linalg.vector_norm(ta.tensor([3.0, 4.0])).item()
    5.0
    """
    x = cast(x, dtype) if dtype is not None else x
    if x.dtype.kind != "f":
        raise TypeError(f"norm: the tensor has dtype {x.dtype}; cast it first (x.float()) or pass dtype=float32")
    axes = _dims.several(dim, x.ndim)
    if ord == 0:
        return sum(where(isnan(x), 1.0, abs(sign(x))), axes, keepdim)
    if ord == 1:
        return sum(abs(x), axes, keepdim)
    if ord in (math.inf, -math.inf):
        return (amax if ord > 0 else amin)(abs(x), axes, keepdim)
    return _vector_norm(x, p=float(ord), dim=axes, keepdim=keepdim)


def norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the p-norm over `dim`; "fro" is 2. As torch.norm, without the nuclear norm (ValueError).

    >>> ta.norm(ta.tensor([[3.0, 0.0], [0.0, 4.0]])).item()
    5.0
    """
    if isinstance(p, str) and p != "fro":
        raise ValueError(f"norm: p={p!r}; expected a number, inf, -inf or 'fro'")
    return vector_norm(input, 2 if p in (None, "fro") else p, dim, keepdim, dtype=dtype)


def linalg_norm(A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return a vector norm, or of a matrix (two axes and an `ord`) "fro", 1, -1, inf or -inf.

    Raises ValueError for the norms that need singular values. As torch.linalg.norm.

    >>> ta.linalg.norm(ta.tensor([[1.0, -2.0], [3.0, 4.0]]), 1).item()
    6.0
    """
    axes = _dims.several(dim, A.ndim)
    if ord is None or len(axes) == 1:
        return vector_norm(A, 2 if ord is None else ord, dim, keepdim, dtype=dtype)
    if ord == "fro":
        return vector_norm(A, 2, axes, keepdim, dtype=dtype)
    if len(axes) != 2 or ord not in (1, -1, math.inf, -math.inf):
        raise ValueError(f"linalg.norm: ord={ord!r} over {len(axes)} axes; of a matrix 'fro', 1, -1, inf and -inf")
    first, second = axes if math.isfinite(ord) else axes[::-1]
    return (amax if ord > 0 else amin)(vector_norm(A, 1, first, True, dtype=dtype), second, True).sum(axes, keepdim)


def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """Return the norm of matrices in two axes: "fro", 1, -1, inf or -inf. As torch.linalg.matrix_norm.

    >>> ta.linalg.matrix_norm(ta.ones(5, 2, 2)).shape
    (5,)
    """
    return linalg_norm(A, ord, dim, keepdim, dtype=dtype)


# --- what is made of them ---


def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Tensor:
    """Return the input divided by its p-norm over `dim`, of at least `eps`. As torch.nn.functional.normalize.

    >>> F.normalize(ta.tensor([[3.0, 4.0]]))
    tensor([[0.6, 0.8]])
    """
    return input / clamp(norm(input, p, dim, True), eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return the cosine of the angle between vectors along `dim`; lengths count as at least `eps`.

    As torch.nn.functional.cosine_similarity.

    >>> F.cosine_similarity(ta.tensor([[3.0, 4.0]]), ta.tensor([[4.0, 3.0]]))
    tensor([0.96])
    """
    shape = np.broadcast_shapes(x1.shape, x2.shape)
    x1, x2 = floating(broadcast_to(x1, shape), broadcast_to(x2, shape))  # a 0-d one counts for the dtype too
    return sum(normalize(x1, 2, dim, eps) * normalize(x2, 2, dim, eps), dim)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """Return the p-norm of x1 - x2 + eps along the last axis. As torch.nn.functional.pairwise_distance.

    >>> F.pairwise_distance(ta.tensor([[3.0, 4.0]]), ta.zeros(1, 2), eps=0).item()
    5.0
    """
    return norm(x1 - x2 + eps, p, -1, keepdim)


def dist(input: Tensor, other: Tensor, p: float = 2.0) -> Tensor:
    """Return the p-norm of input - other, (), over all elements. As torch.dist.

    >>> ta.dist(ta.tensor([3.0, 4.0]), ta.zeros(2)).item()
    5.0
    """
    return norm(input - other, p)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """Return the p-norms between the rows of two matrices, (..., n, d) and (..., m, d): (..., n, m).

    compute_mode: without effect. Memory: n * m * d numbers. As torch.cdist.

    >>> ta.cdist(ta.tensor([[0.0, 0.0]]), ta.tensor([[3.0, 4.0]])).item()
    5.0
    """
    if x1.ndim < 2 or x2.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        raise RuntimeError(f"cdist: shapes {tuple(x1.shape)} and {tuple(x2.shape)}; expected rows of one size")
    difference = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    out = norm(difference, p, -1)
    return out if p else where(isnan(difference).any(-1), math.nan, out)
