"""Images of other sizes, read at computed places, and channels exchanged for pixels."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn.engine.opmath import opmath_dtype
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.adaptive import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d
from tinyattn.ops.choices import where
from tinyattn.ops.copies import cast, unshared
from tinyattn.ops.elementwise import abs
from tinyattn.ops.indexing import gather, getitem
from tinyattn.ops.joins import pad, stack
from tinyattn.ops.mathematics import floor, fmod, round
from tinyattn.ops.nonlinearities import _hardtanh
from tinyattn.ops.products import matmul
from tinyattn.ops.promotion import opmath
from tinyattn.ops.rearranging import meshgrid
from tinyattn.ops.shape import broadcast_to, permute, reshape, reshape_result, transpose

Taps = list[tuple[Any, Any]]  # for each output place: an index into the input, and its weight (None: 1)


def _nearest(m: int, n: int, scale: float | None, align: bool, dtype: Any, middle: float = 0.0) -> Taps:
    step = np.float32(1 / scale if scale else m / n)  # PyTorch computes indices in float32
    at = np.floor((np.arange(n, dtype=np.float32) + np.float32(middle)) * step).astype(np.int64)
    return [(np.minimum(at, m - 1), None)]


def _places(m: int, n: int, scale: float | None, align: bool, dtype: Any) -> Any:
    """Where the centres of n pixels lie among m pixels."""
    at = np.arange(n, dtype=dtype)
    if align:
        return at * dtype.type((m - 1) / (n - 1) if n > 1 else 0)
    return (at + dtype.type(0.5)) * dtype.type(1 / scale if scale else m / n) - dtype.type(0.5)


def _linear(m: int, n: int, scale: float | None, align: bool, dtype: Any) -> Taps:
    at = np.maximum(_places(m, n, scale, align, dtype), 0)
    low = np.minimum(at.astype(np.int64), m - 1)
    share = np.clip(at - low, 0, 1)
    return [(low, 1 - share), (np.minimum(low + 1, m - 1), share)]


def _bump(x: Any, a: float) -> Any:
    """The weight of a pixel at these distances from a place (Keys 1981)."""
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, ((a + 2) * x - (a + 3)) * x * x + 1, np.where(x < 2, far, 0))


def _cubic(m: int, n: int, scale: float | None, align: bool, dtype: Any) -> Taps:
    at = _places(m, n, scale, align, dtype)
    low = np.floor(at)
    t = at - low
    places = (np.clip(low.astype(np.int64) + i, 0, m - 1) for i in range(-1, 3))
    return [(place, _bump(x, -0.75)) for place, x in zip(places, (t + 1, t, 1 - t, 2 - t), strict=True)]


def _wide(radius: int, weigh: Callable[[Any], Any]) -> Callable[..., Taps]:
    """Antialiased: windows that are as much wider as the output is smaller."""

    def taps(m: int, n: int, scale: float | None, align: bool, dtype: Any) -> Taps:
        if n == m:  # whatever the scale, as in PyTorch
            return [(np.arange(n), None)]
        step = ((m - 1) / (n - 1) if n > 1 else 0.0) if align else 1 / scale if scale else m / n
        wide = max(step, 1.0)
        middle = step * (np.arange(n) + 0.5)
        low = np.maximum(middle - radius * wide + 0.5, 0).astype(np.int64)
        high = np.minimum((middle + radius * wide + 0.5).astype(np.int64), m)
        at = low + np.arange((high - low).max())[:, None]  # (taps, n)
        weights = np.where(at < high, weigh(np.abs((at - middle + 0.5) / wide)), 0)
        return list(zip(np.minimum(at, m - 1), weights / weights.sum(0), strict=True))

    return taps


def _nearest_exact(m: int, n: int, scale: float | None, align: bool, dtype: Any) -> Taps:
    return _nearest(m, n, scale, align, dtype, 0.5)


_MODES: dict[str, tuple[Callable[..., Taps], tuple[int, ...]]] = {  # and of how many axes
    "nearest": (_nearest, (1, 2, 3)), "nearest-exact": (_nearest_exact, (1, 2, 3)), "linear": (_linear, (1,)),
    "bilinear": (_linear, (2,)), "trilinear": (_linear, (3,)), "bicubic": (_cubic, (2,)),
}  # fmt: skip
_ANTIALIASED = {"bilinear": _wide(1, lambda x: np.maximum(1 - x, 0)), "bicubic": _wide(2, lambda x: _bump(x, -0.5))}


@opmath
def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resize (batch, channels, *sizes) to (batch, channels, *size), or to sizes times scale_factor.

    size, scale_factor: a number, or one for each axis. mode: "nearest", "nearest-exact", "linear" (of one axis),
    "bilinear" and "bicubic" (two), "trilinear" (three) or "area". align_corners: the corner pixels keep their values,
    in the modes with weights. recompute_scale_factor: use the ratio of the sizes instead of scale_factor.
    antialias: smaller images are of weighted means, in "bilinear" and "bicubic". Raises ValueError for other modes,
    axes and sizes, and for align_corners in a mode without weights. As torch.nn.functional.interpolate.

    >>> F.interpolate(ta.tensor([[[1.0, 3.0]]]), scale_factor=2, mode="linear").tolist()
    [[[1.0, 1.5, 2.5, 3.0]]]
    """
    n = input.ndim - 2
    if antialias and (mode not in _ANTIALIASED or n != 2):
        raise ValueError(
            f"interpolate: antialias=True with mode={mode!r} for {n} axes; expected {[*_ANTIALIASED]} for 2"
        )
    if (size is None) == (scale_factor is None) or n < 1:
        raise ValueError(
            f"interpolate: size={size} and scale_factor={scale_factor} for shape {tuple(input.shape)}; expected one "
            "of both, and an input (batch, channels, *sizes)"
        )
    if align_corners is not None and (mode == "area" or mode.startswith("nearest")):
        raise ValueError(f"interpolate: mode={mode!r} has no align_corners={align_corners}; leave it out")
    given = size if scale_factor is None else scale_factor
    each = tuple(given) if isinstance(given, tuple | list) else (given,) * n
    if len(each) != n:
        raise ValueError(f"interpolate: {given} for {n} axes; expected a number, or one for each of them")
    scales = each if scale_factor is not None and not recompute_scale_factor else (None,) * n
    sizes = [int(s) if scale_factor is None else math.floor(m * s) for m, s in zip(input.shape[2:], each, strict=True)]
    if min((*sizes, *input.shape[2:])) < 1:
        raise ValueError(f"interpolate: {tuple(input.shape[2:])} to {tuple(sizes)}; expected sizes of at least 1")
    if mode == "area":
        return (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[n - 1](input, sizes)
    if mode not in _MODES or n not in _MODES[mode][1]:
        known = [name for name, (_, axes) in _MODES.items() if n in axes]
        raise ValueError(f"interpolate: mode={mode!r} for {n} axes; expected one of {known}")
    taps = _ANTIALIASED[mode] if antialias else _MODES[mode][0]
    return unshared(_resized(input, sizes, scales, taps, bool(align_corners)), input)


def _resized(x: Tensor, sizes: Any, scales: Any, taps: Callable[..., Taps], align: bool) -> Tensor:
    dtype = np.dtype(opmath_dtype(x.dtype) if x.dtype.kind == "f" else np.float32)
    for axis, (n, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        m = x.shape[axis]
        if n == m and (scale is None or scale == 1) and taps is not _cubic:
            continue
        out = None
        for index, weight in taps(m, n, scale, align, dtype):
            part = getitem(x, (slice(None),) * axis + (creation.as_tensor(index, device=x.device),))
            if weight is not None:
                shape = (n, *(1 for _ in x.shape[axis + 1 :]))
                part = part * creation.as_tensor(weight.astype(dtype).reshape(shape), device=x.device)
            out = part if out is None else out + part
        assert out is not None
        x = out
    return x


def upsample(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: Any = None
) -> Tensor:
    """Return `interpolate` of the input, whose older name this is. As torch.nn.functional.upsample.

    >>> F.upsample(ta.tensor([[[1.0, 3.0]]]), scale_factor=2).tolist()
    [[[1.0, 1.0, 3.0, 3.0]]]
    """
    return interpolate(input, size, scale_factor, mode, align_corners)


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """Return (..., c * r * r, h, w) as (..., c, h * r, w * r), for r = upscale_factor.

    Raises RuntimeError for other channels. As torch.nn.functional.pixel_shuffle (Shi et al. 2016).

    >>> F.pixel_shuffle(ta.arange(4).reshape(4, 1, 1), 2).tolist()
    [[[0, 1], [2, 3]]]
    """
    r = upscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-3] % (r * r):
        raise RuntimeError(
            f"pixel_shuffle: upscale_factor={r} for shape {tuple(input.shape)}; expected (..., c * r * r, h, w)"
        )
    *lead, c, h, w = input.shape
    k = len(lead)
    x = permute(reshape(input, (*lead, c // (r * r), r, r, h, w)), (*range(k), k, k + 3, k + 1, k + 4, k + 2))
    return reshape_result(x, (*lead, c // (r * r), h * r, w * r), input)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """Return (..., c, h * r, w * r) as (..., c * r * r, h, w), the inverse of `pixel_shuffle`.

    Raises RuntimeError for other sizes. As torch.nn.functional.pixel_unshuffle.

    >>> F.pixel_unshuffle(ta.arange(4).reshape(1, 2, 2), 2).flatten().tolist()
    [0, 1, 2, 3]
    """
    r = downscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-1] % r or input.shape[-2] % r:
        raise RuntimeError(
            f"pixel_unshuffle: downscale_factor={r} for shape {tuple(input.shape)}; expected (..., c, h * r, w * r)"
        )
    *lead, c, h, w = input.shape
    k = len(lead)
    x = permute(reshape(input, (*lead, c, h // r, r, w // r, r)), (*range(k), k, k + 2, k + 4, k + 1, k + 3))
    return reshape_result(x, (*lead, c * r * r, h // r, w // r), input)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Return (n, groups * k, ...) with the channels in the order of (n, k * groups, ...): one of each group in turn.

    Raises RuntimeError for channels that do not fit. As torch.nn.functional.channel_shuffle (Zhang et al. 2018).

    >>> F.channel_shuffle(ta.arange(4).reshape(1, 4, 1), 2).flatten().tolist()
    [0, 2, 1, 3]
    """
    if input.ndim < 3 or groups < 1 or input.shape[1] % groups:
        raise RuntimeError(
            f"channel_shuffle: groups={groups} for shape {tuple(input.shape)}; expected (n, groups * k, ...)"
        )
    n, c, *rest = input.shape
    x = reshape(input, (n, groups, c // groups, *rest)).transpose(1, 2)
    return reshape_result(x, (n, c, *rest), input)


@opmath
def local_response_norm(input: Tensor, size: int, alpha: float = 0.0001, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Return input / (k + alpha * the mean of squares of `size` channels around)^beta: (n, c, ...).

    As torch.nn.functional.local_response_norm. Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification".

    >>> F.local_response_norm(ta.ones(1, 1, 2), 1, alpha=3.0, beta=0.5).tolist()
    [[[0.5, 0.5]]]
    """
    if input.ndim < 3 or size < 1:
        raise ValueError(f"local_response_norm: size={size} for shape {tuple(input.shape)}; expected (n, c, ...)")
    c = input.shape[1]
    squares = pad(input.square(), (0, 0) * (input.ndim - 2) + (size // 2, (size - 1) // 2))
    total = squares[:, :c]
    for i in range(1, size):
        total = total + squares[:, i : i + c]
    return input / (total * (alpha / size) + k) ** beta


# --- images read at places that are computed: spatial transformers, deformable attention ---


@opmath
def affine_grid(theta: Tensor, size: Any, align_corners: bool | None = None) -> Tensor:
    """Return where an affine map takes the pixels of an image: theta (n, 2, 3) and size (n, c, h, w) give (n, h, w, 2).

    Of volumes, (n, 3, 4) and (n, c, d, h, w) give (n, d, h, w, 3). Places are (x, y) or (x, y, z) from -1 to 1 across
    the image: between the centres of its corner pixels with align_corners, else between its edges. Raises ValueError
    for other shapes. As torch.nn.functional.affine_grid.

    >>> F.affine_grid(ta.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]), (1, 1, 1, 2)).tolist()
    [[[[-0.5, 0.0], [0.5, 0.0]]]]
    """
    axes = len(size) - 2
    if axes not in (2, 3) or tuple(theta.shape) != (size[0], axes, axes + 1):
        raise ValueError(
            f"affine_grid: theta {tuple(theta.shape)} and size {tuple(size)}; expected (n, 2, 3), (n, c, h, w), or "
            "(n, 3, 4), (n, c, d, h, w)"
        )
    n, _, *sizes = size
    lines = []
    for count in sizes:
        line = creation.linspace(-1, 1, count, dtype=theta.dtype, device=theta.device)
        lines.append(line if align_corners and count > 1 else line * ((count - 1) / count))
    places = meshgrid(*lines, indexing="ij")[::-1]
    points = reshape(stack([*places, creation.ones_like(places[0])], -1), (1, math.prod(sizes), axes + 1))
    return reshape(matmul(points, transpose(theta, 1, 2)), (n, *sizes, axes))


@opmath
def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """Read images at places: input (n, c, h, w) and grid (n, rows, columns, 2) give (n, c, rows, columns).

    Volumes (n, c, d, h, w) are read at (n, planes, rows, columns, 3). grid: (x, y) or (x, y, z), as of `affine_grid`.
    mode: "bilinear" (of volumes: trilinear), "nearest", or of images "bicubic". padding_mode: what lies outside,
    "zeros", the "border", or a "reflection". Jaderberg et al. 2015, "Spatial transformer networks". Raises ValueError
    for other modes and shapes. As torch.nn.functional.grid_sample.

    >>> image = ta.tensor([[[[1.0, 3.0]]]])
    >>> F.grid_sample(image, ta.tensor([[[[0.0, 0.0], [0.5, 0.0]]]])).tolist()
    [[[[2.0, 3.0]]]]
    """
    axes, modes = input.ndim - 2, ("bilinear", "nearest", "bicubic")
    if mode not in modes or (mode == "bicubic" and axes == 3) or padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(
            f"grid_sample: mode={mode!r}, padding_mode={padding_mode!r}; expected 'bilinear', 'nearest' or (of images) "
            "'bicubic', and 'zeros', 'border' or 'reflection'"
        )
    if axes not in (2, 3) or grid.ndim != input.ndim or grid.shape[-1] != axes or grid.shape[0] != input.shape[0]:
        raise ValueError(
            f"grid_sample: input {tuple(input.shape)}, grid {tuple(grid.shape)}; expected (n, c, h, w) and "
            "(n, rows, columns, 2), or (n, c, d, h, w) and (n, planes, rows, columns, 3)"
        )
    sizes, align = input.shape[:1:-1], bool(align_corners)  # of x first, as in the grid
    places = [_pixel(grid[..., i], size, align) for i, size in enumerate(sizes)]
    if mode == "bicubic":
        return _bicubic(input, places, padding_mode, align)
    places = [_brought_in(place, size, padding_mode, align) for place, size in zip(places, sizes, strict=True)]
    if mode == "nearest":
        found = _read(input, [round(place) for place in places])
        every = creation.ones_like(found, dtype="bool")
        return where(every, found, places[0][:, None])  # the grid has a gradient, of zeros
    first = [floor(place).detach() for place in places]
    far = [place - low for place, low in zip(places, first, strict=True)]  # the share of the neighbour on that side
    out: Any = None
    for corner in itertools.product((0, 1), repeat=axes):  # of the last axis, x, first
        sides = corner[::-1]
        share = functools.reduce(operator.mul, (f if side else 1 - f for f, side in zip(far, sides, strict=True)))
        at = [low + 1 if side else low for low, side in zip(first, sides, strict=True)]
        part = _read(input, at) * share[:, None]
        out = part if out is None else out + part
    return out


def _pixel(place: Tensor, size: int, align: bool) -> Tensor:
    """Places from -1 to 1 as numbers of pixels."""
    return (place + 1) * ((size - 1) / 2) if align else ((place + 1) * size - 1) / 2


def _bicubic(input: Tensor, places: list[Tensor], padding_mode: str, align: bool) -> Tensor:
    """The sum of the 4 x 4 pixels around each place, weighted as by `_bump`; each is brought into the image."""
    taps = []  # of x and of y: four numbers of pixels, and their weights
    for place, size in zip(places, input.shape[:1:-1], strict=True):
        low = floor(place).detach()
        t, a = place - low, -0.75
        weights = [((a * x - 5 * a) * x + 8 * a) * x - 4 * a if far else ((a + 2) * x - (a + 3)) * x * x + 1
                   for x, far in ((t + 1, True), (t, False), (1 - t, False), (2 - t, True))]  # fmt: skip
        pixels = [_brought_in(low + i, size, padding_mode, align) for i in range(-1, 3)]
        taps.append([*zip(pixels, weights, strict=True)])
    parts = [_read(input, [x, y]) * (u * v)[:, None] for (x, u), (y, v) in itertools.product(*taps)]
    return functools.reduce(operator.add, parts)


def _brought_in(at: Tensor, size: int, padding_mode: str, align: bool) -> Tensor:
    """Numbers of pixels, brought into the image if something is to be read outside."""
    if padding_mode == "zeros":
        return at
    low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
    if padding_mode == "reflection" and high > low:
        off = abs(at - low)
        over = fmod(off, high - low)
        back = floor(off / (high - low)).detach() % 2 == 1
        at = where(back, high - over, over + low)
    return _hardtanh(where(at == at, at, 0.0), low=0.0, high=size - 1.0)  # no slope at a border, nor at NaN


def _read(input: Tensor, places: list[Tensor]) -> Tensor:
    """The pixels at these numbers (n, *rows) along the last axis, the one before ..., 0 outside the image."""
    n, c, *sizes = input.shape
    inside = functools.reduce(
        operator.and_, ((p >= 0) & (p <= size - 1) for p, size in zip(places, sizes[::-1], strict=True))
    )
    cell = places[-1]
    for size, place in zip(sizes[1:], places[-2::-1], strict=True):
        cell = cell * size + place
    at = cast(where(inside, cell, 0.0), "int64")
    index = broadcast_to(reshape(at, (n, 1, -1)), (n, c, at.numel() // max(n, 1)))
    found = reshape(gather(reshape(input, (n, c, math.prod(sizes))), 2, index), (n, c, *at.shape[1:]))
    return where(inside[:, None], found, 0.0)
