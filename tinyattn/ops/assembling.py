"""Tensors made of others: parts written into them, blocks, powers, products, and axes added or turned."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn.dtypes import get_default_dtype
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import clamp
from tinyattn.ops.copies import unshared
from tinyattn.ops.derived import broadcast_tensors, ravel
from tinyattn.ops.elementwise import cos, mul, pow, sqrt
from tinyattn.ops.indexing import setitem, write_index
from tinyattn.ops.joins import cat, pad
from tinyattn.ops.products import matmul
from tinyattn.ops.promotion import opmath
from tinyattn.ops.rearranging import at_least, diag, diagonal, narrow, on_diagonal, tensor_split
from tinyattn.ops.reductions import sum
from tinyattn.ops.shape import flip, movedim, reshape, squeeze, transpose, unsqueeze
from tinyattn.ops.synonyms import named, numpy_names

# --- axes ---


def _atleast(ndim: int, found: Any) -> Callable[..., Any]:
    name = f"atleast_{ndim}d"
    doc = f"""Return the tensor, or a tuple of tensors, with at least {ndim} axes. As torch.{name}.

    >>> ta.{name}(ta.tensor(5)).shape
    {found}
    """

    @named(name, doc)
    def make(*tensors: Any) -> Any:
        given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors
        made = tuple(at_least(ndim, given))
        return made[0] if given is tensors and len(made) == 1 else made

    return make


atleast_1d, atleast_2d, atleast_3d = _atleast(1, (1,)), _atleast(2, (1, 1)), _atleast(3, (1, 1, 1))


def _split(name: str, axis: int, found: Any) -> Callable[..., Any]:
    doc = f"""Return that many equal views along axis {axis}, or views cut at these indices. As torch.{name}.

    >>> [x.shape for x in ta.{name}(ta.ones(2, 2, 2), 2)]
    {found}
    """

    @named(name, doc)
    def split(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
        dim = 0 if name == "hsplit" and input.ndim == 1 else axis
        if input.ndim <= dim or (isinstance(indices_or_sections, int) and input.shape[dim] % indices_or_sections):
            raise RuntimeError(
                f"{name}: {indices_or_sections} parts of shape {tuple(input.shape)} along axis {dim}; expected an axis "
                "that they divide"
            )
        return tensor_split(input, indices_or_sections, dim)

    return split


hsplit = _split("hsplit", 1, [(2, 1, 2)] * 2)
vsplit = _split("vsplit", 0, [(1, 2, 2)] * 2)
dsplit = _split("dsplit", 2, [(2, 2, 1)] * 2)


def rot90(input: Tensor, k: int = 1, dims: Any = (0, 1)) -> Tensor:
    """Return a copy turned k times by 90 degrees, from the first of two axes to the second. As torch.rot90.

    >>> ta.rot90(ta.tensor([[1, 2], [3, 4]])).tolist()
    [[2, 4], [1, 3]]
    """
    a, b = (_dims.one(d, input.ndim) for d in dims)
    if a == b:
        raise RuntimeError(f"rot90: dims={tuple(dims)}; expected two different axes")
    if k % 2 == 0:
        return flip(input, (a, b)) if k % 4 else input.clone()
    return flip(transpose(input, a, b), a if k % 4 == 1 else b)


# --- parts written into a copy ---


def _write(name: str, input: Tensor, src: Tensor, index: Any) -> Tensor:
    if src.shape != input[index].shape:
        raise RuntimeError(f"{name}: src has shape {tuple(src.shape)}; expected {tuple(input[index].shape)}")
    return setitem(input, src, write_index(index, input.array))


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """Return the input with `src` in place of `select(input, dim, index)`. As torch.select_scatter.

    >>> ta.select_scatter(ta.zeros(2, 2), ta.ones(2), 0, 1).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    return _write("select_scatter", input, src, (slice(None),) * _dims.one(dim, input.ndim) + (_dims.as_int(index),))


def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """Return the input with `src` in place of its slice start:end:step along `dim`. As torch.slice_scatter.

    >>> ta.slice_scatter(ta.zeros(4), ta.ones(2), start=2).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    part = (slice(None),) * _dims.one(dim, input.ndim) + (slice(start, end, step),)
    return _write("slice_scatter", input, src, part)


def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Return the input with `src` in place of `diagonal(input, offset, dim1, dim2)`. As torch.diagonal_scatter.

    >>> ta.diagonal_scatter(ta.zeros(2, 2), ta.ones(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    matrices = movedim(input, (dim1, dim2), (-2, -1))
    out = _write("diagonal_scatter", matrices, src, on_diagonal(offset, *matrices.shape[-2:]))
    return movedim(out, (-2, -1), (dim1, dim2))


# --- matrices of elements and blocks ---


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """Return a matrix with all elements on a diagonal. As torch.diagflat.

    >>> ta.diagflat(ta.tensor([[1], [2]])).tolist()
    [[1, 0], [0, 2]]
    """
    return diag(ravel(input), offset)


def block_diag(*tensors: Tensor) -> Tensor:
    """Return a matrix with these matrices along its diagonal; vectors are rows. As torch.block_diag.

    >>> ta.block_diag(ta.tensor([1, 2]), ta.tensor([[3], [4]])).tolist()
    [[1, 2, 0], [0, 0, 3], [0, 0, 4]]
    """
    parts = at_least(2, tensors)
    ends = list(itertools.accumulate((x.shape[1] for x in parts), initial=0))
    return cat([pad(x, (at, ends[-1] - at - x.shape[1])) for x, at in zip(parts, ends[:-1], strict=True)])


def kron(input: Tensor, other: Tensor) -> Tensor:
    """Return the Kronecker product: each element of the input times all of `other`, as blocks. As torch.kron.

    >>> ta.kron(ta.tensor([1, 2]), ta.tensor([1, 10])).tolist()
    [1, 10, 2, 20]
    """
    ndim = max(input.ndim, other.ndim)
    a, b = ((1,) * (ndim - x.ndim) + tuple(x.shape) for x in (input, other))
    left = reshape(input, [n for size in a for n in (size, 1)])
    right = reshape(other, [n for size in b for n in (1, size)])
    return reshape(left * right, [n * m for n, m in zip(a, b, strict=True)])


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Return the powers N - 1 to 0 of a vector as columns, or 0 to N - 1. As torch.vander.

    N: its size by default.

    >>> ta.vander(ta.tensor([1, 2, 3]), 3).tolist()
    [[1, 1, 1], [4, 2, 1], [9, 3, 1]]
    """
    if x.ndim != 1:
        raise RuntimeError(f"vander: a tensor of shape {tuple(x.shape)}; expected a vector")
    powers = creation.arange(len(x) if N is None else N, device=x.device)
    return pow(x.unsqueeze(1), powers if increasing else flip(powers, 0))


