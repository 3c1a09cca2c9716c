"""Kernels of the activations."""

from __future__ import annotations

from typing import Any

import cupy as cp

from tinyattn.backends.cuda.rows import contiguous, in_float32, launch_elements

__all__ = ["gelu", "gelu_and_slope", "logsigmoid", "relu", "sigmoid", "softplus"]

Array = Any


def relu(x: Array) -> Array:
    """max(x, 0)"""
    return cp.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e ** -x)"""
    return cp.reciprocal(cp.exp(-x) + 1)


def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """log(1 + e ** (beta x)) / beta; x where beta x is above the threshold."""
    scaled = x * beta
    return cp.where(scaled > threshold, x, cp.log1p(cp.exp(cp.minimum(scaled, threshold))) / beta)


def logsigmoid(x: Array) -> Array:
    """log(sigmoid(x))"""
    # min(x, 0) - log(1 + exp(-|x|)) never overflows
    return cp.minimum(x, 0) - cp.log1p(cp.exp(-cp.abs(x)))


@in_float32
def gelu(x: Array, approximate: str = "none") -> Array:
    """x times the normal distribution function at x, or "tanh", which approximates it."""
    return bias_gelu(x, None, approximate)


@in_float32
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
