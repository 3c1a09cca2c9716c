"""Tensors joined, cut apart and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyattn.dtypes import as_number
from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.indexing import _getitem
from tinyattn.ops.promotion import same_type
from tinyattn.ops.synonyms import numpy_names


def _cat_rule(xp: Any, g: Any, xs_shapes: Any, dim: int) -> list[Any]:
    parts, start = [], 0
    for shape in xs_shapes:
        if shape == (0,):  # which may have stood among tensors of any shape
            parts.append(xp.reshape(g[(slice(0, 0),) * len(g.shape)], (0,)))
            continue
        stop = start + shape[dim]
        parts.append(g[(slice(None),) * dim + (slice(start, stop),)])
        start = stop
    return parts


def listed(name: str, tensors: Any) -> Any:
    """Return `tensors`; raise TypeError for a single one, whose rows would be taken for the tensors."""
    if isinstance(tensors, Variable):
        raise TypeError(f"{name}: got one tensor of shape {tuple(tensors.shape)}; write {name}([a, b])")
    return tensors


def _tensors(name: str, tensors: Sequence[Any]) -> list[Tensor]:
    return [t if isinstance(t, Variable) else creation.as_tensor(t) for t in listed(name, tensors)]


@operation(traits="moves chooses", promote=same_type, backward=_cat_rule)
def _cat(xp: Any, *xs: Any, dim: int) -> Any:
    return xp.cat([x for x in xs if x.shape != (0,)] or xs, dim)


@numpy_names
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return the tensors joined along an axis that they have; their other sizes are equal.

    Raises ValueError for no tensors, TypeError for a single one, RuntimeError for shapes that do not fit. As torch.cat.

    >>> ta.cat([ta.tensor([1, 2]), ta.tensor([3])])
    tensor([1, 2, 3])
    """
    tensors = _tensors("cat", tensors)
    if not tensors:
        raise ValueError("cat: expected at least one tensor, got none")
    shapes = {t.array.shape for t in tensors}
    if () in shapes:
        raise RuntimeError("cat: a 0-d tensor has no axis to join along; use stack, or unsqueeze it")
    full = tensors
    if (0,) in shapes:  # torch skips these, whatever the rest
        full = [t for t in tensors if t.array.shape != (0,)] or tensors[:1]
    first = full[0].array.shape
    dim, others = _dims.one(dim, len(first)), shapes - {first, (0,)}
    if any(s[:dim] != first[:dim] or s[dim + 1 :] != first[dim + 1 :] for s in others):
        i = next(
            i for i, t in enumerate(full) if t.shape[:dim] != first[:dim] or t.shape[dim + 1 :] != first[dim + 1 :]
        )
        raise RuntimeError(
            f"cat: tensor {i} has shape {tuple(full[i].shape)} and tensor 0 {tuple(first)}; "
            f"they may differ in dimension {dim} only"
        )
    return _cat(*tensors, dim=dim)


concat = cat


def _stack_rule(xp: Any, g: Any, xs_shapes: Any, dim: int) -> list[Any]:
    return [g[(slice(None),) * dim + (i,)] for i in range(len(xs_shapes))]


@operation(traits="moves chooses", promote=same_type, backward=_stack_rule)
def _stack(xp: Any, *xs: Any, dim: int) -> Any:
    return xp.stack(xs, dim)


@numpy_names
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Return tensors of one shape joined along a new axis. As torch.stack.

    >>> ta.stack([ta.zeros(2), ta.ones(2)], 1).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    tensors = _tensors("stack", tensors)
    if not tensors:
        raise ValueError("stack: expected at least one tensor, got none")
    shapes = {t.array.shape for t in tensors}
    if len(shapes) > 1:
        raise RuntimeError(f"stack: tensors must have one shape, got {sorted(shapes)}")
    return _stack(*tensors, dim=_dims.one(dim, tensors[0].ndim + 1))


