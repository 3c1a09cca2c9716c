"""Kernels of layers: GELU, the affine map with or without a GELU after it, and layer normalisation."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp

from tinyattn.backends.cuda.launch import blocks, launch
from tinyattn.backends.cuda.products import matmul
from tinyattn.backends.cuda.rows import can_hold, column_sums, contiguous, launch_elements, launch_rows, team

__all__ = [
    "gelu", "gelu_and_slope", "layer_norm", "layer_norm_backward", "linear", "linear_gelu", "linear_gelu_and_slope",
]  # fmt: skip

Array = Any
_BLOCKS = 512  # of the backward kernel: four for each of 128 multiprocessors. Each leaves a row of sums to be added up


def gelu(x: Array, approximate: str = "none") -> Array:
    """x times the normal distribution function at x, or "tanh", which approximates it."""
    return bias_gelu(x, None, approximate)


def gelu_and_slope(x: Array, approximate: str = "none") -> tuple[Array, Array]:
    """`gelu` at x and its derivative there."""
    x = contiguous(x)
    slope = cp.empty(x.shape, x.dtype)
    return bias_gelu(x, None, approximate, slope), slope


def bias_gelu(x: Array, bias: Array, approximate: str, slope: Array = None) -> Array:
    """gelu(x + bias) in one pass: x (..., width), bias (width,) or None.

    slope: where to write the derivative, if anywhere; it may be x itself.
    """
    x, out = contiguous(x), cp.empty(x.shape, x.dtype)
    width = 1 if bias is None else bias.size
    bias = bias if bias is None else contiguous(bias)
    args = [x, bias, out, slope, x.size, width, approximate == "tanh"]
    launch_elements("activations", "gelu_forward", args, x.size)
    return out


def linear(x: Array, weight: Array, bias: Array = None) -> Array:
    """(..., in) -> (..., out) by one product over all rows, never one for each sample."""
    out = matmul(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), weight.T)  # (rows, out)
    if bias is not None:
        out += bias
    return out.reshape(*x.shape[:-1], weight.shape[0])


def linear_gelu(x: Array, weight: Array, bias: Array = None, approximate: str = "none") -> Array:
    """gelu(x @ weight.T + bias): bias and GELU in one pass over the product."""
    return bias_gelu(linear(x, weight), _of_width(bias, weight), approximate)


def linear_gelu_and_slope(x: Array, weight: Array, bias: Array = None, approximate: str = "none") -> tuple[Array, ...]:
    """`linear_gelu` and the derivative of the GELU, which takes the place of what went into it."""
    h = linear(x, weight)
    return bias_gelu(h, _of_width(bias, weight), approximate, slope=h), h


def _of_width(bias: Array, weight: Array) -> Array:
    """A bias of one number, once for each output."""
    return bias if bias is None or bias.size == len(weight) else cp.broadcast_to(bias, (len(weight),))


# --- layer normalisation ---


def layer_norm(x: Array, weight: Array, bias: Array, shape: tuple[int, ...], eps: float) -> tuple[Array, ...]:
    """Returns the output, the normalised input (rows, width) and 1 / standard deviation (rows,)."""
    width = math.prod(shape)
    xs = contiguous(x).reshape(-1, width) if x.size else x.reshape(0, width)
    weight, bias = (a if a is None else contiguous(a) for a in (weight, bias))
    out, normal, rstd = cp.empty_like(xs), cp.empty_like(xs), cp.empty(len(xs), x.dtype)
    args = [xs, weight, bias, out, normal, rstd, float(eps)]
    launch_rows("layer_norm", "layer_norm_forward", args, len(xs), width)
    return out.reshape(x.shape), normal, rstd


def layer_norm_backward(
    g: Array, normal: Array, rstd: Array, weight: Array, shape: tuple[int, ...], needed: tuple[bool, ...]
) -> tuple[Array, ...]:
    """Gradients of x, weight and bias.

    With h = g weight, dx = rstd (h - mean(h) - normal mean(h normal)).
    """
    width = math.prod(shape)
    gs = contiguous(g).reshape(normal.shape)
    weight = weight if weight is None else contiguous(weight)
    dx = cp.empty_like(gs) if needed[0] else None
    size = team(width, gs.dtype.itemsize)
    block = max(size, 128)
    grid = blocks(len(gs), block // size, _BLOCKS)
    held = can_hold(width, gs.dtype.itemsize) and (needed[1] or needed[2])
    sums = cp.empty((2, grid, width), gs.dtype) if held else None
    if dx is not None or held:
        room = max(block // size * width if size <= 32 else 0, block // 32) * gs.dtype.itemsize
        args = [gs, normal, rstd, weight, dx, sums, len(gs), width, size]
        launch("layer_norm", "layer_norm_backward", (grid,), (block,), args, shared_bytes=room)
    if not len(gs):
        both = (cp.zeros(width, gs.dtype), cp.zeros(width, gs.dtype))
    elif sums is not None:
        both = tuple(column_sums(sums, cuts=1))
    else:
        both = (column_sums(gs, normal) if needed[1] else None, column_sums(gs) if needed[2] else None)
    dweight, dbias = (d if n else None for d, n in zip(both, needed[1:], strict=True))
    return tuple(d if d is None else d.reshape(s) for d, s in ((dx, g.shape), (dweight, shape), (dbias, shape)))
