"""Launches the kernels of `kernels/*.cu`, which are compiled when they are first needed.

A source is compiled for one dtype (`-Dreal=float` or `double`), by NVRTC, which CuPy calls; CuPy keeps what it made in
~/.cupy/kernel_cache, so only the first process waits for the compiler.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cupy as cp
import numpy as np

__all__: list[str] = []

Array = Any
KERNELS = Path(__file__).parent / "kernels"
REALS = {"float32": "float", "float64": "double"}

_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)


def launch(
    source: str, kernel: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_bytes: int = 0,
    dtype: Any = None,
) -> None:  # fmt: skip
    """Run `kernel` of kernels/`source`.cu in the current stream. Nothing happens where the grid is empty.

    args: arrays, Python numbers (64 bits wide in the kernel), None for a null pointer.
    dtype: what `real` is; unless given, the dtype of the first array of floats, else float32.
    """
    if 0 in grid:
        return
    if dtype is None:
        dtype = next((a.dtype for a in args if hasattr(a, "dtype") and a.dtype.name in REALS), np.float32)
    compiled = function(source, kernel, np.dtype(dtype).name)
    compiled(tuple(grid), tuple(block), tuple(_value(arg) for arg in args), shared_mem=shared_bytes)


def _value(arg: Any) -> Any:
    if arg is None:
        return np.uint64(0)  # CuPy would pass no argument at all
    if isinstance(arg, float):
        return np.float64(arg)
    return np.int64(arg) if isinstance(arg, int) else arg


@functools.cache
def function(source: str, kernel: str, dtype: str) -> Any:
    """The compiled kernel, which CuPy loads on each GPU where it is used."""
    return _module(source, dtype).get_function(kernel)


@functools.cache
def _module(source: str, dtype: str) -> Any:
    return cp.RawModule(code=text(source), options=options(dtype), backend="nvrtc")


def options(dtype: str) -> tuple[str, ...]:
    """Return the compiler options for kernels of `dtype`."""
    return ("-std=c++17", f"-Dreal={REALS[dtype]}")


@functools.cache
def text(source: str) -> str:
    """The source with what it includes in its place: CuPy's cache must notice when that changes."""
    seen: set[str] = set()

    def included(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return ""
        seen.add(name)
        return _INCLUDE.sub(included, (KERNELS / name).read_text(encoding="utf-8").replace("#pragma once\n", ""))

    return _INCLUDE.sub(included, (KERNELS / f"{source}.cu").read_text(encoding="utf-8"))


def sources() -> list[str]:
    """The names of all sources."""
    return sorted(path.stem for path in KERNELS.glob("*.cu"))


def blocks(items: int, per_block: int, most: int = 1 << 16) -> int:
    """How many blocks for so many items; where there are more than `most`, each block does several shares."""
    return min(-(-items // per_block), most)
