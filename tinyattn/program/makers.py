"""What kernels see as `np` while a step is recorded: NumPy, whose arrays out of nothing are recorded too.

Other threads, which record nothing, get NumPy's own answers from it.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinyattn.backends.cpu.recording import recording
from tinyattn.locks import fork_safe
from tinyattn.program.traced import Traced, plain

_KERNELS = "tinyattn.backends.cpu."
RECORDING = fork_safe(threading.Lock())  # held by the one thread that records


class _NumPy(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _maker(make: Callable[..., Any], filled: Any = None, constant: bool = False) -> Callable[..., Any]:
    """`make`, recorded: its array holds nothing yet, is filled with a number, or is a constant."""

    def recorded(*args: Any, **options: Any) -> Any:
        recorder = recording.get()
        array = make(*plain(args), **plain(options))
        if recorder is None:
            return array
        out = recorder.add(array, "constant" if constant else "made")
        if not constant and filled is not None:
            recorder.wrote("copy", "copyto", (args[1] if filled == "given" else filled,), {}, out)
        return out

    return recorded


def _asarray(x: Any, dtype: Any = None) -> Any:
    if isinstance(x, Traced):
        return x if dtype is None or x.dtype == dtype else x.astype(dtype)
    recorder = recording.get()
    if recorder is not None and isinstance(x, list | tuple) and any(isinstance(part, Traced) for part in x):
        return recorder.made("array", "array", (list(x),), {}, np.array(plain(x), dtype))
    return np.asarray(x, dtype)


def _copier(make: Callable[..., Any]) -> Callable[..., Any]:
    """`make`, recorded as a copy of an array."""

    def recorded(x: Any, *args: Any, **options: Any) -> Any:
        recorder, result = recording.get(), make(plain(x), *args, **options)
        return recorder.made("copy", "copyto", (x,), {}, result) if recorder and isinstance(x, Traced) else result

    return recorded


_numpy = _NumPy("numpy")
for _name, _function in {
    "empty": _maker(np.empty), "empty_like": _maker(np.empty_like), "zeros": _maker(np.zeros, 0),
    "zeros_like": _maker(np.zeros_like, 0), "full": _maker(np.full, "given"),
    "arange": _maker(np.arange, constant=True), "eye": _maker(np.eye, constant=True),
    "tri": _maker(np.tri, constant=True),
    "linspace": _maker(np.linspace, constant=True), "asarray": _asarray, "array": _copier(np.array),
    "ascontiguousarray": _copier(np.ascontiguousarray),
}.items():  # fmt: skip
    setattr(_numpy, _name, _function)


@contextmanager
def recorded_numpy() -> Iterator[None]:
    """Let the kernels of the CPU see it inside the block, in which this thread holds `RECORDING`."""
    kernels: list[Any] = [m for name, m in sys.modules.items() if name.startswith(_KERNELS) and hasattr(m, "np")]
    for module in kernels:
        module.np = _numpy
    try:
        yield
    finally:
        for module in kernels:
            module.np = np
