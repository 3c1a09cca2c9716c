"""Kernels of the activations."""

from __future__ import annotations

from typing import Any

import cupy as cp

from tinyattn.backends.cuda.rows import contiguous, in_float32, launch_elements
from tinyattn.backends.cuda.sums import add_stripes, launch_columns, stripes

__all__ = ["bias_gelu", "bias_gelu_backward", "gelu", "gelu_backward", "logsigmoid", "relu", "sigmoid", "softplus"]

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
def bias_gelu(x: Array, bias: Array, approximate: str = "none") -> Array:
    """gelu(x + bias) in one pass: x (..., width), bias (width,) or None."""
    x, out = contiguous(x), cp.empty(x.shape, x.dtype)
    width = 1 if bias is None else bias.size
    bias = bias if bias is None else contiguous(bias)
    launch_elements("activations", "gelu_forward", [x, bias, out, x.size, width, approximate == "tanh"], x.size)
    return out


@in_float32
def gelu_backward(g: Array, x: Array, approximate: str = "none") -> Array:
    """g times the slope of gelu at x."""
    g, x, out = contiguous(g), contiguous(x), cp.empty(x.shape, x.dtype)
    launch_elements("activations", "gelu_backward", [g, x, out, x.size, approximate == "tanh"], x.size)
    return out


@in_float32
def bias_gelu_backward(g: Array, x: Array, bias: Array, approximate: str = "none") -> tuple[Array, Array]:
    """Gradients of x and bias of `bias_gelu`, in one pass over g and x."""
    g, x, bias = contiguous(g), contiguous(x), contiguous(bias)
    dx, width = cp.empty(x.shape, x.dtype), bias.size
    rows = x.size // max(width, 1)
    sums = cp.empty((1, stripes(rows), width), x.dtype)
    args = [g, x, bias, dx, sums, rows, width, approximate == "tanh"]
    launch_columns("activations", "bias_gelu_backward", args, width, sums.shape[1])
    return dx, add_stripes(sums)[0].reshape(bias.shape)
