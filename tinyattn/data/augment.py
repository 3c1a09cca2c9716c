"""Augmentation: random changes of an image that keep its label."""

from __future__ import annotations

from typing import Any, TypeVar

from numpy.typing import NDArray

from tinyattn import backends, random
from tinyattn.tensors import Tensor

Batch = TypeVar("Batch", NDArray[Any], Tensor)


@backends.keeps_gpu
def random_shift(images: Batch, max_shift: int = 2, generator: random.Generator | None = None) -> Batch:
    """Shift every image of a batch by a random offset of its own, and fill the border with zeros.

    images: (batch, ..., height, width), an array or a Tensor of any dtype.
    max_shift: the largest offset along either axis, in pixels; -max_shift to max_shift are equally likely.
    generator: the source of the offsets (default: the global generator of the images' device).

    Returns a new batch of the same type, shape and dtype. Raises ValueError for fewer than three dimensions, or a
    negative max_shift.

    >>> import numpy as np
    >>> random_shift(np.ones((16, 28, 28), np.uint8)).shape
    (16, 28, 28)
    """
    if images.ndim < 3 or max_shift < 0:
        raise ValueError(
            f"random_shift: got images of shape {tuple(images.shape)} and max_shift {max_shift}, but"
            " it takes (batch, ..., height, width) and a max_shift of 0 or more."
        )
    array = images.array if isinstance(images, Tensor) else images
    stream = random.generator_for(backends.device_of(array), generator).random
    offsets = stream.integers(0, 2 * max_shift, size=(2, len(images)), endpoint=True)
    shifted = backends.of(array).shift(array, offsets, max_shift)
    return Tensor._from(shifted) if isinstance(images, Tensor) else shifted
