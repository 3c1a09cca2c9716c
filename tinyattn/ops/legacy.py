"""PyTorch's older constructors, one for each dtype, and questions about tensors as functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import creation

TENSOR_TYPES = {
    "FloatTensor": np.dtype("float32"), "DoubleTensor": np.dtype("float64"), "HalfTensor": np.dtype("float16"),
    "LongTensor": np.dtype("int64"), "IntTensor": np.dtype("int32"), "ShortTensor": np.dtype("int16"),
    "CharTensor": np.dtype("int8"), "ByteTensor": np.dtype("uint8"), "BoolTensor": np.dtype("bool"),
}  # fmt: skip


def _constructor(name: str) -> Callable[..., Tensor]:
    def make(*data: Any) -> Tensor:
        if data and not isinstance(data[0], int):
            return creation.tensor(data[0], dtype=TENSOR_TYPES[name])
        return creation.zeros(data or (0,), dtype=TENSOR_TYPES[name])

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"""Return `data` as a tensor of {TENSOR_TYPES[name]}, or zeros of a shape given in integers.

    As torch.{name}.

    >>> ta.{name}([0, 1]).dtype
    dtype('{TENSOR_TYPES[name]}')
    """
    return make


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
    """Return whether the tensor's dtype is a floating-point one. As torch.is_floating_point.

    >>> ta.is_floating_point(ta.tensor([1, 2]))
    False
    """
    return bool(input.dtype.kind == "f")


def numel(input: Tensor) -> int:
    """Return the number of elements. As torch.numel.

    >>> ta.numel(ta.zeros(2, 3))
    6
    """
    return int(input.array.size)
