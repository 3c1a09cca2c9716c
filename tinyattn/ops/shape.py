"""Operations that move elements about without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.promotion import same_type

# --- the same elements under another shape ---


@operation(traits="moves", view=True, x=lambda xp, g, x_shape: xp.reshape(g, x_shape))
def _reshape(xp: Any, x: Any, *, shape: tuple[int, ...]) -> Any:
    return xp.reshape(x, shape)


def reshape(input: Tensor, shape: Any, *more: Any) -> Tensor:
    """The same elements in another shape; one size may be -1. A view where memory allows it.

    As torch.reshape (and Tensor.view, which here never fails).
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


view = reshape


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Join the axes from `start_dim` to `end_dim` into one. As torch.flatten."""
    start, end = _dims.one(start_dim, input.ndim), _dims.one(end_dim, input.ndim)
    if start > end:
        raise RuntimeError(f"flatten: start_dim={start_dim} lies behind end_dim={end_dim}")
    joined = math.prod(input.shape[start : end + 1])
    return reshape(input, (*input.shape[:start], joined, *input.shape[end + 1 :]))


def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Drop axes of size 1: all of them, or those in `dim`. As torch.squeeze."""
    if dim is None:
        drop = set(range(input.ndim))
    else:
        drop = {_dims.one(d, input.ndim) for d in (dim if isinstance(dim, tuple | list) else (dim,))}
    return reshape(input, tuple(n for i, n in enumerate(input.shape) if n != 1 or i not in drop))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Insert an axis of size 1 before `dim`. As torch.unsqueeze."""
    dim = _dims.one(dim, input.ndim + 1)
    return reshape(input, (*input.shape[:dim], 1, *input.shape[dim:]))


# --- other orders ---


def _inverse(dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(dims)), key=dims.__getitem__))


@operation(traits="moves", view=True, x=lambda xp, g, dims: xp.permute(g, _inverse(dims)))
def _permute(xp: Any, x: Any, *, dims: tuple[int, ...]) -> Any:
    return xp.permute(x, dims)


def permute(input: Tensor, dims: Any, *more: Any) -> Tensor:
    """Reorder the axes; a view. As torch.permute."""
    given = _dims.sizes((dims, *more))
    order = tuple(_dims.one(d, input.ndim) for d in given)
    if len(order) != input.ndim or len(set(order)) != input.ndim:
        raise RuntimeError(f"permute: dims={given} must name each of the {input.ndim} dimensions once")
    return _permute(input, dims=order)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Swap two axes; a view. As torch.transpose."""
    order = list(range(input.ndim))
    a, b = _dims.one(dim0, input.ndim), _dims.one(dim1, input.ndim)
    if order:
        order[a], order[b] = order[b], order[a]
    return _permute(input, dims=tuple(order))


def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """Move the axes `source` to the places `destination`; a view. As torch.movedim."""
    sources = [_dims.one(d, input.ndim) for d in (source if isinstance(source, tuple | list) else [source])]
    targets = destination if isinstance(destination, tuple | list) else [destination]
    targets = [_dims.one(d, input.ndim) for d in targets]
    if len(sources) != len(targets) or len({*sources}) < len(sources) or len({*targets}) < len(targets):
        raise RuntimeError(f"movedim: source={source} and destination={destination} must pair distinct dimensions")
    order = [d for d in range(input.ndim) if d not in sources]
    for target, origin in sorted(zip(targets, sources, strict=True)):
        order.insert(target, origin)
    return permute(input, order)


@operation(traits="moves", x=lambda xp, g, dims: xp.flip(g, dims))
def _flip(xp: Any, x: Any, *, dims: tuple[int, ...]) -> Any:
    return xp.flip(x, dims)


def flip(input: Tensor, dims: Any, *more: Any) -> Tensor:
    """Reverse the order along `dims`; a copy. As torch.flip."""
    order = tuple(_dims.one(d, input.ndim) for d in _dims.sizes((dims, *more)))
    if len(set(order)) < len(order):
        raise RuntimeError(f"flip: dims={order} names a dimension twice")
    return _flip(input, dims=order)


@operation(traits="moves", x=lambda xp, g, shifts, dims: xp.roll(g, tuple(-s for s in shifts), dims))
def _roll(xp: Any, x: Any, *, shifts: tuple[int, ...], dims: tuple[int, ...]) -> Any:
    return xp.roll(x, shifts, dims)


