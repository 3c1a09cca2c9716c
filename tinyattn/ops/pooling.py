"""The largest element, or the mean, of each window of sequences, images and volumes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.backends.windows import Windows, framed
from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.activations import relu
from tinyattn.ops.convolution import convolve, frame, many
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import abs, div, mul, pow, sign
from tinyattn.ops.indexing import gather
from tinyattn.ops.joins import pad
from tinyattn.ops.promotion import opmath
from tinyattn.ops.shape import reshape, reshape_result
from tinyattn.ops.synonyms import bound


def _max_rule(xp: Any, g: Any, index: Any, x_shape: Any) -> Any:
    """Each gradient goes to the place that was the largest of its window."""
    images, cells = x_shape[0] * x_shape[1], x_shape[2] * x_shape[3]
    places = g.shape[2] * g.shape[3]
    flat = xp.ungather(xp.reshape(g, (images, places)), 1, xp.reshape(index, (images, places)), (images, cells))
    return xp.reshape(flat, x_shape)


@operation(traits="chooses", extras=("index",), x=_max_rule)
def _max_pool(xp: Any, x: Any, *, how: Windows, places: Any) -> Any:
    """The largest element of each window, and its position in the flattened image: the first, or the last NaN."""
    w, (rows, columns) = x.shape[3], places
    (py, px), lowest = how.padding, -math.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    x = framed(xp, x, how.padding, lowest)
    reach = [(n - 1) * s + (k - 1) * d + 1 - m for n, s, k, d, m in
             zip(places, how.stride, how.kernel, how.dilation, x.shape[2:], strict=True)]  # fmt: skip
    if max(reach) > 0:  # ceil_mode: the last windows hang over the edge
        x = xp.pad(x, ((0, 0), (0, 0), (0, max(reach[0], 0)), (0, max(reach[1], 0))), lowest)
    ahead = [xp.clamp(p + d - 1 - xp.arange(0, 1, n, np.int64) * s, 0, None) // d for n, s, d, p in
             zip(places, how.stride, how.dilation, how.padding, strict=True)]  # fmt: skip
    out: Any = None
    code: Any = ahead[0][:, None] * how.kernel[1] + ahead[1]  # the first that is no padding, should all be -inf
    for i, j, part in how.parts(range(rows), columns):
        seen, k = xp.clone(x[part]), i * how.kernel[1] + j
        if out is None:
            kind = np.uint8 if math.prod(how.kernel) < 256 else np.int64
            out, code = seen, xp.zeros(seen.shape, kind) + xp.cast(code, kind)
            continue
        better = (seen > out) | (seen != seen)
        code = xp.maximum(code, better * code.dtype.type(k))  # k only grows
        out = xp.maximum(out, seen)
    k = xp.arange(0, 1, math.prod(how.kernel), np.int64)
    offset = k // how.kernel[1] * (how.dilation[0] * w) + k % how.kernel[1] * how.dilation[1]
    start = (xp.arange(0, 1, rows, np.int64) * how.stride[0] - py)[:, None] * w
    return out, offset[code] + (start + (xp.arange(0, 1, columns, np.int64) * how.stride[1] - px))


def _images(name: str, x: Tensor, n: int) -> Tensor:
    """The input as (batch, channels, height, width)."""
    if x.ndim not in (n + 1, n + 2):
        raise RuntimeError(f"{name}: the input has shape {tuple(x.shape)}; expected {n + 1} or {n + 2} axes")
    shape = x.shape if x.ndim == n + 2 else (1, *x.shape)
    shape = shape if n == 2 else (*shape[:2], 1, shape[2])
    return x if shape == x.shape else reshape(x, shape)


def _like(out: Tensor, x: Tensor, n: int) -> Tensor:
    """A result (batch, channels, rows, columns) with the axes of the input `x`."""
    shape = (*x.shape[: x.ndim - n], *out.shape[4 - n :])
    return out if shape == out.shape else reshape_result(out, shape)


def _sliding(
    name: str, x: Tensor, n: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Windows, tuple[int, ...]]:
    """The windows, and how many there are along both axes; the last may hang over the edge with `ceil_mode`."""
    kernel = many(name, "kernel_size", kernel, n)
    stride = kernel if stride is None or stride == () or stride == [] else many(name, "stride", stride, n)
    padding, dilation = many(name, "padding", padding, n, 0), many(name, "dilation", dilation, n)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise RuntimeError(f"{name}: padding={padding} must be at most half of kernel_size={kernel}")
    how = frame(n, kernel, stride, padding, dilation)
    places = list(how.places(x.shape[2:]))
    if ceil_mode:
        for i, (m, k, s, p, d) in enumerate(zip(x.shape[2:], *how[:4], strict=True)):
            places[i] = -(-(m + 2 * p - d * (k - 1) - 1) // s) + 1
            places[i] -= (places[i] - 1) * s >= m + p  # a window must not start behind the image
    if min(places) < 1:
        raise RuntimeError(f"{name}: no window {kernel} fits an input of size {tuple(x.shape[4 - n :])}")
    return how, tuple(places)


def _twice(name: str, pool: Any, input: Tensor, options: dict[str, tuple[Any, Any]], **others: Any) -> Any:
    """Pool the planes (n, c, d, h, w), then along the depth; `options`: those of each of the two."""
    if input.ndim not in (4, 5):
        raise RuntimeError(f"{name}: the input has shape {tuple(input.shape)}; expected 4 or 5 axes")
    x = input if input.ndim == 5 else reshape(input, (1, *input.shape))
    n, c, d = x.shape[:3]
    flat = pool(reshape(x, (n, c * d, *x.shape[3:])), **{k: v[0] for k, v in options.items()}, **others)
    flat, within = flat if isinstance(flat, tuple) else (flat, None)
    rows, columns = flat.shape[2:]
    out = pool(reshape(flat, (n, c, d, rows * columns)), **{k: v[1] for k, v in options.items()}, **others)
    if within is None:
        return reshape_result(out, (*input.shape[:-3], out.shape[2], rows, columns))
    out, at = out
    within = gather(reshape(within, (n, c, -1)), 2, reshape(at, (n, c, -1)))
    at = at // (rows * columns) * (x.shape[3] * x.shape[4]) + reshape(within, at.shape)
    return tuple(reshape_result(t, (*input.shape[:-3], t.shape[2], rows, columns)) for t in (out, at))


def _by_axes(name: str, **given: Any) -> dict[str, tuple[Any, Any]]:
    """Options of three axes as those of planes and of the depth; neutral along the flattened plane."""
    kernel = many(name, "kernel_size", given.pop("kernel_size"), 3)
    stride = given.pop("stride")
    stride = kernel if stride is None else many(name, "stride", stride, 3)
    found: dict[str, tuple[Any, Any]] = {
        "kernel_size": (kernel[1:], (kernel[0], 1)),
        "stride": (stride[1:], (stride[0], 1)),
    }
    for option, neutral in (("padding", 0), ("dilation", 1)):
        if option in given:
            values = many(name, option, given[option], 3, 0)
            found[option] = values[1:], (values[0], neutral)
    return found


def _max(
    n: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    name = f"max_pool{n}d"
    if n == 3:
        options = _by_axes(name, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)
        return _twice(name, max_pool2d, input, options, ceil_mode=ceil_mode, return_indices=return_indices)
    x = _images(name, input, n)
    how, places = _sliding(name, x, n, kernel_size, stride, padding, dilation, ceil_mode)
    out, index = (_like(t, input, n) for t in _max_pool(x, how=how, places=places))
    return (out, index) if return_indices else out


@bound(_max, 2)
def max_pool2d() -> None:
    """Return the largest element of each window: (n, c, h, w) -> (n, c, rows, columns).

    stride: kernel_size if None. return_indices: also the positions in the flattened images. As
    torch.nn.functional.max_pool2d.

    >>> F.max_pool2d(ta.arange(16).float().reshape(1, 4, 4), 2).tolist()
    [[[5.0, 7.0], [13.0, 15.0]]]
    """


@bound(_max, 1)
def max_pool1d() -> None:
    """Return the largest element of each window: (n, c, length) -> (n, c, places). As `max_pool2d`.

    >>> F.max_pool1d(ta.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[3.0, 2.0]]
    """


@bound(_max, 3)
def max_pool3d() -> None:
    """Return the largest element of each window of volumes: (n, c, d, h, w) -> (n, c, planes, rows, columns).

    return_indices: also the positions in the flattened volumes. As torch.nn.functional.max_pool3d.

    >>> F.max_pool3d(ta.arange(8).float().reshape(1, 1, 2, 2, 2), 2).item()
    7.0
    """


def _avg(
    n: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    name = f"avg_pool{n}d"
    if divisor_override == 0:
        raise RuntimeError(f"{name}: divisor_override=0; expected another integer, or None")
    if n == 3:
        return _avg_of_volumes(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    x = _images(name, input, n)
    how, places = _sliding(name, x, n, kernel_size, stride, padding, 1, ceil_mode)
    counts = []  # elements of each window, along both axes
    for m, k, s, p, count in zip(x.shape[2:], *how[:3], places, strict=True):
        starts = np.arange(count) * s - p
        low, high = (starts, m + p) if count_include_pad else (np.maximum(starts, 0), m)
        counts.append(np.minimum(starts + k, high) - low)
    b, c, h, w = x.shape
    flat = reshape(x, (b * c, 1, h, w))
    reach = [(q - 1) * s + k - m - 2 * p for q, s, k, m, p in
             zip(places, how.stride, how.kernel, (h, w), how.padding, strict=True)]  # fmt: skip
    if max(reach) > 0:
        flat = pad(flat, (0, max(reach[1], 0), 0, max(reach[0], 0)))
    ones = creation.ones(1, 1, *how.kernel, dtype=x.dtype, device=x.device)
    sums = convolve(flat, ones, None, how)
    sums = sums[:, :, : places[0], : places[1]] if sums.shape[2:] != places else sums
    sums = reshape_result(sums, (b, c, *places))
    by = counts[0][:, None] * counts[1] if divisor_override is None else np.full(places, divisor_override)
    even = by.min() == by.max()
    divisors = int(by[0, 0]) if even else creation.tensor(by, dtype=x.dtype, device=x.device)
    return _like(div(sums, divisors, rounding_mode=None if x.dtype.kind == "f" else "trunc"), input, n)


def _avg_of_volumes(
    input: Tensor, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, divisor: Any
) -> Tensor:
    if input.dtype.kind != "f":  # cut to an integer once, and not in each of the two pools
        means = _avg_of_volumes(
            cast(input, "float64"), kernel_size, stride, padding, ceil_mode, count_include_pad, divisor
        )
        return cast(means + sign(means) * 1e-9, input.dtype)
    options = _by_axes("avg_pool3d", kernel_size=kernel_size, stride=stride, padding=padding)
    options["divisor_override"] = (None if divisor is None else 1), divisor
    others = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return _twice("avg_pool3d", avg_pool2d, input, options, **others)


@bound(_avg, 2)
def avg_pool2d() -> None:
    """Return the mean of each window: (n, c, h, w) -> (n, c, rows, columns). As torch.nn.functional.avg_pool2d.

    count_include_pad: count the zeros around. divisor_override: divide by this instead.

    >>> F.avg_pool2d(ta.arange(16).float().reshape(1, 4, 4), 2).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    """


def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Return the mean of each window: (n, c, length) -> (n, c, places). As `avg_pool2d`.

    >>> F.avg_pool1d(ta.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[2.0, 1.0]]
    """
    return _avg(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@bound(_avg, 3)
def avg_pool3d() -> None:
    """Return the mean of each window of volumes. As `avg_pool2d`, and as torch.nn.functional.avg_pool3d.

    >>> F.avg_pool3d(ta.arange(8).float().reshape(1, 1, 2, 2, 2), 2).item()
    3.5
    """


# --- by a norm ---


@opmath
def _norm(
    n: int, input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    kernel = many(f"lp_pool{n}d", "kernel_size", kernel_size, n)
    means = (avg_pool1d if n == 1 else avg_pool2d)(pow(input, norm_type), kernel, stride, 0, ceil_mode)
    return pow(mul(mul(sign(means), relu(abs(means))), math.prod(kernel)), 1 / norm_type)


@bound(_norm, 2)
def lp_pool2d() -> None:
    """Return the root of the sum of the powers `norm_type` of each window. As torch.nn.functional.lp_pool2d.

    >>> F.lp_pool2d(ta.tensor([[[3.0, 4.0]]]), 2, (1, 2)).item()
    5.0
    """


@bound(_norm, 1)
def lp_pool1d() -> None:
    """As `lp_pool2d`, of sequences: (n, c, length) -> (n, c, places).

    >>> F.lp_pool1d(ta.tensor([[3.0, 4.0]]), 2, 2).item()
    5.0
    """
