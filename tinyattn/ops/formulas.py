"""Functions of each element that are one formula of other operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.choices import eq, ge, gt, le, logical_and, logical_or, lt, maximum, where
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import abs, exp, log, log1p, mul, reciprocal, sign, sin
from tinyattn.ops.legacy import is_tensor
from tinyattn.ops.mathematics import isnan
from tinyattn.ops.promotion import floating, opmath


def _formula(name: str, words: str, call: str, found: Any, function: Callable[..., Any]) -> Callable[..., Tensor]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"""Return {words}, elementwise. As torch.{name}.

    >>> ta.{name}({call}).tolist()
    {found}
    """
    return opmath(function)


def _xlogy(input: Any, other: Any) -> Tensor:
    x, y = floating(input, other)
    no_log = logical_and(eq(x, 0), logical_or(le(y, 0), eq(y, math.inf)))
    return mul(x, log(where(no_log, creation.ones_like(x if is_tensor(x) else y), y)))


def _sinc(x: Any) -> Tensor:
    angle = mul(where(eq(x, 0), 1, x), math.pi)
    return where(eq(x, 0), 1, sin(angle) / angle)


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
xlogy = _formula(
    "xlogy", "input * log(other), 0 where the input is 0, NaN where `other` is", "ta.zeros(2), ta.tensor([0.0, 1.0])",
    [0.0, 0.0], _xlogy,
)  # fmt: skip
logaddexp = _formula(
    "logaddexp", "log(exp(input) + exp(other))", "ta.tensor([-1000.0]), ta.tensor([1000.0])", [1000.0],
    # its slopes stay right where 1 is lost beside the input
    lambda input, other: maximum(input, other) + log1p(exp(-abs(input - other))),
)  # fmt: skip
logaddexp2 = _formula(
    "logaddexp2", "log2(2 ** input + 2 ** other)", "ta.tensor([1024.0]), ta.tensor([1024.0])", [1025.0],
    lambda input, other: logaddexp(input * math.log(2), other * math.log(2)) / math.log(2),
)  # fmt: skip
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
