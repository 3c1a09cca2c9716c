"""Tensors out of other data, or out of nothing: constants, ranges, random numbers. As in torch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn import backends, random
from tinyattn.dtypes import as_dtype, as_number, bool_, float64, get_default_dtype, int64
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import dims as _dims
from tinyattn.ops.copies import cast, move
from tinyattn.ops.synonyms import named


def _wrap(array: Any, requires_grad: bool = False) -> Tensor:
    return Variable._from(array).requires_grad_(requires_grad)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Variable)


# --- from data ---


@backends.keeps_gpu
def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a new leaf that copies `data`: numbers, nested lists, arrays, tensors.

    Python floats give the default dtype, integers int64; arrays and NumPy's numbers keep theirs. Raises ValueError
    for ragged lists, TypeError for non-numbers and masked arrays, RuntimeError for numbers beyond an integer
    dtype. As torch.tensor.

    >>> ta.tensor([[1, 2], [3, 4.5]])
    tensor([[1. , 2. ],
            [3. , 4.5]])
    """
    made = as_tensor(data, dtype=dtype, device=device)
    source = data.array if isinstance(data, Variable) else data
    backends.of(made.array)  # makes its GPU the current one
    fresh = made.is_cuda and made.device != backends.device_of(source)  # it was copied to get there
    return _wrap(made.array if fresh else made.array.copy(), requires_grad)


@backends.keeps_gpu
def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Return `data` as a tensor that shares memory (and history) where possible. As torch.as_tensor.

    device: None leaves tensors, and arrays of CuPy, where they are.

    >>> a = np.zeros(2)
    >>> ta.as_tensor(a).array is a
    True
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
    if wanted is None and array.dtype == float64 and not _holds_float64(data):
        wanted = get_default_dtype()  # Python floats
    elif isinstance(data, list | tuple | int | float) and array.size:
        bounds = wanted or (int64 if array.dtype.kind != "f" else array.dtype)
        if bounds.kind in "iu" and array.dtype != bounds:
            for extreme in (array.min(), array.max()):  # NaN is both
                as_number(extreme.item(), bounds, "tensor")
    return _wrap(library.asarray(array, as_dtype(array.dtype) if wanted is None else wanted))


def _as_array(data: Any) -> Any:
    if hasattr(data, "detach") and hasattr(data, "numpy"):  # a tensor of torch
        data = data.detach().cpu().numpy()
    data = _without_tensors(data)
    try:
        array = np.asarray(data)
    except ValueError:
        raise ValueError("tensor: nested lists must have equal lengths at every depth") from None
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise TypeError(
            f"tensor: expected numbers, nested lists of numbers or an array, got {type(data).__name__} of {array.dtype}"
        )
    return array


def _without_tensors(data: Any) -> Any:
    if isinstance(data, list | tuple):
        return [_without_tensors(x) for x in data]
    masked = sys.modules.get("numpy.ma")  # where nobody has loaded it, nobody has such an array
    if masked and isinstance(data, masked.MaskedArray):
        raise TypeError("a masked array was given, and tensors have no mask; fill it first: array.filled(0)")
    return data._on_host() if _is_tensor(data) else data


def _holds_float64(data: Any) -> bool:
    """Whether a number or an array among `data` is of NumPy's or a tensor's float64, which Python's floats are not."""
    if isinstance(data, list | tuple):
        return any(map(_holds_float64, data))
    return hasattr(data, "dtype") and "float64" in str(data.dtype)  # torch.float64 too


def from_numpy(array: Any) -> Tensor:
    """Return a tensor on the memory of a NumPy array (of np.matrix and its like, too).

    Raises TypeError for others, masked arrays, and dtypes that are not ours. As torch.from_numpy.

    >>> ta.from_numpy(np.arange(3))
    tensor([0, 1, 2])
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    as_dtype(array.dtype)
    return _wrap(np.asarray(_without_tensors(array)))


def from_dlpack(source: Any) -> Tensor:
    """Return a tensor on the memory of an array that supports DLPack (PyTorch, JAX ...). As torch.from_dlpack.

    >>> ta.from_dlpack(np.arange(3))
    tensor([0, 1, 2])
    """
    kind = source.__dlpack_device__()[0] if hasattr(source, "__dlpack_device__") else _HOST
    if kind not in (_HOST, _PINNED):
        return _wrap(backends.gpu().from_dlpack(source))
    return from_numpy(np.from_dlpack(source))


_HOST, _PINNED = 1, 3  # DLDeviceType: memory of the processor


# --- constants and ranges ---


def zeros(size: Any = (), *more: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return zeros of shape `size`: one tuple or separate integers. As torch.zeros.

    >>> ta.zeros(2, 3).shape
    (2, 3)
    """
    return full(
        _dims.sizes((size, *more)), 0, dtype=dtype or get_default_dtype(), device=device, requires_grad=requires_grad
    )


