"""Choices between elements: maximum, clamp, where, comparisons and logic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyattn import backends
from tinyattn.dtypes import as_number, get_default_dtype
from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import creation
from tinyattn.ops.copies import cast
from tinyattn.ops.promotion import comparable, modular, operand, present, same_type


def _share(xp: Any, g: Any, lost: Any, ties: Any) -> Any:
    """Nothing where this side lost, half the gradient where both were equal, all of it elsewhere."""
    return xp.where(ties, g * 0.5, xp.where(lost, 0.0, g))


@operation(
    traits="maps chooses",
    promote=same_type,
    fresh=True,
    a=lambda xp, g, a, b: _share(xp, g, a < b, a == b),
    b=lambda xp, g, a, b: _share(xp, g, b < a, a == b),
)
def maximum(xp: Any, a: Any, b: Any) -> Any:
    """Return the larger of both, elementwise and broadcast; equal elements share the gradient. As torch.maximum.

    >>> ta.maximum(ta.tensor([1.0, 5.0]), 3)
    tensor([3., 5.])
    """
    return xp.maximum(a, b)


@operation(
    traits="maps chooses",
    promote=same_type,
    fresh=True,
    a=lambda xp, g, a, b: _share(xp, g, a > b, a == b),
    b=lambda xp, g, a, b: _share(xp, g, b > a, a == b),
)
def minimum(xp: Any, a: Any, b: Any) -> Any:
    """Return the smaller of both, elementwise and broadcast; equal elements share the gradient. As torch.minimum.

    >>> ta.minimum(ta.tensor([1.0, 5.0]), 3)
    tensor([1., 3.])
    """
    return xp.minimum(a, b)


def _within(xp: Any, x: Any, min: Any, max: Any) -> Any:
    if min is None or max is None:
        return x <= max if min is None else x >= min
    return xp.logical_and(x >= min, x <= max)


_clamp = Operation(
    lambda xp, x, min, max: xp.clamp(x, min, max),
    name="clamp",
    traits="maps clamps",
    fresh=True,
    promote=present,
    x=lambda xp, g, x, min, max: xp.where(_within(xp, x, min, max), g, 0.0),
    min=lambda xp, g, x, min, max: xp.where(x < min if max is None else xp.logical_and(x < min, min < max), g, 0.0),
    max=lambda xp, g, x, min, max: xp.where(x > max if min is None else xp.logical_or(x > max, max < min), g, 0.0),
)


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Return every element limited to [min, max], in the input's shape.

    min, max: numbers or tensors that broadcast; either may be None. Raises ValueError if both are,
    RuntimeError for a number that the dtype cannot hold. The gradient passes where the input is inside, bounds
    included. As torch.clamp.

    >>> ta.clamp(ta.tensor([-2.0, 0.5, 3.0]), 0, 1)
    tensor([0. , 0.5, 1. ])
    """
    if min is None and max is None:
        raise ValueError("clamp: give min, max, or both; got neither")
    for bound in (min, max):
        if isinstance(bound, float) and not -65504 <= bound <= 65504:  # beyond float16
            as_number(bound, input.dtype if input.dtype.kind == "f" else get_default_dtype(), "clamp")
    return _clamp(input, min, max)


_where = Operation(
    lambda xp, condition, a, b: xp.where(condition, a, b),
    name="where",
    traits="maps chooses",
    fresh=True,
    promote=lambda condition, a, b: (condition, *_chosen(a, b)),
    a=lambda xp, g, condition: xp.where(condition, g, 0.0),
    b=lambda xp, g, condition: xp.where(condition, 0.0, g),
)


def _chosen(*inputs: Any) -> list[Any]:
    """Dtypes aligned, and the numbers in that dtype."""
    aligned = comparable(*inputs)
    dtype = next(x.dtype for x in aligned if isinstance(x, Variable))
    return [x if isinstance(x, Variable) else as_number(x, dtype, "where").item() for x in aligned]


