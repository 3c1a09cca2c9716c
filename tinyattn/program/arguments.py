"""Arguments and results of a compiled function: the tensors in them, and the form of all else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CellType
from typing import Any

from tinyattn.tensors import Tensor


def flat(value: Any) -> tuple[list[Tensor], Any]:
    """Return the tensors in nested tuples, lists and dicts, and a hashable form of everything else."""
    if isinstance(value, Tensor):
        return [value], Tensor
    if isinstance(value, tuple | list | dict):
        parts = [flat(v) for v in (value.values() if isinstance(value, dict) else value)]
        names = tuple(value) if isinstance(value, dict) else None
        return [t for tensors, _ in parts for t in tensors], (type(value), names, *(form for _, form in parts))
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"compile: an argument of type {type(value).__name__} has no hash, so a graph cannot be chosen by it; "
            "pass tensors, numbers and strings, or tuples, lists and dicts of them"
        ) from None
    return [], (type(value), value)


def rebuilt(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return `value` with `change` applied to each tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)((key, rebuilt(v, change)) for key, v in value.items())
    if isinstance(value, tuple | list):
        parts = [rebuilt(v, change) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def reachable(function: Any) -> Iterator[Tensor]:
    """The tensors that a function names: in its closure, its globals, its object, and in modules there."""
    owner = getattr(function, "__self__", function)
    function = getattr(function, "__func__", function)
    found = [owner, *vars(owner).values()] if hasattr(owner, "__dict__") else []
    if hasattr(function, "__code__"):
        names = function.__code__.co_names
        found += [function.__globals__[name] for name in names if name in function.__globals__]
        found += [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    for x in found:
        if isinstance(x, Tensor):
            yield x
        elif hasattr(x, "named_parameters"):
            yield from (tensor for _, tensor in (*x.named_parameters(), *x.named_buffers()))
