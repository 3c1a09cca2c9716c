"""Writing at positions: out of place here, in place in methods.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import ne, where
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import add
from tinyattn.ops.indexing import check_indices, gather, getitem, place, rows_of, setitem, ungather, write_index
from tinyattn.ops.joins import stack
from tinyattn.ops.shape import broadcast_to, reshape


def index_of(name: str, input: Tensor, dim: Any, index: Any, source: Any = None) -> tuple[int, Tensor]:
    """Return `dim` counted from the front, and `index` as int64, checked: as many axes, none longer but `dim`."""
    dim, index = _dims.one(dim, input.ndim), creation.as_tensor(index, device=input.device)
    if index.dtype.kind not in "iu":
        raise RuntimeError(f"{name}: the index has dtype {index.dtype}; expected int64 (index.long())")
    for what, other in (("tensor", input), ("source", source)):
        if isinstance(other, Variable) and index.numel():
            fits = zip(index.shape, other.shape, strict=False)
            longer = any(n > m and (d != dim or what == "source") for d, (n, m) in enumerate(fits))
            if (index.ndim or 1) != (other.ndim or 1) or longer:
                raise RuntimeError(
                    f"{name}: an index of shape {tuple(index.shape)} does not fit a {what} of shape "
                    f"{tuple(other.shape)}: as many axes, and none longer"
                )
    check_indices(name, index.array, input.shape[dim] if input.ndim else 1)
    return dim, cast(index, "int64")


def _cut(source: Tensor, index: Tensor) -> Tensor:
    return source if source.shape == index.shape else source[tuple(slice(0, n) for n in index.shape)]


def untouched(input: Tensor, src: Any) -> Tensor:
    """A copy of the input that also depends on `src`, which gets a gradient of zeros."""
    if not isinstance(src, Variable):
        return input.clone()
    flat, none = reshape(input, -1), creation.zeros(0, dtype="int64", device=input.device)
    return reshape(setitem(flat, cast(reshape(src, -1)[:0], input.dtype), write_index(none, flat.array)), input.shape)


@backends.keeps_gpu
def scatter(
    input: Tensor, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Tensor:
    """Return a copy of the input with out[index[i, j], j] = src[i, j] for dim=0, and so on.

    src: a tensor that is not smaller than `index`, or a number (or `value`). reduce="add" adds instead. Raises
    RuntimeError for shapes that do not fit, IndexError out of range. As torch.scatter.

    >>> ta.scatter(ta.zeros(2, 3), 1, ta.tensor([[0], [2]]), 1.0).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    src = value if src is None else src
    if reduce not in (None, "add"):
        raise ValueError(f"scatter: reduce={reduce!r}; expected None or 'add' (scatter_reduce has others)")
    dim, index = index_of("scatter", input, dim, index, src)
    if index.numel() == 0:
        return untouched(input, src)
    number = not isinstance(src, Variable)
    if number:
        src = creation.full(index.shape if reduce else (), src, dtype=input.dtype, device=input.device)
    if reduce == "add":
        return scatter_add(input, dim, index, src)
    library = backends.of(index.array)
    grid = [
        library.arange(0, 1, n, index.dtype).reshape([-1 if d == axis else 1 for d in range(index.ndim)])
        for axis, n in enumerate(index.shape)
    ] or [None]
    grid[dim] = index.array
    return _assigned(input, src if number else cast(_cut(src, index), input.dtype), tuple(grid))


def _assigned(input: Tensor, value: Tensor, index: Any) -> Tensor:
    if input.ndim == 0:  # one element
        return reshape(_assigned(reshape(input, 1), reshape(value, -1)[-1], index), ())
    return setitem(input, value, write_index(index, input.array))


def scatter_add(input: Tensor, dim: int, index: Any, src: Tensor) -> Tensor:
    """Return the input with src[i, j] added to out[index[i, j], j] for dim=0, and so on. As torch.scatter_add.

    >>> ta.scatter_add(ta.zeros(3), 0, ta.tensor([0, 2, 2]), ta.tensor([1.0, 2.0, 3.0]))
    tensor([1., 0., 5.])
    """
    dim, index = index_of("scatter_add", input, dim, index, src)
    if src.dtype != input.dtype:
        raise RuntimeError(f"scatter_add: the source has dtype {src.dtype}; expected {input.dtype}, as the tensor has")
    if index.numel() == 0:
        return untouched(input, src)
    return input + ungather(_cut(src, index), dim, index, input.shape)


