"""PyTorch's older constructors, one for each dtype, and questions about tensors as functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.engine.variable import Size, Tensor, Variable
from tinyattn.ops import creation
from tinyattn.ops.copies import alias

TENSOR_TYPES = {
    "FloatTensor": np.dtype("float32"), "DoubleTensor": np.dtype("float64"), "HalfTensor": np.dtype("float16"),
    "LongTensor": np.dtype("int64"), "IntTensor": np.dtype("int32"), "ShortTensor": np.dtype("int16"),
    "CharTensor": np.dtype("int8"), "ByteTensor": np.dtype("uint8"), "BoolTensor": np.dtype("bool"),
}  # fmt: skip


def construct(name: str, dtype: Any, *data: Any) -> Tensor:
    """Return what the constructor `name` makes of sizes, a Size, nested numbers, an array, or a tensor: an alias."""
    first = data[0] if data else 0
    if isinstance(first, Size | int | np.integer) and not isinstance(first, bool):
        return creation.zeros(*data or (0,), dtype=dtype)
    if len(data) > 1 or not (isinstance(first, Variable) or hasattr(first, "__len__")) or isinstance(first, str):
        raise TypeError(f"{name}: got {data}; expected sizes, a sequence of numbers, an array or a tensor")
    if not isinstance(first, Variable):
        return creation.tensor(creation.as_tensor(first) if hasattr(first, "dtype") else first, dtype=dtype)
    if name != "Tensor" and first.dtype != dtype:
        raise TypeError(f"{name}: got a tensor of {first.dtype}; expected {dtype} (cast it with .to)")
    return alias(first)


class _OfDtype(type):
    """A constructor of tensors, which all tensors of its dtype are instances of."""

    def __call__(cls, *data: Any) -> Any:
        return construct(cls.__name__, TENSOR_TYPES[cls.__name__], *data)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Variable) and instance.dtype == TENSOR_TYPES[cls.__name__]


def _constructor(name: str) -> Any:
    doc = f"""Return `data` as a tensor of {TENSOR_TYPES[name]}, or zeros of a shape given in integers. As torch.{name}.

    >>> ta.{name}([0, 1]).dtype
    dtype('{TENSOR_TYPES[name]}')
    """
    return _OfDtype(name, (), {"__doc__": doc, "__module__": __name__})


FloatTensor, DoubleTensor, HalfTensor = map(_constructor, ("FloatTensor", "DoubleTensor", "HalfTensor"))
LongTensor, IntTensor, ShortTensor = map(_constructor, ("LongTensor", "IntTensor", "ShortTensor"))
CharTensor, ByteTensor, BoolTensor = map(_constructor, ("CharTensor", "ByteTensor", "BoolTensor"))


def is_tensor(obj: Any) -> bool:
    """Return whether `obj` is a tensor. As torch.is_tensor.

    >>> ta.is_tensor(ta.zeros(2)), ta.is_tensor(2)
    (True, False)
    """
    return isinstance(obj, Variable)


def is_floating_point(input: Tensor) -> bool:
    """Return whether the dtype of a tensor (or this dtype) is a floating-point one. As torch.is_floating_point.

    >>> ta.is_floating_point(ta.tensor([1, 2]))
    False
    """
    dtype: Any = getattr(input, "dtype", input)
    return bool(dtype.kind == "f")


def is_complex(input: Tensor) -> bool:
    """Return False: tensors are of real numbers. As torch.is_complex.

    >>> ta.is_complex(ta.zeros(2))
    False
    """
    return False


def numel(input: Tensor) -> int:
    """Return the number of elements. As torch.numel.

    >>> ta.numel(ta.zeros(2, 3))
    6
    """
    return int(input.array.size)
