"""Operations that make an axis disappear, forward beside rule."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from typing import Any

from tinyattn import backends
from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import ne
from tinyattn.ops.copies import cast
from tinyattn.ops.promotion import floating
from tinyattn.ops.synonyms import bound, numpy_names

# In this file dim is a tuple of non-negative integers once the public function has seen it.


def restore(xp: Any, g: Any, shape: tuple[int, ...], dim: tuple[int, ...]) -> Any:
    """Give a reduced array the reduced axes back, with size 1."""
    return xp.reshape(g, _dims.kept(shape, dim))


def _spread(xp: Any, g: Any, shape: tuple[int, ...], dim: tuple[int, ...]) -> Any:
    """... and with their full size."""
    return xp.broadcast_to(restore(xp, g, shape, dim), shape)


def count(shape: tuple[int, ...], dim: tuple[int, ...]) -> int:
    """Return how many elements the axes `dim` of `shape` hold."""
    return math.prod(shape[d] for d in dim)


@operation(x=lambda xp, g, x_shape, dim: _spread(xp, g, x_shape, dim))
def _sum(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.sum(x, dim, keepdim)


@numpy_names
def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the sum over `dim`: an integer, a tuple, or None or () for all axes. Integers give int64.

    keepdim: keep the reduced axes with size 1. dtype: cast to it first. As torch.sum.

    >>> ta.sum(ta.tensor([[1, 2], [3, 4]]), 0)
    tensor([4, 6])
    """
    input = input if dtype is None else cast(input, dtype)
    out: Tensor = _sum(input, dim=_dims.several(dim, input.ndim), keepdim=keepdim)
    return out if dtype is None else cast(out, dtype)


