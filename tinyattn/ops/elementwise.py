"""Operations on each element by itself, forward beside rule."""

from __future__ import annotations

import math
from typing import Any

from tinyattn import backends
from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Variable
from tinyattn.ops import creation
from tinyattn.ops.copies import cast
from tinyattn.ops.promotion import floating, operand, same_type

# --- arithmetic ---

_plain: dict[str, Any] = {"promote": same_type, "quiet": False, "fresh": True}

_add = Operation(lambda xp, a, b: a + b, name="add", traits="maps", a=lambda xp, g: g, b=lambda xp, g: g, **_plain)
_sub = Operation(lambda xp, a, b: a - b, name="sub", traits="maps", a=lambda xp, g: g, b=lambda xp, g: -g, **_plain)
mul = Operation(
    lambda xp, a, b: a * b,
    name="mul",
    traits="maps multiplies",
    a=lambda xp, g, b: g * b,
    b=lambda xp, g, a: g * a,
    **_plain,
)

_div = Operation(
    lambda xp, a, b: xp.div(a, b),
    name="div",
    traits="maps",
    promote=floating,
    fresh=True,
    a=lambda xp, g, b: g / b,
    b=lambda xp, g, b, out: -g * out / b,
)

neg = Operation(lambda xp, x: -x, name="neg", traits="maps", fresh=True, x=lambda xp, g: -g)


def add(input: Any, other: Any, *, alpha: float = 1) -> Variable:
    """input + alpha * other, broadcast. As torch.add."""
    return _add(input, other if alpha == 1 else mul(other, alpha))


def _is_boolean(x: Any) -> bool:
    return isinstance(x, bool) or (isinstance(x, Variable) and x.dtype.kind == "b")


def sub(input: Any, other: Any, *, alpha: float = 1) -> Variable:
    """input - alpha * other, broadcast. As torch.sub."""
    if _is_boolean(input) and _is_boolean(other):
        raise TypeError("sub: booleans cannot be subtracted; use logical_not, !=, or cast them first (x.float())")
    return _sub(input, other if alpha == 1 else mul(other, alpha))


@operation(
    traits="maps stairs",
    promote=same_type,
    a=lambda xp, g: xp.zeros_like(g),  # a staircase is flat
    b=lambda xp, g: xp.zeros_like(g),
)
def _rounded_div(xp: Any, a: Any, b: Any, *, mode: str) -> Any:
    return xp.floor_divide(a, b) if mode == "floor" else xp.trunc_divide(a, b)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Variable:
    """input / other, broadcast; integers give the default dtype.

    rounding_mode: "floor" or "trunc" round the quotient and keep integers. As torch.div.
    """
    if rounding_mode is None:
        return _div(input, other)
    if rounding_mode not in ("floor", "trunc"):
        raise ValueError(f"div: rounding_mode={rounding_mode!r}; expected None, 'floor' or 'trunc'")
    return _rounded_div(input, other, mode=rounding_mode)


# --- powers, exponentials, logarithms ---


def _power_base_rule(xp: Any, g: Any, a: Any, b: Any) -> Any:
    if isinstance(b, float | int):
        return xp.zeros_like(g) if b == 0 else g * (xp.pow(a, b - 1) * b)
    return xp.where(b == 0, 0.0, g * (b * xp.pow(a, b - 1)))  # 0 * 0**-1 is 0 here, not NaN


def _power_exponent_rule(xp: Any, g: Any, a: Any, b: Any, out: Any) -> Any:
    if isinstance(a, float | int):
        if a == 0:
            return xp.where(b >= 0, 0.0, g * (out * -math.inf))
        return g * out * (math.log(a) if a > 0 else math.nan)
    flat = xp.logical_and(a == 0, b >= 0)  # 0**b stays 0
    return xp.where(flat, 0.0, g * out * xp.log(xp.where(flat, 1.0, a)))


_pow = Operation(
    lambda xp, a, b: xp.pow(a, b),
    name="pow",
    traits="maps multiplies",
    promote=same_type,
    fresh=True,
    a=_power_base_rule,
    b=_power_exponent_rule,
)


def pow(input: Any, exponent: Any) -> Variable:
    """input ** exponent, broadcast. As torch.pow."""
    input, exponent = operand(input), operand(exponent)
    if isinstance(exponent, int) and exponent < 0 and isinstance(input, Variable) and input.dtype.kind in "iub":
        raise ValueError(f"pow: integers to a negative power ({exponent}) are not integers; cast first (x.float())")
    return _pow(input, exponent)