def index_add(input: Tensor, dim: int, index: Any, source: Tensor, *, alpha: float = 1) -> Tensor:
    """Return the input with alpha * `source` added to the slices that `index` names along `dim`. As torch.index_add.

    >>> ta.index_add(ta.zeros(3), 0, ta.tensor([0, 2, 2]), ta.tensor([1.0, 2.0, 3.0]))
    tensor([1., 0., 5.])
    """
    rows = rows_of("index_add", input, dim, index)
    return add(input, place(source, rows, input.shape) if input.ndim else cast(source.sum(), source.dtype), alpha=alpha)


def index_copy(input: Tensor, dim: int, index: Any, source: Tensor) -> Tensor:
    """Return the input with the slices of `source` for those that `index` names along `dim`. As torch.index_copy.

    >>> ta.index_copy(ta.zeros(3), 0, ta.tensor([2, 0]), ta.tensor([5.0, 6.0]))
    tensor([6., 0., 5.])
    """
    return _assigned(input, source, rows_of("index_copy", input, dim, index))


def index_fill(input: Tensor, dim: int, index: Any, value: Any) -> Tensor:
    """Return the input with a number in the slices that `index` names along `dim`. As torch.index_fill.

    >>> ta.index_fill(ta.zeros(3), 0, ta.tensor([2, 0]), 5)
    tensor([5., 0., 5.])
    """
    if not isinstance(value, Variable):
        value = creation.full((), value, dtype=input.dtype, device=input.device)
    return _assigned(input, cast(value, input.dtype), rows_of("index_fill", input, dim, index))


def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """Return the elements where `mask` holds, as one axis; both broadcast. Synchronises a GPU. As torch.masked_select.

    >>> ta.masked_select(ta.tensor([1, 2, 3]), ta.tensor([True, False, True]))
    tensor([1, 3])
    """
    if mask.dtype.kind != "b":
        raise RuntimeError(f"masked_select: the mask has dtype {mask.dtype}; expected bool (write mask != 0)")
    shape = np.broadcast_shapes(input.shape, mask.shape)
    return getitem(broadcast_to(input, shape).reshape(-1), broadcast_to(mask, shape).reshape(-1))


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """Return the input with the elements of `source`, in order, where `mask` holds. As torch.masked_scatter.

    >>> ta.masked_scatter(ta.zeros(3), ta.tensor([True, False, True]), ta.tensor([5.0, 6.0]))
    tensor([5., 0., 6.])
    """
    shape = np.broadcast_shapes(input.shape, mask.shape)
    input, mask = broadcast_to(input, shape), broadcast_to(mask, shape)
    count = int(mask.sum())
    return setitem(input, source.reshape(-1)[:count], write_index(mask, input.array))


def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Return the indices of the elements that are not 0, (count, axes); as_tuple: one tensor for each axis.

    Synchronises a GPU. As torch.nonzero.

    >>> ta.nonzero(ta.tensor([0, 5, 6])).tolist()
    [[1], [2]]
    """
    found: tuple[Tensor, ...] = where(ne(input.reshape(1) if input.ndim == 0 else input, 0))
    if as_tuple:
        return found
    return stack(found, 1)[:, : input.ndim]


argwhere = nonzero


def take(input: Tensor, index: Tensor) -> Tensor:
    """Return the elements of the flattened input that `index` names, in its shape. As torch.take.

    >>> ta.take(ta.tensor([[1, 2], [3, 4]]), ta.tensor([0, 3]))
    tensor([1, 4])
    """
    return getitem(reshape(input, -1), index.reshape(-1)).reshape(index.shape)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Return `gather` with the other axes broadcast; without `dim`, of the flattened input. As torch.take_along_dim.

    >>> ta.take_along_dim(ta.tensor([[3, 1], [2, 4]]), ta.tensor([[1], [0]]), 1).tolist()
    [[1], [2]]
    """
    if dim is None:
        return gather(reshape(input, -1), 0, indices.reshape(-1))
    dim = _dims.one(dim, input.ndim)
    shape = [max(n, m) if 0 not in (n, m) else 0 for n, m in zip(input.shape, indices.shape, strict=True)]
    indices = where(indices < 0, indices + input.shape[dim], indices)
    ours, theirs = list(shape), list(shape)
    ours[dim], theirs[dim] = input.shape[dim], indices.shape[dim]
    return gather(broadcast_to(input, ours), dim, broadcast_to(indices, theirs))
