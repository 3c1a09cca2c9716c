"""The dtypes, under torch's names; they are NumPy's dtype objects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

float16, float32, float64 = np.dtype("float16"), np.dtype("float32"), np.dtype("float64")
int8, int16, int32, int64 = np.dtype("int8"), np.dtype("int16"), np.dtype("int32"), np.dtype("int64")
uint8, bool_ = np.dtype("uint8"), np.dtype("bool")

_default_dtype = float32


def get_default_dtype() -> np.dtype[Any]:
    """Return the dtype of new tensors made from Python floats: float32 by default. As torch.get_default_dtype.

    >>> ta.get_default_dtype()
    dtype('float32')
    """
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Set the dtype of new tensors made from Python floats. As torch.set_default_dtype.

    Raises TypeError for anything but a floating-point dtype.

    Example:
        >>> ta.set_default_dtype(ta.float64)
        >>> ta.tensor([1.0]).dtype == ta.float64
        True
        >>> ta.set_default_dtype(ta.float32)
    """
    global _default_dtype
    dtype = as_dtype(dtype)
    if dtype.kind != "f":
        raise TypeError(f"set_default_dtype: got {dtype}; expected float16, float32 or float64")
    _default_dtype = dtype


def as_dtype(dtype: Any) -> np.dtype[Any]:
    """Return a dtype given by NumPy's name, type or object.

    Raises TypeError for anything but booleans, integers and real floating-point numbers.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found.kind not in "biuf" or found.itemsize > 8 or not found.isnative:
        raise TypeError(
            f"dtype {dtype!r} is not supported; expected bool, an integer or float16, float32, float64"
            + ("" if found.isnative else " in this machine's byte order: array.astype(array.dtype.newbyteorder('='))")
        )
    return found


def as_number(value: Any, dtype: np.dtype[Any], name: str = "", wrap: bool = True) -> np.generic:
    """Return the Python number `value` in this dtype; integers round toward 0.

    name: of the function, for the message.
    wrap: whether an unsigned dtype takes negative integers down to minus its largest, as in PyTorch (-1: its largest).
    Raises RuntimeError for a number beyond the dtype: infinity or NaN among integers, 300 in uint8, 1e39 in float32.
    """
    if dtype.kind == "b":
        return np.bool_(bool(value))
    if dtype.kind == "f":
        least, most = -float(np.finfo(dtype).max), float(np.finfo(dtype).max)
        fits = least <= value <= most or value in (math.inf, -math.inf) or value != value
    else:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        wrap = wrap and dtype.kind == "u" and isinstance(value, int)
        fits = (-most if wrap else least) <= value <= most
    if not fits:
        raise RuntimeError(
            f"{name and f'{name}: '}{value} cannot be converted to {dtype} without overflow; expected {least} to "
            f"{most}, or a tensor of a wider dtype."
        )
    if dtype.kind == "f":
        return dtype.type(value)
    return np.uint64(int(value) % (int(most) - int(least) + 1)).astype(dtype)


class finfo:  # noqa: N801 - torch's name
    """The limits of a floating-point dtype, as Python numbers: min, max, eps, tiny, bits ... As torch.finfo.

    >>> ta.finfo(ta.float32).eps
    1.1920928955078125e-07
    """

    def __init__(self, dtype: Any = None) -> None:
        info = np.finfo(as_dtype(_default_dtype if dtype is None else dtype))
        self.dtype, self.bits = str(info.dtype), int(info.bits)
        self.min, self.max, self.eps = float(info.min), float(info.max), float(info.eps)
        self.tiny = self.smallest_normal = float(info.tiny)
        self.resolution = float(info.resolution)

    def __repr__(self) -> str:
        return f"finfo({', '.join(f'{key}={value}' for key, value in vars(self).items())})"


class iinfo:  # noqa: N801 - torch's name
    """The limits of an integer dtype: min, max, bits. As torch.iinfo.

    >>> ta.iinfo(ta.int8).max
    127
    """

    def __init__(self, dtype: Any) -> None:
        info = np.iinfo(as_dtype(dtype))
        self.dtype, self.bits, self.min, self.max = str(info.dtype), int(info.bits), int(info.min), int(info.max)

    __repr__ = finfo.__repr__
