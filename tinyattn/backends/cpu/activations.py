"""Kernels of the activations: as few passes over memory as NumPy allows, in place where possible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.backends.cpu.erf import erf

__all__ = ["gelu", "gelu_derivative", "logsigmoid", "relu", "sigmoid", "softplus"]

Array = Any
_SLOPE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    out = np.negative(x)
    out = np.exp(out, out=out if out.ndim else None)
    out += 1
    return np.reciprocal(out, out=out if out.ndim else None)


def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    scaled = x * beta
    return np.where(scaled > threshold, x, np.log1p(np.exp(np.minimum(scaled, threshold))) / beta)


def logsigmoid(x: Array) -> Array:
    # min(x, 0) - log(1 + exp(-|x|)) never overflows
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def gelu(x: Array, approximate: str = "none") -> Array:
    if approximate == "none":
        return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))
    out = _tanh_part(x)
    out += 1
    out *= x
    out *= 0.5
    return out


def gelu_derivative(x: Array, approximate: str = "none") -> Array:
    if approximate == "none":
        density = np.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
        return 0.5 * (1 + erf(x * math.sqrt(0.5))) + x * density
    # with t = tanh(u): (1 + t) / 2 + x (1 - t^2) u' / 2
    t = _tanh_part(x)
    slope = x * x
    slope *= 1.5 * _SLOPE * _CUBIC
    slope += 0.5 * _SLOPE
    slope *= x  # x u' / 2
    square = t * t
    square -= 1
    slope *= square
    t += 1
    t *= 0.5
    t -= slope
    return t


def _tanh_part(x: Array) -> Array:
    """tanh(sqrt(2 / pi) (x + 0.044715 x^3))"""
    u = np.asarray(x * x)
    u *= _SLOPE * _CUBIC
    u += _SLOPE
    u *= x
    return np.tanh(u, out=u)
