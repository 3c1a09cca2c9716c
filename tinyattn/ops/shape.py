"""Operations that move elements about without changing them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import dims as _dims
from tinyattn.ops.copies import unshared
from tinyattn.ops.synonyms import bound, numpy_names

# --- the same elements under another shape ---


@operation(traits="moves", view=True, x=lambda xp, g, x_shape: xp.reshape(g, x_shape))
def _reshape(xp: Any, x: Any, *, shape: tuple[int, ...]) -> Any:
    return xp.reshape(x, shape)


def reshape(input: Tensor, shape: Any, *more: Any) -> Tensor:
    """Return the same elements in another shape, a view where memory allows it.

    shape: one tuple or separate integers; one size may be -1. Raises RuntimeError if the number of elements
    differs. As torch.reshape.

    >>> ta.reshape(ta.arange(6), 2, -1)
    tensor([[0, 1, 2],
            [3, 4, 5]])
    """
    target = _dims.sizes((shape, *more))
    wild = [i for i, n in enumerate(target) if n == -1]
    known = math.prod(n for n in target if n != -1)
    if len(wild) == 1 and known and input.numel() % known == 0:
        target = tuple(input.numel() // known if n == -1 else n for n in target)
    if (wild and -1 in target) or math.prod(target) != input.numel():
        raise RuntimeError(
            f"reshape: shape {tuple(input.shape)} holds {input.numel()} elements and cannot become {target}"
        )
    return _reshape(input, shape=target)


def view(input: Tensor, shape: Any, *more: Any) -> Tensor:
    """Return `reshape(input, shape)`; or for a dtype the same bytes read as numbers of that, without a gradient.

    A dtype of another size changes the last axis, which must be contiguous then; RuntimeError if it cannot. As
    torch.Tensor.view.

    >>> ta.tensor([1.0]).view(ta.int32).item() == 0x3F800000
    True
    """
    if not isinstance(shape, np.dtype):
        return reshape(input, shape, *more)
    try:
        array = input.array.view(shape)
    except ValueError as error:
        raise RuntimeError(f"view: {error}: {input.dtype} {tuple(input.shape)} as {shape}") from None
    found: Tensor = Variable._from(array, None, input.storage)
    return found


def reshape_result(out: Tensor, shape: tuple[int, ...], of: Tensor | None = None) -> Tensor:
    """Return `reshape` of a new result that only the caller holds: no view to its user, who may change it in place.

    of: the tensor that `out` may be a view of; if the reshaped one still is, it is copied.
    """
    out = reshape(out, shape)
    if of is not None:
        out = unshared(out, of)
    out._base = None
    return out


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Return the axes from `start_dim` to `end_dim` joined into one; of one axis, the input itself. As torch.flatten.

    >>> ta.flatten(ta.zeros(2, 3, 4), 1).shape
    (2, 12)
    """
    start, end = _dims.one(start_dim, input.ndim), _dims.one(end_dim, input.ndim)
    if start > end:
        raise RuntimeError(f"flatten: start_dim={start_dim} lies behind end_dim={end_dim}")
    if start == end and input.ndim:
        return input
    joined = math.prod(input.shape[start : end + 1])
    return reshape(input, (*input.shape[:start], joined, *input.shape[end + 1 :]))


@numpy_names
def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Return the input without axes of size 1: all of them, or those in `dim`. As torch.squeeze.

    >>> ta.squeeze(ta.zeros(1, 3, 1)).shape
    (3,)
    """
    if dim is None:
        drop = set(range(input.ndim))
    else:
        drop = {_dims.one(d, input.ndim) for d in (dim if isinstance(dim, tuple | list) else (dim,))}
    return reshape(input, tuple(n for i, n in enumerate(input.shape) if n != 1 or i not in drop))


@numpy_names
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Return the input with an axis of size 1 inserted before `dim`. As torch.unsqueeze.

    >>> ta.unsqueeze(ta.zeros(3), -1).shape
    (3, 1)
    """
    dim = _dims.one(dim, input.ndim + 1)
    return reshape(input, (*input.shape[:dim], 1, *input.shape[dim:]))


# --- other orders ---


def _inverse(dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(dims)), key=dims.__getitem__))


@operation(traits="moves", view=True, x=lambda xp, g, dims: xp.permute(g, _inverse(dims)))
def _permute(xp: Any, x: Any, *, dims: tuple[int, ...]) -> Any:
    return xp.permute(x, dims)


