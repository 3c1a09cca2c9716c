"""Canvases of one to five handwritten digits of several sizes, which may touch but not cross; some are empty."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyattn.data.digits import cubic_weights

SIZE, MOST = 56, 5  # pixels of a side, digits on a canvas


class Canvases(NamedTuple):
    """images uint8 (count, SIZE, SIZE); labels (count, MOST), -1 where there is no digit; boxes (count, MOST, 4).

    A box is the centre, width and height of the ink, x before y, in shares of the canvas; digits go from the left.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray


def make(digits: np.ndarray, labels: np.ndarray, count: int, generator: np.random.Generator) -> Canvases:
    """Place random digits (n, 28, 28) on `count` canvases. A digit that finds no free place is left out."""
    images = np.zeros((count, SIZE, SIZE), np.uint8)
    found, boxes = np.full((count, MOST), -1), np.zeros((count, MOST, 4), np.float32)
    for image, label, box in zip(images, found, boxes, strict=True):
        placed: list[tuple[int, tuple[int, int, int, int]]] = []  # label, (left, top, width, height)
        number = generator.integers(1, MOST + 1) if generator.random() < 0.95 else 0
        for i in generator.integers(len(digits), size=number):
            ink = scaled(digits[i], int(generator.integers(12, 29)))
            height, width = ink.shape
            for _ in range(20):
                x, y = (int(generator.integers(SIZE - side + 1)) for side in (width, height))
                place = image[y : y + height, x : x + width]  # a view
                if not ((place > 0) & (ink > 0)).any():
                    np.maximum(place, ink, out=place)
                    placed.append((int(labels[i]), (x, y, width, height)))
                    break
        placed.sort(key=lambda one: one[1][0] + one[1][2] / 2)
        for j, (digit, (x, y, width, height)) in enumerate(placed):
            label[j] = digit
            box[j] = np.array([x + width / 2, y + height / 2, width, height]) / SIZE
    return Canvases(images, found, boxes)


def centres(canvases: Canvases) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of 7 x 7 patches the digit whose centre it has, 10 for none, and its height: (count, 49) each.

    Heights are -1 for the lowest digits and 1 for the highest; 0 where there is no digit.
    """
    digits, heights = np.full((len(canvases.labels), 49), 10), np.zeros((len(canvases.labels), 49), np.float32)
    rows, columns = np.nonzero(canvases.labels >= 0)
    x, y = ((7 * canvases.boxes[rows, columns, axis]).astype(int) for axis in (0, 1))
    digits[rows, 7 * y + x] = canvases.labels[rows, columns]
    heights[rows, 7 * y + x] = (SIZE * canvases.boxes[rows, columns, 3] - 20) / 8
    return digits, heights


def covered(box: np.ndarray) -> np.ndarray:
    """Return the share of each patch that a box (4,) covers: (7, 7)."""
    edges = np.arange(7) / 7
    x, y = (np.clip(np.minimum(edges + 1 / 7, box[axis] + box[axis + 2] / 2) - np.maximum(
        edges, box[axis] - box[axis + 2] / 2), 0, 1 / 7) * 7 for axis in (0, 1))  # fmt: skip
    return y[:, None] * x


def draw(axes: Any, image: np.ndarray, looked: np.ndarray | None = None, title: str = "") -> None:
    """Draw a canvas; over it, in red, the attention that its patches get: looked (7, 7) or (49,)."""
    axes.imshow(255 - image, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0))
    if looked is not None:
        shares = looked.reshape(7, 7)
        alpha = 0.75 * shares / max(shares.max(), 1e-9)
        axes.imshow(np.ones((7, 7)), cmap="Reds", vmin=0, vmax=1.5, alpha=alpha, extent=(0, 1, 1, 0))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    for side in axes.spines.values():
        side.set_color("#94a3b8")


def scaled(digit: np.ndarray, height: int) -> np.ndarray:
    """Cut a digit to its ink, and resample it to this height (and at most SIZE / 2 wide)."""
    rows, columns = (np.flatnonzero(digit.max(axis) > 50) for axis in (1, 0))
    ink = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    width = int(np.clip(round(height * ink.shape[1] / ink.shape[0]), 3, SIZE // 2))
    resampled = cubic_weights(ink.shape[0], height) @ ink @ cubic_weights(ink.shape[1], width).T
    return np.clip(np.rint(resampled), 0, 255).astype(np.uint8)
