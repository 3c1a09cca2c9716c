"""The source of kernels, with all that they call, so that a file can hold them without this package."""

from __future__ import annotations

import inspect
import io
import re
import textwrap
import tokenize
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np


class Sources:
    """Definitions of functions and of the constants they name, each once, in an order in which they can run.

    taken: names that mean something else in the file. imports: the modules they need besides NumPy, of Python's own.
    """

    def __init__(self, kernels: Iterable[Callable[..., Any]], taken: Iterable[str]) -> None:
        self.blocks: list[str] = []
        self.imports: set[str] = set()
        self._names: dict[Any, str] = {}  # of what is written: functions by id, constants by name and value
        self._taken = {*taken}
        for kernel in kernels:
            self._function(kernel.__name__, kernel)

    def _function(self, name: str, function: Any) -> str:
        function = inspect.unwrap(function)
        if id(function) in self._names:
            return self._names[id(function)]
        own = self._names[id(function)] = self._free(name)
        text = textwrap.dedent(inspect.getsource(function))
        text = text[re.search(r"^def ", text, re.MULTILINE).start() :]  # type: ignore[union-attr] # without decorators
        text = re.sub(rf"\bdef {function.__name__}\b", f"def {own}", text, count=1)
        text = re.sub(r"\bbackends\.of\(\w+\)", "np", text)  # in definitions
        for used in sorted({*_globals(function.__code__)} & {*function.__globals__} - {"backends"}):
            new = self._anything(used, function.__globals__[used])
            if new != used:
                text = _renamed(text, used, new)
        self.blocks.append(text.rstrip())
        return own

    def _anything(self, name: str, x: Any) -> str:
        if x is np or getattr(x, "__module__", None) == "builtins":
            return name
        if isinstance(x, types.ModuleType):
            self.imports.add(x.__name__)
            return name
        if isinstance(x, np.ufunc):
            return f"np.{x.__name__}"
        if callable(x):
            return self._function(name, x)
        key = name, repr(x)
        if key not in self._names:
            self._names[key] = own = self._free(name)
            self.blocks.append(f"{own} = {_written(x)}")
        return self._names[key]

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _renamed(text: str, old: str, new: str) -> str:
    """The source with another name for a global, outside of strings and comments."""
    lines, before = text.splitlines(keepends=True), ""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string == old and before != ".":
            found.append(token.start)
        before = token.string
    for row, column in reversed(found):
        line = lines[row - 1]
        lines[row - 1] = line[:column] + new + line[column + len(old) :]
    return "".join(lines)


def _written(x: Any) -> str:
    if isinstance(x, np.generic):
        return f"np.{type(x).__name__}({x.item()!r})"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key!r}: {_written(v)}" for key, v in x.items()) + "}"
    return f"np.dtype({x.name!r})" if isinstance(x, np.dtype) else repr(x)


def _globals(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)