def permute(input: Tensor, dims: Any, *more: Any) -> Tensor:
    """Return a view with the axes in the order `dims`, which names each once. As torch.permute.

    >>> ta.permute(ta.zeros(2, 3, 4), 2, 0, 1).shape
    (4, 2, 3)
    """
    given = _dims.sizes((dims, *more))
    order = tuple(_dims.one(d, input.ndim) for d in given)
    if len(order) != input.ndim or len(set(order)) != input.ndim:
        raise RuntimeError(f"permute: dims={given} must name each of the {input.ndim} dimensions once")
    return _permute(input, dims=order)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Return a view with two axes swapped. As torch.transpose.

    >>> ta.transpose(ta.zeros(2, 3, 4), -2, -1).shape
    (2, 4, 3)
    """
    order = list(range(input.ndim))
    a, b = _dims.one(dim0, input.ndim), _dims.one(dim1, input.ndim)
    if order:
        order[a], order[b] = order[b], order[a]
    return _permute(input, dims=tuple(order))


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Return a view with the axes `source` moved to the positions `destination`. As torch.movedim.

    >>> ta.movedim(ta.zeros(2, 3, 4), 0, -1).shape
    (3, 4, 2)
    """
    sources = [_dims.one(d, input.ndim) for d in (source if isinstance(source, tuple | list) else [source])]
    targets = destination if isinstance(destination, tuple | list) else [destination]
    targets = [_dims.one(d, input.ndim) for d in targets]
    if len(sources) != len(targets) or len({*sources}) < len(sources) or len({*targets}) < len(targets):
        raise RuntimeError(f"movedim: source={source} and destination={destination} must pair distinct dimensions")
    order = [d for d in range(input.ndim) if d not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return permute(input, order[: input.ndim])  # a 0-d tensor has an axis 0 to name, and none to move


@operation(traits="moves", fresh=True, x=lambda xp, g, dims: xp.flip(g, dims))
def _flip(xp: Any, x: Any, *, dims: tuple[int, ...]) -> Any:
    return xp.flip(x, dims)


def flip(input: Tensor, dims: Any, *more: Any) -> Tensor:
    """Return a copy with the order along `dims` reversed. As torch.flip.

    >>> ta.flip(ta.tensor([1, 2, 3]), 0)
    tensor([3, 2, 1])
    """
    order = tuple(_dims.one(d, input.ndim) for d in _dims.sizes((dims, *more)))
    if len(set(order)) < len(order):
        raise RuntimeError(f"flip: dims={order} names a dimension twice")
    return _flip(input, dims=order)


@operation(traits="moves", fresh=True, x=lambda xp, g, shifts, dims: xp.roll(g, tuple(-s for s in shifts), dims))
def _roll(xp: Any, x: Any, *, shifts: tuple[int, ...], dims: tuple[int, ...]) -> Any:
    return xp.roll(x, shifts, dims)


def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Return the elements shifted along `dims`; those that leave one end enter at the other.

    shifts, dims: integers, or tuples of one length (RuntimeError otherwise); without `dims`, the flattened tensor is
    shifted. As torch.roll.

    >>> ta.roll(ta.tensor([1, 2, 3]), 1)
    tensor([3, 1, 2])
    """
    moves = _dims.sizes((shifts,))
    if not moves:
        raise RuntimeError("roll: shifts is empty; expected an integer, or one for each dimension")
    if dims is None or dims == ():
        return reshape_result(_roll(reshape(input, -1), shifts=moves, dims=(0,) * len(moves)), input.shape)
    axes = tuple(_dims.one(d, input.ndim) for d in _dims.sizes((dims,)))
    if len(axes) != len(moves):
        raise RuntimeError(f"roll: {len(moves)} shifts for {len(axes)} dimensions; expected as many")
    return _roll(input, shifts=moves, dims=axes) if input.ndim else input.clone()


# --- more elements, or fewer ---


@operation(traits="moves", view=True, x=lambda xp, g, x_shape: xp.sum_to(g, x_shape))
def _broadcast_to(xp: Any, x: Any, *, shape: tuple[int, ...]) -> Any:
    return xp.broadcast_to(x, shape)


def broadcast_to(input: Tensor, size: Any, *more: Any) -> Tensor:
    """Return a view repeated along axes of size 1 and along new leading axes; -1 keeps a size.

    Raises RuntimeError for a shape that the input does not broadcast to. As torch.broadcast_to and Tensor.expand.

    >>> ta.broadcast_to(ta.tensor([1, 2]), (2, 2)).tolist()
    [[1, 2], [1, 2]]
    """
    target = list(_dims.sizes((size, *more)))
    ahead = len(target) - input.ndim
    for i, n in enumerate(target):
        own = input.shape[i - ahead] if i >= ahead >= 0 else None
        if n == -1 and own is not None:
            target[i] = own
        if ahead < 0 or n < -1 or (n == -1 and own is None) or (own not in (None, 1, target[i])):
            raise RuntimeError(f"expand: shape {tuple(input.shape)} cannot be expanded to {tuple(target)} (axis {i})")
    return _broadcast_to(input, shape=tuple(target))


expand = broadcast_to


@operation(traits="moves masks", fresh=True, x=lambda xp, g, diagonal: xp.tril(g, diagonal))
def _tril(xp: Any, x: Any, *, diagonal: int) -> Any:
    return xp.tril(x, diagonal)


@operation(traits="moves masks", fresh=True, x=lambda xp, g, diagonal: xp.triu(g, diagonal))
def _triu(xp: Any, x: Any, *, diagonal: int) -> Any:
    return xp.triu(x, diagonal)


def _triangle(op: Operation, input: Tensor, diagonal: int = 0) -> Tensor:
    if input.ndim < 2:
        raise RuntimeError(f"{op.name}: expected matrices (..., rows, columns), got shape {tuple(input.shape)}")
    return op(input, diagonal=diagonal)


@bound(_triangle, _tril)
def tril() -> None:
    """Return the lower triangle of matrices (..., rows, columns), with zeros above `diagonal`. As torch.tril.

    >>> ta.tril(ta.ones(2, 2))
    tensor([[1., 0.],
            [1., 1.]])
    """


@bound(_triangle, _triu)
def triu() -> None:
    """Return the upper triangle of matrices (..., rows, columns), with zeros below `diagonal`. As torch.triu.

    >>> ta.triu(ta.ones(2, 2), 1)
    tensor([[0., 1.],
            [0., 0.]])
    """
