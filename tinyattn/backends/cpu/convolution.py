"""Windows and convolution on the CPU: blocks that stay in the second-level cache."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tinyattn.backends import windows as shared
from tinyattn.backends.cpu import arrays
from tinyattn.backends.cpu.blocks import BLOCK, rows_at_once

__all__ = ["channel_blocks", "convolve", "convolve_input", "convolve_weight", "overlap_add", "spread", "windows"]

windows, overlap_add = partial(shared.windows, arrays), partial(shared.overlap_add, arrays)
convolve = partial(shared.convolve, arrays, BLOCK)
convolve_input = partial(shared.convolve_input, arrays, BLOCK)
convolve_weight = partial(shared.convolve_weight, arrays, BLOCK)


def channel_blocks(x: Any) -> list[slice]:
    """Slices of the channels of (n, channels, ...) that fit the cache."""
    step = rows_at_once(x.size // max(x.shape[1], 1))
    return [slice(c, c + step) for c in range(0, x.shape[1], step)]


def spread(numbers: Any, n: int) -> Any:
    """(channels,) -> (channels, n): NumPy starts anew for each row with one number, which takes as long as 1,000."""
    return np.repeat(numbers, n).reshape(-1, n)
