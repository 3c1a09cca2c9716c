"""Streams of random numbers on a GPU: a counter, encrypted (Philox: Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3").

Seed and counter are in GPU memory, and every launch increments the counter there: no synchronisation is needed, and a
replayed graph draws new numbers.
"""

from __future__ import annotations

from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.launch import blocks, launch

__all__ = ["stream"]

Array = Any


def stream(seed: int) -> Stream:
    """The stream that belongs to a seed from 0 to 2**64 - 1."""
    return Stream(seed)


class Stream:
    """As much of numpy.random.Generator as is used, under its names; what is drawn stays on the GPU."""

    def __init__(self, seed: int) -> None:
        self.bit_generator = _Counter(seed)

    def random(self, size: Any = (), dtype: Any = np.float64) -> Array:
        """Uniform numbers in [0, 1), float32 or float64."""
        return uniform(_room(size, dtype), self.bit_generator.array)

    def standard_normal(self, size: Any = (), dtype: Any = np.float64) -> Array:
        """Normal numbers with mean 0 and variance 1, float32 or float64."""
        return normal(_room(size, dtype), self.bit_generator.array)

    def integers(self, low: int, high: int | None = None, size: Any = (), *, endpoint: bool = False) -> Array:
        """int64 numbers from `low` to `high` - 1 (`high` with `endpoint`); from 64 bits, so that none is favoured."""
        low, high = (0, low) if high is None else (low, high)
        words = bits(_room(size, np.uint64), self.bit_generator.array)
        return (words % np.uint64(high - low + endpoint)).astype(np.int64) + low

    def permutation(self, n: int) -> Array:
        """The integers below n in random order."""
        return cp.argsort(bits(_room(n, np.uint64), self.bit_generator.array))

    def keep(self, size: Any, p: float) -> Array:
        """Booleans, each False with probability p: what dropout multiplies with."""
        return keep(_room(size, np.bool_), p, self.bit_generator.array)


def _room(size: Any, dtype: Any) -> Array:
    return cp.empty((size,) if isinstance(size, int) else tuple(size), dtype)


class _Counter:
    """Seed and counter."""

    def __init__(self, seed: int) -> None:
        self.array = cp.zeros((2,), np.uint64)
        self.array[0] = np.uint64(seed)

    @property
    def state(self) -> dict[str, Any]:
        """Seed and counter as Python numbers; synchronises the GPU."""
        seed, counter = self.array.get().tolist()
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


# --- one launch to fill a contiguous array, one to move the counter on: see kernels/philox.cu ---


def uniform(out: Array, state: Array) -> Array:
    """Numbers in [0, 1), float32 or float64."""
    return _draw("philox_uniform", out, state, 16 // out.itemsize, out.dtype)


def normal(out: Array, state: Array) -> Array:
    """Numbers of the normal distribution with mean 0 and variance 1, float32 or float64."""
    return _draw("philox_normal", out, state, 16 // out.itemsize, out.dtype)


def bits(out: Array, state: Array) -> Array:
    """Words of 64 random bits, uint64."""
    return _draw("philox_bits", out, state, 2)


def keep(out: Array, p: float, state: Array, dtype: Any = np.float32) -> Array:
    """Booleans, True with probability 1 - p: where `uniform`, with numbers of `dtype`, would have drawn p or more."""
    return _draw("philox_keep", out, state, 16 // np.dtype(dtype).itemsize, dtype, float(p))


def _draw(kernel: str, out: Array, state: Array, at_once: int, dtype: Any = np.float32, *options: float) -> Array:
    places = -(-out.size // at_once)  # on the counter; each gives 128 random bits
    launch("philox", kernel, (blocks(places, 256),), (256,), [out, out.size, *options, state], dtype=dtype)
    launch("philox", "philox_advance", (1,), (1,), [state, places], dtype=dtype)
    return out
