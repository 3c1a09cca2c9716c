"""Tensors out of other data, or out of nothing: constants, ranges, random numbers. As in torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn import backends, random
from tinyattn.dtypes import as_dtype, float64, get_default_dtype
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import dims as _dims
from tinyattn.ops.copies import cast, move


def _wrap(array: Any, requires_grad: bool = False) -> Tensor:
    return Variable._from(array).requires_grad_(requires_grad)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Variable)


# --- from data ---


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new leaf that copies `data`: numbers, nested lists, arrays, tensors.

    Python floats give the default dtype, integers int64; arrays keep theirs. As torch.tensor.
    Raises ValueError for ragged lists, TypeError for what is no number.
    """
    made = as_tensor(data, dtype=dtype, device=device)
    source = data.array if isinstance(data, Variable) else data
    fresh = made.is_cuda and made.device != backends.device_of(source)  # it was copied to get there
    return _wrap(made.array if fresh else made.array.copy(), requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """`data` as a tensor, sharing memory (and history) where it can. As torch.as_tensor.

    device: where it shall be; None leaves tensors, and arrays of CuPy, where they are.
    """
    if isinstance(data, Variable):
        moved = data if device is None else move(data, device)
        return moved if dtype is None else cast(moved, dtype)
    if hasattr(data, "__cuda_array_interface__") and backends.gpu() is not None and backends.is_array(data):
        as_dtype(data.dtype)
        return as_tensor(_wrap(data), dtype, device)
    library = backends.get(device)
    wanted = None if dtype is None else as_dtype(dtype)
    array = _as_array(data)
    if wanted is None and not hasattr(data, "dtype") and array.dtype == float64:
        wanted = get_default_dtype()  # Python floats
    return _wrap(library.asarray(array, as_dtype(array.dtype) if wanted is None else wanted))


def _as_array(data: Any) -> Any:
    if hasattr(data, "detach") and hasattr(data, "numpy"):  # a tensor of torch
        data = data.detach().cpu().numpy()
    if isinstance(data, list | tuple):
        data = _without_tensors(data)
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ValueError(f"tensor: nested lists must have equal lengths at every depth ({error})") from None
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise TypeError(
            f"tensor: expected numbers, nested lists of numbers or an array, got {type(data).__name__} of {array.dtype}"
        )
    return array


def _without_tensors(data: Any) -> Any:
    if isinstance(data, list | tuple):
        return [_without_tensors(x) for x in data]
    return data.tolist() if _is_tensor(data) else data


def from_numpy(array: Any) -> Tensor:
    """A tensor on the memory of a NumPy array. As torch.from_numpy."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    as_dtype(array.dtype)
    return _wrap(array)


def from_dlpack(source: Any) -> Tensor:
    """A tensor on the memory of any array that speaks DLPack (torch, JAX, CuPy ...)."""
    kind = source.__dlpack_device__()[0] if hasattr(source, "__dlpack_device__") else _HOST
    if kind not in (_HOST, _PINNED):
        return _wrap(backends.gpu().from_dlpack(source))
    return from_numpy(np.from_dlpack(source))


_HOST, _PINNED = 1, 3  # DLDeviceType: memory of the processor


# --- constants and ranges ---


def zeros(size: Any = (), *more: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros of shape `size`."""
    return full(
        _dims.sizes((size, *more)), 0, dtype=dtype or get_default_dtype(), device=device, requires_grad=requires_grad
    )


def ones(size: Any = (), *more: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones of shape `size`."""
    return full(
        _dims.sizes((size, *more)), 1, dtype=dtype or get_default_dtype(), device=device, requires_grad=requires_grad
    )


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of shape `size` filled with one number, whose kind decides the dtype unless given."""
    if dtype is None:
        dtype = tensor(fill_value).dtype
    if any(n < 0 for n in _dims.sizes((size,))):
        raise ValueError(f"a tensor of size {_dims.sizes((size,))} cannot be made; sizes are 0 or more")
    value = fill_value.item() if _is_tensor(fill_value) else fill_value
    array = backends.get(device).full(_dims.sizes((size,)), value, as_dtype(dtype))
    return _wrap(array, requires_grad)


def empty(size: Any = (), *more: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor to be filled; holds zeros until then."""
    return zeros(size, *more, dtype=dtype, device=device, requires_grad=requires_grad)


def arange(
    start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """start, start + step, ... below `end`; arange(end) starts at 0. int64 for integers."""
    start, end = (0, start) if end is None else (start, end)
    start, end, step = (x.item() if _is_tensor(x) else x for x in (start, end, step))
    if dtype is not None and as_dtype(dtype).kind != "f":
        start, end, step = int(start), int(end), int(step)
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: steps of {step} never lead from {start} to {end}")
    if dtype is None:
        whole = all(isinstance(x, int | np.integer) for x in (start, end, step))
        dtype = np.int64 if whole else get_default_dtype()
    dtype = as_dtype(dtype)
    if dtype.kind == "b":
        raise TypeError("arange: a range of booleans has no meaning; choose a dtype of numbers")
    count = math.ceil((end - start) / step)
    return _wrap(backends.get(device).arange(start, step, count, dtype), requires_grad)


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`steps` numbers from `start` to `end`, both included, equally spaced."""
    dtype = as_dtype(dtype or get_default_dtype())
    return _wrap(backends.get(device).linspace(start, end, steps, dtype), requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The n x m matrix with ones on its diagonal, square unless said."""
    if n < 0 or (m is not None and m < 0):
        raise ValueError(f"eye: sizes {n} and {m}; expected none below 0")
    dtype = as_dtype(dtype or get_default_dtype())
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
    dtype = as_dtype(dtype or get_default_dtype())
    return _wrap(random.generator_for(device, generator).uniform(_dims.sizes((size, *more)), dtype), requires_grad)


def randn(
    size: Any = (),
    *more: Any,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers from the normal distribution with mean 0 and variance 1."""
    dtype = as_dtype(dtype or get_default_dtype())
    return _wrap(random.generator_for(device, generator).normal(_dims.sizes((size, *more)), dtype), requires_grad)


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
    array = random.generator_for(device, generator).random.integers(low, high, _dims.sizes((size,)))
    return _wrap(backends.of(array).cast(array, as_dtype(dtype or np.int64)), requires_grad)


def randperm(n: int, *, generator: random.Generator | None = None, dtype: Any = None, device: Any = None) -> Tensor:
    """The integers below n in random order."""
    array = random.generator_for(device, generator).random.permutation(n)
    return _wrap(backends.of(array).cast(array, as_dtype(dtype or np.int64)), False)


# --- like another tensor: its shape, and its dtype unless said ---


def zeros_like(input: Tensor, **options: Any) -> Tensor:
    """Zeros of the input's shape and dtype; options as of `zeros`."""
    return zeros(input.shape, **_like(input, options))


def ones_like(input: Tensor, **options: Any) -> Tensor:
    """Ones of the input's shape and dtype; options as of `ones`."""
    return ones(input.shape, **_like(input, options))


def full_like(input: Tensor, fill_value: Any, **options: Any) -> Tensor:
    """One number in the input's shape and dtype; options as of `full`."""
    return full(input.shape, fill_value, **_like(input, options))


empty_like = zeros_like


def rand_like(input: Tensor, **options: Any) -> Tensor:
    """Uniform numbers of the input's shape and dtype; options as of `rand`."""
    return rand(input.shape, **_like(input, options))


def randn_like(input: Tensor, **options: Any) -> Tensor:
    """Normal numbers of the input's shape and dtype; options as of `randn`."""
    return randn(input.shape, **_like(input, options))


def randint_like(input: Tensor, low: int, high: int | None = None, **options: Any) -> Tensor:
    """Integers of the input's shape and dtype, from `low` (0 if left out) to `high` - 1."""
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, input.shape, **_like(input, options))


def _like(input: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    chosen = {key: value for key, value in options.items() if value is not None}
    return {"dtype": input.dtype, "device": input.device, **chosen}
