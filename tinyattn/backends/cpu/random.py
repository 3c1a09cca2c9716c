"""Streams of random numbers."""

from __future__ import annotations

import numpy as np

__all__ = ["stream"]


def stream(seed: int) -> np.random.Generator:
    """The stream that belongs to a seed from 0 to 2**64 - 1."""
    return np.random.Generator(np.random.PCG64(seed))
