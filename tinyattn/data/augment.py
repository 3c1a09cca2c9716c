"""Augmentation: what changes a picture but not its meaning."""

from __future__ import annotations

from typing import Any, TypeVar

from numpy.typing import NDArray

from tinyattn import backends, random
from tinyattn.tensors import Tensor

Batch = TypeVar("Batch", NDArray[Any], Tensor)


def random_shift(images: Batch, max_shift: int = 2, generator: random.Generator | None = None) -> Batch:
    """Shift every image of a batch by its own random offset; what is moved in is zero.

    Args:
        images: (batch, ..., height, width), of any dtype, an array or a Tensor.
        max_shift: the most pixels along either axis; every offset from -max_shift to max_shift is
            equally likely.
        generator: where the offsets come from (default: the global generator of the images' device).

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
    array = images.array if isinstance(images, Tensor) else images
    stream = random.generator_for(backends.device_of(array), generator).random
    offsets = stream.integers(0, 2 * max_shift, size=(2, len(images)), endpoint=True)
    shifted = backends.of(array).shift(array, offsets, max_shift)
    return Tensor._from(shifted) if isinstance(images, Tensor) else shifted
