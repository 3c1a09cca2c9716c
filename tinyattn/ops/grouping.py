"""Reductions of groups: of all elements that an index sends to one place, and of the rows of each bag."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.choices import clamp, eq, ne, where
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import div
from tinyattn.ops.extremes import amax, amin, max
from tinyattn.ops.indexing import gather
from tinyattn.ops.joins import stack
from tinyattn.ops.layers import embedding
from tinyattn.ops.order import argsort, searchsorted
from tinyattn.ops.rearranging import narrow, repeat_interleave
from tinyattn.ops.reductions import prod
from tinyattn.ops.scans import repeats
from tinyattn.ops.scattering import cut, index_of, scatter, scatter_add, untouched
from tinyattn.ops.shape import reshape


def _limits(dtype: Any) -> Any:
    """The least and the largest value."""
    if dtype.kind in "fb":
        return (-np.inf, np.inf) if dtype.kind == "f" else (False, True)
    return np.iinfo(dtype).min, np.iinfo(dtype).max


_REDUCTIONS: dict[str, Any] = {  # and what changes nothing in them
    "sum": (None, lambda dtype: 0),
    "mean": (None, lambda dtype: 0),
    "prod": (prod, lambda dtype: 1),
    "amax": (amax, lambda dtype: _limits(dtype)[0]),
    "amin": (amin, lambda dtype: _limits(dtype)[1]),
}


def _layers(own: Tensor, dim: int, index: Tensor, src: Tensor, neutral: Any) -> Tensor:
    """`own`, the first element sent to each place, the second one ...: (layers, *shape of own)."""
    order = argsort(index, dim)
    index, src = gather(index, dim, order), gather(src, dim, order)
    level, aside = repeats(index, dim), own.shape[dim]  # where a layer puts the elements of the others
    shape = [n + (d == dim) for d, n in enumerate(own.shape)]
    empty = creation.full(shape, neutral, dtype=own.dtype, device=own.device)
    each = [scatter(empty, dim, where(eq(level, k), index, aside), src) for k in range(int(level.max()) + 1)]
    return stack([own, *(narrow(layer, dim, 0, aside) for layer in each)])


def scatter_reduce(
    input: Tensor, dim: int, index: Any, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Return the "sum", "prod", "mean", "amax" or "amin" of the elements that `scatter` would write to one place.

    include_self: and of the input's element there; places without an element keep it. Raises ValueError for another
    `reduce`. Memory, except of sums and means: a copy of the input for each of the elements that meet in one place.
    Synchronises a GPU. As torch.scatter_reduce.

    >>> ta.scatter_reduce(ta.zeros(2), 0, ta.tensor([0, 1, 1]), ta.tensor([1.0, 2.0, 3.0]), "mean").tolist()
    [0.5, 1.6666666269302368]
    """
    if reduce not in _REDUCTIONS:
        raise ValueError(f"scatter_reduce: reduce={reduce!r}; expected {', '.join(_REDUCTIONS)}")
    if input.ndim == 0:
        found = scatter_reduce(reshape(input, 1), 0, index, src, reduce, include_self=include_self)
        return reshape(found, ())
    dim, index = index_of("scatter_reduce", input, dim, index, src)
    if index.numel() == 0:
        return untouched(input, src)
    function, neutral = _REDUCTIONS[reduce][0], _REDUCTIONS[reduce][1](input.dtype)
    src = cut(src, index)
    own = input if include_self else scatter(input, dim, index, neutral)
    if function is not None:
        return cast(function(_layers(own, dim, index, src, neutral), 0), input.dtype)
    total = scatter_add(own, dim, index, src)
    if reduce == "sum":
        return total
    count = scatter_add(creation.full_like(input, include_self), dim, index, creation.ones_like(src))
    return div(total, clamp(count, 1), rounding_mode=None if input.dtype.kind == "f" else "floor")


def embedding_bag(
    input: Any,
    weight: Tensor,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Return the "sum", "mean" or "max" of the rows of `weight` (rows, dim) that each bag names: (bags, dim).

    input: integers (bags, size), or all bags one after another, (count,), with `offsets`, where they begin, and with
    include_last_offset, where the last one ends. per_sample_weights: factors of the input's shape, for sums.
    padding_idx: is left out. An empty bag gives 0. The other arguments are those of `embedding`; raises ValueError for
    arguments that do not fit. As torch.nn.functional.embedding_bag.

    >>> F.embedding_bag(ta.tensor([0, 1, 1]), ta.tensor([[1.0], [3.0]]), ta.tensor([0, 2])).tolist()
    [[2.0], [3.0]]
    """
    index, reduce = creation.as_tensor(input), {"sum": "sum", "mean": "mean", "max": "amax"}.get(mode)
    if reduce is None or index.ndim not in (1, 2) or (index.ndim == 1) != (offsets is not None):
        raise ValueError(
            f"embedding_bag: mode={mode!r}, input {tuple(index.shape)}, offsets {offsets}; expected mode sum, mean or "
            "max, and a matrix, or a vector with offsets"
        )
    if per_sample_weights is not None and (mode != "sum" or per_sample_weights.shape != index.shape):
        raise ValueError(
            f"embedding_bag: per_sample_weights need mode='sum' and the input's shape, {tuple(index.shape)}"
        )
    if offsets is None:
        bags = len(index)
        bag = repeat_interleave(creation.arange(bags, device=index.device), index.shape[1])
    else:
        starts = creation.as_tensor(offsets)[: -1 if include_last_offset else None]
        bags, bag = len(starts), searchsorted(starts, creation.arange(len(index), device=index.device), right=True) - 1
    index = reshape(index, -1)
    rows = embedding(index, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq)
    rows = rows if per_sample_weights is None else rows * reshape(per_sample_weights, -1, 1)
    if padding_idx is not None:
        kept = ne(index, padding_idx % len(weight))
        rows, bag = rows[kept], bag[kept]
    out = creation.zeros(bags, weight.shape[1], dtype=weight.dtype, device=weight.device)
    bag = bag.unsqueeze(1).expand(-1, weight.shape[1])
    if mode == "max" and rows.numel():  # by `amax`, equal rows would share the gradient
        return max(_layers(scatter(out, 0, bag, -np.inf), 0, bag, rows, -np.inf), 0)[0]
    return scatter_reduce(out, 0, bag, rows, reduce, include_self=False)
