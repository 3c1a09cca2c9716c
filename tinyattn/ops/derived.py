"""Functions that are formulas of other operations, and PyTorch's second names of some."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Size, Tensor, Variable
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import clamp, eq, ge, gt, le, lt, ne, where
from tinyattn.ops.copies import cast, unshared
from tinyattn.ops.elementwise import abs, div, elementwise, mul, neg, pow, sub
from tinyattn.ops.extremes import amax, amin
from tinyattn.ops.indexing import getitem, place, setitem, write_index
from tinyattn.ops.joins import cat, stack
from tinyattn.ops.mathematics import atan2, isnan, logical_xor
from tinyattn.ops.order import bincount
from tinyattn.ops.products import matmul
from tinyattn.ops.promotion import floating, opmath
from tinyattn.ops.rearranging import meshgrid, narrow
from tinyattn.ops.reductions import sum
from tinyattn.ops.scattering import nonzero
from tinyattn.ops.shape import broadcast_to, permute, reshape, roll, transpose, tril, triu
from tinyattn.ops.synonyms import formula, numpy_names

absolute, negative, subtract, multiply, divide, true_divide, arctan2 = abs, neg, sub, mul, div, div, atan2
greater, greater_equal, less, less_equal, not_equal, clip, concatenate = gt, ge, lt, le, ne, clamp, cat

# --- functions of each element ---


def logspace(start: Any, end: Any, steps: int, base: float = 10.0, **options: Any) -> Tensor:
    """Return `steps` numbers from base^start to base^end, of equal quotients; options as `linspace`. As torch.logspace.

    >>> ta.logspace(0, 2, 3)
    tensor([  1.,  10., 100.])
    """
    return pow(base, creation.linspace(start, end, steps, **options))


def _inverse_error(xp: Any, x: Any) -> Any:
    """Three digits (S. Winitzki, 2008) and two steps of Halley's method, each of which triples the digits."""
    far, wide = xp.abs(x) >= 1, xp.cast(x, "float64")
    inner = xp.where(far, 0.0, wide)
    tail = xp.log(1 - inner * inner) / 2
    middle = 2 / (math.pi * 0.147) + tail
    y = xp.sign(inner) * xp.sqrt(xp.sqrt(middle * middle - tail * (2 / 0.147)) - middle)
    for _ in range(2):
        step = (xp.erf(y) - inner) / (xp.exp(-y * y) * (2 / math.sqrt(math.pi)))
        y = y - step / (1 + y * step)
    return xp.cast(xp.where(far, xp.where(xp.abs(x) == 1, wide * math.inf, math.nan), y), x.dtype)


@operation(
    promote=floating, fresh=True, traits="maps", x=lambda xp, g, out: g * xp.exp(out * out) * (math.sqrt(math.pi) / 2)
)
def erfinv(xp: Any, x: Any) -> Any:
    """Return the number whose `erf` is the input, elementwise: infinite at -1 and 1, NaN beyond. As torch.erfinv.

    In float64 its relative error grows towards -1 and 1, where `erf` rounds: 2e-10 at 1 - 1e-9.

    >>> ta.erfinv(ta.tensor([0.0, 0.5]))
    tensor([0.    , 0.4769])
    """
    return _inverse_error(xp, x)


exp2 = formula(
    "exp2", "2 ** input, elementwise; integers give the default dtype", "ta.tensor([3, -1])", [8.0, 0.5],
    lambda input: pow(2.0, input),
)  # fmt: skip


@elementwise(x=lambda xp, g, x: xp.where(xp.logical_or(x < 0, x > 1), math.nan, g / (x * (1 - x))))
def _logit(xp: Any, x: Any) -> Any:
    return xp.log(x / (1 - x))


@opmath
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """Return log(input / (1 - input)), elementwise; NaN outside 0 to 1. eps: the input is limited to [eps, 1 - eps].

    As torch.logit.

    >>> ta.logit(ta.tensor([0.5, 0.0]), eps=0.5)
    tensor([0., 0.])
    """
    x = input if input.dtype.kind == "f" else input.float()
    x = x if eps is None else clamp(x, eps, 1 - eps)
    return _logit(x)


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Return which elements are among `test_elements` (invert: are not), as booleans. As torch.isin.

    assume_unique: without effect.

    >>> ta.isin(ta.tensor([1, 2, 3]), ta.tensor([3, 1])).tolist()
    [True, False, True]
    """
    elements, test_elements = (creation.as_tensor(x) for x in (elements, test_elements))
    found = eq(elements.unsqueeze(-1), test_elements.reshape(-1)).any(-1)
    return found.logical_not() if invert else found


# --- reductions and counts ---


class Range(NamedTuple):
    """What `aminmax` returns."""

    min: Tensor
    max: Tensor


@numpy_names
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Range:
    """Return (min, max) over `dim`, or of all elements. As torch.aminmax.

    >>> ta.aminmax(ta.tensor([3, 1, 2])).max.item()
    3
    """
    dims: Any = () if dim is None else dim
    return Range(amin(input, dims, keepdim), amax(input, dims, keepdim))


@numpy_names
def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the sum over `dim`, with NaN counted as 0. As torch.nansum.

    >>> ta.nansum(ta.tensor([1.0, float("nan")])).item()
    1.0
    """
    return sum(where(isnan(input), 0, input), dim, keepdim, dtype=dtype)


