"""ImageDataset: training and test images with their labels, and the name that is printed with every result."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tinyattn.data.idx import DataError

Images = NDArray[np.uint8]  # (count, 28, 28), 0 is background and 255 full ink
Labels = NDArray[np.int64]  # (count,), 0 to 9


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Training and test images with their labels.

    name: the data set's name in every result, for example "MNIST".
    train_images, test_images: uint8, (count, 28, 28).
    train_labels, test_labels: int64, (count,).
    note: why this data set replaces the requested one; empty otherwise.

    Raises DataError if the shapes of images and labels do not match, or a label is not one of 0 to 9.

    >>> images, labels = np.zeros((4, 28, 28), np.uint8), np.arange(4)
    >>> ta.data.ImageDataset("zeros", images, labels, images, labels).name
    'zeros'
    """

    name: str
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    note: str = ""

    def __post_init__(self) -> None:
        self._check("training", self.train_images, self.train_labels)
        self._check("test", self.test_images, self.test_labels)

    def _check(self, part: str, images: Images, labels: Labels) -> None:
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{self.name}: {part} labels of shape {labels.shape} do not match images of shape {images.shape},"
                " which must be (count, height, width)."
            )
        wrong = np.flatnonzero((labels < 0) | (labels > 9))
        if wrong.size:
            raise DataError(
                f"{self.name}: {part} label {labels[wrong[0]]} at index {wrong[0]} is not one of 0 to 9"
                f" ({wrong.size} such labels)."
            )

    def validation_split(self, count: int = 5000, seed: int = 0) -> ImageDataset:
        """Return a data set of the training images alone, with a validation set in the place of the test set.

        count: training images to hold out, drawn at random by `seed`.

        Raises ValueError unless both parts keep at least one image.
        """
        total = len(self.train_images)
        if not 0 < count < total:
            raise ValueError(
                f"validation_split: count is {count}, but of {total} training images 1 to {total - 1} can be held out."
            )
        order = np.random.default_rng(seed).permutation(total)
        held, kept = np.sort(order[:count]), np.sort(order[count:])
        return replace(
            self,
            name=f"{self.name}, {count} training images held out",
            train_images=self.train_images[kept],
            train_labels=self.train_labels[kept],
            test_images=self.train_images[held],
            test_labels=self.train_labels[held],
        )
