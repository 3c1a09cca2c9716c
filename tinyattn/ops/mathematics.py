"""More functions of each element: trigonometry, rounding, tests of numbers, sums with products."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.choices import clamp, isfinite, logical_and, logical_not, logical_or, ne, where
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import abs, add, div, mul, smooth, sub
from tinyattn.ops.legacy import is_tensor
from tinyattn.ops.products import bmm, matmul, mm, outer
from tinyattn.ops.promotion import floating, modular, opmath, same_type
from tinyattn.ops.synonyms import formula

# --- smooth functions; integers give the default dtype ---


log2 = smooth("log2", "the logarithm to base 2", 8.0, math.log2, x=lambda xp, g, x: g / (x * math.log(2)))
log10 = smooth("log10", "the logarithm to base 10", 100.0, math.log10, x=lambda xp, g, x: g / (x * math.log(10)))
tan = smooth("tan", "the tangent of radians", 0.5, math.tan, x=lambda xp, g, out: g * (out * out + 1))
sinh = smooth("sinh", "the hyperbolic sine", 1.0, math.sinh, x=lambda xp, g, x: g * xp.cosh(x))
cosh = smooth("cosh", "the hyperbolic cosine", 1.0, math.cosh, "valley", x=lambda xp, g, x: g * xp.sinh(x))
asin = smooth("asin", "the angle with this sine", 0.5, math.asin, x=lambda xp, g, x: g * xp.rsqrt(1 - x * x))
acos = smooth("acos", "the angle with this cosine", 0.5, math.acos, x=lambda xp, g, x: -g * xp.rsqrt(1 - x * x))
atan = smooth("atan", "the angle with this tangent", 1.0, math.atan, x=lambda xp, g, x: g / (x * x + 1))
asinh = smooth(
    "asinh", "the number with this hyperbolic sine", 1.0, math.asinh, x=lambda xp, g, x: g * xp.rsqrt(x * x + 1)
)
acosh = smooth(
    "acosh", "the number with this hyperbolic cosine", 2.0, math.acosh, x=lambda xp, g, x: g * xp.rsqrt(x * x - 1)
)
atanh = smooth("atanh", "the number with this hyperbolic tangent", 0.5, math.atanh, x=lambda xp, g, x: g / (1 - x * x))
arcsin, arccos, arctan = asin, acos, atan
arcsinh, arccosh, arctanh = asinh, acosh, atanh


def _over_square(xp: Any, x: Any, a: Any, b: Any) -> Any:
    """x over the square of the distance to (a, b); 0 at the origin, where the angle has no slope."""
    square = a * a + b * b
    return xp.where(square == 0, 0.0, x / xp.masked_fill(square, square == 0, 1.0))


@operation(
    traits="maps multiplies",
    promote=floating,
    fresh=True,
    a=lambda xp, g, a, b: g * _over_square(xp, b, a, b),
    b=lambda xp, g, a, b: -g * _over_square(xp, a, a, b),
)
def atan2(xp: Any, a: Any, b: Any) -> Any:
    """Return the angle of the point (other, input), from -pi to pi, elementwise and broadcast. As torch.atan2.

    >>> ta.atan2(ta.tensor([0.0, 1.0]), ta.tensor([1.0, 0.0]))
    tensor([0.    , 1.5708])
    """
    return xp.atan2(a, b)


@operation(
    traits="maps valley",
    promote=floating,
    fresh=True,
    a=lambda xp, g, a, out: g * (a / out),
    b=lambda xp, g, b, out: g * (b / out),
)
def hypot(xp: Any, a: Any, b: Any) -> Any:
    """Return sqrt(input ** 2 + other ** 2), elementwise and broadcast, without overflow. As torch.hypot.

    >>> ta.hypot(ta.tensor([3.0]), ta.tensor([4.0])).item()
    5.0
    """
    return xp.hypot(a, b)


# --- rounding: integers stay as they are, and the gradient is 0 ---


def _rounding(name: str, words: str, found: str) -> Operation:
    doc = f"""Return {words}, elementwise, in the input's dtype; its gradient is 0. As torch.{name}.

    >>> ta.{name}(ta.tensor([-1.5, 0.5, 2.5])).tolist()
    {found}
    """

    def forward(xp: Any, x: Any) -> Any:
        return getattr(xp, name)(x) if x.dtype.kind == "f" else xp.clone(x)

    rule = lambda xp, g: xp.zeros_like(g)  # noqa: E731
    return Operation(forward, name=name, doc=doc, traits="maps stairs", fresh=True, x=rule)


floor = _rounding("floor", "the largest integer that is not above", "[-2.0, 0.0, 2.0]")
ceil = _rounding("ceil", "the smallest integer that is not below", "[-1.0, 1.0, 3.0]")
trunc = _rounding("trunc", "the input without its fraction", "[-1.0, 0.0, 2.0]")
_round = _rounding("round", "the nearest integer, halves to even", "[-2.0, 0.0, 2.0]")
fix = trunc


@opmath
def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Return the input rounded to `decimals` places, halves to even; its gradient is 0. As torch.round.

    Raises TypeError for integers with `decimals`.

    >>> ta.round(ta.tensor([-1.5, 0.5, 2.5])).tolist()
    [-2.0, 0.0, 2.0]
    """
    if decimals == 0:
        return _round(input)
    if input.dtype.kind != "f":
        raise TypeError(f"round: decimals={decimals} of dtype {input.dtype}; expected floats (cast with x.float())")
    scale = 10.0 ** builtins.abs(decimals)
    return _round(input * scale) / scale if decimals > 0 else _round(input / scale) * scale


