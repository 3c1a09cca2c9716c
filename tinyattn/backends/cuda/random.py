"""Streams of random numbers on a GPU: a counter, encrypted (Philox: Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3").

Seed and counter lie in the memory of the GPU, and every launch moves the counter on there: nothing waits, and a graph
that is launched again draws new numbers.
"""

from __future__ import annotations

import math
from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.launch import launch

__all__ = ["stream"]

Array = Any
_THREADS = 256


def stream(seed: int) -> Stream:
    """The stream that belongs to a seed from 0 to 2**64 - 1."""
    return Stream(seed)


class Stream:
    """As much of numpy.random.Generator as is used, under its names; what is drawn stays on the GPU."""

    def __init__(self, seed: int) -> None:
        self.bit_generator = _Counter(seed)

    def random(self, size: Any = (), dtype: Any = np.float64) -> Array:
        """Uniform numbers in [0, 1), float32 or float64."""
        return self._drawn("uniform", size, dtype)

    def standard_normal(self, size: Any = (), dtype: Any = np.float64) -> Array:
        """Normal numbers with mean 0 and variance 1, float32 or float64."""
        return self._drawn("normal", size, dtype)

    def integers(self, low: int, high: int | None = None, size: Any = (), *, endpoint: bool = False) -> Array:
        """int64 numbers from `low` to `high` - 1 (`high` with `endpoint`); of so many bits that none is favoured."""
        low, high = (0, low) if high is None else (low, high)
        bits = self._drawn("bits", size, np.uint64)
        return (bits % np.uint64(high - low + endpoint)).astype(np.int64) + low

    def permutation(self, n: int) -> Array:
        """The integers below n in random order."""
        return cp.argsort(self._drawn("bits", (n,), np.uint64))

    def _drawn(self, kernel: str, size: Any, dtype: Any) -> Array:
        dtype = np.dtype(dtype)
        out = cp.empty((size,) if isinstance(size, int) else tuple(size), dtype)
        if out.size:
            suffix = {"float32": "_float", "float64": "_double"}.get(dtype.name, "")
            blocks = min(math.ceil(out.size / (4 * _THREADS)), 1024)
            launch("random", f"{kernel}{suffix}", (blocks,), (_THREADS,), [out, out.size, self.bit_generator.array])
        return out


class _Counter:
    """Seed and counter."""

    def __init__(self, seed: int) -> None:
        self.array = cp.zeros((3,), np.uint64)  # seed, counter, and how many blocks of a launch are done
        self.array[0] = np.uint64(seed)

    @property
    def state(self) -> dict[str, Any]:
        """As plain numbers; waits for the GPU."""
        seed, counter, _ = self.array.get().tolist()
        return {"key": seed, "counter": counter}

    @state.setter
    def state(self, state: Any) -> None:
        if isinstance(state, dict):
            self.array[0], self.array[1] = np.uint64(state["key"]), np.uint64(state["counter"])
        else:
            self.array[...] = state

    def __deepcopy__(self, memo: Any) -> _Counter:
        twin = _Counter(0)
        twin.array[...] = self.array
        return twin
