"""The largest and smallest elements along dimensions, and where they are: forward beside rule."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import maximum, minimum
from tinyattn.ops.reductions import restore
from tinyattn.ops.synonyms import numpy_names


def _extreme_rule(xp: Any, g: Any, x: Any, out: Any, dim: Any) -> Any:
    ties = xp.logical_or(x == restore(xp, out, x.shape, dim), x != x)  # NaN is the extreme of its slice
    share = restore(xp, g, x.shape, dim) / xp.sum(xp.cast(ties, g.dtype), dim, keepdim=True)
    return xp.where(ties, share, 0.0)  # no product: 0 * NaN would spread


@operation(traits="chooses", fresh=True, x=_extreme_rule)
def _amax(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.amax(x, dim, keepdim)


@operation(traits="chooses", fresh=True, x=_extreme_rule)
def _amin(xp: Any, x: Any, *, dim: Any, keepdim: bool) -> Any:
    return xp.amin(x, dim, keepdim)


def _nonempty(name: str, input: Tensor, dim: tuple[int, ...]) -> tuple[int, ...]:
    shape = input.array.shape
    empty = [d for d in dim if shape[d] == 0]
    if empty:
        raise IndexError(f"{name}: dimension {empty[0]} of shape {tuple(shape)} is empty, and nothing has no {name}")
    return dim


@numpy_names
def amax(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """Return the largest element over `dim`, as in `sum`; equal elements share the gradient.

    Raises IndexError for an empty dimension. As torch.amax.

    >>> ta.amax(ta.tensor([[1, 5], [3, 2]]), 1)
    tensor([5, 3])
    """
    return _amax(input, dim=_nonempty("amax", input, _dims.several(dim, input.ndim)), keepdim=keepdim)


@numpy_names
def amin(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """Return the smallest element over `dim`, as in `amax`. As torch.amin.

    >>> ta.amin(ta.tensor([[1, 5], [3, 2]]), 1)
    tensor([1, 2])
    """
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
    return xp.ungather(xp.reshape(g, shape), dim, xp.reshape(index, shape), x_shape)


def _extreme(name: str, input: Tensor, dim: Any, keepdim: bool) -> Any:
    whole, pairwise = (amax, maximum) if name == "max" else (amin, minimum)
    if dim is None:
        return whole(input, (), keepdim)
    if isinstance(dim, Variable) and not keepdim:
        return pairwise(input, dim)
    dim = _nonempty(name, input, (_dims.one(dim, input.ndim),))[0] if input.ndim else _dims.one(dim, 0)
    return Extreme(*_pick(input, dim=dim, keepdim=keepdim, largest=name == "max"))


@numpy_names
def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the largest element, (values, indices) along `dim`, or, if `dim` is a tensor, `maximum`. As torch.max.

    >>> ta.max(ta.tensor([1, 5, 3]), 0).indices.item()
    1
    """
    return _extreme("max", input, dim, keepdim)


@numpy_names
def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Return the smallest element, in the three forms of `max`. As torch.min.

    >>> ta.min(ta.tensor([4, 5, 3]), 0).indices.item()
    2
    """
    return _extreme("min", input, dim, keepdim)


def _arg(name: str, input: Tensor, dim: Any, keepdim: bool) -> Tensor:
    dim = None if dim is None else _dims.one(dim, input.ndim)
    if input.numel() == 0 and (dim is None or input.shape[dim] == 0):
        raise IndexError(f"{name}: a tensor of shape {tuple(input.shape)} is empty there; nothing has no {name}")
    if dim is not None and input.ndim:
        return _ARG[name](input, dim=dim, keepdim=keepdim)
    found: Tensor = _ARG[name](input, dim=None, keepdim=False)
    return found.reshape((1,) * input.ndim) if keepdim else found


_ARG = {
    "argmax": Operation(lambda xp, x, *, dim, keepdim: xp.argmax(x, dim, keepdim), name="argmax"),
    "argmin": Operation(lambda xp, x, *, dim, keepdim: xp.argmin(x, dim, keepdim), name="argmin"),
}


@numpy_names
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Return the index of the largest element (the first of equal ones) as int64; None: of the flattened input.

    Raises IndexError for an empty dimension. As torch.argmax.

    >>> ta.argmax(ta.tensor([[1, 5], [3, 2]]), 1)
    tensor([1, 0])
    """
    return _arg("argmax", input, dim, keepdim)


@numpy_names
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Return the index of the smallest element, as in `argmax`. As torch.argmin.

    >>> ta.argmin(ta.tensor([4, 5, 3])).item()
    2
    """
    return _arg("argmin", input, dim, keepdim)