def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Shift along `dims`, what falls out coming back in; without dims, of the flattened tensor. As torch.roll."""
    moves = _dims.sizes((shifts,))
    if dims is None or dims == ():
        return _roll(reshape(input, -1), shifts=moves, dims=(0,) * len(moves)).reshape(input.shape)
    axes = tuple(_dims.one(d, input.ndim) for d in _dims.sizes((dims,)))
    if len(axes) != len(moves):
        raise RuntimeError(f"roll: {len(moves)} shifts for {len(axes)} dimensions; expected as many")
    return _roll(input, shifts=moves, dims=axes) if input.ndim else input.clone()


# --- more elements, or fewer ---


@operation(traits="moves", view=True, x=lambda xp, g, x_shape: xp.sum_to(g, x_shape))
def _broadcast_to(xp: Any, x: Any, *, shape: tuple[int, ...]) -> Any:
    return xp.broadcast_to(x, shape)


def broadcast_to(input: Tensor, size: Any, *more: Any) -> Tensor:
    """Repeat along axes of size 1 and new leading axes, without copying; -1 keeps a size.

    As torch.broadcast_to and Tensor.expand.
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


@operation(traits="moves masks", x=lambda xp, g, diagonal: xp.tril(g, diagonal))
def _tril(xp: Any, x: Any, *, diagonal: int) -> Any:
    return xp.tril(x, diagonal)


@operation(traits="moves masks", x=lambda xp, g, diagonal: xp.triu(g, diagonal))
def _triu(xp: Any, x: Any, *, diagonal: int) -> Any:
    return xp.triu(x, diagonal)


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices (..., rows, columns), zero above `diagonal`. As torch.tril."""
    return _tril(_matrices("tril", input), diagonal=diagonal)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices (..., rows, columns), zero below `diagonal`. As torch.triu."""
    return _triu(_matrices("triu", input), diagonal=diagonal)


def _matrices(name: str, input: Tensor) -> Tensor:
    if input.ndim < 2:
        raise RuntimeError(f"{name}: expected matrices (..., rows, columns), got shape {tuple(input.shape)}")
    return input


def _inner(pad: Any, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(before, before + n) for (before, _), n in zip(pad, shape, strict=True))


@operation(traits="moves chooses", x=lambda xp, g, x_shape, pad: g[_inner(pad, x_shape)])
def _pad(xp: Any, x: Any, *, pad: Any, value: float) -> Any:
    return xp.pad(x, pad, value)


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Add elements around: `pad` holds (before, after) of the last axis, then of the last but one ...

    Negative numbers crop. mode: "constant" (with `value`), "reflect", "replicate" or "circular".
    As torch.nn.functional.pad.
    """
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: {tuple(pad)} must hold a (before, after) for at most {input.ndim} axes")
    pairs = [(0, 0)] * (input.ndim - len(pad) // 2) + [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    if any(a + b < -n for n, (a, b) in zip(input.shape, pairs, strict=True)):
        raise ValueError(f"pad: {tuple(pad)} crops more than shape {tuple(input.shape)} has")
    if mode == "constant":
        crop = tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(input.shape, pairs, strict=True))
        if any(a < 0 or b < 0 for a, b in pairs):
            input = input[crop]
        grow = tuple((max(a, 0), max(b, 0)) for a, b in pairs)
        return _pad(input, pad=grow, value=0.0 if value is None else value)
    if mode not in _SOURCES:
        raise ValueError(f"pad: mode={mode!r}; expected 'constant', 'reflect', 'replicate' or 'circular'")
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            if mode == "circular":  # what is cropped does not come round again
                input = input[(slice(None),) * axis + (slice(max(-before, 0), input.shape[axis] - max(-after, 0)),)]
                before, after = max(before, 0), max(after, 0)
            n = input.shape[axis]
            if (mode == "reflect" and max(before, after) >= n) or (mode == "circular" and max(before, after) > n):
                raise ValueError(f"pad: {(before, after)} is too wide to {mode} axis {axis} of size {n}")
            source = [_SOURCES[mode](i, n) for i in range(-before, n + after)]
            input = input[(slice(None),) * axis + (creation.tensor(source, dtype="int64", device=input.device),)]
    return input


# Which element stands at place i of an axis of size n that is padded beyond its ends.
_SOURCES = {
    "reflect": lambda i, n: n - 1 - abs(n - 1 - abs(i)),
    "replicate": lambda i, n: min(max(i, 0), n - 1),
    "circular": lambda i, n: i % n,
}


# --- together and apart ---


def _cat_rule(xp: Any, g: Any, xs_shapes: Any, dim: int) -> list[Any]:
    parts, start = [], 0
    for shape in xs_shapes:
        stop = start + shape[dim]
        parts.append(g[(slice(None),) * dim + (slice(start, stop),)])
        start = stop
    return parts


@operation(traits="moves chooses", promote=same_type, backward=_cat_rule)
def _cat(xp: Any, *xs: Any, dim: int) -> Any:
    return xp.cat(xs, dim)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors along an axis they have; the other sizes are equal. As torch.cat."""
    tensors = [creation.as_tensor(t) for t in tensors]
    if not tensors:
        raise ValueError("cat: expected at least one tensor, got none")
    full = [t for t in tensors if t.shape != (0,)] or tensors[:1]  # torch skips these, whatever the rest
    if any(t.ndim == 0 for t in full):
        raise RuntimeError("cat: a 0-d tensor has no axis to join along; use stack, or unsqueeze it")
    dim = _dims.one(dim, full[0].ndim)
    for i, t in enumerate(full):
        if t.ndim != full[0].ndim or any(
            a != b for d, (a, b) in enumerate(zip(t.shape, full[0].shape, strict=True)) if d != dim
        ):
            raise RuntimeError(
                f"cat: tensor {i} has shape {tuple(t.shape)} and tensor 0 {tuple(full[0].shape)}; "
                f"they may differ in dimension {dim} only"
            )
    return _cat(*full, dim=dim)


