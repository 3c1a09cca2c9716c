"""Kernels of the activations: as few passes over memory as NumPy allows, in place where possible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.backends.cpu.arrays import clamp
from tinyattn.backends.cpu.blocks import blockwise, dense
from tinyattn.backends.cpu.error_function import erf, polynomial

__all__ = ["gelu", "gelu_and_slope", "relu", "sigmoid"]

Array = Any
_SLOPE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715
# In float32, the normal distribution function is 1 / (1 + exp(x p(x^2))): p is a minimax fit up to 5.4.
# Below 0 it is closer to the true values than (1 + erf) / 2, which cancels.
_MINUS_LOGIT = (
    -1.59576925, -0.0726702804, 7.2177983e-05, 0.000105770782, -6.28832336e-06, -3.22576693e-08, 2.60773878e-08,
    -1.60548014e-09, 4.38104116e-11, -4.65931772e-13,
)  # fmt: skip


def relu(x: Array) -> Array:
    """max(x, 0)"""
    return clamp(x, 0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e ** -x)"""
    return blockwise(_sigmoid, x)


def _sigmoid(x: Array, out: Array) -> None:
    np.exp(np.negative(x, out=out), out=out)
    out += 1
    np.divide(1, out, out=out)  # takes half the time of np.reciprocal


def gelu(x: Array, approximate: str = "none") -> Array:
    """x times the normal distribution function at x, or "tanh", which approximates it."""

    def kernel(x: Array, out: Array) -> None:
        _normal(x, out, approximate)
        out *= x

    return blockwise(kernel, x)


def gelu_and_slope(x: Array, approximate: str = "none") -> tuple[Array, Array]:
    """`gelu` at x and its derivative there: together they take little longer than one alone."""
    x = dense(x)
    slope = np.empty_like(x)
    return gelu_writing_slope(x, approximate, slope), slope


def gelu_writing_slope(x: Array, approximate: str, slope: Array) -> Array:
    """`gelu` at x; its derivative is written to `slope`, which may be x itself."""

    def kernel(x: Array, out: Array, slope: Array) -> None:
        normal, other = _normal(x, np.empty_like(x), approximate), np.square(x, out=np.empty_like(x))
        np.multiply(x, normal, out=out)
        if approximate == "none":  # the distribution function, and x times the density
            other *= -0.5
            np.exp(other, out=other)
            other *= x
            other *= 1 / math.sqrt(2 * math.pi)
        else:  # with p = (1 + tanh(x (k + c x^2))) / 2: p + 2 p (1 - p) x (k + 3 c x^2)
            other *= 6 * _SLOPE * _CUBIC
            other += 2 * _SLOPE
            other *= out
            other *= np.subtract(1, normal, out=slope)
        np.add(normal, other, out=slope)

    return blockwise(kernel, x, slope)


def _normal(x: Array, out: Array, approximate: str) -> Array:
    """Normal distribution: (1 + erf(x / sqrt(2))) / 2, or (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.

    (1 + tanh(z)) / 2 is 1 / (1 + exp(-2 z)): exp takes half the time of tanh, and nothing cancels below 0.
    """
    if approximate == "none" and x.dtype != np.float32:
        out[...] = erf(np.multiply(x, math.sqrt(0.5), out=out))
        out += 1
        out *= 0.5
        return out
    if approximate == "none":
        polynomial(_MINUS_LOGIT, np.square(x, out=np.empty_like(x)), out)
    else:
        np.square(x, out=out)
        out *= -2 * _SLOPE * _CUBIC
        out -= 2 * _SLOPE
    out *= x
    np.exp(out, out=out)
    out += 1
    return np.divide(1, out, out=out)
