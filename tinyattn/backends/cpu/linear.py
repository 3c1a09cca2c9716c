"""Kernels of the affine map, and of one with a GELU after it."""

from __future__ import annotations

from typing import Any

from tinyattn.backends.cpu.activations import gelu, gelu_writing_slope

__all__ = ["linear", "linear_gelu", "linear_gelu_and_slope"]

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
