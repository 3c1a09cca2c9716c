"""Tensors in other libraries: NumPy's functions and DLPack. These are methods of Tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.engine.modes import observers
from tinyattn.engine.variable import Tensor

# NumPy's functions that are operations here, where our names differ.
_UFUNCS = {
    "subtract": "sub", "multiply": "mul", "divide": "div", "power": "pow", "negative": "neg", "absolute": "abs",
    "equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge",
    "invert": "bitwise_not", "left_shift": "bitwise_left_shift", "right_shift": "bitwise_right_shift",
}  # fmt: skip


@backends.keeps_gpu
def on_host(self: Tensor) -> Any:
    """The array, or, of one on a GPU, a copy in the memory of the processor."""
    for observer in observers.get():
        observer.before_read(self)
    data = self.array
    return data if type(data) is np.ndarray else backends.of(data).to_host(data)


def to_numpy(self: Tensor, *, force: bool = False) -> Any:
    """Return the array itself, without a copy; read-only if this tensor is part of a graph.

    Raises TypeError for a tensor on a GPU: there is no array without a copy, which force=True makes. As
    torch.Tensor.numpy, which refuses tensors that require gradients.

    >>> ta.tensor([1.0, 2.0]).numpy() * 2
    array([2., 4.], dtype=float32)
    """
    for observer in observers.get():
        observer.before_read(self)
    if not isinstance(self.array, np.ndarray):
        if force:
            return self._on_host()
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            "memory first."
        )
    view: Any = self.array.view()
    if self.node is not None:
        view.flags.writeable = False
    return view


def as_numpy(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Any:
    """Return a NumPy array: what np.asarray(tensor) calls."""
    return np.array(self.numpy(), dtype=dtype, copy=copy)


def numpy_function(self: Tensor, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """Run np.exp(tensor) or array * tensor as our operation, which is differentiable.

    Raises TypeError for a function that is not among ours.
    """
    name = _UFUNCS.get(ufunc.__name__, ufunc.__name__.replace("arc", "a"))
    if not hasattr(type(self), name) or method != "__call__" or options:
        raise TypeError(
            f"np.{ufunc.__name__}{'' if method == '__call__' else '.' + method} does not work on a tinyattn "
            "Tensor; use tinyattn's function, or .numpy() for a plain array"
        )
    return getattr(type(self), name)(*inputs)


def dlpack(self: Tensor, **options: Any) -> Any:
    """Export the memory. Raises BufferError for a tensor that requires a gradient, which DLPack cannot carry."""
    if self.node is not None:
        raise BufferError("DLPack carries no gradient; export x.detach()")
    return self.array.__dlpack__(**options)


def dlpack_device(self: Tensor) -> tuple[int, int]:
    """Return DLPack's kind and number of the device."""
    return self.array.__dlpack_device__()
