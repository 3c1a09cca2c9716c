"""Kernels of the affine map, and of one with a GELU after it."""

from __future__ import annotations

from typing import Any

import cupy as cp

from tinyattn.backends.cuda.activations import bias_gelu
from tinyattn.backends.cuda.products import matmul
from tinyattn.backends.cuda.rows import in_float32

__all__ = ["linear", "linear_gelu", "linear_gelu_and_slope"]

Array = Any


def linear(x: Array, weight: Array, bias: Array = None) -> Array:
    """(..., in) -> (..., out) by one product over all rows, never one for each sample."""
    rows = 1
    for n in x.shape[:-1]:
        rows *= n
    out = matmul(x.reshape(rows, x.shape[-1]), weight.T)  # (rows, out)
    if bias is not None:
        out += bias
    return out.reshape(*x.shape[:-1], weight.shape[0])


@in_float32
def linear_gelu(x: Array, weight: Array, bias: Array = None, approximate: str = "none") -> Array:
    """gelu(x @ weight.T + bias): bias and GELU in one pass over the product."""
    return bias_gelu(linear(x, weight), _of_width(bias, weight), approximate)


@in_float32
def linear_gelu_and_slope(
    x: Array, weight: Array, bias: Array = None, approximate: str = "none"
) -> tuple[Array, Array]:
    """`linear_gelu` and the derivative of the GELU, which takes the place of what went into it."""
    h = linear(x, weight)
    return bias_gelu(h, _of_width(bias, weight), approximate, slope=h), h


def _of_width(bias: Array, weight: Array) -> Array:
    """A bias of one number, once for each output."""
    return bias if bias is None or bias.size == len(weight) else cp.broadcast_to(bias, (len(weight),))
