"""Modes, and which line of the user's program is running.

Modes are context variables, so that every thread and every task has its own.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextvars import ContextVar
from types import CodeType
from typing import Any, NamedTuple, Protocol, TypeVar, cast, overload

Function = TypeVar("Function", bound=Callable[..., Any])

grad_mode: ContextVar[bool] = ContextVar("grad_mode", default=True)
# The functions to call at the end of the running backward pass: a list of its own, which also identifies the pass.
current_walk: ContextVar[Any] = ContextVar("current_walk", default=None)
definition_mode: ContextVar[bool] = ContextVar("definition_mode", default=False)
# Who looks on (see observer.py), in the order of entering.
observers: ContextVar[tuple[Any, ...]] = ContextVar("observers", default=())
# The modules whose forward is running, outermost first; an operation notes them for messages and pictures.
module_stack: ContextVar[tuple[Any, ...]] = ContextVar("module_stack", default=())


# The modes that surround this line, innermost last: who set it, and the value that returns when it ends. They are
# found by context and not kept in a Mode, so that one Mode can serve in itself, in recursion and in several threads.
entered: ContextVar[tuple[tuple[Mode, Any], ...]] = ContextVar("entered", default=())


class Mode:
    """Sets a mode inside a `with` block or a decorated function, and restores it afterwards.

    A decorated generator function has the mode while it runs, and its caller does not. In a decorated coroutine
    function the mode ends where the coroutine is made, as in PyTorch: use `with` inside it.
    """

    def __init__(self, mode: ContextVar[Any], value: Any) -> None:
        self._mode, self._value = mode, value

    def __call__(self, function: Function) -> Function:
        """Decorate a function."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                result = function(*args, **kwargs)
            return _resumed_in(self, result) if generates else result

        generates = inspect.isgeneratorfunction(function)
        return cast(Function, run)

    def _previous(self) -> Any:
        return self._mode.get()

    def __enter__(self) -> None:
        entered.set((*entered.get(), (self, self._previous())))
        self._mode.set(self._value)

    def __exit__(self, *exception: object) -> None:
        surrounding = entered.get()
        for i in reversed(range(len(surrounding))):
            if surrounding[i][0] is self:
                entered.set(surrounding[:i] + surrounding[i + 1 :])
                self._mode.set(surrounding[i][1])
                return  # a generator that is closed in another context has changed nothing there


def _resumed_in(mode: Mode, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The same generator, which runs in `mode` between its yields."""
    resume: Callable[[Any], Any] = generator.send
    given: Any = None
    while True:
        try:
            with mode:
                made = resume(given)
        except StopIteration as end:
            return end.value
        try:
            resume, given = generator.send, (yield made)
        except GeneratorExit:
            with mode:
                generator.close()
            raise
        except BaseException as error:
            resume, given = generator.throw, error


class _Maker(Protocol):
    @overload
    def __call__(self) -> Mode: ...
    @overload
    def __call__(self, function: Function, /) -> Function: ...


def with_or_without_brackets(make: Callable[[], Mode]) -> _Maker:
    """Let a function that makes a mode decorate a function without brackets too: `@no_grad`."""

    @functools.wraps(make)
    def made(*function: Any) -> Any:
        if function and not callable(function[0]):
            raise TypeError(f"{make.__name__} was given {function[0]!r}; it takes nothing but a function to decorate")
        return make()(*function) if function else make()

    return made


@with_or_without_brackets
def definitions() -> Mode:
    """Run fused operations by their first-principles definition instead of their kernel.

    >>> with ta.definitions():
    ...     ta.softmax(ta.tensor([0.0, 0.0]), 0)
    tensor([0.5, 0.5])
    """
    return Mode(definition_mode, True)


def definitions_enabled() -> bool:
    """Whether a surrounding `definitions()` replaces kernels by definitions."""
    return definition_mode.get()


# --- provenance: which line of the user's program did this? --------------------------------------

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Site(NamedTuple):
    """A place in the user's program, kept as a code object and an offset (a frame would keep
    every local variable alive); turned into text only for a message."""

    code: CodeType
    offset: int

    def __str__(self) -> str:
        lines = [n for a, b, n in self.code.co_lines() if a <= self.offset < b]
        return f"{self.code.co_filename}:{lines[0] if lines and lines[0] else '?'}"


# In a worker thread: the line that its caller had reached.
site_of_caller: ContextVar[Site | None] = ContextVar("site_of_caller", default=None)


@functools.cache
def _passed_over(file: str) -> bool:
    """Whether no line of this file is the user's: it belongs to this package, or is what a thread begins with."""
    return file.startswith(PACKAGE) or file == threading.__file__


def call_site(skip: int = 1) -> Site:
    """The nearest line outside this package; `skip`: how many callers are known to be inside."""
    frame = sys._getframe(skip)
    while _passed_over(frame.f_code.co_filename):
        if frame.f_back is None:  # the outermost frame of this thread: in a worker, not a line of the user
            return site_of_caller.get() or Site(frame.f_code, frame.f_lasti)
        frame = frame.f_back
    return tuple.__new__(Site, (frame.f_code, frame.f_lasti))  # half the time of Site(...)
