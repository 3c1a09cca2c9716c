"""Memory of no pool, for `cupy.cuda.using_allocator`: each array's bounds are known while it lives."""

from __future__ import annotations

import weakref
from typing import Any

import cupy


class Block(cupy.cuda.Memory):
    """One array's memory, which weak references can point to."""


_alive: weakref.WeakValueDictionary[int, Block] = weakref.WeakValueDictionary()


def allocate(size: int) -> Any:
    """Return new memory, as an allocator of CuPy does."""
    block = Block(size)
    _alive[block.ptr] = block
    return cupy.cuda.MemoryPointer(block, 0)


def at(address: int) -> tuple[int, int] | None:
    """Return where the block that an address lies in begins and ends, or None."""
    found = _alive.get(address) or next((b for b in _alive.values() if b.ptr < address < b.ptr + b.size), None)
    return None if found is None else (found.ptr, found.ptr + found.size)
