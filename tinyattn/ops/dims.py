"""Checking and normalising the arguments that name dimensions and shapes."""

from __future__ import annotations

import operator
from typing import Any


def as_int(x: Any) -> int:
    """An integer given as int, NumPy integer or one-element integer tensor; True is none, as in x.sum(True)."""
    if isinstance(x, bool):
        raise TypeError(f"{x} is given for a dimension or a size; expected an integer, or keepdim={x}")
    if hasattr(x, "item") and not isinstance(x, int):
        x = x.item()
    try:
        return operator.index(x)
    except TypeError:
        raise TypeError(f"{x!r} is given for a dimension or a size; expected an integer") from None


def one(dim: Any, ndim: int) -> int:
    """`dim` counted from the front. A 0-d tensor accepts 0 and -1, as in PyTorch."""
    dim, limit = as_int(dim), max(ndim, 1)
    if not -limit <= dim < limit:
        raise IndexError(f"dimension {dim} is out of range for a tensor with {ndim}; expected {-limit} to {limit - 1}")
    return dim % limit


def several(dim: Any, ndim: int) -> tuple[int, ...]:
    """Dimensions to reduce: None and () mean all of them."""
    if dim is None:
        return tuple(range(ndim))
    if not isinstance(dim, tuple | list):
        dims: tuple[int, ...] = (one(dim, ndim),)
    elif not dim:
        return tuple(range(ndim))
    else:
        dims = tuple(one(d, ndim) for d in dim)
    if len(set(dims)) < len(dims):
        raise ValueError(f"dim={dim} names a dimension twice")
    return dims if ndim else ()


def sizes(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape given as one tuple or as separate integers."""
    if len(shape) == 1 and isinstance(shape[0], tuple | list):
        shape = tuple(shape[0])
    return tuple(as_int(n) for n in shape)


def kept(shape: tuple[int, ...], dims: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` after a reduction over `dims` that keeps them with size 1."""
    return tuple(1 if i in dims else n for i, n in enumerate(shape))