concat = cat


def _stack_rule(xp: Any, g: Any, xs_shapes: Any, dim: int) -> list[Any]:
    return [g[(slice(None),) * dim + (i,)] for i in range(len(xs_shapes))]


@operation(traits="moves chooses", promote=same_type, backward=_stack_rule)
def _stack(xp: Any, *xs: Any, dim: int) -> Any:
    return xp.stack(xs, dim)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis. As torch.stack."""
    tensors = [creation.as_tensor(t) for t in tensors]
    if not tensors:
        raise ValueError("stack: expected at least one tensor, got none")
    shapes = {tuple(t.shape) for t in tensors}
    if len(shapes) > 1:
        raise RuntimeError(f"stack: tensors must have one shape, got {sorted(shapes)}")
    return _stack(*tensors, dim=_dims.one(dim, tensors[0].ndim + 1))


def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Cut along `dim` into views of a given size (the last may be smaller) or of given sizes. As torch.split."""
    dim = _dims.one(dim, tensor.ndim)
    if tensor.ndim == 0:
        raise RuntimeError("split: a 0-d tensor has no axis to cut")
    n, given = tensor.shape[dim], split_size_or_sections
    if isinstance(given, int):
        if given < 0 or (given == 0 and n):
            raise ValueError(f"split: a size of {given} never ends; expected a positive one")
        lengths = [min(given, n - i) for i in range(0, n, given)] if n else [0]
    else:
        lengths = [_dims.as_int(s) for s in given]
        if sum(lengths) != n or any(s < 0 for s in lengths):
            raise ValueError(f"split: sizes {lengths} must add up to {n}, the size of dimension {dim}")
    parts, start = [], 0
    for length in lengths:
        parts.append(tensor[(slice(None),) * dim + (slice(start, start + length),)])
        start += length
    return tuple(parts)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Cut along `dim` into at most `chunks` views of equal size (the last may be smaller). As torch.chunk."""
    if chunks < 1:
        raise ValueError(f"chunk: chunks={chunks}; expected at least 1")
    dim = _dims.one(dim, input.ndim)
    n = input.shape[dim] if input.ndim else 0
    return split(input, -(-n // chunks) if n else [0] * chunks, dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along `dim`, as views without it. As torch.unbind."""
    dim = _dims.one(dim, input.ndim)
    if input.ndim == 0:
        raise RuntimeError("unbind: a 0-d tensor has no axis to take apart")
    return tuple(input[(slice(None),) * dim + (i,)] for i in range(input.shape[dim]))
