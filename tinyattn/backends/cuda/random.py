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
        return self._draw("philox_uniform", size, dtype, dtype)

    def standard_normal(self, size: Any = (), dtype: Any = np.float64) -> Array:
        """Normal numbers with mean 0 and variance 1, float32 or float64."""
        return self._draw("philox_normal", size, dtype, dtype)

    def bits(self, size: Any = ()) -> Array:
        """Words of 64 random bits, uint64."""
        return self._draw("philox_bits", size, np.uint64, np.float64)

    def integers(self, low: int, high: int | None = None, size: Any = (), *, endpoint: bool = False) -> Array:
        """int64 numbers from `low` to `high` - 1 (`high` with `endpoint`); from 64 bits, so that none is favoured."""
        low, high = (0, low) if high is None else (low, high)
        return (self.bits(size) % np.uint64(high - low + endpoint)).astype(np.int64) + low

    def permutation(self, n: int) -> Array:
        """The integers below n in random order."""
        return cp.argsort(self.bits(n))

    def keep(self, size: Any, p: float) -> Array:
        """Booleans, each False with probability p: what dropout multiplies with. False where `random` in float32
        would have drawn less than p."""
        return self._draw("philox_keep", size, np.bool_, np.float32, float(p))

    def _draw(self, kernel: str, size: Any, dtype: Any, real: Any, *options: float) -> Array:
        """Fill a new array by one launch, and increment the counter by another. real: that of kernels/philox.cu, of
        which 128 random bits, which is one step of the counter, give 4 or 2."""
        out, state = cp.empty((size,) if isinstance(size, int) else tuple(size), dtype), self.bit_generator.array
        steps = -(-out.size // (16 // np.dtype(real).itemsize))
        launch("philox", kernel, (blocks(steps, 256),), (256,), [out, out.size, *options, state], dtype=real)
        launch("philox", "philox_advance", (1,), (1,), [state, steps], dtype=real)
        return out


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

    def bookmark(self) -> Array:
        """Return the state as an array on the GPU, without synchronisation."""
        return self.array.copy()
