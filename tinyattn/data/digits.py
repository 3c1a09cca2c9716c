"""The digits of scikit-learn, for machines without MNIST and without a network.

They are 1,797 digits of 8x8 pixels (E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998).
Enlarged they look like MNIST, but they are fewer and easier. Accuracies on them do not compare with MNIST's, which is
why their name says what they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyattn.data.dataset import ImageDataset, Images
from tinyattn.extras import require

NAME = "digits (scikit-learn, not MNIST)"
TEST_SHARE = 5  # one in five of every class is for testing


def load_digits() -> ImageDataset:
    """Return scikit-learn's digits as 28x28 images, always with the same split.

    Every fifth digit of a class is a test image: 1,442 for training and 355 for testing, with equal shares of the
    classes. Some writers are in both parts.

    Raises ImportError if scikit-learn is not installed.

    >>> load_digits().train_images.shape
    (1442, 28, 28)
    """
    bunch = require("sklearn.datasets", "the set of small digits").load_digits()
    images = enlarge(np.asarray(bunch.images, dtype=np.float32))
    labels = np.asarray(bunch.target, dtype=np.int64)
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        test[np.flatnonzero(labels == digit)[TEST_SHARE - 1 :: TEST_SHARE]] = True
    return ImageDataset(NAME, images[~test], labels[~test], images[test], labels[test])


def enlarge(images: NDArray[np.float32], size: int = 28, box: int = 20) -> Images:
    """Resample digits as MNIST shows them: 20x20 pixels within 28x28.

    images: (count, height, width), intensities 0 to 16.
    size: height and width of the result, in pixels.
    box: height and width of the digit in it.

    Returns uint8 (count, size, size), 0 to 255.
    """
    rows = cubic_weights(images.shape[1], box)  # (box, height)
    columns = cubic_weights(images.shape[2], box)  # (box, width)
    digits = np.rint(rows @ images @ columns.T * np.float32(255 / 16))  # (count, box, box)
    margin = (size - box) // 2
    around = (margin, size - box - margin)
    return np.pad(np.clip(digits, 0, 255).astype(np.uint8), ((0, 0), around, around))


def cubic_weights(old: int, new: int) -> NDArray[np.float32]:
    """Return weights (new, old) that resample `old` pixels to `new`, by R. Keys's cubic kernel (1981, a = -1/2).

    Pixels outside the image count as background.
    """
    centres = (np.arange(new) + 0.5) * old / new - 0.5  # of the new pixels, in old pixels
    t = np.abs(centres[:, None] - np.arange(old))  # (new, old) distances
    near = (1.5 * t - 2.5) * t * t + 1  # t <= 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2  # 1 < t < 2
    return np.where(t <= 1, near, np.where(t < 2, far, 0)).astype(np.float32)
