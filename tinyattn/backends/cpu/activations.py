"""Kernels of the activations: as few passes over memory as NumPy allows, in place where possible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.backends.cpu.blocks import stretches
from tinyattn.backends.cpu.error_function import erf

__all__ = ["gelu", "gelu_and_slope", "relu", "sigmoid"]

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


def gelu(x: Array, approximate: str = "none") -> Array:
    """x times the normal distribution function at x, or "tanh", which approximates it."""
    out = np.empty_like(x)
    for a, y in stretches(x, out):
        _twice_normal(a, y, approximate)
        y *= a
        y *= 0.5
    return out


def gelu_and_slope(x: Array, approximate: str = "none") -> tuple[Array, Array]:
    """`gelu` at x and its derivative there: together they take little longer than one alone."""
    slope = np.empty_like(x)
    return gelu_writing_slope(x, approximate, slope), slope


def gelu_writing_slope(x: Array, approximate: str, slope: Array) -> Array:
    """`gelu` at x; its derivative is written to `slope`, which may be x itself."""
    out = np.empty_like(x)
    for a, y, d in stretches(x, out, slope):
        twice = _twice_normal(a, np.empty_like(a), approximate)
        np.multiply(a, twice, out=y)
        y *= 0.5
        other = np.multiply(a, a, out=np.empty_like(a))
        if approximate == "none":  # half of it, and x times the density
            other *= -0.5
            np.exp(other, out=other)
            other *= a
            other *= 1 / math.sqrt(2 * math.pi)
            np.multiply(twice, 0.5, out=d)
            d += other
        else:  # with t = tanh(x (k + c x^2)): (1 + t) (1 + (1 - t) x (k + 3 c x^2)) / 2
            other *= 1.5 * _SLOPE * _CUBIC
            other += 0.5 * _SLOPE
            other *= a
            np.subtract(2, twice, out=d)
            d *= other
            d += 0.5
            d *= twice
    return out


def _twice_normal(x: Array, out: Array, approximate: str) -> Array:
    """Twice the normal distribution function: 1 + erf(x / sqrt(2)), or 1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))."""
    if approximate == "none":
        np.multiply(x, math.sqrt(0.5), out=out)
        out[...] = erf(out)
    else:
        np.multiply(x, x, out=out)
        out *= _SLOPE * _CUBIC
        out += _SLOPE
        out *= x
        np.tanh(out, out=out)
    out += 1
    return out
