"""Order and chance: sorting, the largest elements, different elements, and draws from a distribution."""

from __future__ import annotations

import math
from typing import Any

from tinyattn import random
from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import minimum, where
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import log1p
from tinyattn.ops.extremes import Extreme, argmax
from tinyattn.ops.indexing import gather, place
from tinyattn.ops.joins import cat
from tinyattn.ops.mathematics import isnan
from tinyattn.ops.reductions import cumsum, sum
from tinyattn.ops.shape import flip
from tinyattn.ops.synonyms import numpy_names

_argsort = Operation(lambda xp, x, *, dim: xp.argsort(x, dim), name="argsort")
_argtop = Operation(lambda xp, x, *, k, dim, largest: xp.argtop(x, k, dim, largest), name="argtop")


@numpy_names
def argsort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Tensor:
    """Return the indices that sort the input along `dim`; equal elements keep their order. NaN counts as largest.

    As torch.argsort, always stable.

    >>> ta.argsort(ta.tensor([3, 1, 2]))
    tensor([1, 2, 0])
    """
    dim = _dims.one(dim, input.ndim)
    if input.ndim == 0:
        return creation.zeros((), dtype="int64", device=input.device)
    if not descending:
        return _argsort(input, dim=dim)
    return input.shape[dim] - 1 - flip(_argsort(flip(input, dim), dim=dim), dim)


@numpy_names
def sort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Any:
    """Return (values, indices) in ascending order along `dim`; equal elements keep their order. As torch.sort.

    >>> ta.sort(ta.tensor([3, 1, 2]), descending=True).values
    tensor([3, 2, 1])
    """
    order = argsort(input, dim, descending)
    return Extreme(gather(input, dim, order), order)


@numpy_names
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """Return (values, indices) of the k largest elements along `dim`, in descending order; or of the smallest.

    Raises RuntimeError for a k that is out of range. As torch.topk.

    >>> ta.topk(ta.tensor([3, 1, 2]), 2).indices
    tensor([0, 2])
    """
    dim, k = _dims.one(dim, input.ndim), _dims.as_int(k)
    size = input.shape[dim] if input.ndim else 1
    if not 0 <= k <= size:
        raise RuntimeError(f"topk: k={k} is out of range for dimension {dim} of size {size}; expected 0 to {size}")
    order = _argtop(input, k=k, dim=dim, largest=largest) if input.ndim else argsort(input)
    return Extreme(gather(input, dim, order), order)


def _ties_rule(xp: Any, g: Any, x: Any, out: Any) -> Any:
    ties = xp.logical_or(x == out, xp.logical_and(x != x, out != out))
    return xp.where(ties, g / xp.sum(xp.cast(ties, g.dtype), tuple(range(x.ndim))), 0.0)