@numpy_names
def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the mean over `dim` of what is not NaN. As torch.nanmean.

    >>> ta.nanmean(ta.tensor([1.0, float("nan"), 3.0])).item()
    2.0
    """
    return nansum(input, dim, keepdim, dtype=dtype) / sum(eq(input, input), dim, keepdim)


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Return how many elements fall into each of `bins` equal parts of [min, max], in the input's dtype.

    min, max: the smallest and the largest element if both are equal. Raises RuntimeError for integers, and for a min
    that is above max. Synchronises a GPU. As torch.histc.

    >>> ta.histc(ta.tensor([1.0, 2.0, 1.0, 9.0]), bins=4, min=0, max=3)
    tensor([0., 2., 1., 0.])
    """
    if input.dtype.kind != "f" or bins < 1 or min > max:
        raise RuntimeError(
            f"histc: a tensor of {input.dtype}, bins={bins}, min={min}, max={max}; expected floats, at least 1 bin and "
            "min <= max"
        )
    x = cast(input.detach().reshape(-1), "float64" if input.dtype == "float64" else "float32")
    if min == max and x.numel():
        min, max = (limit.item() for limit in aminmax(x))
    if not math.isfinite(max - min):
        raise RuntimeError(f"histc: the range from {min} to {max} is not finite; give min and max")
    if min == max:
        min, max = min - 1, max + 1
    place_of = clamp(cast(where((x >= min) & (x <= max), (x - min) * bins / (max - min), -1.0), "int64"), -1, bins - 1)
    return cast(bincount(place_of + 1, minlength=bins + 1)[1:], input.dtype)


# --- shapes and positions ---


def broadcast_shapes(*shapes: Any) -> Size:
    """Return the shape that these shapes broadcast to. Raises RuntimeError if they do not. As torch.broadcast_shapes.

    >>> ta.broadcast_shapes((3, 1), (2,))
    (3, 2)
    """
    try:
        return Size(np.broadcast_shapes(*shapes))
    except ValueError:
        raise RuntimeError(f"shapes {', '.join(map(str, shapes))} do not broadcast to one shape") from None


