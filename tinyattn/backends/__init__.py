"""Array libraries under our names: the same modules and functions for each kind of memory.

An operation asks `of(array)` for the library its arrays belong to and calls it `F`. What `F` must
offer is what `cpu/` offers; `tinyattn.ops` offers the same names for Tensors.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tinyattn.backends import cpu
from tinyattn.backends.cpu import quiet
from tinyattn.backends.memory import keep_freed_memory
from tinyattn.backends.placed import Placed

keep_freed_memory()

__all__ = ["Placed", "get", "of", "quiet"]


def of(*arrays: Any) -> Any:
    """The array library that `arrays` belong to."""
    return cpu


def get(device: Any) -> ModuleType:
    """The array library of `device`, given by name.

    Raises ValueError for a device that does not exist here.
    """
    if device is None or str(device) == "cpu":
        return cpu
    raise ValueError(f"device={device!r} is not available; this build computes on 'cpu'")
