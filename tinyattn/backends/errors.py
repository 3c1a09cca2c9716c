"""Errors that more than one part of the backends raises."""

from __future__ import annotations


def out_of_range(name: str, what: str, value: int, position: tuple[int, ...], least: int, size: int) -> IndexError:
    """An index that is out of range: `value`, at `position` of what `name` was given, is not in [least, size)."""
    return IndexError(f"{name}: {what} {value} at position {position} is out of range; expected {least} to {size - 1}")


class CaptureError(RuntimeError):
    """Something that cannot be part of a CUDA graph."""
