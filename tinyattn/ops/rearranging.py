"""Elements repeated, on diagonals, in windows and side by side."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.indexing import place
from tinyattn.ops.joins import cat, listed
from tinyattn.ops.legacy import is_tensor
from tinyattn.ops.reductions import sum
from tinyattn.ops.shape import broadcast_to, flip, movedim, reshape, reshape_result, transpose, unsqueeze  # fmt: skip
from tinyattn.ops.synonyms import formula

swapaxes = swapdims = transpose
moveaxis = movedim


# --- repeated ---


def tile(input: Tensor, dims: Any, *more: Any) -> Tensor:
    """Return the input repeated along each axis, as often as `dims` says; fewer numbers count from the right.

    As torch.tile; Tensor.repeat refuses fewer numbers.

    >>> ta.tile(ta.tensor([1, 2]), (2,))
    tensor([1, 2, 1, 2])
    """
    times = _dims.sizes((dims, *more))
    times = (1,) * (input.ndim - len(times)) + times
    if any(n < 0 for n in times):
        raise RuntimeError(f"repeat: {times} times; expected none below 0")
    shape = (1,) * (len(times) - input.ndim) + tuple(input.shape)
    apart = [m for n in shape for m in (1, n)]
    wide = broadcast_to(reshape(input, apart), [m for n, k in zip(shape, times, strict=True) for m in (k, n)])
    return reshape_result(wide, tuple(n * k for n, k in zip(shape, times, strict=True)), input)


def repeat_interleave(input: Any, repeats: Any = None, dim: int | None = None, *, output_size: Any = None) -> Tensor:
    """Return each element (each slice along `dim`) `repeats` times; without `dim`, of the flattened input.

    repeats: an integer, or one for each slice. repeat_interleave(repeats) repeats 0, 1, 2 ... As
    torch.repeat_interleave.

    >>> ta.repeat_interleave(ta.tensor([1, 2]), 2)
    tensor([1, 1, 2, 2])
    """
    if repeats is None:
        return repeat_interleave(creation.arange(len(input), device=input.device), input)
    if dim is None:
        input, dim = reshape(input, -1), 0
    dim = _dims.one(dim, input.ndim)
    if is_tensor(repeats) and repeats.numel() == 1:
        repeats = repeats.item()
    if isinstance(repeats, int):
        if repeats < 0:
            raise RuntimeError(f"repeat_interleave: repeats={repeats}; expected 0 or more")
        shape = list(input.shape) or [1]
        wide = broadcast_to(unsqueeze(reshape(input, shape), dim + 1), [*shape[: dim + 1], repeats, *shape[dim + 1 :]])
        shape[dim] *= repeats
        return reshape_result(wide, tuple(shape), input)
    counts = np.asarray(repeats.tolist() if is_tensor(repeats) else repeats, dtype=np.int64)
    if counts.shape != (input.shape[dim],) or (counts < 0).any():
        raise RuntimeError(
            f"repeat_interleave: repeats of shape {counts.shape} for dimension {dim} of size {input.shape[dim]}; "
            "expected one number for each, none below 0"
        )
    index = np.repeat(np.arange(len(counts)), counts)
    return input.index_select(dim, creation.tensor(index, device=input.device))


# --- diagonals ---


def on_diagonal(offset: int, rows: int, columns: int) -> tuple[Any, ...]:
    """Return the index of a diagonal of matrices."""
    i = np.arange(max(-offset, 0), max(min(rows, columns - offset), max(-offset, 0)))
    return (Ellipsis, i, i + offset)


def _diagonal_rule(xp: Any, g: Any, x_shape: tuple[int, ...], offset: int) -> Any:
    index = on_diagonal(offset, *x_shape[-2:])
    return xp.place(g, index if isinstance(g, Variable) else xp.index_for(g, index, False), x_shape)


@operation(traits="moves chooses", view=True, x=_diagonal_rule)
def _diagonal(xp: Any, x: Any, *, offset: int) -> Any:
    return xp.diagonal(x, offset)


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Return a view of the diagonals of the matrices in the axes dim1 and dim2, as the last axis.

    offset: above the main diagonal, or below it if negative. As torch.diagonal.

    >>> ta.diagonal(ta.tensor([[1, 2], [3, 4]]))
    tensor([1, 4])
    """
    a, b = _dims.one(dim1, input.ndim), _dims.one(dim2, input.ndim)
    if a == b or input.ndim < 2:
        raise RuntimeError(f"diagonal: dim1={dim1} and dim2={dim2} must be two axes of shape {tuple(input.shape)}")
    if (a, b) != (input.ndim - 2, input.ndim - 1):
        input = movedim(input, (a, b), (-2, -1))
    return _diagonal(input, offset=offset)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Return matrices in the axes dim1 and dim2 with the input's last axis on a diagonal. As torch.diag_embed.

    >>> ta.diag_embed(ta.tensor([1, 2])).tolist()
    [[1, 0], [0, 2]]
    """
    n = input.shape[-1] + abs(offset)
    out = place(input, on_diagonal(offset, n, n), (*input.shape[:-1], n, n))
    return movedim(out, (-2, -1), (dim1, dim2))


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """Return the diagonal of a matrix, or the matrix with a vector on its diagonal. As torch.diag.

    >>> ta.diag(ta.tensor([1, 2])).tolist()
    [[1, 0], [0, 2]]
    """
    if input.ndim not in (1, 2):
        raise RuntimeError(f"diag: shape {tuple(input.shape)}; expected a vector or a matrix")
    return diag_embed(input, diagonal) if input.ndim == 1 else _diagonal_of(input, diagonal).clone()


_diagonal_of = diagonal


def trace(input: Tensor) -> Tensor:
    """Return the sum of the diagonal of a matrix. As torch.trace.

    >>> ta.trace(ta.tensor([[1, 2], [3, 4]])).item()
    5
    """
    if input.ndim != 2:
        raise RuntimeError(f"trace: shape {tuple(input.shape)}; expected a matrix")
    return sum(diagonal(input))


# --- parts, windows ---


def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """Return a view of `length` slices along `dim`, from `start`. As torch.narrow.

    >>> ta.narrow(ta.arange(5), 0, 1, 3)
    tensor([1, 2, 3])
    """
    dim, start = _dims.one(dim, input.ndim), _dims.as_int(start)
    n = input.shape[dim] if input.ndim else 0
    first = start + n if start < 0 else start
    if length < 0 or not 0 <= first <= n - length:
        raise RuntimeError(f"narrow: {length} slices from {start} do not lie in dimension {dim} of size {n}")
    return input[(slice(None),) * dim + (slice(first, first + length),)]


def select(input: Tensor, dim: int, index: int) -> Tensor:
    """Return a view of one slice along `dim`, without that axis. As torch.select.

    >>> ta.select(ta.tensor([[1, 2], [3, 4]]), 1, 0)
    tensor([1, 3])
    """
    return input[(slice(None),) * _dims.one(dim, input.ndim) + (_dims.as_int(index),)]


def unflatten(input: Tensor, dim: int, sizes: Any) -> Tensor:
    """Return one axis taken apart into several; one of `sizes` may be -1. As torch.unflatten.

    >>> ta.unflatten(ta.zeros(2, 12), 1, (3, -1)).shape
    (2, 3, 4)
    """
    dim, sizes = _dims.one(dim, input.ndim), _dims.sizes((sizes,))
    known = int(np.prod([n for n in sizes if n != -1]))
    sizes = tuple(input.shape[dim] // known if n == -1 and known else n for n in sizes)
    if int(np.prod(sizes)) != input.shape[dim]:
        raise RuntimeError(f"unflatten: dimension {dim} of size {input.shape[dim]} cannot become {sizes}")
    return reshape(input, (*input.shape[:dim], *sizes, *input.shape[dim + 1 :]))


def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Return that many views along `dim`, the first ones larger by one if need be, or views cut at these indices.

    As torch.tensor_split.

    >>> [x.tolist() for x in ta.tensor_split(ta.arange(5), 2)]
    [[0, 1, 2], [3, 4]]
    """
    dim, given = _dims.one(dim, input.ndim), indices_or_sections
    n = input.shape[dim]
    given = given.tolist() if is_tensor(given) else given
    if isinstance(given, int):
        if given < 1:
            raise RuntimeError(f"tensor_split: {given} sections; expected 1 or more")
        cuts = [i * (n // given) + min(i, n % given) for i in range(1, given)]
    else:
        cuts = list(given)
    edges = [0, *cuts, n]
    parts = [slice(a if i else 0, b) for i, (a, b) in enumerate(itertools.pairwise(edges))]
    return tuple(input[(slice(None),) * dim + (part,)] for part in parts)


def _unfold_rule(xp: Any, g: Any, x_shape: tuple[int, ...], dim: int, size: int, step: int) -> Any:
    library = backends.of(g.array if isinstance(g, Variable) else g)  # so that nothing goes to a GPU
    begin, within = library.arange(0, step, g.shape[dim], np.int64), library.arange(0, 1, size, np.int64)
    order = (*range(dim + 1), g.ndim - 1, *range(dim + 1, g.ndim - 1))  # the windows beside their axis
    return xp.place(xp.permute(g, order), (slice(None),) * dim + (begin[:, None] + within,), x_shape)


@operation(traits="moves chooses", view=True, x=_unfold_rule)
def _unfold(xp: Any, x: Any, *, dim: int, size: int, step: int) -> Any:
    shape, stride = list(x.shape), [n // x.itemsize for n in x.strides]
    shape[dim] = (shape[dim] - size) // step + 1
    return xp.as_strided(x, (*shape, size), (*stride[:dim], stride[dim] * step, *stride[dim + 1 :], stride[dim]), 0)


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Return a view of windows of `size` elements along an axis, `step` apart, in a new last axis.

    Raises RuntimeError for windows that do not fit. As torch.Tensor.unfold.

    >>> ta.arange(5).unfold(0, 3, 2).tolist()
    [[0, 1, 2], [2, 3, 4]]
    """
    dim = _dims.one(dimension, input.ndim)
    if input.ndim == 0:
        return reshape(input, 1)[:size]
    if not 0 <= size <= input.shape[dim] or step < 1:
        raise RuntimeError(
            f"unfold: windows of {size}, {step} apart, along dimension {dim} of size {input.shape[dim]}; "
            "expected a size that fits, and steps above 0"
        )
    return _unfold(input, dim=dim, size=_dims.as_int(size), step=_dims.as_int(step))


def _as_strided_rule(xp: Any, g: Any, x_shape: tuple[int, ...], places: Any) -> Any:
    return xp.reshape(xp.ungather(xp.reshape(g, (-1,)), 0, places, (math.prod(x_shape),)), x_shape)


@operation(traits="moves chooses", view=True, x=_as_strided_rule)
def _as_strided(xp: Any, x: Any, places: Any, *, size: Any, stride: Any, offset: int) -> Any:
    return xp.as_strided(x, size, stride, offset)


def as_strided(input: Tensor, size: Any, stride: Any, storage_offset: int | None = None) -> Tensor:
    """Return a view of this size: the elements of the input's memory at `storage_offset` + index * `stride`.

    storage_offset: from the beginning of the memory, by default where the input begins. Elements may be named several
    times, as in overlapping windows, which cannot be written to. Raises RuntimeError for places that are no element of
    the input. As torch.as_strided, which reaches all of the memory.

    >>> ta.as_strided(ta.arange(4), (3, 2), (1, 1)).tolist()
    [[0, 1], [1, 2], [2, 3]]
    """
    size, stride = _dims.sizes((size,)), _dims.sizes((stride,))
    if len(size) != len(stride):
        raise RuntimeError(f"as_strided: size={size} and stride={stride}; expected as many numbers of both")
    begin = 0 if input._base is None else (input.data_ptr() - input._base.data_ptr()) // input.element_size()
    offset = 0 if storage_offset is None else storage_offset - begin
    places = _memory(size, stride) + offset
    if input.is_contiguous():
        found, inside = places, not places.size or 0 <= places.min() <= places.max() < input.numel()
    else:
        own = _memory(tuple(input.shape), input.stride()).reshape(-1)
        order = np.argsort(own, kind="stable")
        found = order[np.searchsorted(own[order], places).clip(max=own.size - 1)] if own.size else places
        inside = not places.size or bool(own.size and (own[found] == places).all())
    if not inside:
        raise RuntimeError(
            f"as_strided: size={size}, stride={stride} and storage_offset={storage_offset} reach elements outside of "
            f"the input of shape {tuple(input.shape)} and strides {input.stride()}"
        )
    found = creation.tensor(found.reshape(-1), dtype="int64", device=input.device)
    return _as_strided(input, found, size=size, stride=stride, offset=offset)


def _memory(size: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    """The places in memory, in elements, of all elements of a tensor."""
    places: Any = np.zeros(size, np.int64)
    for d, (n, step) in enumerate(zip(size, stride, strict=True)):
        places += (np.arange(n) * step).reshape(-1, *(1,) * (len(size) - d - 1))
    return places


fliplr = formula(
    "fliplr", "a copy with the columns in reverse order", "ta.tensor([[1, 2]])", [[2, 1]], lambda input: flip(input, 1)
)
flipud = formula(
    "flipud", "a copy with the rows in reverse order", "ta.tensor([[1], [2]])", [[2], [1]], lambda input: flip(input, 0)
)


# --- side by side ---


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """Return views of vectors (or numbers) expanded to the grid of all their combinations.

    indexing: "ij" (by default), or "xy", which swaps the first two axes. As torch.meshgrid.

    >>> [x.tolist() for x in ta.meshgrid(ta.tensor([1, 2]), ta.tensor([3, 4]), indexing="ij")]
    [[[1, 1], [2, 2]], [[3, 4], [3, 4]]]
    """
    if len(tensors) == 1 and isinstance(tensors[0], list | tuple):
        tensors = tuple(tensors[0])
    if indexing not in (None, "ij", "xy"):
        raise RuntimeError(f"meshgrid: indexing={indexing!r}; expected 'ij' or 'xy'")
    if any(t.ndim > 1 for t in tensors):
        raise RuntimeError(f"meshgrid: shapes {[tuple(t.shape) for t in tensors]}; expected vectors or numbers")
    shape = tuple(t.numel() for t in tensors)
    grids = [
        broadcast_to(reshape(t, [-1 if d == i else 1 for d in range(len(shape))]), shape) for i, t in enumerate(tensors)
    ]
    return tuple(transpose(g, 0, 1) for g in grids) if indexing == "xy" and len(grids) > 1 else tuple(grids)


def at_least(ndim: int, tensors: Any) -> list[Tensor]:
    """Return each, itself or a view with axes of size 1 in front; of 3, vectors and matrices get the last behind."""
    out = []
    for t in tensors:
        if t.ndim >= ndim:
            out.append(t)
            continue
        shape = tuple(t.shape) or (1,)
        out.append(reshape(t, {1: shape, 2: (1, *shape), 3: (*(1, *shape)[-2:], 1)}[ndim]))
    return out


def hstack(tensors: Any) -> Tensor:
    """Return tensors joined along the second axis, vectors along the first. As torch.hstack.

    >>> ta.hstack([ta.tensor([1]), ta.tensor([2])])
    tensor([1, 2])
    """
    parts = at_least(1, listed("hstack", tensors))
    return cat(parts, 0 if parts[0].ndim == 1 else 1)


vstack = row_stack = formula(
    "vstack", "tensors joined along the first axis, vectors as rows", "[ta.tensor([1]), ta.tensor([2])]", [[1], [2]],
    lambda tensors: cat(at_least(2, listed("vstack", tensors)), 0),
)  # fmt: skip
dstack = formula(
    "dstack", "tensors joined along the third axis", "[ta.tensor([1]), ta.tensor([2])]", [[[1, 2]]],
    lambda tensors: cat(at_least(3, listed("dstack", tensors)), 2),
)  # fmt: skip


def column_stack(tensors: Any) -> Tensor:
    """Return tensors joined along the second axis, vectors as columns. As torch.column_stack.

    >>> ta.column_stack([ta.tensor([1]), ta.tensor([2])]).tolist()
    [[1, 2]]
    """
    return cat([reshape(t, -1, 1) if t.ndim < 2 else t for t in listed("column_stack", tensors)], 1)
