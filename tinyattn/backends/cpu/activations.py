"""Kernels of the activations: as few passes over memory as NumPy allows, in place where possible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.backends.cpu.blocks import stretches
from tinyattn.backends.cpu.erf import erf

__all__ = ["gelu", "gelu_backward", "logsigmoid", "relu", "sigmoid", "softplus"]

Array = Any
_SLOPE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def relu(x: Array) -> Array:
    """max(x, 0)"""
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e ** -x)"""
    out = np.negative(x)
    out = np.exp(out, out=out if out.ndim else None)
    out += 1
    return np.reciprocal(out, out=out if out.ndim else None)


def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """log(1 + e ** (beta x)) / beta; x where beta x is above the threshold."""
    scaled = x * beta
    return np.where(scaled > threshold, x, np.log1p(np.exp(np.minimum(scaled, threshold))) / beta)


def logsigmoid(x: Array) -> Array:
    """log(sigmoid(x))"""
    # min(x, 0) - log(1 + exp(-|x|)) never overflows
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def gelu(x: Array, approximate: str = "none") -> Array:
    """x times the normal distribution function at x, or "tanh", which approximates it."""
    out = np.empty_like(x)
    for a, y in stretches(x, out):
        if approximate == "none":
            np.multiply(a, math.sqrt(0.5), out=y)
            y[...] = erf(y)
        else:
            _tanh_part(a, np.multiply(a, a, out=y), y)
        y += 1
        y *= a
        y *= 0.5
    return out


def gelu_backward(g: Array, x: Array, approximate: str = "none") -> Array:
    """g times the slope of gelu at x."""
    out = np.empty_like(x)
    for a, u, slope in stretches(x, g, out):
        if approximate == "none":  # half (1 + erf(x / sqrt(2))) and x times the density
            square = np.asarray(a * a)
            square *= -0.5
            density = np.exp(square, out=square)
            density *= a
            density *= math.sqrt(2 / math.pi)
            np.multiply(a, math.sqrt(0.5), out=slope)
            slope[...] = erf(slope)
            slope += 1
            slope += density
            slope *= 0.5
        else:  # with t = tanh(x s), s = k + c x^2: (1 + t) (1 + (1 - t) x (k + 3 c x^2)) / 2
            square = a * a
            t = _tanh_part(a, square, np.empty_like(square))
            square *= 1.5 * _SLOPE * _CUBIC
            square += 0.5 * _SLOPE
            square *= a
            np.subtract(1, t, out=slope)
            slope *= square
            slope += 0.5
            t += 1
            slope *= t
        slope *= u
    return out


def _tanh_part(x: Array, square: Array, out: Array) -> Array:
    """tanh(sqrt(2 / pi) (x + 0.044715 x^3)), written to `out`, which may be `square`, that is x^2."""
    np.multiply(square, _SLOPE * _CUBIC, out=out)
    out += _SLOPE
    out *= x
    return np.tanh(out, out=out)