def _window(name: str, first: float, words: str, found: str) -> Callable[..., Tensor]:
    doc = f"""Return {first:g} - {1 - first:g} cos(2 pi k / n) for k = 0, 1, ..., {words}. As torch.{name}.

    n: window_length, or one less with periodic=False. Options as of `arange`.

    >>> ta.{name}(4)
    {found}
    """

    @named(name, doc)
    def window(window_length: int, periodic: bool = True, **options: Any) -> Tensor:
        k = creation.arange(window_length, **{"dtype": get_default_dtype(), **options})
        turns = k * (2 * math.pi / max(window_length - (not periodic), 1))
        return first - (1 - first) * cos(turns) if window_length != 1 else k + 1

    return window


hann_window = _window("hann_window", 0.5, "Hann's window", "tensor([0. , 0.5, 1. , 0.5])")
hamming_window = _window("hamming_window", 0.54, "Hamming's window", "tensor([0.08, 0.54, 1.  , 0.54])")


def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """Return the covariances of the rows, (rows, rows), each row the observations of a variable; of a vector, a number.

    correction: as of `var`. fweights: how often each observation counts; aweights: how much. As torch.cov.

    >>> ta.cov(ta.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    if input.ndim > 2:
        raise ValueError(f"cov: a tensor of shape {tuple(input.shape)}; expected 2 axes at most")
    x = input if input.ndim == 2 else reshape(input, (1, -1))
    weights = [w for w in (fweights, aweights) if w is not None]
    weight = functools.reduce(mul, weights) if weights else creation.ones(x.shape[1], dtype=x.dtype, device=x.device)
    total = sum(weight)
    centred = x - sum(x * weight, 1, keepdim=True) / total
    lost = correction if aweights is None else correction * sum(weight * aweights) / total
    return squeeze(matmul(centred * weight, transpose(centred, 0, 1)) / clamp(total - lost, 0))


def corrcoef(input: Tensor) -> Tensor:
    """Return the correlations of the rows, each row the observations of a variable; of a vector, 1. As torch.corrcoef.

    >>> ta.corrcoef(ta.tensor([[0.0, 1.0, 2.0], [4.0, 2.0, 0.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    found = cov(input)
    if not found.ndim:
        return found / found
    spread = sqrt(diagonal(found))
    return clamp(found / unsqueeze(spread, 1) / spread, -1, 1)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """Return all choices of r elements of a vector, one a row, in their order. As torch.combinations.

    >>> ta.combinations(ta.tensor([1, 2, 3])).tolist()
    [[1, 2], [1, 3], [2, 3]]
    """
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    index = np.array(list(choose(range(len(input)), r)), dtype=np.int64).reshape(-1, r)
    return input[creation.tensor(index, device=input.device)]


# --- sums and products ---


@numpy_names
@opmath
def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float = 1, dim: int = -1) -> Tensor:
    """Return the integral of y along `dim` by the trapezoidal rule, at the places x or `dx` apart. As torch.trapezoid.

    >>> ta.trapezoid(ta.tensor([1.0, 3.0, 2.0]), dx=2).item()
    9.0
    """
    dim = _dims.one(dim, y.ndim)
    if x is not None:
        if x.ndim == 1:
            x = x.reshape([-1 if d == dim else 1 for d in range(y.ndim)])
        y, x = broadcast_tensors(y, x)
    if not y.shape[dim]:
        return y.sum(dim, dtype=y.dtype)  # zeros, of whole numbers too
    size = y.shape[dim] - 1
    pairs = [(narrow(z, dim, y.shape[dim] - size, size), narrow(z, dim, 0, size)) for z in (y, x) if z is not None]
    width = dx if x is None else pairs[1][0] - pairs[1][1]
    return sum((pairs[0][0] + pairs[0][1]) * width, dim) / 2


trapz = trapezoid


def multi_dot(tensors: Any) -> Tensor:
    """Return the product of several matrices, from left to right; the first and the last may be vectors.

    As torch.linalg.multi_dot, which looks for the cheapest order.

    >>> ta.linalg.multi_dot([ta.ones(2, 3), ta.ones(3, 4), ta.ones(4)]).tolist()
    [12.0, 12.0]
    """
    return unshared(functools.reduce(matmul, tensors), tensors[0])


def chain_matmul(*matrices: Tensor) -> Tensor:
    """Return the product of several matrices, as `linalg.multi_dot`. As torch.chain_matmul.

    >>> ta.chain_matmul(ta.ones(2, 3), ta.ones(3, 4)).shape
    (2, 4)
    """
    return multi_dot(matrices)
