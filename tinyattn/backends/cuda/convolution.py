"""Windows of images and convolution on a GPU: as on the CPU, but with large blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

import cupy as cp

from tinyattn.backends import windows as shared
from tinyattn.backends.cuda import arrays

__all__ = [
    "channel_blocks",
    "convolve",
    "convolve_input",
    "convolve_weight",
    "overlap_add",
    "shift",
    "spread",
    "windows",
]

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


def shift(images: Any, offsets: Any, margin: int) -> Any:
    """Cut every image out of a frame of zeros, at offsets (2, batch) of 0 to 2 * margin."""
    *batch, height, width = images.shape
    frame = arrays.pad(images, (*((0, 0) for _ in batch), (margin, margin), (margin, margin)), 0)
    frame = frame.reshape(batch[0], -1, *frame.shape[-2:]).swapaxes(0, 1)  # (channels, batch, rows, columns)
    rows = offsets[0][:, None, None] + cp.arange(height)[:, None]  # (batch, height, 1)
    columns = offsets[1][:, None, None] + cp.arange(width)  # (batch, 1, width)
    out = frame[:, cp.arange(batch[0])[:, None, None], rows, columns]  # (channels, batch, height, width)
    return cp.ascontiguousarray(out.swapaxes(0, 1)).reshape(images.shape)
