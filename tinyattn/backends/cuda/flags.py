"""Errors that are found on the GPU and raised on the CPU, without synchronisation.

CuPy wraps an index that is out of range, and checking it on the CPU would synchronise the GPU. So a kernel checks
indices and writes value and position of a bad one into a flag. The CPU reads the flag at the latest at the next step of
an optimizer, and raises the error that NumPy arrays raise at once. While the flag is set, the optimizers' kernels do
nothing, so no weight is corrupted.

The flag has two copies: one in GPU memory for the kernels, and one in pinned CPU memory, which the CPU reads without
synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.launch import blocks, launch
from tinyattn.backends.shared import out_of_range

__all__ = ["check", "check_indices", "update_if"]

Array = Any
_THREADS = 256
_PER_BLOCK = 4096  # indices; for fewer, one launch is quicker than two
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
    """Return the flag of the current GPU, int64 (4,): set if its first number is not 0."""
    return _own().device


def _own() -> _Flag:
    device = cp.cuda.Device().id
    if device not in _flags:
        _flags[device] = _Flag()
    return _flags[device]


def check_indices(name: str, index: Array, size: int, what: str = "index", least: int = 0) -> None:
    """Set the flag for an index outside [least, size), with its value and position."""
    if not index.size:
        return
    lookup = (name, what, tuple(index.shape), least, size)
    if lookup not in _numbers:
        _lookups.append(lookup)
        _numbers[lookup] = len(_lookups)
    index = cp.ascontiguousarray(index.astype(np.int64, copy=False))
    own = _own()
    answer = [least, size, _numbers[lookup], own.device, own.memory.ptr]
    count = blocks(index.size, _PER_BLOCK, 256)
    found = cp.empty((count, 4), np.int64) if count > 1 else None
    launch("flags", "check_indices", (count,), (_THREADS,), [index, index.size, *answer, found], _THREADS * 16)
    if count > 1:
        launch("flags", "settle_indices", (1,), (_THREADS,), [found, count, *answer], _THREADS * 16)


def check() -> None:
    """Raise IndexError if a flag is set, and reset it. Launches that have not run yet are not covered."""
    for index, own in _flags.items():
        number = int(own.host[0])
        if number:
            name, what, shape, least, size = _lookups[number - 1]
            _, value, flat, _ = own.host.tolist()
            with cp.cuda.Device(index):  # not the one that is current, whose launches are in no order with this flag
                own.device.fill(0)
            own.host[:] = 0
            position = tuple(int(i) for i in np.unravel_index(flat, shape)) if shape else ()
            raise out_of_range(name, what, value, position, least, size)


def update_if(condition: Array, update: Callable[[], Any]) -> None:
    """Call `update`, a step of optimizers; if `condition`, a bool (), is False, its kernels find the flag set and do
    nothing. The condition stays on the GPU, so this can be part of a CUDA graph."""
    number = flag()[0]
    held = ~condition & (number == 0)  # where a flag is up anyway it stays as it is
    number += held
    try:
        update()
    finally:
        number -= held