@backends.keeps_gpu
def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """Return `input` where `condition` holds and `other` elsewhere, broadcast.

    condition: booleans (or uint8); other dtypes raise TypeError. A number that the dtype cannot hold raises
    RuntimeError. With the condition alone, returns the indices
    where it holds, one int64 tensor for each axis. As torch.where.

    >>> ta.where(ta.tensor([True, False]), 1.0, ta.tensor([7.0, 8.0]))
    tensor([1., 8.])
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


def masked_fill(input: Tensor, mask: Any, value: Any) -> Tensor:
    """Return `value` where `mask` holds and `input` elsewhere.

    mask: booleans that broadcast to the input's shape (other dtypes raise TypeError). value: a number or a 0-d
    tensor; RuntimeError if the input's dtype cannot hold it, TypeError for a fraction among integers. As
    torch.masked_fill.

    >>> ta.masked_fill(ta.zeros(2), ta.tensor([True, False]), -1)
    tensor([-1.,  0.])
    """
    mask, value = creation.as_tensor(mask), operand(value)
    if mask.dtype.kind != "b":
        raise TypeError(f"masked_fill: the mask has dtype {mask.dtype}; expected bool (write mask != 0)")
    if isinstance(value, Variable):
        if value.ndim:
            raise ValueError(f"masked_fill: the value has shape {value.shape}; expected a number or a 0-d tensor")
        if input.dtype.kind in "iu" and value.dtype != input.dtype:
            as_number(value.array.item(), input.dtype, "masked_fill")
        value = cast(value, input.dtype)
    elif isinstance(value, float) and input.dtype.kind != "f" and not value.is_integer():
        raise TypeError(f"masked_fill: {value} does not fit into {input.dtype}; cast the tensor first (x.float())")
    else:
        value = as_number(value, input.dtype, "masked_fill").item()
    return _masked_fill(input, mask, value)


# --- comparisons and logic: booleans, without a gradient ---


def _compare(name: str, words: str, forward: Callable[..., Any]) -> Operation:
    doc = f"""Return where `input` {words} `other`, elementwise and broadcast, as booleans. As torch.{name}.

    >>> ta.{name}(ta.tensor([1, 2, 3]), 2).tolist()
    {[bool(forward(None, x, 2)) for x in (1, 2, 3)]}
    """
    return Operation(forward, name=name, traits="compares", promote=comparable, doc=doc)


eq = _compare("eq", "equals", lambda xp, a, b: a == b)
ne = _compare("ne", "differs from", lambda xp, a, b: a != b)
lt = _compare("lt", "is below", lambda xp, a, b: a < b)
le = _compare("le", "is at most", lambda xp, a, b: a <= b)
gt = _compare("gt", "is above", lambda xp, a, b: a > b)
ge = _compare("ge", "is at least", lambda xp, a, b: a >= b)


def _logic(name: str, words: str, call: str, found: str, forward: Callable[..., Any]) -> Operation:
    doc = f"""Return where {words}, as booleans. As torch.{name}.

    >>> ta.{name}({call}).tolist()
    {found}
    """
    return Operation(forward, name=name, doc=doc)


logical_not = _logic(
    "logical_not", "the input is zero or False", "ta.tensor([1, 0])", "[False, True]", lambda xp, x: xp.logical_not(x)
)
logical_and = _logic(
    "logical_and", "both are nonzero, elementwise and broadcast", "ta.tensor([1, 0]), ta.tensor([1, 1])",
    "[True, False]", lambda xp, a, b: xp.logical_and(a, b),
)  # fmt: skip
logical_or = _logic(
    "logical_or", "one of both is nonzero, elementwise and broadcast", "ta.tensor([1, 0]), ta.tensor([1, 1])",
    "[True, True]", lambda xp, a, b: xp.logical_or(a, b),
)  # fmt: skip
isfinite = _logic(
    "isfinite", "the input is neither infinite nor NaN", "ta.tensor([1.0, ta.inf, ta.nan])", "[True, False, False]",
    lambda xp, x: xp.isfinite(x),
)  # fmt: skip


def _bitwise(name: str, words: str, forward: Callable[..., Any]) -> Operation:
    doc = f"""Return the bits {words}, elementwise and broadcast; of booleans, a boolean. As torch.{name}.

    input, other: tensors of integers or booleans, or such numbers. Raises TypeError for floats.

    >>> ta.{name}(ta.tensor([6, 5]), 3).tolist()
    {[forward(None, x, 3) for x in (6, 5)]}
    """
    return Operation(lambda xp, a, b: forward(xp, _bits(name, a), _bits(name, b)), name=name, promote=modular, doc=doc)


def _bits(name: str, x: Any) -> Any:
    if isinstance(x, float) or (hasattr(x, "dtype") and x.dtype.kind == "f"):
        raise TypeError(
            f"{name}: got {getattr(x, 'dtype', x)}; expected integers or booleans (cast it first: x.long())"
        )
    return x


bitwise_and = _bitwise("bitwise_and", "that are set in both", lambda xp, a, b: a & b)
bitwise_or = _bitwise("bitwise_or", "that are set in one of both", lambda xp, a, b: a | b)
bitwise_xor = _bitwise("bitwise_xor", "in which both differ", lambda xp, a, b: a ^ b)


def _shift(name: str, where: str, found: str) -> Operation:
    doc = f"""Return the bits moved to the {where} by `other` places, elementwise and broadcast. As torch.{name}.

    input, other: tensors of integers or booleans, or such numbers. Raises TypeError for floats and for booleans alone.

    >>> ta.{name}(ta.tensor([6, -5]), 1).tolist()
    {found}
    """

    def forward(xp: Any, a: Any, b: Any) -> Any:
        dtype = (a if hasattr(a, "dtype") else b).dtype
        if dtype.kind not in "iu":
            raise TypeError(f"{name}: got {dtype}; expected integers (cast it first: x.long())")
        last = 8 * dtype.itemsize - 1
        if hasattr(b, "dtype"):
            near = xp.cast(xp.where((b < 0) | (b > last), last, b), dtype)
        else:
            near = b if 0 <= b <= last else last
        more = b != near  # C leaves open what a shift by all bits is
        return a >> near >> more if where == "right" else a << near << more

    return Operation(forward, name=name, promote=modular, doc=doc)


bitwise_left_shift = _shift("bitwise_left_shift", "left", "[12, -10]")
bitwise_right_shift = _shift("bitwise_right_shift", "right", "[3, -3]")


@operation(promote=modular)
def bitwise_not(xp: Any, x: Any) -> Any:
    """Return the inverted bits; of booleans, the opposite. Raises TypeError for floats. As torch.bitwise_not.

    >>> ta.bitwise_not(ta.tensor([6, -1])).tolist()
    [-7, 0]
    """
    return ~_bits("bitwise_not", x)
