"""What the array libraries share: errors, sparse gradients, and the precision of products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class MixedDevicesError(RuntimeError):
    """Arrays of different devices in one operation."""


class CaptureError(RuntimeError):
    """An operation that cannot be part of a CUDA graph."""


def out_of_range(name: str, what: str, value: int, position: tuple[int, ...], least: int, size: int) -> IndexError:
    """The error for an index outside [least, size): `value`, at `position` of what `name` was given."""
    return IndexError(f"{name}: {what} {value} at position {position} is out of range; expected {least} to {size - 1}")


def owner(array: Any) -> Any:
    """The array that owns the memory that `array` is a view of."""
    while hasattr(array.base, "base"):  # which what NumPy's as_strided puts in between has too
        array = array.base
    return array


class Placed:
    """A sparse gradient: zeros of `shape` with `values` added at `index`, the gradient of indexing.

    A thousand rows taken one by one from a table would cost a thousand tables of zeros; the backward pass adds each
    row into one buffer instead. zeros(shape, dtype) and index_add(buffer, index, values) are the library's.
    """

    def __init__(
        self, values: Any, index: Any, shape: tuple[int, ...], zeros: Callable[..., Any], index_add: Callable[..., None]
    ) -> None:
        self.values, self.index, self.shape = values, index, shape
        self.dtype, self.base = values.dtype, None
        self._zeros, self._index_add = zeros, index_add

    def add_into(self, buffer: Any) -> None:
        """Add the values to `buffer` (of the whole shape) in place."""
        self._index_add(buffer, self.index, self.values)

    def dense(self) -> Any:
        """The whole array."""
        buffer = self._zeros(self.shape, self.dtype)
        self.add_into(buffer)
        return buffer


_precision = "highest"


def set_float32_matmul_precision(precision: str) -> None:
    """Set the precision of float32 products on a GPU. As torch.set_float32_matmul_precision.

    "highest": float32 throughout. "high" and "medium": tensor cores round each factor to 10 bits first (TF32), several
    times faster. The CPU always computes in float32. Raises ValueError for another word.

    >>> ta.set_float32_matmul_precision("highest")
    >>> ta.get_float32_matmul_precision()
    'highest'
    """
    global _precision
    if precision not in ("highest", "high", "medium"):
        raise ValueError(f"precision={precision!r}; expected 'highest', 'high' or 'medium'")
    _precision = precision


def get_float32_matmul_precision() -> str:
    """Return what `set_float32_matmul_precision` has set; "highest" by default.

    >>> ta.get_float32_matmul_precision()
    'highest'
    """
    return _precision
