"""Modes, and which line of the user's program is running.

Modes are context variables, so that every thread and every task has its own.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from contextvars import ContextVar
from types import CodeType
from typing import Any, NamedTuple

grad_mode: ContextVar[bool] = ContextVar("grad_mode", default=True)
# The backward pass that is running: an object of its own, by which tools tell one from the next.
current_walk: ContextVar[object] = ContextVar("current_walk", default=None)
definition_mode: ContextVar[bool] = ContextVar("definition_mode", default=False)
# Who looks on (see observer.py), in the order of entering.
observers: ContextVar[tuple[Any, ...]] = ContextVar("observers", default=())
# The modules whose forward is running, outermost first; an operation notes them for messages and pictures.
module_stack: ContextVar[tuple[Any, ...]] = ContextVar("module_stack", default=())


class Mode(contextlib.ContextDecorator):
    """Sets a mode inside a `with` block or a decorated function, and restores it afterwards."""

    def __init__(self, mode: ContextVar[Any], value: Any) -> None:
        self._mode, self._value = mode, value

    def _recreate_cm(self) -> Mode:  # a decorated function may recurse or run in two threads
        return Mode(self._mode, self._value)

    def __enter__(self) -> None:
        self._token = self._mode.set(self._value)

    def __exit__(self, *exception: object) -> None:
        self._mode.reset(self._token)


def no_grad() -> Mode:
    """Record nothing: `with no_grad():` or `@no_grad()`. As torch.no_grad.

    >>> x = ta.ones(2, requires_grad=True)
    >>> with ta.no_grad():
    ...     (x * 2).requires_grad
    False
    """
    return Mode(grad_mode, False)


def enable_grad() -> Mode:
    """Record again inside a `no_grad` block. As torch.enable_grad.

    >>> with ta.no_grad(), ta.enable_grad():
    ...     ta.is_grad_enabled()
    True
    """
    return Mode(grad_mode, True)


class set_grad_enabled(Mode):  # noqa: N801 - torch's name
    """Switch recording at once; as a context manager, until the end of the block.

    >>> with ta.set_grad_enabled(False):
    ...     ta.is_grad_enabled()
    False
    """

    def __init__(self, mode: bool) -> None:
        super().__init__(grad_mode, bool(mode))
        self._token = grad_mode.set(bool(mode))

    def __enter__(self) -> None:
        pass  # already set: a bare call has the effect too


def is_grad_enabled() -> bool:
    """Return whether operations are recorded here. As torch.is_grad_enabled.

    >>> ta.is_grad_enabled()
    True
    """
    return grad_mode.get()


def definitions() -> Mode:
    """Run fused operations by their first-principles definition instead of their kernel.

    >>> with ta.definitions():
    ...     ta.softmax(ta.tensor([0.0, 0.0]), 0)
    tensor([0.5, 0.5])
    """
    return Mode(definition_mode, True)


def definitions_enabled() -> bool:
    """Whether a surrounding `definitions()` asks for first principles."""
    return definition_mode.get()


# --- provenance: which line of the user's program did this? --------------------------------------

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Site(NamedTuple):
    """A place in the user's program, kept as a code object and an offset (a frame would keep
    every local variable alive); turned into text only when somebody asks."""

    code: CodeType
    offset: int

    def __str__(self) -> str:
        lines = [n for a, b, n in self.code.co_lines() if a <= self.offset < b]
        return f"{self.code.co_filename}:{lines[0] if lines and lines[0] else '?'}"


# In a worker thread: the line that its caller had reached.
site_of_caller: ContextVar[Site | None] = ContextVar("site_of_caller", default=None)


# Whether a file is passed over: those of this package, and what a thread begins with.
_ours: dict[str, bool] = {threading.__file__: True}


def call_site(skip: int = 1) -> Site:
    """The nearest line outside this package; `skip`: how many callers are known to be inside."""
    frame = sys._getframe(skip)
    while (caller := frame.f_back) is not None:
        file = frame.f_code.co_filename
        if file not in _ours:
            _ours[file] = file.startswith(PACKAGE)
        if not _ours[file]:
            break
        frame = caller
    else:  # the outermost frame of this thread, which tells nothing in a worker
        site = site_of_caller.get()
        if site is not None:
            return site
    return tuple.__new__(Site, (frame.f_code, frame.f_lasti))  # half the time of Site(...)
