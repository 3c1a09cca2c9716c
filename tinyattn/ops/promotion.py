"""Which dtype comes out when dtypes meet: PyTorch's rule, not NumPy's.

bool < integer < float. The highest kind wins; within it tensors with dimensions decide before 0-d
tensors, and those before Python numbers, which never widen anything. A Python float among integers
gives the default dtype.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import numpy as np

from tinyattn.dtypes import as_number, float16, get_default_dtype
from tinyattn.engine.operation import agree
from tinyattn.engine.opmath import opmath_dtype, rounded, widened
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import creation
from tinyattn.ops.copies import cast

_P = ParamSpec("_P")
RANK = {"b": 0, "u": 1, "i": 1, "f": 2}


def result_type(*inputs: Any) -> np.dtype[Any]:
    """Return the dtype in which tensors and Python numbers meet. As torch.result_type.

    >>> ta.result_type(ta.tensor([1, 2]), 0.5)
    dtype('float32')
    """
    tiers: list[np.dtype[Any] | None] = [None, None, None]  # with dimensions, 0-d, Python numbers
    for x in inputs:
        if isinstance(x, Variable):
            tier, dtype = (0 if x.ndim else 1), x.dtype
        elif isinstance(x, float):
            tier, dtype = 2, get_default_dtype()
        else:
            tier, dtype = 2, np.dtype(bool if isinstance(x, bool) else np.int64)
        seen = tiers[tier]
        tiers[tier] = dtype if seen is None else _meet(seen, dtype)
    winner: np.dtype[Any] | None = None
    for found in tiers:
        if found is not None and (winner is None or RANK[found.kind] > RANK[winner.kind]):
            winner = found
    assert winner is not None
    return winner


def _meet(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    if RANK[a.kind] == RANK[b.kind]:
        return np.promote_types(a, b)
    return a if RANK[a.kind] > RANK[b.kind] else b  # int64 does not widen float32


def operand(x: Any) -> Any:
    """An input as operations take it: a Tensor, or a Python number (np.float64 would widen)."""
    if isinstance(x, Variable | bool | int | float) and not isinstance(x, np.generic):
        return x
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, bool | int | float):
        return x
    if isinstance(x, numbers.Number):
        raise TypeError(f"expected a tensor or a real number, got {x!r} ({type(x).__name__})")
    return creation.as_tensor(x)


def same_type(*inputs: Any) -> Sequence[Any]:
    """Cast the tensors among `inputs` to the dtype in which all of them meet; numbers must fit into integers.

    A 0-d tensor that meets float16 is not rounded first, as a Python number is not.
    """
    return inputs if agree(inputs) else _numbers_in(_align(inputs, exact=True), wrap=False)


def present(*inputs: Any, align: Callable[..., Sequence[Any]] | None = None) -> Sequence[Any]:
    """As `align` (`same_type`), of the inputs that are not None."""
    aligned = iter((align or same_type)(*(x for x in inputs if x is not None)))
    return [None if x is None else next(aligned) for x in inputs]


def modular(*inputs: Any) -> Sequence[Any]:
    """As `same_type`, and numbers wrap around among integers, as their sums and products do anyway."""
    return inputs if agree(inputs) else _numbers_in(_align(inputs, exact=True), wrap=True)


def comparable(*inputs: Any) -> Sequence[Any]:
    """As `same_type`, and numbers may be of any size; 0-d tensors are cast too: comparisons take place in float16."""
    return inputs if agree(inputs) else _align(inputs)


def floating(*inputs: Any) -> Sequence[Any]:
    """As `same_type`, and integers become the default dtype: what exp and division need."""
    return inputs if agree(inputs) else _align(inputs, floating=True, exact=True)


def _numbers_in(aligned: Sequence[Any], wrap: bool) -> Sequence[Any]:
    """Give the Python numbers beside integer tensors their dtype. Raises RuntimeError for those that do not fit."""
    dtype = next(x.dtype for x in aligned if isinstance(x, Variable))
    if dtype.kind not in "iu":
        return aligned
    bounds = np.dtype(np.int64) if wrap else dtype
    return [x if isinstance(x, Variable) else as_number(x, bounds, wrap=False).astype(dtype).item() for x in aligned]


def _align(inputs: Sequence[Any], floating: bool = False, exact: bool = False) -> Sequence[Any]:
    inputs = [operand(x) for x in inputs]
    first = next((x for x in inputs if isinstance(x, Variable)), None)
    if first is None:  # numbers alone: as 0-d tensors
        inputs = [creation.tensor(x) for x in inputs]
        first = inputs[0]
    dtype = first.dtype
    for x in inputs:
        if x.dtype is not dtype if isinstance(x, Variable) else isinstance(x, float) and dtype.kind != "f":
            dtype = result_type(*inputs)
            break
    if dtype.kind != "f":
        dtype = get_default_dtype() if floating else result_type(*inputs)
    tensors = [x for x in inputs if isinstance(x, Variable)]
    single = opmath_dtype(dtype) if exact and any(x.ndim for x in tensors) else dtype  # of 0-d tensors
    return [cast(x, dtype if x.ndim else single) if isinstance(x, Variable) else x for x in inputs]


def opmath(function: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
    """Make a function of several operations compute float16 in float32 and round once, as one operation does.

    The result is float16 where the floating-point inputs meet in it: a float32 tensor among them makes it float32.
    """

    @functools.wraps(function)
    def computed(*args: _P.args, **options: _P.kwargs) -> Tensor:
        given = (*args, *options.values())
        if not any(isinstance(x, Variable) and x.dtype == float16 for x in given):
            return function(*args, **options)
        out = function(*map(widened, args), **{name: widened(x) for name, x in options.items()})
        met = result_type(*(x for x in given if isinstance(x, Variable) and x.dtype.kind == "f"))
        return rounded(out, given) if met == float16 else out

    return computed