@operation(traits="maps saturates", promote=floating, fresh=True, x=lambda xp, g, out: g * out)
def exp(xp: Any, x: Any) -> Any:
    """e ** x. As torch.exp."""
    return xp.exp(x)


@operation(traits="maps saturates", promote=floating, fresh=True, x=lambda xp, g, out: g * (out + 1))
def expm1(xp: Any, x: Any) -> Any:
    """e ** x - 1, exact near 0. As torch.expm1."""
    return xp.expm1(x)


@operation(traits="maps", promote=floating, fresh=True, x=lambda xp, g, x: g / x)
def log(xp: Any, x: Any) -> Any:
    """Natural logarithm. As torch.log."""
    return xp.log(x)


@operation(traits="maps", promote=floating, fresh=True, x=lambda xp, g, x: g / (x + 1))
def log1p(xp: Any, x: Any) -> Any:
    """log(1 + x), exact near 0. As torch.log1p."""
    return xp.log1p(x)


@operation(traits="maps", promote=floating, fresh=True, x=lambda xp, g, out: g / (out * 2))
def sqrt(xp: Any, x: Any) -> Any:
    """Square root. As torch.sqrt."""
    return xp.sqrt(x)


@operation(traits="maps", promote=floating, fresh=True, x=lambda xp, g, out: g * -0.5 * xp.pow(out, 3))
def rsqrt(xp: Any, x: Any) -> Any:
    """1 / sqrt(x). As torch.rsqrt."""
    return xp.rsqrt(x)


@operation(traits="maps", promote=floating, fresh=True, x=lambda xp, g, out: -g * out * out)
def reciprocal(xp: Any, x: Any) -> Any:
    """1 / x. As torch.reciprocal."""
    return xp.reciprocal(x)


@operation(traits="maps multiplies", fresh=True, x=lambda xp, g, x: g * x * 2)
def square(xp: Any, x: Any) -> Any:
    """x ** 2. As torch.square."""
    return xp.square(x)


# --- trigonometry and relatives ---


@operation(traits="maps valley", promote=floating, fresh=True, x=lambda xp, g, x: g * xp.cos(x))
def sin(xp: Any, x: Any) -> Any:
    """Sine of radians. As torch.sin."""
    return xp.sin(x)


@operation(traits="maps valley", promote=floating, fresh=True, x=lambda xp, g, x: -g * xp.sin(x))
def cos(xp: Any, x: Any) -> Any:
    """Cosine of radians. As torch.cos."""
    return xp.cos(x)


@operation(traits="maps saturates", promote=floating, fresh=True, x=lambda xp, g, out: g * (1 - out * out))
def tanh(xp: Any, x: Any) -> Any:
    """Hyperbolic tangent. As torch.tanh."""
    return xp.tanh(x)


