"""Tensors out of nothing: constants, ranges, random numbers. Signatures as in torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

import tinyattn.tensor as _tensor
from tinyattn import backends, random
from tinyattn.ops import dims as _dims

if TYPE_CHECKING:
    from tinyattn.tensor import Tensor


def _wrap(array: Any, requires_grad: bool) -> Tensor:
    return _tensor.Tensor._from(array).requires_grad_(requires_grad)


def zeros(size: Any = (), *more: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros of shape `size`."""
    return full(
        _dims.sizes((size, *more)),
        0,
        dtype=dtype or _tensor.get_default_dtype(),
        device=device,
        requires_grad=requires_grad,
    )


def ones(size: Any = (), *more: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones of shape `size`."""
    return full(
        _dims.sizes((size, *more)),
        1,
        dtype=dtype or _tensor.get_default_dtype(),
        device=device,
        requires_grad=requires_grad,
    )


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of shape `size` filled with one number, whose kind decides the dtype unless given."""
    if dtype is None:
        dtype = _tensor.tensor(fill_value).dtype
    value = fill_value.item() if isinstance(fill_value, _tensor.Tensor) else fill_value
    array = backends.get(device).full(_dims.sizes((size,)), value, _tensor.as_dtype(dtype))
    return _wrap(array, requires_grad)


def empty(size: Any = (), *more: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor to be filled; holds zeros until then."""
    return zeros(size, *more, dtype=dtype, device=device, requires_grad=requires_grad)


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """start, start + step, ... below `end`; arange(end) starts at 0. int64 for integers."""
    start, end = (0, start) if end is None else (start, end)
    start, end, step = (x.item() if isinstance(x, _tensor.Tensor) else x for x in (start, end, step))
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: steps of {step} never lead from {start} to {end}")
    if dtype is None:
        whole = all(isinstance(x, int | np.integer) for x in (start, end, step))
        dtype = np.int64 if whole else _tensor.get_default_dtype()
    dtype = _tensor.as_dtype(dtype)
    if dtype.kind == "b":
        raise TypeError("arange: a range of booleans has no meaning; choose a dtype of numbers")
    count = math.ceil((end - start) / step)
    values = start + np.arange(count) * step
    return _wrap(backends.get(device).asarray(values.astype(dtype)), requires_grad)


def linspace(start: float, end: float, steps: int, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """`steps` numbers from `start` to `end`, both included, equally spaced."""
    dtype = _tensor.as_dtype(dtype or _tensor.get_default_dtype())
    return _wrap(np.linspace(start, end, steps, dtype=dtype), requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The n x m matrix with ones on its diagonal, square unless said."""
    if n < 0 or (m is not None and m < 0):
        raise ValueError(f"eye: sizes {n} and {m}; expected none below 0")
    dtype = _tensor.as_dtype(dtype or _tensor.get_default_dtype())
    return _wrap(backends.get(device).eye(n, n if m is None else m, dtype), requires_grad)


# --- random numbers ---


def rand(
    size: Any = (),
    *more: Any,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    dtype = _tensor.as_dtype(dtype or _tensor.get_default_dtype())
    array = (generator or random.default_generator).uniform(_dims.sizes((size, *more)), dtype)
    return _wrap(backends.get(device).asarray(array), requires_grad)


def randn(
    size: Any = (),
    *more: Any,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from the normal distribution with mean 0 and variance 1."""
    dtype = _tensor.as_dtype(dtype or _tensor.get_default_dtype())
    array = (generator or random.default_generator).normal(_dims.sizes((size, *more)), dtype)
    return _wrap(backends.get(device).asarray(array), requires_grad)


def randint(
    low: int,
    high: Any,
    size: Any = None,
    *,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers from `low` to `high` - 1, all equally likely; randint(high, size) starts at 0."""
    low, high, size = (0, low, high) if size is None else (low, high, size)
    if high <= low:
        raise ValueError(f"randint: no integer lies from {low} to {high} - 1")
    array = (generator or random.default_generator).random.integers(low, high, _dims.sizes((size,)))
    return _wrap(backends.get(device).asarray(array.astype(_tensor.as_dtype(dtype or np.int64))), requires_grad)


def randperm(n: int, *, generator: random.Generator | None = None, dtype: Any = None) -> Tensor:
    """The integers below n in random order."""
    array = (generator or random.default_generator).random.permutation(n)
    return _wrap(array.astype(_tensor.as_dtype(dtype or np.int64)), False)


# --- like another tensor: its shape, and its dtype unless said ---


def zeros_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the input's shape and dtype."""
    return zeros(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def ones_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the input's shape and dtype."""
    return ones(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def full_like(
    input: Tensor, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """One number in the input's shape and dtype."""
    dtype, device = dtype or input.dtype, device or input.device
    return full(input.shape, fill_value, dtype=dtype, device=device, requires_grad=requires_grad)


empty_like = zeros_like


def rand_like(
    input: Tensor,
    *,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers of the input's shape and dtype."""
    dtype, device = dtype or input.dtype, device or input.device
    return rand(input.shape, generator=generator, dtype=dtype, device=device, requires_grad=requires_grad)


def randn_like(
    input: Tensor,
    *,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers of the input's shape and dtype."""
    dtype, device = dtype or input.dtype, device or input.device
    return randn(input.shape, generator=generator, dtype=dtype, device=device, requires_grad=requires_grad)


def randint_like(
    input: Tensor,
    low: int,
    high: int | None = None,
    *,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers of the input's shape, from `low` to `high` - 1."""
    low, high = (0, low) if high is None else (low, high)
    dtype, device = dtype or input.dtype, device or input.device
    return randint(low, high, input.shape, generator=generator, dtype=dtype, device=device, requires_grad=requires_grad)
