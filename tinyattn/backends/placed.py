"""A gradient that is zero except at an index."""

from __future__ import annotations

from typing import Any


class Placed:
    """Zeros of `shape` with `values` added at `index`: what indexing sends back.

    A thousand rows taken one by one from a table would cost a thousand tables of zeros; the walk
    adds each row into one buffer instead.
    """

    def __init__(self, library: Any, values: Any, index: Any, shape: tuple[int, ...]) -> None:
        self.library, self.values, self.index, self.shape = library, values, index, shape
        self.dtype, self.base = values.dtype, None

    def add_into(self, buffer: Any) -> None:
        """Add the values to `buffer` (of the whole shape) in place."""
        self.library.index_add(buffer, self.index, self.values)

    def dense(self) -> Any:
        """The whole array."""
        buffer = self.library.zeros(self.shape, self.dtype)
        self.add_into(buffer)
        return buffer