def ones(size: Any = (), *more: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return ones of shape `size`: one tuple or separate integers. As torch.ones.

    >>> ta.ones(2, dtype=ta.int64)
    tensor([1, 1])
    """
    return full(
        _dims.sizes((size, *more)), 1, dtype=dtype or get_default_dtype(), device=device, requires_grad=requires_grad
    )


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor of shape `size` filled with one number, whose kind decides the dtype.

    Raises RuntimeError for a number that `dtype` cannot hold. As torch.full.

    >>> ta.full((2,), 0.5)
    tensor([0.5, 0.5])
    """
    value = fill_value.item() if hasattr(fill_value, "item") else fill_value
    if not isinstance(value, bool | int | float):
        raise TypeError(f"full: fill_value={value!r}; expected a real number")
    if dtype is None:
        dtype = bool_ if isinstance(value, bool) else int64 if isinstance(value, int) else get_default_dtype()
    if any(n < 0 for n in _dims.sizes((size,))):
        raise ValueError(f"a tensor of size {_dims.sizes((size,))} cannot be made; sizes are 0 or more")
    dtype = as_dtype(dtype)
    array = backends.create(device, "full", _dims.sizes((size,)), as_number(value, dtype, "full"), dtype)
    return _wrap(array, requires_grad)


def empty(size: Any = (), *more: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor to be filled; it holds zeros until then. As torch.empty.

    >>> ta.empty(2, 3).shape
    (2, 3)
    """
    return zeros(size, *more, dtype=dtype, device=device, requires_grad=requires_grad)


def arange(
    start: Any = None,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return start, start + step, ... below `end`; arange(end) starts at 0. Integers give int64.

    dtype: where an integer one gets fractions, the count is that of the fractions, but of int64, as in PyTorch.
    Raises ValueError for steps that never lead from start to end. As torch.arange.

    >>> ta.arange(1, 7, 2)
    tensor([1, 3, 5])
    """
    start, end = (0, start) if end is None else (start or 0, end)
    start, end, step = (x.item() if _is_tensor(x) else x for x in (start, end, step))
    if dtype is not None and as_dtype(dtype) == int64:
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
    if dtype.kind != "f":
        start, step = int(start), int(step)
    for number in (start, start + max(count - 1, 0) * step):
        as_number(number, dtype, "arange")
    return _wrap(backends.create(device, "arange", start, step, count, dtype), requires_grad)


def linspace(
    start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Return `steps` equally spaced numbers from `start` to `end`, both included. As torch.linspace.

    >>> ta.linspace(0, 1, 5)
    tensor([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    dtype = as_dtype(dtype or get_default_dtype())
    if dtype.kind == "b":
        raise TypeError("linspace: booleans have no equal spaces between them; choose a dtype of numbers")
    start, end = (x.item() if _is_tensor(x) else x for x in (start, end))
    for number in (start, end):
        as_number(number, dtype, "linspace", wrap=False)
    return _wrap(backends.create(device, "linspace", start, end, steps, dtype), requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Return the n x m matrix (m: as n by default) with ones on its diagonal. As torch.eye.

    >>> ta.eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    if n < 0 or (m is not None and m < 0):
        raise ValueError(f"eye: sizes {n} and {m}; expected none below 0")
    dtype = as_dtype(dtype or get_default_dtype())
    return _wrap(backends.create(device, "eye", n, n if m is None else m, dtype), requires_grad)


# --- random numbers ---


def _fractional(name: str, dtype: Any) -> Any:
    """The dtype of random numbers that are not whole; raises TypeError for integers and booleans."""
    dtype = as_dtype(dtype or get_default_dtype())
    if dtype.kind != "f":
        raise TypeError(f"{name}: dtype {dtype} cannot hold fractions; use a floating-point dtype, or ta.randint")
    return dtype


def rand(
    size: Any = (),
    *more: Any,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return uniform random numbers in [0, 1). As torch.rand, with NumPy's stream.

    >>> ta.rand(2, 3).shape
    (2, 3)
    """
    dtype = _fractional("rand", dtype)
    return _wrap(random.generator_for(device, generator).uniform(_dims.sizes((size, *more)), dtype), requires_grad)


def randn(
    size: Any = (),
    *more: Any,
    generator: random.Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return random numbers of the normal distribution with mean 0 and variance 1. As torch.randn.

    >>> ta.randn(2, 3).shape
    (2, 3)
    """
    dtype = _fractional("randn", dtype)
    return _wrap(random.generator_for(device, generator).normal(_dims.sizes((size, *more)), dtype), requires_grad)


@backends.keeps_gpu
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
    """Return random integers from `low` to `high` - 1; randint(high, size) starts at 0. As torch.randint.

    >>> ta.randint(3, 4, (2,))
    tensor([3, 3])
    """
    low, high, size = (0, low, high) if size is None else (low, high, size)
    if high <= low:
        raise ValueError(f"randint: no integer lies from {low} to {high} - 1; call randint(low, high, size)")
    dtype = as_dtype(dtype or np.int64)
    for number in (low, high - 1):
        as_number(number, dtype, "randint", wrap=False)
    array = random.generator_for(device, generator).random.integers(low, high, _dims.sizes((size,)))
    return _wrap(backends.of(array).cast(array, dtype), requires_grad)


@backends.keeps_gpu
def randperm(n: int, *, generator: random.Generator | None = None, dtype: Any = None, device: Any = None) -> Tensor:
    """Return the integers below n in random order. Raises RuntimeError for an n below 0. As torch.randperm.

    >>> sorted(ta.randperm(3).tolist())
    [0, 1, 2]
    """
    if n < 0:
        raise RuntimeError(f"randperm: n={n}; expected at least 0")
    array = random.generator_for(device, generator).random.permutation(n)
    return _wrap(backends.of(array).cast(array, as_dtype(dtype or np.int64)), False)


# --- like another tensor: its shape, and its dtype unless said ---


def _alike(make: Callable[..., Tensor], words: str, example: str, found: str) -> Callable[..., Tensor]:
    name = f"{make.__name__}_like"
    doc = f"""Return {words} of the input's shape, dtype and device; options as of `{make.__name__}`. As torch.{name}.

    >>> ta.{name}({example}
    {found}
    """

    @named(name, doc)
    def made(input: Tensor, **options: Any) -> Tensor:
        return make(input.shape, **like(input, options))

    return made


zeros_like = empty_like = _alike(zeros, "zeros", "ta.tensor([1, 2]))", "tensor([0, 0])")
ones_like = _alike(ones, "ones", "ta.tensor([3, 2]))", "tensor([1, 1])")
rand_like = _alike(rand, "uniform random numbers", "ta.zeros(2)).shape", "(2,)")
randn_like = _alike(randn, "normal random numbers", "ta.zeros(2)).shape", "(2,)")


def full_like(input: Tensor, fill_value: Any, **options: Any) -> Tensor:
    """Return one number in the input's shape and dtype; options as of `full`. As torch.full_like.

    >>> ta.full_like(ta.tensor([1, 2]), 7)
    tensor([7, 7])
    """
    return full(input.shape, fill_value, **like(input, options))


def randint_like(input: Tensor, low: int = 0, high: int | None = None, **options: Any) -> Tensor:
    """Return random integers like the input, from `low` (0 if left out) to `high` - 1. As torch.randint_like.

    >>> ta.randint_like(ta.tensor([1, 2]), 1)
    tensor([0, 0])
    """
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, input.shape, **like(input, options))


def like(input: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    """The options, and the input's dtype and device unless they are given."""
    chosen = {key: value for key, value in options.items() if value is not None and key not in ("pin_memory", "layout")}
    return {"dtype": input.dtype, "device": input.device, **chosen}