def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Return views along `dim`, each of a given size (the last may be smaller), or of the given sizes.

    Raises ValueError for sizes that do not add up. As torch.split.

    >>> [x.tolist() for x in ta.split(ta.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
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
        parts.append(_getitem(tensor, index=(*(slice(None),) * dim, slice(start, start + length))))
        start += length
    return tuple(parts)


@numpy_names
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Return at most `chunks` views along `dim`, of equal size (the last may be smaller). As torch.chunk.

    >>> [x.tolist() for x in ta.chunk(ta.arange(5), 2)]
    [[0, 1, 2], [3, 4]]
    """
    if chunks < 1:
        raise ValueError(f"chunk: chunks={chunks}; expected at least 1")
    dim = _dims.one(dim, input.ndim)
    n = input.shape[dim] if input.ndim else 0
    return split(input, -(-n // chunks) if n else [0] * chunks, dim)


@numpy_names
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Return the slices along `dim` as a tuple of views without that axis. As torch.unbind.

    >>> [x.tolist() for x in ta.unbind(ta.tensor([[1, 2], [3, 4]]), 1)]
    [[1, 3], [2, 4]]
    """
    dim = _dims.one(dim, input.ndim)
    if input.ndim == 0:
        raise RuntimeError("unbind: a 0-d tensor has no axis to take apart")
    return tuple(_getitem(input, index=(slice(None),) * dim + (i,)) for i in range(input.shape[dim]))


# --- padded ---


def _inner(pad: Any, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(before, before + n) for (before, _), n in zip(pad, shape, strict=True))


@operation(traits="moves chooses", x=lambda xp, g, x_shape, pad: g[_inner(pad, x_shape)])
def _pad(xp: Any, x: Any, *, pad: Any, value: float) -> Any:
    return xp.pad(x, pad, value)


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Return the input with elements added around it; negative numbers crop.

    pad: (before, after) of the last axis, then of the last but one ... mode: "constant" (with `value`), "reflect",
    "replicate" or "circular". Raises ValueError for too many axes and too wide pads. As torch.nn.functional.pad.

    >>> ta.pad(ta.tensor([1, 2]), (1, 2), value=9)
    tensor([9, 1, 2, 9, 9])
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
        return _pad(input, pad=grow, value=as_number(value or 0, input.dtype, "pad", wrap=False).item())
    if mode not in _MODES:
        raise ValueError(f"pad: mode={mode!r}; expected 'constant', 'reflect', 'replicate' or 'circular'")
    if not any(map(any, pairs)):
        return input.clone()
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            if mode == "circular":  # what is cropped does not come round again
                input = input[(slice(None),) * axis + (slice(max(-before, 0), input.shape[axis] - max(-after, 0)),)]
                before, after = max(before, 0), max(after, 0)
            ahead, n = (slice(None),) * axis, input.shape[axis]
            if (mode == "reflect" and max(before, after) >= n) or (mode == "circular" and max(before, after) > n):
                raise ValueError(f"pad: {(before, after)} is too wide to {mode} axis {axis} of size {n}")
            sides = [range(-before, min(0, n + after)), range(max(n, -before), n + after)]  # places beyond the ends
            left, right = (_outside(mode, input, axis, side, n) for side in sides)
            inside = input[(*ahead, slice(max(-before, 0), max(n + min(after, 0), 0)))]
            input = cat([x for x in (*left, inside, *right) if x.shape[axis]] or [inside], axis)
    return input


_MODES = ("reflect", "replicate", "circular")


def _outside(mode: str, x: Tensor, axis: int, places: range, n: int) -> list[Tensor]:
    """What stands at `places` before or behind axis `axis` of `x`, of size n: a view of it, perhaps reversed or
    repeated."""
    if not places:
        return []
    ahead, before = (slice(None),) * axis, places[0] < 0
    if mode == "replicate":
        edge = x[(*ahead, slice(0, 1) if before else slice(n - 1, n))]
        return [edge] * len(places)
    if mode == "circular":
        return [x[(*ahead, slice(places[0] % n, places[-1] % n + 1))]]
    first, last = (-i if before else 2 * (n - 1) - i for i in (places[0], places[-1]))
    return [x[(*ahead, slice(first, last - 1 if last else None, -1))]]