@operation(name="median", traits="chooses", fresh=True, x=_ties_rule)
def _median(xp: Any, x: Any) -> Any:
    values = xp.reshape(x, (-1,))
    values = values[xp.argsort(values, 0)]
    middle, last = (xp.reshape(values[i : i + 1], ()) for i in ((len(values) - 1) // 2, len(values) - 1))
    return xp.where(last != last, last, middle)  # NaN comes last


@numpy_names
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return the median, the lower of two; with `dim`, (values, indices) along it. NaN if there is one.

    Without `dim`, equal elements share the gradient; with it, one of them has it all. As torch.median.

    >>> ta.median(ta.tensor([3, 1, 2, 9])).item()
    2
    """
    if dim is None:
        if input.numel() == 0 and input.dtype.kind == "f":
            return sum(input) * math.nan
        return _median(input) if input.numel() else median(input.reshape(-1), 0)
    dim = _dims.one(dim, input.ndim)
    if input.ndim == 0:
        return Extreme(input.clone(), argsort(input))
    if input.shape[dim] == 0:
        raise IndexError(f"median: dimension {dim} of shape {tuple(input.shape)} is empty, and nothing has no median")
    middle = (input.shape[dim] - 1) // 2
    order = argsort(input, dim)[(slice(None),) * dim + (slice(middle, middle + 1),)]
    bad = isnan(input)
    order = where(bad.any(dim, True), argmax(cast(bad, "int8"), dim, True), order)
    values = gather(input, dim, order)
    return Extreme(values, order) if keepdim else Extreme(values.squeeze(dim), order.squeeze(dim))


# --- different elements, and how often they occur ---


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """Return the different elements in ascending order, or the different slices along `dim`.

    return_inverse: also, for each element, its place among them. return_counts: also how often each occurs.
    Synchronises a GPU. As torch.unique.

    >>> [x.tolist() for x in ta.unique(ta.tensor([3, 1, 3]), return_counts=True)]
    [[1, 3], [1, 2]]
    """
    if dim is not None:
        dim = _dims.one(dim, input.ndim)
        rows = input.movedim(dim, 0)
        rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
        order = creation.arange(len(rows), device=input.device)
        for column in rows.unbind(1)[::-1]:  # slices sort as words do; equal elements keep the order of later columns
            order = order[argsort(column[order], 0)]
        ordered = rows[order]
        changes = (ordered[1:] != ordered[:-1]).any(1)
    else:
        order = argsort(input.reshape(-1), 0)
        ordered = input.reshape(-1)[order]
        changes = ordered[1:] != ordered[:-1]
    first = cat([creation.ones(min(len(order), 1), dtype="bool", device=input.device), changes])
    ordered = ordered[first] if dim is None else input.index_select(dim, order[first])
    out = [ordered.detach()]
    if return_inverse:
        inverse = creation.zeros_like(order)
        inverse[order] = cumsum(first, 0) - 1
        out.append(inverse.reshape(input.shape) if dim is None else inverse)
    if return_counts:
        out.append(counts_of(first))
    return out[0] if len(out) == 1 else tuple(out)


def counts_of(first: Tensor) -> Tensor:
    """Return the lengths of runs, of which `first` marks the first elements."""
    (starts,) = where(first)
    end = creation.tensor([len(first)] * min(len(first), 1), dtype="int64", device=first.device)
    return cat([starts[1:], end]) - starts


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """Return how often each integer from 0 occurs, or the sum of its `weights`. Synchronises a GPU.

    Raises RuntimeError for anything but one axis of integers that are not negative. As torch.bincount.

    >>> ta.bincount(ta.tensor([1, 3, 1]))
    tensor([0, 2, 0, 1])
    """
    if input.ndim != 1 or input.dtype.kind not in "iu" or bool((input < 0).any()):
        raise RuntimeError(
            f"bincount: got shape {tuple(input.shape)} of {input.dtype}; expected one axis of integers from 0"
        )
    size = max(minlength, int(input.max()) + 1 if input.numel() else 0)
    if weights is not None:
        wide = weights if weights.dtype == "float32" else cast(weights, "float64")
        return place(wide.detach(), cast(input, "int64"), (size,))
    ones = creation.ones(input.shape, dtype="float64", device=input.device)
    return cast(place(ones, cast(input, "int64"), (size,)), "int64")


def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Return where the numbers `input` belong in a sorted sequence: before equal elements, or behind them.

    sorted_sequence: (n,), or (..., n) with the leading axes of `input`. right, or side="right": behind.
    sorter: what argsort gives for a sequence that is not sorted. As torch.searchsorted.

    >>> ta.searchsorted(ta.tensor([1, 3, 5]), ta.tensor([3, 6]))
    tensor([1, 3])
    """
    value = creation.as_tensor(input, device=sorted_sequence.device)
    if sorter is not None:
        sorted_sequence = gather(sorted_sequence, -1, sorter)
    sequence = sorted_sequence if sorted_sequence.ndim == 1 else sorted_sequence.unsqueeze(-2)
    value = value.unsqueeze(-1)
    ahead = (sequence > value) if right or side == "right" else (sequence >= value)
    behind = (ahead | ((sequence != sequence) & (value == value))) == False  # noqa: E712 - NaN comes last
    return sum(behind, -1, dtype="int32" if out_int32 else "int64")


def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """Return the number of the bucket that each number falls into, between `boundaries`. As torch.bucketize.

    >>> ta.bucketize(ta.tensor([3, 6]), ta.tensor([1, 3, 5]))
    tensor([1, 3])
    """
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


# --- chance ---


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: random.Generator | None = None
) -> Tensor:
    """Draw indices with the probabilities in each row of the input, (n,) or (rows, n); int64.

    Probabilities need not add up to 1. Raises RuntimeError for integers, more than two axes, negative or
    non-finite numbers, and for too many draws without replacement. As torch.multinomial, with NumPy's stream.

    >>> ta.multinomial(ta.tensor([0.0, 1.0]), 3, replacement=True)
    tensor([1, 1, 1])
    """
    if input.dtype.kind != "f" or input.ndim not in (1, 2):
        raise RuntimeError(
            f"multinomial: got shape {tuple(input.shape)} of {input.dtype}; expected floats (n,) or (rows, n)"
        )
    p, n = cast(input.detach(), "float64"), input.shape[-1]
    if num_samples < 1 or (not replacement and num_samples > n):
        raise RuntimeError(f"multinomial: {num_samples} draws from {n} numbers; expected 1 to {n} without replacement")
    total = sum(p, -1, keepdim=True)
    if input.device == "cpu" and not bool(((p >= 0) & (total > 0) & (total < float("inf"))).all()):
        raise RuntimeError("multinomial: the probabilities hold a negative number, inf or NaN, or all are 0")
    shape = (*input.shape[:-1], num_samples if replacement and num_samples > 1 else n)
    u = creation.rand(shape, generator=generator, dtype="float64", device=input.device)
    if shape[-1] == num_samples and replacement:
        u = minimum(u * total, total * (1 - 1e-15))
        return searchsorted(cumsum(p, -1), u, right=True)
    arrivals = p / -log1p(-u)  # of the first event at rate p, inverted: the largest is one draw, the k largest are k
    return argmax(arrivals, -1, True) if num_samples == 1 else topk(arrivals, num_samples).indices


def bernoulli(input: Tensor, p: Any = None, *, generator: random.Generator | None = None) -> Tensor:
    """Draw 1 with the probability `p`, or the input, else 0; in its dtype. As torch.bernoulli, with NumPy's stream.

    On the CPU, raises RuntimeError for a probability outside 0 to 1.

    >>> ta.bernoulli(ta.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    p = input.detach() if p is None else p
    allowed = (p >= 0) & (p <= 1)
    if not (allowed if isinstance(allowed, bool) else input.is_cuda or allowed.all()):
        raise RuntimeError("bernoulli: a probability is outside 0 to 1")
    u = creation.rand(input.shape, generator=generator, dtype="float32", device=input.device)
    return cast(u < p, input.dtype)


def normal(
    mean: Any, std: Any = 1.0, size: Any = None, *, generator: random.Generator | None = None, **options: Any
) -> Tensor:
    """Draw normal numbers with these means and standard deviations: tensors that broadcast, or numbers with a `size`.

    On the CPU, raises RuntimeError for a deviation below 0. As torch.normal, with NumPy's stream.

    >>> ta.normal(0.0, 1.0, size=(2, 3)).shape
    (2, 3)
    """
    if (std < 0) if isinstance(std, float | int) else not std.is_cuda and (std.detach() < 0).any():
        raise RuntimeError("normal: std is below 0; expected standard deviations of at least 0")
    if size is not None:
        return creation.randn(size, generator=generator, **options) * std + mean
    like = creation.zeros_like(mean * creation.ones_like(std) if hasattr(std, "detach") else mean).detach()
    return (creation.randn_like(like, generator=generator) * std + mean).detach()
