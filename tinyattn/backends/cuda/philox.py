"""Random numbers drawn on the GPU: a stream is two numbers in its memory, state = uint64 {seed, counter}.

Each function fills a contiguous array in one launch and then moves the counter on by another, so that a replayed graph
draws new numbers. See kernels/philox.cu.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.backends.cuda.launch import blocks, launch

__all__: list[str] = []

Array = Any


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