frac = formula(
    "frac", "the input minus `trunc` of it, elementwise", "ta.tensor([1.25, -1.25])", [0.25, -0.25],
    lambda input: input - trunc(input),
)  # fmt: skip


@operation(
    traits="maps stairs",
    promote=same_type,
    a=lambda xp, g: g,
    b=lambda xp, g, a, b, out: -g * xp.round((a - out) / b),  # a / b may round up to an integer
)
def fmod(xp: Any, a: Any, b: Any) -> Any:
    """Return the remainder of input / other with the sign of `input`, elementwise and broadcast. As torch.fmod.

    Raises ZeroDivisionError for an integer divisor of 0 on the CPU; floats give NaN.

    >>> ta.fmod(ta.tensor([7.0, -7.0]), 3).tolist()
    [1.0, -1.0]
    """
    return xp.fmod(a, b)


# --- tests of numbers: booleans, without a gradient ---


isnan = formula(
    "isnan", "where the input is NaN, as booleans", "ta.tensor([1.0, ta.nan])", [False, True],
    lambda input: ne(input, input),
)  # fmt: skip
isinf = formula(
    "isinf", "where the input is infinite, as booleans", "ta.tensor([1.0, -ta.inf])", [False, True],
    lambda input: logical_not(logical_or(isfinite(input), isnan(input))),
)  # fmt: skip


def isclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """Return where |input - other| <= atol + rtol * |other|, as booleans; infinities are close to themselves.

    Raises RuntimeError for different dtypes. As torch.isclose.

    >>> ta.isclose(ta.tensor([1.0, 2.0]), ta.tensor([1.0, 2.1])).tolist()
    [True, False]
    """
    if input.dtype != other.dtype:
        raise RuntimeError(f"isclose: dtypes {input.dtype} and {other.dtype}; expected equal ones (cast with .to)")
    same = input == other
    if input.dtype.kind in "iub":
        input, other = cast(input, "int64"), cast(other, "int64")  # a difference of int8 would wrap around
    if equal_nan:
        same = logical_or(same, logical_and(isnan(input), isnan(other)))
    near = abs(sub(input, other)) <= add(mul(abs(other), rtol), atol)
    return logical_or(same, logical_and(near, isfinite(sub(input, other))))


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Return whether `isclose` holds everywhere, as a Python bool. As torch.allclose.

    >>> ta.allclose(ta.tensor([1.0]), ta.tensor([1.0 + 1e-9]))
    True
    """
    return bool(isclose(input, other, rtol, atol, equal_nan).all())


def equal(input: Tensor, other: Tensor) -> bool:
    """Return whether shapes and all elements are equal, as a Python bool. As torch.equal.

    >>> ta.equal(ta.tensor([1, 2]), ta.tensor([1, 2]))
    True
    """
    return input.shape == other.shape and bool((input == other).all())


def nan_to_num(input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """Return the input with numbers for NaN and infinities, of which None is the dtype's limit. As torch.nan_to_num.

    >>> ta.nan_to_num(ta.tensor([1.0, float("nan"), float("inf")]), posinf=9.0)
    tensor([1., 0., 9.])
    """
    if input.dtype.kind != "f":
        return input.clone()
    limits = np.finfo(input.dtype)
    high = float(limits.max) if posinf is None else posinf
    low = float(limits.min) if neginf is None else neginf
    out = where(isnan(input), 0.0 if nan is None else nan, input)
    return where(out == math.inf, high, where(out == -math.inf, low, out))


logical_xor = formula(
    "logical_xor", "where exactly one of both is nonzero, elementwise and broadcast, as booleans",
    "ta.tensor([1, 1, 0]), ta.tensor([1, 0, 0])", [False, True, False],
    lambda input, other: ne(logical_not(input), logical_not(other)),
)  # fmt: skip
clamp_min = formula(
    "clamp_min", "every element, at least `min`", "ta.tensor([-1.0, 2.0]), 0", [0.0, 2.0],
    lambda input, min: clamp(input, min),
)  # fmt: skip
clamp_max = formula(
    "clamp_max", "every element, at most `max`", "ta.tensor([-1.0, 2.0]), 0", [-1.0, 0.0],
    lambda input, max: clamp(input, None, max),
)  # fmt: skip


# --- sums with products ---


@opmath
def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """Return input + weight * (end - input), elementwise and broadcast; exact at weights 0 and 1. As torch.lerp.

    >>> ta.lerp(ta.tensor([0.0, 10.0]), ta.tensor([1.0, 20.0]), 0.5)
    tensor([ 0.5, 15. ])
    """
    if is_tensor(weight):
        near = abs(weight) < 0.5  # to `input`; else it starts from `end`
        start, part = where(near, input, end), where(near, weight, weight - 1)
    else:
        start, part = (input, weight) if builtins.abs(weight) < 0.5 else (end, weight - 1)
    return start + (end - input) * part


@opmath
def addcmul(input: Tensor, tensor1: Any, tensor2: Any, *, value: float = 1) -> Tensor:
    """Return input + value * tensor1 * tensor2, elementwise and broadcast. As torch.addcmul.

    >>> ta.addcmul(ta.ones(2), ta.tensor([1.0, 2.0]), ta.tensor([3.0, 4.0]), value=10)
    tensor([31., 81.])
    """
    input, tensor1, tensor2 = modular(input, tensor1, tensor2)  # so that the product does not wrap around in uint8
    return add(input, mul(tensor1, tensor2), alpha=value)


@opmath
def addcdiv(input: Tensor, tensor1: Any, tensor2: Any, *, value: float = 1) -> Tensor:
    """Return input + value * tensor1 / tensor2, elementwise and broadcast. As torch.addcdiv.

    >>> ta.addcdiv(ta.ones(2), ta.tensor([1.0, 2.0]), ta.tensor([2.0, 4.0]))
    tensor([1.5, 1.5])
    """
    input, tensor1, tensor2 = floating(input, tensor1, tensor2)
    return add(input, div(tensor1, tensor2), alpha=value)


def _plus_product(input: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    if alpha != 1:
        product = (
            product * alpha if product.dtype.kind == "f" else add(creation.zeros_like(product), product, alpha=alpha)
        )
    return product if beta == 0 else add(product, input, alpha=beta)  # then `input` may hold NaN


@opmath
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return beta * input + alpha * mat1 @ mat2, of matrices. As torch.addmm.

    >>> ta.addmm(ta.ones(2), ta.eye(2), ta.eye(2))
    tensor([[2., 1.],
            [1., 2.]])
    """
    return _plus_product(input, mm(mat1, mat2), beta, alpha)