def broadcast_tensors(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors broadcast to one shape: views, or the tensor itself. As torch.broadcast_tensors.

    >>> [x.shape for x in ta.broadcast_tensors(ta.ones(3, 1), ta.ones(2))]
    [(3, 2), (3, 2)]
    """
    shape = broadcast_shapes(*(x.shape for x in tensors))
    return [x if x.shape == shape else broadcast_to(x, shape) for x in tensors]


def ravel(input: Tensor) -> Tensor:
    """Return the elements as one axis: a view of contiguous memory, else a copy. As torch.ravel.

    >>> ta.ravel(ta.ones(2, 3)).shape
    (6,)
    """
    return reshape(input.contiguous(), -1)


def t(input: Tensor) -> Tensor:
    """Return a matrix transposed; vectors and numbers as they are. Raises RuntimeError for more axes. As torch.t.

    >>> ta.t(ta.ones(2, 3)).shape
    (3, 2)
    """
    if input.ndim > 2:
        raise RuntimeError(f"t: a tensor of shape {tuple(input.shape)}; expected 2 axes at most (use transpose)")
    return transpose(input, 0, 1) if input.ndim == 2 else input


def detach(input: Tensor) -> Tensor:
    """Return the same memory without the history: gradients stop here. As torch.detach.

    >>> ta.detach(ta.ones(2, requires_grad=True)).requires_grad
    False
    """
    return input.detach()


def _triangle(name: str, part: Any, example: str) -> Any:
    def indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
        return cast(nonzero(part(creation.ones(row, col, device=device), offset)).T, dtype or np.int64)

    indices.__name__ = indices.__qualname__ = name
    indices.__doc__ = f"""Return the rows and columns of the elements that `{part.__name__}` keeps, (2, count).

    As torch.{name}.

    >>> ta.{name}(2, 2).tolist()
    {example}
    """
    return indices


tril_indices = _triangle("tril_indices", tril, "[[0, 1, 1], [0, 0, 1]]")
triu_indices = _triangle("triu_indices", triu, "[[0, 0, 1], [0, 1, 1]]")


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """Return all combinations of elements of the vectors, one a row; one vector as it is. As torch.cartesian_prod.

    >>> ta.cartesian_prod(ta.tensor([1, 2]), ta.tensor([5, 6])).tolist()
    [[1, 5], [1, 6], [2, 5], [2, 6]]
    """
    if len(tensors) == 1:
        return tensors[0]
    return stack([x.reshape(-1) for x in meshgrid(*tensors, indexing="ij")], 1)


def index_put(input: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """Return the input with `values`, broadcast, at input[indices]; accumulate: added there, every one of them.

    indices: a tensor of integers for each of the first axes, or a mask of several. As torch.index_put.

    >>> ta.index_put(ta.zeros(3), (ta.tensor([2, 2]),), ta.tensor([1.0, 5.0]), accumulate=True)
    tensor([0., 0., 6.])
    """
    index = tuple(indices)
    if values.dtype != input.dtype:
        raise RuntimeError(f"index_put: the values have dtype {values.dtype}; expected {input.dtype}, as the tensor")
    if not accumulate:
        return setitem(input, values, write_index(index, input.array))
    return input + place(broadcast_to(values, getitem(input.detach(), index).shape), index, input.shape)


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """Return the input with the elements of `source` at places of the flattened input. As torch.put.

    >>> ta.put(ta.zeros(2, 2), ta.tensor([3]), ta.tensor([5.0])).tolist()
    [[0.0, 0.0], [0.0, 5.0]]
    """
    flat = index_put(reshape(input, -1), (reshape(index, -1),), reshape(source, -1), accumulate)
    return reshape(flat, input.shape)


@numpy_names
def diff(input: Tensor, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Tensor:
    """Return the differences of neighbours along `dim`, `n` times; of booleans, whether they differ. As torch.diff.

    prepend, append: tensors put before and behind first. Raises RuntimeError for an n below 0.

    >>> ta.diff(ta.tensor([1, 3, 6]))
    tensor([2, 3])
    """
    if n < 0:
        raise RuntimeError(f"diff: n={n}; expected at least 0 times")
    dim = _dims.one(dim, input.ndim)
    out = cat([x for x in (prepend, input, append) if x is not None], dim) if n else input.clone()
    for _ in range(min(n, out.shape[dim])):
        size = out.shape[dim] - 1
        after, before = narrow(out, dim, 1, size), narrow(out, dim, 0, size)
        out = logical_xor(after, before) if out.dtype.kind == "b" else after - before
    return unshared(out, input)


# --- products ---


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Return sums of products over the last `dims` axes of a and first of b, or two lists of axes. As torch.tensordot.

    >>> ta.tensordot(ta.ones(2, 3, 4), ta.ones(4, 3, 5), dims=([1, 2], [1, 0])).shape
    (2, 5)
    """
    if isinstance(dims, Variable):
        dims = dims.array.tolist()
    over = (range(a.ndim - dims, a.ndim), range(dims)) if isinstance(dims, int) else dims
    ours, theirs = ([_dims.one(d, x.ndim) for d in which] for x, which in zip((a, b), over, strict=True))
    for i, j in zip(ours, theirs, strict=True):  # size 1 goes with any size
        if a.shape[i] == 1:
            b = sum(b, j, keepdim=True, dtype=b.dtype)
        elif b.shape[j] == 1:
            a = sum(a, i, keepdim=True, dtype=a.dtype)
    if [a.shape[d] for d in ours] != [b.shape[d] for d in theirs]:
        raise RuntimeError(f"tensordot: shapes {tuple(a.shape)} and {tuple(b.shape)} differ over the axes {dims}")
    rows = [d for d in range(a.ndim) if d not in ours]
    columns = [d for d in range(b.ndim) if d not in theirs]
    size = math.prod(a.shape[d] for d in ours)
    shape = [*(a.shape[d] for d in rows), *(b.shape[d] for d in columns)]
    left = reshape(permute(a, (*rows, *ours)), (math.prod(a.shape[d] for d in rows), size))
    right = reshape(permute(b, (*theirs, *columns)), (size, math.prod(b.shape[d] for d in columns)))
    return reshape(matmul(left, right), shape)


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Return the sums of products over the last axes of both; a number multiplies. As torch.inner.

    >>> ta.inner(ta.tensor([1, 2]), ta.tensor([3, 4])).item()
    11
    """
    return tensordot(input, other, ([-1], [-1])) if input.ndim and other.ndim else mul(input, other)


@numpy_names
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """Return the cross products along `dim`, the first of size 3 unless given; broadcast. As torch.cross.

    >>> ta.cross(ta.tensor([1, 0, 0]), ta.tensor([0, 1, 0])).tolist()
    [0, 0, 1]
    """
    a, b = broadcast_tensors(input, other)
    dim = next((d for d, n in enumerate(a.shape) if n == 3), 0) if dim is None else _dims.one(dim, a.ndim)
    if not a.ndim or a.shape[dim] != 3:
        raise RuntimeError(f"cross: shapes {tuple(input.shape)} and {tuple(other.shape)}; expected size 3 along {dim}")
    return roll(a, -1, dim) * roll(b, -2, dim) - roll(a, -2, dim) * roll(b, -1, dim)
