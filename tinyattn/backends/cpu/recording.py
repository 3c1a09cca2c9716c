"""Whether a program is being recorded here (see tinyattn/program/), and kernels that it records as one call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

# Who records the NumPy calls of this context (tinyattn.program.recorder.Recorder), or None.
recording: ContextVar[Any] = ContextVar("recording", default=None)


def one_call(*written: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Record a kernel as one call, because the NumPy calls in it depend on the numbers, as a decorator.

    written: the places of the arguments into which it writes.
    """

    def decorate(kernel: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(kernel)
        def run(*args: Any) -> Any:
            recorder = recording.get()
            return kernel(*args) if recorder is None else recorder.kernel(kernel, args, written)

        return run

    return decorate
