"""The error of an index that is out of range, the same wherever it is found."""

from __future__ import annotations


def out_of_range(name: str, what: str, value: int, position: tuple[int, ...], least: int, size: int) -> IndexError:
    """`value`, found at `position` of what `name` was given, is not in [least, size)."""
    return IndexError(f"{name}: {what} {value} at position {position} is out of range; expected {least} to {size - 1}")
