"""Elements by their rank, by their frequency, and runs of equal ones."""

from __future__ import annotations

from typing import Any

from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import clamp, eq, logical_not, ne, where
from tinyattn.ops.copies import cast
from tinyattn.ops.extremes import Extreme, argmax
from tinyattn.ops.indexing import gather
from tinyattn.ops.joins import cat
from tinyattn.ops.mathematics import ceil, floor, isnan, lerp, round
from tinyattn.ops.order import argsort, counts_of, median, sort
from tinyattn.ops.rearranging import narrow
from tinyattn.ops.reductions import any, cumsum, sum
from tinyattn.ops.scans import repeats
from tinyattn.ops.scattering import masked_select
from tinyattn.ops.shape import movedim, reshape, squeeze, unsqueeze
from tinyattn.ops.synonyms import bound, numpy_names

_ROUNDED: dict[str, Any] = {"lower": floor, "higher": ceil, "nearest": round}


def _quantile(
    name: str, input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    q = creation.as_tensor(q, dtype=None if hasattr(q, "dtype") else input.dtype, device=input.device)
    if input.dtype.kind != "f" or q.dtype != input.dtype or q.ndim > 1 or input.numel() == 0:
        raise RuntimeError(
            f"{name}: input {tuple(input.shape)} of {input.dtype}, q {tuple(q.shape)} of {q.dtype}; expected floats of "
            "one dtype, at least one of them, and q a number or a vector"
        )
    if interpolation not in (*_ROUNDED, "linear", "midpoint"):
        raise RuntimeError(f"{name}: interpolation={interpolation!r}; expected {', '.join(_ROUNDED)}, linear, midpoint")
    if not bool(((q >= 0) & (q <= 1)).all()):
        raise RuntimeError(f"{name}: q={q.tolist()}; expected numbers from 0 to 1")
    dim = dim if input.ndim else None
    rows = reshape(input, -1) if dim is None else movedim(input, dim, -1)
    rows = sort(rows).values  # NaN comes last
    last = rows.shape[-1] - 1
    known = sum(eq(rows, rows), -1, keepdim=True) - 1  # the last that is no NaN
    ranks = q * clamp(cast(known, q.dtype), 0)  # (..., count of q)
    ranks = ranks if name == "nanquantile" else where(known < last, last, ranks)
    if interpolation in _ROUNDED:
        ranks = _ROUNDED[interpolation](ranks)
    below, above = (gather(rows, -1, cast(edge(ranks), "int64").expand(*rows.shape[:-1], -1)) for edge in (floor, ceil))
    part = 0.5 if interpolation == "midpoint" else ranks - floor(ranks)
    out = lerp(below, above, part) if interpolation in ("linear", "midpoint") else below
    if keepdim:
        out = reshape(out, (1,) * input.ndim + (-1,)) if dim is None else unsqueeze(out, _dims.one(dim, input.ndim))
    return movedim(out, -1, 0) if q.ndim else squeeze(out, -1)


@numpy_names
@bound(_quantile, "quantile")
def quantile() -> None:
    """Return the quantiles q, from 0 to 1, along `dim` or of all elements; NaN where there is one.

    q: a number, or a vector, which adds an axis in front. interpolation between two elements: "linear", "lower",
    "higher", "nearest", "midpoint". Raises RuntimeError for other values. Synchronises a GPU. As torch.quantile.

    >>> ta.quantile(ta.tensor([1.0, 2.0, 4.0]), ta.tensor([0.5, 0.75])).tolist()
    [2.0, 3.0]
    """


@numpy_names
@bound(_quantile, "nanquantile")
def nanquantile() -> None:
    """Return the quantiles of the elements that are not NaN, with the arguments of `quantile`. As torch.nanquantile.

    >>> ta.nanquantile(ta.tensor([1.0, ta.nan, 2.0]), 0.5).item()
    1.5
    """


def _at(input: Tensor, dim: int, order: Tensor, keepdim: bool) -> Extreme:
    """(values, indices) of one element along `dim`."""
    values = gather(input, dim, order)
    return Extreme(values, order) if keepdim else Extreme(squeeze(values, dim), squeeze(order, dim))


@numpy_names
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Extreme:
    """Return (values, indices) of the k-th smallest element along `dim`. Raises RuntimeError for another k.

    As torch.kthvalue.

    >>> ta.kthvalue(ta.tensor([3, 1, 2]), 2).values.item()
    2
    """
    dim, k, size = _dims.one(dim, input.ndim), _dims.as_int(k), input.shape[dim] if input.ndim else 1
    if not 1 <= k <= size:
        raise RuntimeError(f"kthvalue: k={k} is out of range for dimension {dim} of size {size}; expected 1 to {size}")
    order = argsort(input, dim)
    return _at(input, dim, narrow(order, dim, k - 1, 1) if input.ndim else order, keepdim)


@numpy_names
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Extreme:
    """Return (values, indices) of the most frequent element along `dim`, of several the smallest. As torch.mode.

    >>> ta.mode(ta.tensor([3, 1, 3, 1, 2])).values.item()
    1
    """
    dim = _dims.one(dim, input.ndim)
    if input.ndim == 0:
        return _at(input, 0, argsort(input), keepdim)
    order = argsort(input, dim)
    length = repeats(gather(input, dim, order).detach(), dim)
    return _at(input, dim, gather(order, dim, argmax(length, dim, True)), keepdim)


@numpy_names
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """Return `median` of what is not NaN; NaN if nothing is left. As torch.nanmedian.

    >>> ta.nanmedian(ta.tensor([3.0, ta.nan, 1.0])).item()
    1.0
    """
    if dim is None:
        return median(masked_select(input, logical_not(isnan(input))))
    dim = _dims.one(dim, input.ndim)
    order = argsort(input, dim)
    if input.ndim:
        middle = clamp(sum(eq(input, input), dim, True) - 1, 0) // 2
        order = gather(order, dim, middle)
    return _at(input, dim, order, keepdim)


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """Return the first of each run of equal elements, or of equal slices along `dim`; further results as in `unique`.

    Synchronises a GPU. As torch.unique_consecutive.

    >>> [x.tolist() for x in ta.unique_consecutive(ta.tensor([3, 3, 1, 3]), return_counts=True)]
    [[3, 1, 3], [2, 1, 1]]
    """
    axis = 0 if dim is None else _dims.one(dim, input.ndim)
    rows = reshape(input, -1) if dim is None else input
    keys = movedim(rows, axis, 0).detach()
    changes = ne(keys[1:], keys[:-1])
    changes = changes if changes.ndim == 1 else any(changes, tuple(range(1, changes.ndim)))
    first = cat([creation.ones(min(len(keys), 1), dtype="bool", device=input.device), changes])
    out = [rows.detach().index_select(axis, where(first)[0])]
    if return_inverse:
        inverse = cumsum(first, 0) - 1
        out.append(reshape(inverse, input.shape) if dim is None else inverse)
    if return_counts:
        out.append(counts_of(first))
    return out[0] if len(out) == 1 else tuple(out)
