"""Augmentation: what changes a picture but not its meaning."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tinyattn.creation import from_numpy
from tinyattn.random import Generator, default_generator
from tinyattn.tensor import Tensor

Batch = TypeVar("Batch", NDArray[Any], Tensor)


def random_shift(images: Batch, max_shift: int = 2, generator: Generator | None = None) -> Batch:
    """Shift every image of a batch by its own random offset; what is moved in is zero.

    Args:
        images: (batch, ..., height, width), of any dtype, an array or a Tensor.
        max_shift: the most pixels along either axis; every offset from -max_shift to max_shift is
            equally likely.
        generator: where the offsets come from (default: the global generator).

    Returns:
        A new batch of the same kind, shape and dtype.

    Raises:
        ValueError: fewer than three dimensions, or a negative max_shift.
    """
    if images.ndim < 3 or max_shift < 0:
        raise ValueError(
            f"random_shift: got images of shape {tuple(images.shape)} and max_shift {max_shift}, but"
            " it takes (batch, ..., height, width) and a max_shift of 0 or more."
        )
    random = (generator or default_generator).random
    offsets = random.integers(0, 2 * max_shift, size=(2, len(images)), endpoint=True)
    if isinstance(images, Tensor):
        return from_numpy(_shift(images.data, offsets, max_shift))
    return _shift(images, offsets, max_shift)


def _shift(images: NDArray[Any], offsets: NDArray[np.int64], margin: int) -> NDArray[Any]:
    """Cut every image out of a frame of zeros, at offsets (2, batch) of 0 to 2 * margin."""
    *batch, height, width = images.shape
    framed = np.zeros((*batch, height + 2 * margin, width + 2 * margin), images.dtype)
    framed[..., margin : margin + height, margin : margin + width] = images
    windows = sliding_window_view(framed, (height, width), axis=(-2, -1))
    windows = np.moveaxis(windows, (-4, -3), (1, 2))  # (batch, rows, columns, ..., height, width)
    shifted: NDArray[Any] = windows[np.arange(len(images)), offsets[0], offsets[1]]  # a view until here
    return shifted