@operation(
    traits="maps saturates",
    promote=floating,
    fresh=True,
    x=lambda xp, g, x: g * (2 / math.sqrt(math.pi)) * xp.exp(-x * x),
)
def erf(xp: Any, x: Any) -> Any:
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x. As torch.erf."""
    return xp.erf(x)


# --- kinks and choices ---


@operation(traits="maps multiplies", fresh=True, x=lambda xp, g, x: g * xp.sign(x))
def abs(xp: Any, x: Any) -> Any:
    """Absolute value; its gradient at 0 is 0. As torch.abs."""
    return xp.abs(x)


@operation(traits="maps stairs", fresh=True, x=lambda xp, g: xp.zeros_like(g))
def sign(xp: Any, x: Any) -> Any:
    """-1, 0 or 1. As torch.sign."""
    return xp.sign(x)


def _share(xp: Any, g: Any, lost: Any, ties: Any) -> Any:
    """Nothing where this side lost, half the gradient where both were equal, all of it elsewhere."""
    return xp.where(ties, g * 0.5, xp.where(lost, 0.0, g))


maximum = Operation(
    lambda xp, a, b: xp.maximum(a, b),
    name="maximum",
    traits="maps chooses",
    fresh=True,
    promote=same_type,
    a=lambda xp, g, a, b: _share(xp, g, a < b, a == b),
    b=lambda xp, g, a, b: _share(xp, g, b < a, a == b),
)

minimum = Operation(
    lambda xp, a, b: xp.minimum(a, b),
    name="minimum",
    traits="maps chooses",
    fresh=True,
    promote=same_type,
    a=lambda xp, g, a, b: _share(xp, g, a > b, a == b),
    b=lambda xp, g, a, b: _share(xp, g, b > a, a == b),
)


def _within(xp: Any, x: Any, min: Any, max: Any) -> Any:
    if min is None or max is None:
        return x <= max if min is None else x >= min
    return xp.logical_and(x >= min, x <= max)


_clamp = Operation(
    lambda xp, x, min, max: xp.clamp(x, min, max),
    name="clamp",
    traits="maps clamps",
    fresh=True,
    promote=lambda x, min, max: _promote_present(x, min, max),
    x=lambda xp, g, x, min, max: xp.where(_within(xp, x, min, max), g, 0.0),
    min=lambda xp, g, x, min, max: xp.where(x < min if max is None else xp.logical_and(x < min, min < max), g, 0.0),
    max=lambda xp, g, x, min, max: xp.where(x > max if min is None else xp.logical_or(x > max, max < min), g, 0.0),
)


def _promote_present(*inputs: Any) -> Any:
    aligned = iter(same_type(*(x for x in inputs if x is not None)))
    return [None if x is None else next(aligned) for x in inputs]


def clamp(input: Variable, min: Any = None, max: Any = None) -> Variable:
    """Limit every element to [min, max]; bounds are numbers or tensors, either may be None.

    The gradient passes where the input is inside, bounds included. As torch.clamp.
    """
    if min is None and max is None:
        raise ValueError("clamp: give min, max, or both; got neither")
    return _clamp(input, min, max)


_where = Operation(
    lambda xp, condition, a, b: xp.where(condition, a, b),
    name="where",
    traits="maps chooses",
    fresh=True,
    promote=lambda condition, a, b: (condition, *same_type(a, b)),
    a=lambda xp, g, condition: xp.where(condition, g, 0.0),
    b=lambda xp, g, condition: xp.where(condition, 0.0, g),
)


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """`input` where `condition` holds, `other` elsewhere, broadcast.

    With the condition alone, the indices where it holds, one tensor an axis. As torch.where.
    """
    condition = creation.as_tensor(condition)
    if input is None and other is None:
        return tuple(creation.as_tensor(i) for i in backends.of(condition.array).nonzero(condition.array))
    if condition.dtype.kind not in "bu":
        raise TypeError(f"where: the condition has dtype {condition.dtype}; expected bool (write x != 0)")
    return _where(condition if condition.dtype.kind == "b" else condition != 0, input, other)


_masked_fill = Operation(
    lambda xp, x, mask, value: xp.masked_fill(x, mask, value),
    name="masked_fill",
    traits="maps chooses",
    fresh=True,
    x=lambda xp, g, mask: xp.where(mask, 0.0, g),
    value=lambda xp, g, mask: xp.where(mask, g, 0.0),
)


def masked_fill(input: Variable, mask: Any, value: Any) -> Variable:
    """`value` (a number or 0-d tensor) where `mask` holds, `input` elsewhere. As torch.masked_fill."""
    mask, value = creation.as_tensor(mask), operand(value)
    if mask.dtype.kind != "b":
        raise TypeError(f"masked_fill: the mask has dtype {mask.dtype}; expected bool (write mask != 0)")
    if isinstance(value, Variable):
        if value.ndim:
            raise ValueError(f"masked_fill: the value has shape {value.shape}; expected a number or a 0-d tensor")
        value = cast(value, input.dtype)
    elif isinstance(value, float) and input.dtype.kind != "f":
        raise TypeError(f"masked_fill: {value} does not fit into {input.dtype}; cast the tensor first (x.float())")
    return _masked_fill(input, mask, value)


# --- comparisons and logic: no gradient ---

eq = Operation(lambda xp, a, b: a == b, name="eq", promote=same_type)
ne = Operation(lambda xp, a, b: a != b, name="ne", promote=same_type)
lt = Operation(lambda xp, a, b: a < b, name="lt", promote=same_type)
le = Operation(lambda xp, a, b: a <= b, name="le", promote=same_type)
gt = Operation(lambda xp, a, b: a > b, name="gt", promote=same_type)
ge = Operation(lambda xp, a, b: a >= b, name="ge", promote=same_type)
logical_not = Operation(lambda xp, x: xp.logical_not(x), name="logical_not")
logical_and = Operation(lambda xp, a, b: xp.logical_and(a, b), name="logical_and")
logical_or = Operation(lambda xp, a, b: xp.logical_or(a, b), name="logical_or")
isfinite = Operation(lambda xp, x: xp.isfinite(x), name="isfinite")
