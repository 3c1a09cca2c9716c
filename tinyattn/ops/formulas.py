"""Functions of each element that are one formula of other operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinyattn.engine.variable import Tensor
from tinyattn.ops.choices import eq, ge, gt, le, logical_and, logical_or, lt, where
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import abs, elementwise, mul, reciprocal, sign, sin
from tinyattn.ops.mathematics import isnan
from tinyattn.ops.promotion import floating, opmath
from tinyattn.ops.synonyms import formula


def _formula(name: str, words: str, call: str, found: Any, function: Callable[..., Any]) -> Callable[..., Tensor]:
    return opmath(formula(name, f"{words}, elementwise", call, found, function))


def _log(xp: Any, x: Any) -> Any:
    """log(x), of a Python number as a Python number, which widens no dtype."""
    if not isinstance(x, float | int):
        return xp.log(x)
    return math.log(x) if x > 0 else -math.inf if x == 0 else math.nan


@elementwise(
    "multiplies",
    a=lambda xp, g, a, b: xp.where(xp.logical_and(a == 0, b <= 0), 0.0, g * _log(xp, b)),
    b=lambda xp, g, a, b: g * (a / b),
)
def xlogy(xp: Any, a: Any, b: Any) -> Any:
    """Return input * log(other), 0 where the input is 0, NaN where `other` is, elementwise. As torch.xlogy.

    >>> ta.xlogy(ta.zeros(2), ta.tensor([0.0, 1.0])).tolist()
    [0.0, 0.0]
    """
    return xp.where(xp.logical_and(a == 0, b == b), 0.0, a * _log(xp, b))


_SERIES = [(-1) ** k / math.factorial(2 * k + 1) for k in range(11)]  # of sin(a) / a in a ** 2, for |a| < 1


def _sinc(x: Any) -> Tensor:
    angle = mul(x, math.pi)
    near = lt(abs(angle), 1)  # there the slope of sin(a) / a is a difference of nearly equal numbers
    square, series = mul(where(near, angle, 0), where(near, angle, 0)), _SERIES[-1]
    for factor in reversed(_SERIES[:-1]):
        series = series * square + factor
    far = where(near, 1, angle)
    return where(near, series, sin(far) / far)


def _copysign(input: Any, other: Any) -> Tensor:
    input, other = floating(input, other)
    return where(signbit(other), -abs(input), abs(input))


sgn = sign
fmax = _formula(
    "fmax", "the larger of both, or the one that is not NaN", "ta.tensor([1.0, ta.nan]), ta.tensor([2.0, 3.0])",
    [2.0, 3.0], lambda input, other: where(logical_or(ge(input, other), isnan(other)), input, other),
)  # fmt: skip
fmin = _formula(
    "fmin", "the smaller of both, or the one that is not NaN", "ta.tensor([1.0, ta.nan]), ta.tensor([2.0, 3.0])",
    [1.0, 3.0], lambda input, other: where(logical_or(le(input, other), isnan(other)), input, other),
)  # fmt: skip
heaviside = _formula(
    "heaviside", "0 below 0, 1 above, and `values` at 0", "ta.tensor([-1.5, 0.0]), ta.tensor(0.5)", [0.0, 0.5],
    lambda input, values: where(eq(input, 0), values, cast(gt(input, 0), input.dtype)).detach(),
)  # fmt: skip
sinc = _formula("sinc", "sin(pi input) / (pi input), 1 at 0", "ta.tensor([0.0])", [1.0], _sinc)


def _share(xp: Any, a: Any, b: Any, unit: float = 1.0) -> Any:
    """The slope of logaddexp in `a`; of two -inf it is 0, as that of logsumexp."""
    none = xp.maximum(a, b) == -math.inf
    return xp.masked_fill(xp.sigmoid(xp.masked_fill(a - b, none, 0.0) * unit), none, 0.0)


@elementwise("saturates", a=lambda xp, g, a, b: g * _share(xp, a, b), b=lambda xp, g, a, b: g * _share(xp, b, a))
def logaddexp(xp: Any, a: Any, b: Any) -> Any:
    """Return log(exp(input) + exp(other)), elementwise, without overflow. As torch.logaddexp.

    >>> ta.logaddexp(ta.tensor([-1000.0]), ta.tensor([1000.0])).tolist()
    [1000.0]
    """
    top = xp.maximum(a, b)
    return xp.where(xp.isfinite(top), top + xp.log1p(xp.exp(-xp.abs(a - b))), top)  # inf - inf is NaN


@elementwise(
    "saturates",
    a=lambda xp, g, a, b: g * _share(xp, a, b, math.log(2)),
    b=lambda xp, g, a, b: g * _share(xp, b, a, math.log(2)),
)
def logaddexp2(xp: Any, a: Any, b: Any) -> Any:
    """Return log2(2 ** input + 2 ** other), elementwise, without overflow. As torch.logaddexp2.

    >>> ta.logaddexp2(ta.tensor([1024.0]), ta.tensor([1024.0])).tolist()
    [1025.0]
    """
    top, unit = xp.maximum(a, b), math.log(2)  # in this order two equal numbers give exactly 1 more
    return xp.where(xp.isfinite(top), top + xp.log1p(xp.exp(xp.abs(a - b) * -unit)) / unit, top)


deg2rad = _formula("deg2rad", "degrees in radians", "ta.tensor([0.0])", [0.0], lambda input: mul(input, math.pi / 180))
rad2deg = _formula("rad2deg", "radians in degrees", "ta.tensor([0.0])", [0.0], lambda input: mul(input, 180 / math.pi))
isneginf = _formula(
    "isneginf", "where the input is -infinity", "ta.tensor([1.0, -ta.inf])", [False, True],
    lambda input: eq(input, -math.inf),
)  # fmt: skip
isposinf = _formula(
    "isposinf", "where the input is +infinity", "ta.tensor([1.0, ta.inf])", [False, True],
    lambda input: eq(input, math.inf),
)  # fmt: skip
signbit = _formula(
    "signbit", "where the input is below 0 or -0.0", "ta.tensor([0.0, -0.0, -2.0])", [False, True, True],
    lambda input: logical_or(lt(input, 0), logical_and(eq(input, 0), lt(reciprocal(input), 0))),
)  # fmt: skip
copysign = _formula(
    "copysign", "the input with the sign of `other`", "ta.tensor([1.0, 2.0]), ta.tensor([-0.0, 3.0])", [-1.0, 2.0],
    _copysign,
)  # fmt: skip
