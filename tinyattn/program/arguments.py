"""Arguments and results of a compiled function: the tensors in them, and the form of all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import BuiltinFunctionType, CellType, FunctionType, ModuleType
from typing import Any

import numpy as np

from tinyattn.files.nested import mapped
from tinyattn.tensors import Tensor

_EMPTY = CellType()
_HOLD_NOTHING = {FunctionType, BuiltinFunctionType, ModuleType, type, Tensor, int, float, bool, str, type(None)}
_MANY = 1000  # items that nobody compares at each call


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
    return [], (type(value), repr(value) if isinstance(value, float) else value)  # -0.0 is another number than 0.0


def rebuilt(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return `value` with `change` applied to each tensor in it."""
    return mapped(lambda x: change(x) if isinstance(x, Tensor) else x, value)


PLAIN = (bool, int, float, str, bytes, np.dtype, np.generic, type(None))  # compared by their values


def others(value: Any, kinds: tuple[type, ...]) -> Iterator[Any]:
    """What is neither a tensor nor of these kinds in nested tuples, lists and dicts."""
    if isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from others(part, kinds)
    elif not isinstance(value, (Tensor, *kinds)):
        yield value


def named(function: Any) -> list[Any]:
    """What a function names: its object, its globals, its closure; and what these hold, unless they are modules."""
    owner = function.__self__ if _of_kind(function, "__self__") else function
    function = function.__func__ if _of_kind(function, "__func__") else function
    found = [owner]
    if _of_kind(function, "__code__"):
        names = function.__code__.co_names
        outside = function.__globals__
        found += [outside[name] for name in names if name in outside]
        found += [cell.cell_contents for cell in function.__closure__ or () if cell != _EMPTY]
    for x in tuple(found):
        if type(x) not in _HOLD_NOTHING and not is_module(x):
            found += held(x)
    return found


def reachable(found: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among these objects, and in the modules among them."""
    for x in found:
        if isinstance(x, Tensor):
            yield x
        elif is_module(x):
            yield from (tensor for _, tensor in (*x.named_parameters(), *x.named_buffers()))


def is_module(x: Any) -> bool:
    """Whether an object has named tensors, as a Module."""
    return hasattr(x, "named_parameters") and not isinstance(x, type)


def _of_kind(x: Any, name: str) -> bool:
    """Whether all objects of this kind have the attribute. A module is not asked: it would look for a similar name."""
    return hasattr(type(x), name)


def held(x: Any) -> list[Any]:
    """What an object, a list or a dict holds; nothing for functions, classes, modules of Python, large collections."""
    if isinstance(x, dict | list | tuple | set):
        return [] if len(x) > _MANY else [*(x.values() if isinstance(x, dict) else x)]
    plain = not isinstance(x, type | ModuleType | Tensor) and not _of_kind(x, "__code__")
    return [*vars(x).values()] if plain and hasattr(x, "__dict__") else []
