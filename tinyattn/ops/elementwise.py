"""Arithmetic and functions of each element by itself: forward beside rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn.dtypes import as_number
from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops.copies import cast
from tinyattn.ops.promotion import floating, modular, operand, opmath, same_type

# --- arithmetic ---

_plain: dict[str, Any] = {"promote": modular, "quiet": False, "fresh": True}

_add = Operation(lambda xp, a, b: a + b, name="add", traits="maps", a=lambda xp, g: g, b=lambda xp, g: g, **_plain)
_sub = Operation(lambda xp, a, b: a - b, name="sub", traits="maps", a=lambda xp, g: g, b=lambda xp, g: -g, **_plain)


@operation(traits="maps multiplies", a=lambda xp, g, b: g * b, b=lambda xp, g, a: g * a, **_plain)
def mul(xp: Any, a: Any, b: Any) -> Any:
    """Return input * other, elementwise and broadcast.

    input, other: tensors or numbers; shapes must broadcast (RuntimeError), dtypes meet as in `result_type`.
    As torch.mul.

    >>> ta.mul(ta.tensor([1.0, 2.0]), 3.0)
    tensor([3., 6.])
    """
    return a * b


_div = Operation(
    lambda xp, a, b: xp.div(a, b),
    name="div",
    traits="maps",
    promote=floating,
    fresh=True,
    a=lambda xp, g, b: g / b,
    b=lambda xp, g, a, b: -g * (a / b) / b,  # not from `out`, so that the quotient may be changed in place
)


@operation(traits="maps sign", fresh=True, x=lambda xp, g: -g)
def neg(xp: Any, x: Any) -> Any:
    """Return -input, elementwise, in the input's shape and dtype. As torch.neg.

    >>> ta.neg(ta.tensor([1, -2]))
    tensor([-1,  2])
    """
    return -x


def add(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """Return input + alpha * other, elementwise and broadcast.

    input, other: tensors or numbers; shapes must broadcast (RuntimeError), dtypes meet as in `result_type`. Raises
    TypeError for a fractional alpha among integers. As torch.add.

    >>> ta.add(ta.ones(2), ta.tensor([1.0, 2.0]), alpha=10)
    tensor([11., 21.])
    """
    return _add(input, other) if alpha == 1 else _scaled(_add, input, other, alpha)


def sub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """Return input - alpha * other, elementwise and broadcast.

    Takes what `add` takes. Raises TypeError for booleans. As torch.sub.

    >>> ta.sub(ta.tensor([3, 4]), 1)
    tensor([2, 3])
    """
    if _is_boolean(input) or _is_boolean(other):
        raise TypeError("sub: booleans cannot be subtracted; use logical_not, !=, or cast them first (x.float())")
    return _sub(input, other) if alpha == 1 else _scaled(_sub, input, other, alpha)


@opmath
def _scaled(op: Operation, input: Any, other: Any, alpha: Any) -> Any:
    """`op` of `input` and alpha * `other`, multiplied in the dtype of the result."""
    input, other = (operand(x) for x in modular(operand(input), operand(other)))
    if not isinstance(other, Variable):
        return op(input, other * alpha)
    if other.dtype.kind != "f" and (
        alpha.dtype.kind == "f" if isinstance(alpha, Variable) else isinstance(alpha, float)
    ):
        raise TypeError(
            f"{op.name}: alpha is {alpha}, and the sum has dtype {other.dtype}; cast the tensors (x.float())"
        )
    if other.dtype.kind != "b" and not isinstance(alpha, Variable):
        sign = -1 if op is _sub else 1  # as PyTorch, which adds -alpha, and checks that
        alpha = as_number(sign * alpha, other.dtype, op.name).item() * sign
    return op(input, cast(mul(other, alpha), other.dtype))


def _is_boolean(x: Any) -> bool:
    return isinstance(x, bool | np.bool_) or (isinstance(x, Variable) and x.dtype.kind == "b")


def _divisible(a: Any, b: Any) -> Any:
    """Dtypes aligned, and booleans refused, whose quotients have no meaning."""
    a, b = same_type(a, b)
    if _is_boolean(a) and _is_boolean(b):
        raise TypeError("division with rounding has no meaning for booleans; cast them first (x.long())")
    return a, b


@operation(
    traits="maps stairs",
    promote=_divisible,
    a=lambda xp, g: xp.zeros_like(g),  # the slope of a staircase
    b=lambda xp, g: xp.zeros_like(g),
)
def _rounded_div(xp: Any, a: Any, b: Any, *, mode: str) -> Any:
    return xp.floor_divide(a, b) if mode == "floor" else xp.trunc_divide(a, b)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """Return input / other, elementwise and broadcast; integers give the default dtype.

    rounding_mode: "floor" or "trunc" round the quotient and keep integers; anything else but None raises
    ValueError, and then an integer divisor of 0 on the CPU raises ZeroDivisionError. As torch.div.

    >>> ta.div(ta.tensor([7, -7]), 2, rounding_mode="floor")
    tensor([ 3, -4])
    """
    if rounding_mode is None:
        return _div(input, other)
    if rounding_mode not in ("floor", "trunc"):
        raise ValueError(f"div: rounding_mode={rounding_mode!r}; expected None, 'floor' or 'trunc'")
    return _rounded_div(input, other, mode=rounding_mode)


def floor_divide(input: Any, other: Any) -> Tensor:
    """Return the quotient rounded down, elementwise and broadcast: `input // other`.

    Raises what `div` with rounding_mode="floor" raises. As torch.floor_divide.

    >>> ta.floor_divide(ta.tensor([7, -7]), 2)
    tensor([ 3, -4])
    """
    return div(input, other, rounding_mode="floor")


@operation(
    traits="maps stairs", promote=_divisible, a=lambda xp, g: g, b=lambda xp, g, a, b: -g * xp.floor_divide(a, b)
)
def remainder(xp: Any, a: Any, b: Any) -> Any:
    """Return what floor_divide leaves, with the sign of `other`, elementwise and broadcast: `input % other`.

    Raises ZeroDivisionError for an integer divisor of 0 on the CPU; floats give NaN. As torch.remainder.

    >>> ta.remainder(ta.tensor([7, -7]), 3)
    tensor([1, 2])
    """
    return xp.remainder(a, b)


# --- powers ---


def _power_base_rule(xp: Any, g: Any, a: Any, b: Any) -> Any:
    if isinstance(b, float | int):
        return xp.zeros_like(g) if b == 0 else g * (xp.pow(a, b - 1) * b)
    flat = xp.logical_and(b == 0, xp.logical_not(xp.abs(a) > 0))
    return g * (b * xp.pow(a, xp.where(flat, 1.0, b) - 1))  # 0 * 0**-1 is 0 here, not NaN


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


def pow(input: Any, exponent: Any) -> Tensor:
    """Return input ** exponent, elementwise and broadcast.

    input, exponent: tensors or numbers. Raises ValueError for integers to a negative power, TypeError for two
    booleans. As torch.pow.

    >>> ta.pow(ta.tensor([1.0, 2.0, 3.0]), 2)
    tensor([1., 4., 9.])
    """
    input, exponent = operand(input), operand(exponent)
    if isinstance(exponent, int) and exponent < 0 and isinstance(input, Variable) and input.dtype.kind in "iub":
        raise ValueError(f"pow: integers to a negative power ({exponent}) are not integers; cast first (x.float())")
    if _is_boolean(input) and _is_boolean(exponent):
        raise TypeError("pow: booleans have no powers; cast them first (x.long())")
    return _pow(input, exponent)


@operation(traits="maps multiplies", fresh=True, x=lambda xp, g, x: g * x * 2)
def square(xp: Any, x: Any) -> Any:
    """Return input ** 2, elementwise, in the input's shape and dtype. As torch.square.

    >>> ta.square(ta.tensor([1.0, -2.0]))
    tensor([1., 4.])
    """
    return xp.square(x)


# --- exponentials, roots, trigonometry: of any shape; integers give the default dtype ---


def elementwise(traits: str = "", **rule: Callable[..., Any]) -> Callable[[Callable[..., Any]], Operation]:
    """`operation` for a smooth function of each element; its rule returns a new array."""
    return operation(promote=floating, fresh=True, traits=f"maps {traits}", **rule)


@elementwise("saturates", x=lambda xp, g, out: g * out)
def exp(xp: Any, x: Any) -> Any:
    """Return e ** input, elementwise; integers give the default dtype. As torch.exp.

    >>> ta.exp(ta.tensor([0.0, 1.0]))
    tensor([1.    , 2.7183])
    """
    return xp.exp(x)


def smooth(
    name: str, words: str, at: float, python: Callable[[float], float], traits: str = "", **rule: Any
) -> Operation:
    """The function `name` of the array library with its rule; `python` computes it at the number of the example."""
    doc = f"""Return {words}, elementwise; integers give the default dtype. As torch.{name}.

    >>> f"{{ta.{name}(ta.tensor({at})).item():.3f}}"
    '{python(at):.3f}'
    """
    forward = lambda xp, x: getattr(xp, name)(x)  # noqa: E731
    return Operation(forward, name=name, doc=doc, promote=floating, fresh=True, traits=f"maps {traits}", **rule)


expm1 = smooth(
    "expm1", "e ** input - 1, exact near 0", 1.0, math.expm1, "saturates", x=lambda xp, g, out: g * (out + 1)
)
log = smooth("log", "the natural logarithm, -inf at 0 and NaN below", 2.0, math.log, x=lambda xp, g, x: g / x)
log1p = smooth("log1p", "log(1 + input), exact near 0", 1.0, math.log1p, x=lambda xp, g, x: g / (x + 1))
sqrt = smooth("sqrt", "the square root, NaN below 0", 2.0, math.sqrt, x=lambda xp, g, out: g / (out * 2))
rsqrt = smooth(
    "rsqrt", "1 / sqrt(input), inf at 0", 2.0, lambda x: x**-0.5, x=lambda xp, g, out: g * -0.5 * xp.pow(out, 3)
)
reciprocal = smooth("reciprocal", "1 / input", 4.0, lambda x: 1 / x, x=lambda xp, g, out: -g * out * out)
sin = smooth("sin", "the sine of radians", 1.0, math.sin, "valley", x=lambda xp, g, x: g * xp.cos(x))
cos = smooth("cos", "the cosine of radians", 1.0, math.cos, "valley", x=lambda xp, g, x: -g * xp.sin(x))
tanh = smooth(
    "tanh", "the hyperbolic tangent, in (-1, 1)", 1.0, math.tanh, "saturates", x=lambda xp, g, out: g * (1 - out * out)
)
erf = smooth(
    "erf", "2 / sqrt(pi) times the integral of exp(-t^2) from 0 to the input", 1.0, math.erf, "saturates",
    x=lambda xp, g, x: g * (2 / math.sqrt(math.pi)) * xp.exp(-x * x),
)  # fmt: skip


@operation(traits="maps multiplies sign", fresh=True, x=lambda xp, g, x: g * xp.sign(x))
def abs(xp: Any, x: Any) -> Any:
    """Return the absolute value, elementwise, in the input's dtype; its gradient at 0 is 0. As torch.abs.

    >>> ta.abs(ta.tensor([-1.5, 2.0]))
    tensor([1.5, 2. ])
    """
    return xp.abs(x)


@operation(traits="maps stairs", fresh=True, x=lambda xp, g: xp.zeros_like(g))
def sign(xp: Any, x: Any) -> Any:
    """Return -1, 0 or 1 for each element, in the input's dtype; its gradient is 0. As torch.sign.

    >>> ta.sign(ta.tensor([-1.5, 0.0, 2.0]))
    tensor([-1.,  0.,  1.])
    """
    return xp.sign(x)