@operation(x=lambda xp, g, x_shape, dim: _spread(xp, g * (1 / builtins.max(count(x_shape, dim), 1)), x_shape, dim))
def _mean(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.mean(x, dim, keepdim)


@numpy_names
def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the mean over `dim`, as in `sum`. Raises TypeError for integers without a floating `dtype`. As torch.mean.

    >>> ta.mean(ta.tensor([[1.0, 2.0], [3.0, 4.0]]), 1)
    tensor([1.5, 3.5])
    """
    input = input if dtype is None else cast(input, dtype)
    if input.dtype.kind != "f":
        raise TypeError(f"mean: the tensor has dtype {input.dtype}; cast it first (x.float()) or pass dtype=float32")
    return _mean(input, dim=_dims.several(dim, input.ndim), keepdim=keepdim)


def deviations(xp: Any, x: Any, dim: tuple[int, ...]) -> Any:
    """Return x - mean(x). The second step takes away how far the rounded mean is off: of equal numbers it leaves 0."""
    rough = x - xp.mean(x, dim, keepdim=True)
    return rough - xp.mean(rough, dim, keepdim=True)


def _var_rule(xp: Any, g: Any, x: Any, dim: Any, correction: float) -> Any:
    left = count(x.shape, dim) - correction  # below 0 too, as PyTorch has it
    scale = 2 / left if left else math.nan
    return restore(xp, g, x.shape, dim) * deviations(xp, x, dim) * scale


@operation(x=_var_rule, fresh=True)
def _var(xp: Any, x: Any, *, dim: Any, correction: float, keepdim: bool) -> Any:
    return xp.var(x, dim, correction, keepdim)


def _std_rule(xp: Any, g: Any, x: Any, out: Any, dim: Any, correction: float) -> Any:
    half = xp.where(out == 0, 0.0, g * 0.5 / out)  # the spread of a constant has no slope
    return _var_rule(xp, half, x, dim, correction)


@operation(x=_std_rule, fresh=True)
def _std(xp: Any, x: Any, *, dim: Any, correction: float, keepdim: bool) -> Any:
    return xp.std(x, dim, correction, keepdim)


def _deviation(
    op: Operation,
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    if isinstance(dim, bool):  # torch's older spelling: var(input, unbiased)
        dim, unbiased = None, dim
    if input.dtype.kind != "f":
        raise TypeError(f"var and std: the tensor has dtype {input.dtype}; cast it first (x.float())")
    if unbiased is not None and correction is not None:
        raise ValueError("var and std: give unbiased or correction, not both")
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return op(input, dim=_dims.several(dim, input.ndim), correction=correction, keepdim=keepdim)


@numpy_names
@bound(_deviation, _var)
def var() -> None:
    """Return the variance over `dim`: the sum of squared deviations over n - correction.

    correction: 1 by default; unbiased=False means 0. Raises TypeError for integers, ValueError for both options.
    As torch.var.

    >>> ta.var(ta.tensor([1.0, 2.0, 3.0])).item()
    1.0
    """


@numpy_names
@bound(_deviation, _std)
def std() -> None:
    """Return the standard deviation over `dim`, the square root of `var`; its gradient at 0 is 0. As torch.std.

    >>> ta.std(ta.tensor([1.0, 3.0]), correction=0).item()
    1.0
    """


def _and_mean(function: Callable[..., Tensor], input: Tensor, dim: Any = None, unbiased: bool | None = None,
              keepdim: bool = False, *, correction: float | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    both = function(input, dim, unbiased, keepdim, correction=correction)
    return both, mean(input, None if isinstance(dim, bool) else dim, keepdim)


@bound(_and_mean, var)
def var_mean() -> None:
    """Return `var` and the mean over the same dimensions. As torch.var_mean.

    >>> [x.item() for x in ta.var_mean(ta.tensor([1.0, 2.0, 3.0]))]
    [1.0, 2.0]
    """


@bound(_and_mean, std)
def std_mean() -> None:
    """Return `std` and the mean over the same dimensions. As torch.std_mean.

    >>> [x.item() for x in ta.std_mean(ta.tensor([1.0, 2.0, 3.0]))]
    [1.0, 2.0]
    """


# --- products, sums of exponentials, running sums ---


def _prod_rule(xp: Any, g: Any, x: Any, out: Any, dim: Any) -> Any:
    g, out = restore(xp, g, x.shape, dim), restore(xp, out, x.shape, dim)
    exact = isinstance(x, Variable) or xp.perhaps(lambda: x == 0)  # a quotient cancels badly at small factors
    return g * (_others(xp, x, *dim) if exact else out / x)


def _others(xp: Any, x: Any, axis: int) -> Any:
    """For each element, the product of all others along `axis`: of its partner, and of the others of their product."""
    half, odd = divmod(x.shape[axis], 2)
    if half == 0:
        return xp.zeros_like(x) + 1
    ahead = (slice(None),) * axis
    a, b, last = (x[(*ahead, part)] for part in (slice(half), slice(half, 2 * half), slice(2 * half, None)))
    others = _others(xp, xp.cat((a * b, last), axis) if odd else a * b, axis)
    both = others[(*ahead, slice(half))]
    return xp.cat((both * b, both * a, others[(*ahead, slice(half, None))]), axis)


@operation(x=_prod_rule, fresh=True)
def _prod(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.prod(x, dim, keepdim)


@numpy_names
def prod(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Return the product over one dimension, or over all; its gradient is exact at zeros too. As torch.prod.

    >>> ta.prod(ta.tensor([[1, 2], [3, 4]]), 1)
    tensor([ 2, 12])
    """
    input = input if dtype is None else cast(input, dtype)
    dims = _dims.several(dim, input.ndim)
    if dim is None or input.ndim == 0:
        out: Tensor = _prod(input if input.ndim == 1 else input.reshape(-1), dim=(0,), keepdim=False)
        out = out.reshape((1,) * input.ndim) if keepdim else out
    else:
        out = _prod(input, dim=dims, keepdim=keepdim)
    return out if dtype is None else cast(out, dtype)


@operation(
    promote=floating,
    fresh=True,
    x=lambda xp, g, x, out, dim: (
        restore(xp, g, x.shape, dim) * xp.exp(x - xp.masked_fill(*_finite(xp, restore(xp, out, x.shape, dim))))
    ),
)
def _logsumexp(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    if 0 in x.shape:
        return xp.log(xp.sum(x, dim, keepdim))  # -inf
    top = xp.amax(x, dim, keepdim=True)
    top = xp.masked_fill(top, ~xp.isfinite(top), 0.0)  # inf - inf is NaN
    total = xp.log(xp.sum(xp.exp(x - top), dim, keepdim=True)) + top
    return total if keepdim else xp.reshape(total, tuple(n for d, n in enumerate(x.shape) if d not in dim))


def _finite(xp: Any, out: Any) -> tuple[Any, Any, float]:
    return out, out == -math.inf, 0.0  # a row of -inf: exp(-inf - 0) = 0 instead of NaN


@numpy_names
def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """Return log(sum(exp(input))) over `dim`, without overflow. As torch.logsumexp.

    >>> ta.logsumexp(ta.tensor([1000.0, 1000.0]), 0)
    tensor(1000.6932)
    """
    return _logsumexp(input, dim=_dims.several(dim, input.ndim), keepdim=keepdim)


def _from_the_end(xp: Any, g: Any, dim: int) -> Any:
    return xp.flip(xp.cumsum(xp.flip(g, (dim,)), dim), (dim,))


def _cumprod_rule(xp: Any, g: Any, x: Any, out: Any, dim: int) -> Any:
    """Each product without the factor: divided by it, or, without division, what is before it times what follows."""
    if not (isinstance(x, Variable) or xp.perhaps(lambda: x == 0)):
        return _from_the_end(xp, g * out, dim) / x
    ahead, n, reach = (slice(None),) * dim, x.shape[dim], 1
    factors = x[(*ahead, slice(1, None))]  # factors[i]: the product of the `reach` factors behind x[i]
    while reach < n:  # g[i]: the sum, over the next `reach` places, of the gradient times the factors up to there
        near, far, last = (g[(*ahead, part)] for part in (slice(n - reach), slice(reach, None), slice(n - reach, None)))
        g = xp.cat((near + factors * far, last), dim)
        factors = factors[(*ahead, slice(max(n - 2 * reach, 0)))] * factors[(*ahead, slice(reach, None))]
        reach *= 2
    first, before = out[(*ahead, slice(min(n, 1)))], out[(*ahead, slice(max(n - 1, 0)))]
    return g * xp.cat((xp.zeros_like(first) + 1, before), dim)


@operation(traits="rows", x=_cumprod_rule, fresh=True)
def _cumprod(xp: Any, x: Any, *, dim: int) -> Any:
    return xp.cumprod(x, dim)


@operation(traits="rows", x=lambda xp, g, dim: _from_the_end(xp, g, dim), fresh=True)
def _cumsum(xp: Any, x: Any, *, dim: int) -> Any:
    return xp.cumsum(x, dim)


def _running(op: Operation, input: Tensor, dim: int, dtype: Any) -> Tensor:
    if dtype is not None or input.dtype.kind != "f":
        input = cast(input, dtype or "int64")
    dim = _dims.one(dim, input.ndim)
    return op(input, dim=dim) if input.ndim else input.clone()


@numpy_names
def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Return the running sum along `dim`; integers give int64. As torch.cumsum.

    >>> ta.cumsum(ta.tensor([1, 2, 3]), 0)
    tensor([1, 3, 6])
    """
    return _running(_cumsum, input, dim, dtype)


@numpy_names
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Return the running product along `dim`; integers give int64. As torch.cumprod.

    >>> ta.cumprod(ta.tensor([1, 2, 3]), 0)
    tensor([1, 2, 6])
    """
    return _running(_cumprod, input, dim, dtype)


def sum_to(input: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum over the axes that broadcasting `shape` to the input's shape had added or stretched."""
    ahead = input.ndim - len(shape)
    stretched = tuple(i for i, n in enumerate(shape, ahead) if n == 1 and input.shape[i] != 1)
    return sum(input, (*range(ahead), *stretched), keepdim=True).reshape(shape) if ahead or stretched else input


# --- logic: without a gradient ---


@backends.keeps_gpu
def _logic(name: str, input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    xp, array = backends.of(input.array), input.array
    found = getattr(array if array.dtype.kind == "b" else array != 0, name)
    axes = () if isinstance(dim, tuple | list) and not dim else _dims.several(dim, input.ndim)  # none; of sum: all
    out: Tensor = Variable._from(xp.asarray(found(axes, keepdims=keepdim)))
    return cast(out, input.dtype) if input.dtype == "uint8" else out


@numpy_names
@bound(_logic, "any")
def any() -> None:
    """Return whether one element over `dim` (all axes if None) is true, or not 0. As torch.any.

    >>> ta.any(ta.tensor([[0, 1], [0, 0]]), 1).tolist()
    [True, False]
    """


@numpy_names
@bound(_logic, "all")
def all() -> None:
    """Return whether all elements over `dim` (all axes if None) are true, or not 0. As torch.all.

    >>> ta.all(ta.tensor([[1, 1], [0, 1]]), 1).tolist()
    [True, False]
    """


@numpy_names
def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """Return how many elements over `dim` (all axes if None) are not 0. As torch.count_nonzero.

    >>> ta.count_nonzero(ta.tensor([[0, 1], [2, 3]]), 1)
    tensor([1, 2])
    """
    return sum(ne(input, 0), dim)