@opmath
def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return beta * input + alpha * the sum of the matrices batch1 @ batch2. As torch.addbmm.

    >>> ta.addbmm(ta.ones(1, 1), ta.ones(5, 2, 3), ta.ones(5, 3, 4)).shape
    (2, 4)
    """
    return _plus_product(input, bmm(batch1, batch2).sum(0, dtype=batch1.dtype), beta, alpha)


@opmath
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return beta * input + alpha * every product of two elements of the vectors. As torch.addr.

    >>> ta.addr(ta.ones(2, 1), ta.tensor([1.0, 2.0]), ta.tensor([3.0])).tolist()
    [[4.0], [7.0]]
    """
    return _plus_product(input, outer(vec1, vec2), beta, alpha)


@opmath
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return beta * input + alpha * batch1 @ batch2, of batches of matrices. As torch.baddbmm.

    >>> ta.baddbmm(ta.ones(1, 1), ta.ones(5, 2, 3), ta.ones(5, 3, 4)).shape
    (5, 2, 4)
    """
    return _plus_product(input, bmm(batch1, batch2), beta, alpha)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """Return the product of a matrix (n, m) and a vector (m,). Raises RuntimeError for others. As torch.mv.

    >>> ta.mv(ta.ones(2, 3), ta.tensor([1.0, 2.0, 3.0]))
    tensor([6., 6.])
    """
    if input.ndim != 2 or vec.ndim != 1:
        raise RuntimeError(f"mv: shapes {tuple(input.shape)} and {tuple(vec.shape)}; expected a matrix and a vector")
    return matmul(input, vec)


@opmath
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return beta * input + alpha * mat @ vec. As torch.addmv.

    >>> ta.addmv(ta.ones(2), ta.ones(2, 3), ta.ones(3))
    tensor([4., 4.])
    """
    return _plus_product(input, mv(mat, vec), beta, alpha)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """Return the sum of the products of two vectors of one size. Raises RuntimeError for others. As torch.dot.

    >>> ta.dot(ta.tensor([1, 2]), ta.tensor([3, 4])).item()
    11
    """
    tensor = creation.as_tensor(tensor)
    if input.ndim != 1 or input.shape != tensor.shape:
        raise RuntimeError(
            f"dot: shapes {tuple(input.shape)} and {tuple(tensor.shape)}; expected two vectors of one size"
        )
    return matmul(input, tensor)
