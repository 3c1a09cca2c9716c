"""Taking elements out by position. What goes back is zero except there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.shape import reshape_result


@operation(traits="moves chooses", view=True, x=lambda xp, g, x_shape, index: xp.place(g, index, x_shape))
def _getitem(xp: Any, x: Any, *, index: Any) -> Any:
    return xp.getitem(x, index)


@operation(traits="chooses", values=lambda xp, g, index: g[index])
def _place(xp: Any, values: Any, *, index: Any, shape: tuple[int, ...]) -> Any:
    return xp.place(values, index, shape).dense()


@backends.keeps_gpu
def getitem(input: Tensor, index: Any) -> Tensor:
    """`input[index]` with everything NumPy takes: slices, None, ..., integers, arrays, masks.

    Slices and integers give views; uint8 counts as a mask, as in PyTorch. Raises IndexError naming the position that
    does not exist.
    """
    integers, index = _integers_first(as_index(index))
    if integers is not None:
        input = _getitem(input, index=integers)
    if backends.in_use():
        index = backends.of(input.array).index_for(input.array, index)
    return _getitem(input, index=index)


def _integers_first(index: Any) -> tuple[Any, Any]:
    """Split an index that mixes integers and arrays: PyTorch takes the integers first, as a view,
    where NumPy would count them among the arrays and move the axes. (None, index) if it does not."""
    parts = index if isinstance(index, tuple) else (index,)
    arrays = [p for p in parts if type(p) not in _PLAIN and backends.is_array(p)]
    if not arrays or not any(type(p) is int for p in parts):
        return None, index
    first: list[Any] = []
    for part in parts:
        if type(part) is int or part is Ellipsis:
            first.append(part)
        elif part is not None:
            first += [slice(None)] * (part.ndim if backends.is_array(part) and part.dtype.kind == "b" else 1)
    return tuple(first), tuple(p for p in parts if type(p) is not int)


_PLAIN = (slice, int, type(None), type(Ellipsis))  # what basic indexing consists of


@backends.keeps_gpu
def place(values: Tensor, index: Any, shape: tuple[int, ...]) -> Tensor:
    """Zeros of `shape` with `values` added at `index`: the transpose of `getitem`."""
    return _place(values, index=backends.of(values.array).index_for(values.array, as_index(index), False), shape=shape)


def _value_rule(xp: Any, g: Any, index: Any) -> Any:
    """Of the values for one position, the last is there, and only that one has a gradient."""
    stays = backends.of(*(index if type(index) is tuple else (index,))).last_writes(index, g.shape)
    return g[index] if stays is None else xp.where(stays, g[index], 0.0)


@operation(traits="overwrites", x=lambda xp, g, index: xp.setitem(g, 0.0, index), value=_value_rule)
def _setitem(xp: Any, x: Any, value: Any, *, index: Any) -> Any:
    return xp.setitem(x, value, index)


def setitem(input: Tensor, value: Any, index: Any) -> Tensor:
    """A copy of `input` with `value` (broadcast) at `index`: what `x[index] = value` records."""
    return _setitem(input, value, index=index)


@backends.keeps_gpu
def write_index(index: Any, array: Any) -> Any:
    """An index for writing into `array`, with one meaning for NumPy and PyTorch."""
    library = backends.of(array)
    integers, index = _integers_first(as_index(index))
    if integers is None:
        return library.index_for(array, index)
    positions = library.arange(0, 1, array.size, np.int64).reshape(array.shape)[integers]
    positions = positions[library.index_for(positions, index)]
    steps = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    return tuple(positions // step % n for n, step in zip(array.shape, steps, strict=True))


def as_index(index: Any) -> Any:
    """An index with its tensors and lists turned into arrays. A list of other than numbers counts as a tuple, as in
    PyTorch."""
    if type(index) is tuple or (type(index) is list and len(index) < 32 and any(map(_is_index, index))):
        return tuple(map(_as_part, index))
    return _as_part(index)


def _is_index(part: Any) -> bool:
    """Whether an element of a list is an index of an axis by itself."""
    return isinstance(part, slice | list | tuple | Variable) or part is None or part is ... or backends.is_array(part)


def _as_part(index: Any) -> Any:
    if type(index) in _PLAIN:
        return index
    if isinstance(index, Variable):
        index = index.array
    elif isinstance(index, list | tuple | range):
        index = np.asarray(index, dtype=np.int64 if len(index) == 0 else None)
    if isinstance(index, np.integer):
        return int(index)
    if not backends.is_array(index):
        return index
    backends.of(index)  # makes its GPU the current one
    if index.dtype.kind not in "iub":
        raise IndexError(f"indices must be integers or booleans, got {index.dtype}")
    if index.dtype == np.uint8:
        return index != 0  # a mask in PyTorch
    if index.ndim == 0 and index.dtype.kind != "b":
        return int(index)  # a 0-d index array would turn a view into a copy
    return index.copy()  # the rule needs it as it is now


@backends.keeps_gpu
def check_indices(name: str, index: Any, size: int, what: str = "index") -> None:
    """Raise IndexError for an index outside [0, size), with the value and where it stands; of an index on a GPU, as
    soon as it is known there."""
    backends.of(index).check_indices(name, index, size, what)


def rows_of(name: str, input: Tensor, dim: Any, index: Any) -> tuple[Any, ...]:
    """The index of the slices along `dim` that one axis of integers names. Raises IndexError for others."""
    dim, index = _dims.one(dim, input.ndim), creation.as_tensor(index, device=input.device)
    if index.ndim > 1 or index.dtype.kind not in "iu":
        raise IndexError(
            f"{name}: the index has shape {tuple(index.shape)} and dtype {index.dtype}; expected one axis of integers"
        )
    check_indices(name, index.array, input.shape[dim] if input.ndim else 1)
    return (slice(None),) * dim + (index.reshape(-1),)


def index_select(input: Tensor, dim: int, index: Any) -> Tensor:
    """Return the slices of `input` along `dim` that `index` names, in its order.

    index: one axis of integers; IndexError for others and for those out of range. As torch.index_select.

    >>> ta.index_select(ta.tensor([[1, 2], [3, 4]]), 0, ta.tensor([1, 1])).tolist()
    [[3, 4], [3, 4]]
    """
    rows = rows_of("index_select", input, dim, index)
    return getitem(input, rows) if input.ndim else input.clone()


@operation(traits="moves chooses", fresh=True, x=lambda xp, g, index, x_shape, dim: xp.ungather(g, dim, index, x_shape))
def _gather(xp: Any, x: Any, index: Any, *, dim: int) -> Any:
    return xp.gather(x, dim, index)


@operation(traits="chooses", values=lambda xp, g, index, dim: xp.gather(g, dim, index))
def _scatter(xp: Any, values: Any, index: Any, *, dim: int, shape: tuple[int, ...]) -> Any:
    return xp.ungather(values, dim, index, shape)


def gather(input: Tensor, dim: int, index: Any) -> Tensor:
    """Return out[i, j] = input[index[i, j], j] for dim=0, and so on; out has the shape of `index`.

    Raises TypeError for an index that is not of integers, IndexError out of range. As torch.gather.

    >>> ta.gather(ta.tensor([[1, 2], [3, 4]]), 1, ta.tensor([[1], [0]])).tolist()
    [[2], [3]]
    """
    dim, index = _dims.one(dim, input.ndim), creation.as_tensor(index)
    if index.dtype.kind not in "iu":
        raise TypeError(f"gather: the index has dtype {index.dtype}; expected integers")
    if index.numel() == 0:  # torch lets an empty index have any number of axes
        return reshape_result(getitem(input.reshape(-1), index.reshape(-1)), index.shape)
    if (index.ndim or 1) != (input.ndim or 1) or any(
        i > n for d, (i, n) in enumerate(zip(index.shape, input.shape, strict=False)) if d != dim
    ):
        raise RuntimeError(
            f"gather: an index of shape {tuple(index.shape)} does not fit a tensor of shape {tuple(input.shape)}: "
            f"as many axes, and none longer except dimension {dim}"
        )
    check_indices("gather", index.array, input.shape[dim] if input.ndim else 1)
    if index.ndim != input.ndim:  # a number counts as one axis
        return reshape_result(gather(reshape_result(input, (-1,)), 0, index.reshape(-1)), index.shape)
    return _gather(input, index, dim=dim)


def ungather(values: Tensor, dim: int, index: Any, shape: tuple[int, ...]) -> Tensor:
    """Zeros of `shape` with `values` added where `gather` reads: its transpose."""
    return _scatter(values, index, dim=dim, shape=shape)
