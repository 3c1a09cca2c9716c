"""Copies of a kernel's arrays between guard zones, so that a launch can be tried out and looked at."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

SANITIZE = bool(os.environ.get("CUDA_SHIM_SANITIZE"))  # the process must have been started with libasan preloaded
_ZONE = 4096  # bytes before and after an array
_ALIGNED = 256  # bytes, as memory of a GPU is


class Region:
    """Memory that arrays use: from the address `low` up to, but without, `high`."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    @property
    def bytes(self) -> np.ndarray:
        """The memory itself."""
        return np.ctypeslib.as_array((ctypes.c_uint8 * (self.high - self.low)).from_address(self.low))


class Copy:
    """A copy of a region, aligned as the original, with zones around it that nobody may touch."""

    def __init__(self, region: Region) -> None:
        self.region, self.size = region, region.high - region.low
        self._room = np.full(self.size + 2 * (_ZONE + _ALIGNED), 0xFF, np.uint8)
        aligned = _ZONE + -(self._room.ctypes.data + _ZONE) % _ALIGNED
        self._start = aligned + region.low % _ALIGNED
        self.bytes = self._room[self._start : self._start + self.size]
        self.bytes[:] = region.bytes
        self._poison()

    def moved(self, address: int) -> int:
        """Where the copy has what the region has at an address in it."""
        return self._room.ctypes.data + self._start + address - self.region.low

    def touched(self) -> int | None:
        """Where somebody has written outside of it, in bytes from its start; None if nobody has."""
        self._permit()
        outside = self._room != 0xFF
        outside[self._start : self._start + self.size] = False
        return int(np.flatnonzero(outside)[0]) - self._start if outside.any() else None

    def _poison(self) -> None:
        """Have the address sanitizer object to whatever reads the zones, too."""
        if SANITIZE:
            for first, last in ((0, self._start), (self._start + self.size, len(self._room))):
                _sanitizer("poison")(ctypes.c_void_p(self._room.ctypes.data + first), ctypes.c_size_t(last - first))

    def _permit(self) -> None:
        if SANITIZE:
            _sanitizer("unpoison")(ctypes.c_void_p(self._room.ctypes.data), ctypes.c_size_t(len(self._room)))


def _sanitizer(what: str) -> Any:
    return getattr(ctypes.CDLL(None), f"__asan_{what}_memory_region")


def memory_at(address: int) -> tuple[int, int] | None:
    """Where the memory that an address lies in begins and ends: unknown, unless a test replaces this function."""
    return None


def pointers(cell: np.ndarray) -> list[np.ndarray]:
    """The pointers in an argument, as flat views of it: of a struct, its fields of type uint64."""
    if cell.dtype.names is None:
        return [cell]
    return [cell[name].reshape(-1) for name in cell.dtype.names if cell[name].dtype == np.uint64]


def regions(args: Iterable[Any], more: Iterable[tuple[int, int]] = ()) -> list[Region]:
    """The memory of the arrays among the arguments, and `more`; what shares some is one region."""
    found: list[Region] = []
    for low, high in sorted({*(_bounds(arg) for arg in args if is_array(arg)), *more}):
        if found and low < found[-1].high:
            found[-1].high = max(high, found[-1].high)
        elif low < high:
            found.append(Region(low, high))
    return found


def is_array(arg: Any) -> bool:
    return hasattr(arg, "strides") and not isinstance(arg, np.generic) and not arg.dtype.names


def address(array: Any) -> int:
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


def _bounds(array: Any) -> tuple[int, int]:
    """The addresses of the first byte of an array and of the one after its last."""
    start = address(array)
    if 0 in array.shape:
        return start, start
    reach = [stride * (n - 1) for n, stride in zip(array.shape, array.strides, strict=True)]
    return start + sum(r for r in reach if r < 0), start + sum(r for r in reach if r > 0) + array.dtype.itemsize
