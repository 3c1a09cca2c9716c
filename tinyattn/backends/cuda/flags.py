"""Errors that are found on the GPU and raised on the processor.

CuPy wraps an index that is out of range, and to look whether one is means to wait for the GPU. So the GPU looks: a
kernel that finds one writes what and where into a flag, and the processor reads it whenever it comes by, at the latest
at the next step of an optimizer, and raises what it would have raised at once on the CPU. The kernels of the
optimizers do nothing while the flag is up, so no weight is spoiled.

The flag has two copies: one in the memory of the GPU, for the kernels, and one in memory of the processor that the GPU
can write to, which the processor can read without asking.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.launch import launch
from tinyattn.backends.shared import out_of_range

__all__ = ["check", "check_indices", "update_if"]

Array = Any
_THREADS = 256
_SIZE = 4  # int64 numbers: the number of the look-up (0: nothing is wrong), the value, its flat position, unused


class _Flag:
    """The flag of one GPU."""

    def __init__(self) -> None:
        self.device = cp.zeros(_SIZE, np.int64)
        self.memory = cp.cuda.alloc_pinned_memory(_SIZE * 8)
        self.host = np.frombuffer(self.memory, np.int64, _SIZE)
        self.host[:] = 0


_flags: dict[int, _Flag] = {}
_Lookup = tuple[str, str, tuple[int, ...], int, int]  # name, what, shape of the index, least, size
_lookups: list[_Lookup] = []
_numbers: dict[_Lookup, int] = {}  # of each, its place in the list, counted from 1


def flag() -> Array:
    """The flag of the current GPU, int64 (4,): up where its first number is not 0."""
    return _own().device


def _own() -> _Flag:
    device = cp.cuda.Device().id
    if device not in _flags:
        _flags[device] = _Flag()
    return _flags[device]


def check_indices(name: str, index: Array, size: int, what: str = "index", least: int = 0) -> None:
    """Raise the flag for an index outside [least, size), with the value and where it stands."""
    if not index.size:
        return
    lookup = (name, what, tuple(index.shape), least, size)
    if lookup not in _numbers:
        _lookups.append(lookup)
        _numbers[lookup] = len(_lookups)
    index = cp.ascontiguousarray(index.astype(np.int64, copy=False))
    own = _own()
    args = [index, index.size, least, size, _numbers[lookup], own.device, own.memory.ptr]
    launch("flags", "check_indices", (1,), (_THREADS,), args, _THREADS * 16)


def check() -> None:
    """Raise IndexError if a flag is up, and lower it. Does not wait: what has not run yet is not seen yet."""
    for own in _flags.values():
        number = int(own.host[0])
        if number:
            name, what, shape, least, size = _lookups[number - 1]
            _, value, flat, _ = own.host.tolist()
            own.host[:] = 0
            own.device.fill(0)
            position = tuple(int(i) for i in np.unravel_index(flat, shape)) if shape else ()
            raise out_of_range(name, what, value, position, least, size)


def update_if(condition: Array, update: Callable[[], Any]) -> None:
    """Call `update`, a step of optimizers; where `condition`, a bool (), is False, its kernels find a flag up and do
    nothing. Only the GPU knows, so this can be part of a graph."""
    number = flag()[0]
    held = ~condition & (number == 0)  # where a flag is up anyway it stays as it is
    number += held
    try:
        update()
    finally:
        number -= held
