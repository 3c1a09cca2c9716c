"""Where the tokens of an image model lie on the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Grid:
    """Tokens in rows and columns over an image.

    extra: tokens ahead of the first patch, such as a class token. boxes: (rows * columns, 4), the pixels
    of each patch as left, top, right, bottom, which may overlap; cells: the same without overlap, a
    rectangle around the middle of each patch, for colouring.
    """

    rows: int
    columns: int
    boxes: Any
    cells: Any
    extra: int = 0

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of all cells together, as matplotlib's imshow has it."""
        return self.cells[0, 0], self.cells[-1, 2], self.cells[-1, 3], self.cells[0, 1]

    def name(self, token: int) -> str:
        """What people call a token: "patch (2, 3)"."""
        if token < self.extra:
            return "the class token" if self.extra == 1 else f"extra token {token}"
        return "patch ({}, {})".format(*divmod(token - self.extra, self.columns))

    def place(self, values: Any) -> Any:
        """Values of all tokens (..., tokens) as a map (..., rows, columns), without the extra tokens."""
        return values[..., self.extra :].reshape(*values.shape[:-1], self.rows, self.columns)


def grid_of(model: Any, size: tuple[int, int], tokens: int, shape: tuple[int, int] | None) -> Grid:
    """The grid of `tokens` over an image of `size` (height, width).

    From the model's `patch_index`, which says what pixels a patch is made of; else rows and columns as
    `shape` says, or square. Raises ValueError where that does not come out even.
    """
    index = getattr(model, "patch_index", None)
    if shape is None and index is not None and len(index) == tokens:
        return _grid_of_index(index.numpy(), size, getattr(model, "patch_padding", 0))
    height, width = size
    given = shape is not None
    if shape is None:
        side = math.isqrt(tokens)
        shape = (height, width) if tokens in (height * width, height * width + 1) else (side, side)
    rows, columns = shape
    extra = tokens - rows * columns
    if rows < 1 or columns < 1 or not 0 <= extra <= (max(shape) if given else 1):
        raise ValueError(
            f"attention: {tokens} tokens do not make a grid of {rows} x {columns} patches with a class token or a few "
            "more ahead; pass grid=(rows, columns), or words= for tokens that are no patches"
        )
    top, left = np.divmod(np.arange(rows * columns), columns)
    boxes = np.stack([left, top, left + 1, top + 1], 1) * np.tile([width / columns, height / rows], 2)
    return Grid(rows, columns, boxes, boxes, extra)


def _grid_of_index(index: Any, size: tuple[int, int], padding: int) -> Grid:
    """index: (tokens, pixels), places in the flattened image with `padding` around it."""
    y, x = np.divmod(index, size[1] + 2 * padding)
    boxes = np.stack([x.min(1), y.min(1), x.max(1) + 1, y.max(1) + 1], 1).astype(float) - padding
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2  # (tokens, 2)
    columns, rows = (len(np.unique(middles[:, axis])) for axis in (0, 1))
    if rows * columns != len(index):
        raise ValueError(
            f"attention: the {len(index)} patches of patch_index lie on no grid; pass grid=(rows, columns)"
        )
    step = [
        (m.max() - m.min()) / (n - 1) if n > 1 else m.max() * 2 for m, n in zip(middles.T, (columns, rows), strict=True)
    ]
    half = np.array(step) / 2
    return Grid(rows, columns, boxes, np.concatenate([middles - half, middles + half], 1))
