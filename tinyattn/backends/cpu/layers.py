"""Kernels of layers: the affine map, with or without a GELU after it, and layer normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.backends.cpu.activations import gelu, gelu_writing_slope
from tinyattn.backends.cpu.blocks import rows
from tinyattn.backends.cpu.recording import one_call
from tinyattn.backends.cpu.sums import column_sums, row_dots, row_means

__all__ = ["layer_norm", "layer_norm_backward", "linear", "linear_gelu", "linear_gelu_and_slope"]

Array = Any


def linear(x: Array, weight: Array, bias: Array = None) -> Array:
    """(..., in) -> (..., out) by one product over all rows, never one for each sample."""
    out = x.reshape(-1, x.shape[-1]) @ weight.T if x.size else x @ weight.T  # (rows, out)
    if bias is not None:
        out += bias
    return out.reshape(*x.shape[:-1], weight.shape[0])


def linear_gelu(x: Array, weight: Array, bias: Array = None, approximate: str = "none") -> Array:
    """gelu(x @ weight.T + bias)"""
    return gelu(linear(x, weight, bias), approximate)


def linear_gelu_and_slope(
    x: Array, weight: Array, bias: Array = None, approximate: str = "none"
) -> tuple[Array, Array]:
    """`linear_gelu` and the derivative of the GELU, which takes the place of what went into it."""
    h = linear(x, weight, bias)
    return gelu_writing_slope(h, approximate, slope=h), h


# --- layer normalisation ---


def layer_norm(x: Array, weight: Array, bias: Array, shape: tuple[int, ...], eps: float) -> tuple[Array, ...]:
    """Returns the output, the normalised input (rows, width) and 1 / standard deviation (rows,)."""
    width = math.prod(shape)
    xs = x.reshape(-1, width)
    out, normal, rstd = np.empty_like(xs), np.empty_like(xs), np.empty(len(xs), x.dtype)
    for part in rows(len(xs), width):
        h, r, y = normal[part], rstd[part], out[part]
        means = row_means(xs[part])
        np.subtract(xs[part], means, out=h)
        r[...] = row_dots(h, h)  # width times the variance
        _center_again(h, r, means)
        r += width * eps
        np.sqrt(r, out=r)
        np.divide(math.sqrt(width), r, out=r)
        h *= r[:, None]
        if weight is None:
            y[...] = h
        else:
            np.multiply(h, weight.reshape(-1), out=y)
        if bias is not None:
            y += bias.reshape(-1)
    return out.reshape(x.shape), normal, rstd


@one_call(0, 1)
def _center_again(h: Array, r: Array, means: Array) -> None:
    """Subtract the mean that is left, a rounding error of the first, where it is all there is of a constant row.

    The error is a few roundings of the mean, so it needs no look where all means are below two standard deviations.
    """
    width = h.shape[1]
    if not (np.square(means[:, 0]) * (width / 4) > r).any():
        return
    rest = row_means(h)
    if (np.square(rest[:, 0]) * width > r * (8 * np.finfo(h.dtype).eps) ** 2).any():
        h -= rest
        r[...] = row_dots(h, h)


def layer_norm_backward(
    g: Array, normal: Array, rstd: Array, weight: Array, shape: tuple[int, ...], needed: tuple[bool, ...]
) -> tuple[Array, ...]:
    """Gradients of x, weight and bias.

    With h = g weight, dx = rstd (h - mean(h) - normal mean(h normal)).
    """
    width = math.prod(shape)
    gs = g.reshape(-1, width)
    dx = np.empty_like(gs) if needed[0] else None
    dweight, dbias = (np.zeros(width) if n and not len(gs) else None for n in needed[1:])
    for part in rows(len(gs), width):
        u, n = gs[part], normal[part]
        if dx is not None:
            h = u.copy() if weight is None else u * weight.reshape(-1)
            along = (row_dots(h, n) / -width).astype(g.dtype, copy=False)
            h -= row_means(h)
            h += np.multiply(n, along[:, None], out=dx[part])
            np.multiply(h, rstd[part][:, None], out=dx[part])
        if needed[1]:
            dweight = _added(dweight, column_sums(u * n))
        if needed[2]:
            dbias = _added(dbias, column_sums(u))
    found = ((dx, g.shape), (dweight, shape), (dbias, shape))
    return tuple(d if d is None else d.astype(g.dtype, copy=False).reshape(s) for d, s in found)


def _added(total: Array, more: Array) -> Array:
    """`total`, None at first, and `more`."""
    return more if total is None else np.add(total, more, out=total)
