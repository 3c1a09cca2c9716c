"""Operations that make an axis disappear, forward beside rule."""

from __future__ import annotations

import builtins
import math
from typing import Any, NamedTuple

from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import maximum, minimum
from tinyattn.ops.copies import cast
from tinyattn.ops.promotion import floating

# In this file dim is a tuple of non-negative integers once the public function has seen it.


def _restore(xp: Any, g: Any, shape: tuple[int, ...], dim: tuple[int, ...]) -> Any:
    """Give a reduced array the reduced axes back, with size 1."""
    return xp.reshape(g, _dims.kept(shape, dim))


def _spread(xp: Any, g: Any, shape: tuple[int, ...], dim: tuple[int, ...]) -> Any:
    """... and with their full size."""
    return xp.broadcast_to(_restore(xp, g, shape, dim), shape)


def _count(shape: tuple[int, ...], dim: tuple[int, ...]) -> int:
    return math.prod(shape[d] for d in dim)


@operation(x=lambda xp, g, x_shape, dim: _spread(xp, g, x_shape, dim))
def _sum(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.sum(x, dim, keepdim)


def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over `dim` (an integer, a tuple; None or () for all). Integers give int64. As torch.sum."""
    if dtype is not None:
        input = cast(input, dtype)
    out: Tensor = _sum(input, dim=_dims.several(dim, input.ndim), keepdim=keepdim)
    return out if dtype is None else cast(out, dtype)


@operation(x=lambda xp, g, x_shape, dim: _spread(xp, g * (1 / builtins.max(_count(x_shape, dim), 1)), x_shape, dim))
def _mean(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.mean(x, dim, keepdim)


def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over `dim`, as in `sum`. As torch.mean.

    Raises TypeError for integers, whose mean would not be one.
    """
    if dtype is not None:
        input = cast(input, dtype)
    if input.dtype.kind != "f":
        raise TypeError(f"mean: the tensor has dtype {input.dtype}; cast it first (x.float()) or pass dtype=float32")
    return _mean(input, dim=_dims.several(dim, input.ndim), keepdim=keepdim)


def _var_rule(xp: Any, g: Any, x: Any, dim: Any, correction: float) -> Any:
    left = _count(x.shape, dim) - correction  # below 0 too, as PyTorch has it
    scale = 2 / left if left else math.nan
    return _restore(xp, g, x.shape, dim) * (x - xp.mean(x, dim, keepdim=True)) * scale


@operation(x=_var_rule)
def _var(xp: Any, x: Any, *, dim: Any, correction: float, keepdim: bool) -> Any:
    return xp.var(x, dim, correction, keepdim)


def _std_rule(xp: Any, g: Any, x: Any, out: Any, dim: Any, correction: float) -> Any:
    half = xp.where(out == 0, 0.0, g / (out * 2))  # the spread of a constant has no slope
    return _var_rule(xp, half, x, dim, correction)


@operation(x=_std_rule)
def _std(xp: Any, x: Any, *, dim: Any, correction: float, keepdim: bool) -> Any:
    return xp.sqrt(xp.var(x, dim, correction, keepdim))


def _spread_options(
    input: Tensor, dim: Any, unbiased: bool | None, correction: float | None, keepdim: bool
) -> dict[str, Any]:
    if isinstance(dim, bool):  # torch's older spelling: var(input, unbiased)
        dim, unbiased = None, dim
    if input.dtype.kind != "f":
        raise TypeError(f"var and std: the tensor has dtype {input.dtype}; cast it first (x.float())")
    if unbiased is not None and correction is not None:
        raise ValueError("var and std: give unbiased or correction, not both")
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return {"dim": _dims.several(dim, input.ndim), "correction": correction, "keepdim": keepdim}


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Variance over `dim`: the squares' sum over n - correction (1 unless said). As torch.var."""
    return _var(input, **_spread_options(input, dim, unbiased, correction, keepdim))


def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Standard deviation over `dim`, the square root of `var`. As torch.std."""
    return _std(input, **_spread_options(input, dim, unbiased, correction, keepdim))


def var_mean(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """`var` and the mean over the same dimensions. As torch.var_mean."""
    return var(input, *args, **kwargs), _same_mean(input, *args, **kwargs)


def std_mean(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """`std` and the mean over the same dimensions. As torch.std_mean."""
    return std(input, *args, **kwargs), _same_mean(input, *args, **kwargs)


def _same_mean(
    input: Tensor, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Tensor:
    return mean(input, None if isinstance(dim, bool) else dim, keepdim)


# --- extremes ---


def _extreme_rule(xp: Any, g: Any, x: Any, out: Any, dim: Any) -> Any:
    ties = xp.cast(x == _restore(xp, out, x.shape, dim), g.dtype)
    return _restore(xp, g, x.shape, dim) * (ties / xp.sum(ties, dim, keepdim=True))  # equal shares


@operation(traits="chooses", x=_extreme_rule)
def _amax(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.amax(x, dim, keepdim)


@operation(traits="chooses", x=_extreme_rule)
def _amin(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.amin(x, dim, keepdim)


def _nonempty(name: str, input: Tensor, dim: tuple[int, ...]) -> tuple[int, ...]:
    if _count(input.shape, dim) == 0 and (input.ndim == len(dim) or input.numel() == 0):
        empty = [d for d in dim if input.shape[d] == 0]
        if empty:
            raise IndexError(
                f"{name}: dimension {empty[0]} of shape {tuple(input.shape)} is empty, and nothing has no {name}"
            )
    return dim


def amax(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """Largest element over `dim`; equal elements share the gradient. As torch.amax."""
    return _amax(input, dim=_nonempty("amax", input, _dims.several(dim, input.ndim)), keepdim=keepdim)


def amin(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """Smallest element over `dim`; equal elements share the gradient. As torch.amin."""
    return _amin(input, dim=_nonempty("amin", input, _dims.several(dim, input.ndim)), keepdim=keepdim)


class Extreme(NamedTuple):
    """What `max` and `min` along a dimension return."""

    values: Tensor
    indices: Tensor


@operation(
    traits="chooses", extras=("index",), x=lambda xp, g, index, x_shape, dim: _pick_rule(xp, g, index, x_shape, dim)
)
def _pick(xp: Any, x: Any, *, dim: int, keepdim: bool, largest: bool) -> Any:
    index = (xp.argmax if largest else xp.argmin)(x, dim, keepdim=True)
    values = xp.gather(x, dim, xp.asarray(index))
    if keepdim or x.ndim == 0:
        return values, index
    shape = values.shape[:dim] + values.shape[dim + 1 :]
    return xp.reshape(values, shape), xp.reshape(index, shape)


def _pick_rule(xp: Any, g: Any, index: Any, x_shape: tuple[int, ...], dim: int) -> Any:
    if not x_shape:
        return g
    shape = _dims.kept(x_shape, (dim,))
    return xp.scatter(xp.reshape(g, shape), dim, xp.reshape(index, shape), x_shape)


def _extreme(name: str, input: Tensor, dim: Any, keepdim: bool) -> Any:
    whole, pairwise = (amax, maximum) if name == "max" else (amin, minimum)
    if dim is None:
        return whole(input, (), keepdim)
    if isinstance(dim, Variable):
        return pairwise(input, dim)
    dim = _nonempty(name, input, (_dims.one(dim, input.ndim),))[0] if input.ndim else _dims.one(dim, 0)
    return Extreme(*_pick(input, dim=dim, keepdim=keepdim, largest=name == "max"))


def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; with `dim`, (values, indices) along it; with a tensor, `maximum`.

    As torch.max, in its three forms.
    """
    return _extreme("max", input, dim, keepdim)


def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element, in the three forms of `max`. As torch.min."""
    return _extreme("min", input, dim, keepdim)


def _arg(name: str, input: Tensor, dim: Any, keepdim: bool) -> Tensor:
    if input.numel() == 0 and (dim is None or input.shape[_dims.one(dim, input.ndim)] == 0):
        raise IndexError(f"{name}: a tensor of shape {tuple(input.shape)} is empty there; nothing has no {name}")
    if dim is None and keepdim:
        found: Tensor = _ARG[name](input, dim=None, keepdim=False)
        return found.reshape((1,) * input.ndim)
    if input.ndim == 0:
        return _ARG[name](input, dim=None, keepdim=False)
    return _ARG[name](input, dim=None if dim is None else _dims.one(dim, input.ndim), keepdim=keepdim)


_ARG = {
    "argmax": Operation(lambda xp, x, *, dim, keepdim: xp.argmax(x, dim, keepdim), name="argmax"),
    "argmin": Operation(lambda xp, x, *, dim, keepdim: xp.argmin(x, dim, keepdim), name="argmin"),
}


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the largest element (the first of equals), int64. As torch.argmax."""
    return _arg("argmax", input, dim, keepdim)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the smallest element (the first of equals), int64. As torch.argmin."""
    return _arg("argmin", input, dim, keepdim)


# --- products, sums of exponentials, running sums ---


def _prod_rule(xp: Any, g: Any, x: Any, out: Any, dim: Any) -> Any:
    g, out = _restore(xp, g, x.shape, dim), _restore(xp, out, x.shape, dim)
    if not xp.any(x == 0):
        return g * (out / x)
    # With zeros, the product of the others: put x on a matrix's rows with ones on its diagonal.
    (axis,) = dim
    n = x.shape[axis]
    ones = xp.reshape(
        xp.eye(n, n, dtype=bool, device=x.device), (n, *(n if i == axis else 1 for i in range(len(x.shape))))
    )
    others = xp.masked_fill(xp.broadcast_to(xp.reshape(x, (1, *x.shape)), (n, *x.shape)), ones, 1.0)
    others = xp.prod(others, (axis + 1,))  # (n, the other axes)
    order = (*range(1, axis + 1), 0, *range(axis + 1, len(x.shape)))
    return g * xp.permute(others, order)


@operation(x=_prod_rule)
def _prod(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.prod(x, dim, keepdim)


def prod(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Product over one dimension, or over all. As torch.prod; its gradient is exact at zeros too."""
    if dtype is not None:
        input = cast(input, dtype)
    if dim is None or input.ndim == 0:
        found: Tensor = _prod(input.reshape(-1), dim=(0,), keepdim=False)
        return found.reshape((1,) * input.ndim) if keepdim else found
    out: Tensor = _prod(input, dim=_dims.several(dim, input.ndim), keepdim=keepdim)
    return out if dtype is None else cast(out, dtype)


@operation(
    promote=floating,
    x=lambda xp, g, x, out, dim: (
        _restore(xp, g, x.shape, dim) * xp.exp(x - xp.masked_fill(*_finite(xp, _restore(xp, out, x.shape, dim))))
    ),
)
def _logsumexp(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.logsumexp(x, dim, keepdim)


def _finite(xp: Any, out: Any) -> tuple[Any, Any, float]:
    return out, out == -math.inf, 0.0  # a row of -inf: exp(-inf - 0) = 0 instead of NaN


def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) over `dim`, without overflow. As torch.logsumexp."""
    return _logsumexp(input, dim=_dims.several(dim, input.ndim), keepdim=keepdim)


@operation(traits="rows", x=lambda xp, g, dim: xp.flip(xp.cumsum(xp.flip(g, (dim,)), dim), (dim,)))
def _cumsum(xp: Any, x: Any, *, dim: int) -> Any:
    return xp.cumsum(x, dim)


def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running sum along `dim`. As torch.cumsum."""
    if dtype is not None:
        input = cast(input, dtype)
    elif input.dtype.kind != "f":
        input = cast(input, "int64")
    return _cumsum(input, dim=_dims.one(dim, input.ndim)) if input.ndim else input.clone()


def sum_to(input: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum over the axes that broadcasting `shape` to the input's shape had added or stretched."""
    ahead = input.ndim - len(shape)
    stretched = tuple(i for i, n in enumerate(shape, ahead) if n == 1 and input.shape[i] != 1)
    return sum(input, (*range(ahead), *stretched), keepdim=True).reshape(shape) if ahead or stretched else input


def any(input: Tensor) -> bool:
    """Whether one element is true, as a Python bool; on a GPU, waits for it."""
    return bool(input.any())
