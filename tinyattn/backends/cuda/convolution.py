"""Windows and convolution on a GPU: as on the CPU, but with large blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

from tinyattn.backends import windows as shared
from tinyattn.backends.cuda import arrays

__all__ = ["channel_blocks", "convolve", "convolve_input", "convolve_weight", "overlap_add", "spread", "windows"]

_ROOM = 1 << 26  # elements of windows at once

windows, overlap_add = partial(shared.windows, arrays), partial(shared.overlap_add, arrays)
convolve = partial(shared.convolve, arrays, _ROOM)
convolve_input = partial(shared.convolve_input, arrays, _ROOM)
convolve_weight = partial(shared.convolve_weight, arrays, _ROOM)


def channel_blocks(x: Any) -> list[slice]:
    """All channels at once."""
    return [slice(0, x.shape[1])]


def spread(numbers: Any, n: int) -> Any:
    """(channels,) -> (channels, 1), which broadcasts at no cost."""
    return numbers[:, None]
