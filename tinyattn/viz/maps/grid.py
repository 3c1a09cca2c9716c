"""Images as drawn, and where the tokens lie on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyattn.tensors import Tensor


@dataclass
class Grid:
    """Tokens in rows and columns over an image.

    extra: tokens before the first patch, such as a class token. boxes: (rows * columns, 4), the pixels of each
    patch as left, top, right, bottom; they may overlap. cells: the same without overlap, a rectangle around the
    centre of each patch, for colouring.
    """

    rows: int
    columns: int
    boxes: Any
    cells: Any
    extra: int = 0

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of all cells together, for matplotlib's imshow."""
        return self.cells[0, 0], self.cells[-1, 2], self.cells[-1, 3], self.cells[0, 1]

    def name(self, token: int) -> str:
        """Return the name of a token: "patch (2, 3)"."""
        if token < self.extra:
            return "the class token" if self.extra == 1 else f"extra token {token}"
        return "patch ({}, {})".format(*divmod(token - self.extra, self.columns))

    def place(self, values: Any) -> Any:
        """Reshape values of all tokens (..., tokens) to a map (..., rows, columns), without the extra tokens."""
        return values[..., self.extra :].reshape(*values.shape[:-1], self.rows, self.columns)


def grid_of(model: Any, size: tuple[int, int], tokens: int, shape: tuple[int, int] | None) -> Grid:
    """Return the grid of `tokens` over an image of `size` (height, width).

    `shape` gives rows and columns. By default they come from the model's `patch_index` (the pixels of each
    patch), else the grid is square. Raises ValueError if the tokens do not fill the grid.
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
        wanted = f"a grid of {rows} x {columns} patches" if given else "a square of patches"
        raise ValueError(
            f"attention: {tokens} tokens do not make {wanted}, with or without a class token; "
            "pass grid=(rows, columns), or words= (the text of each token) if the tokens are no patches"
        )
    top, left = np.divmod(np.arange(rows * columns), columns)
    boxes = np.stack([left, top, left + 1, top + 1], 1) * np.tile([width / columns, height / rows], 2)
    return Grid(rows, columns, boxes, boxes, extra)


def _grid_of_index(index: Any, size: tuple[int, int], padding: int) -> Grid:
    """index: (tokens, pixels), places in the flattened image with `padding` around it."""
    y, x = np.divmod(index, size[1] + 2 * padding)
    boxes = np.stack([x.min(1), y.min(1), x.max(1) + 1, y.max(1) + 1], 1).astype(float) - padding
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # (tokens, 2)
    columns, rows = (len(np.unique(centres[:, axis])) for axis in (0, 1))
    if rows * columns != len(index):
        raise ValueError(
            f"attention: the {len(index)} patches of patch_index do not lie on a grid; pass grid=(rows, columns)"
        )
    counts = np.array([columns, rows])
    step = np.where(counts > 1, np.ptp(centres, axis=0) / np.maximum(counts - 1, 1), centres.max(0) * 2)
    return Grid(rows, columns, boxes, np.concatenate([centres - step / 2, centres + step / 2], 1))


def pictures(inputs: Tensor, size: int | None) -> Any:
    """Return images with values from 0 to 1: (batch, height, width), or with 3 colours in the last axis.

    size: height of images that are flattened; by default they are square.
    """
    x = np.asarray(inputs.numpy())
    if x.ndim == 2 and (side := size or round(x.shape[1] ** 0.5)) ** 2 == x.shape[1]:
        x = x.reshape(len(x), -1, side)
    if x.ndim == 4 and x.shape[1] in (1, 3):
        x = x[:, 0] if x.shape[1] == 1 else np.moveaxis(x, 1, -1)
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] != 3):
        raise ValueError(
            f"attention: inputs of shape {tuple(inputs.shape)} are not images (batch, height, width) or (batch, 1 or "
            "3, height, width); pass words= if the tokens are no patches"
        )
    if x.dtype.kind in "iu":
        return x / 255.0
    low, high = (float(np.nan_to_num(f(x))) for f in (np.min, np.max)) if x.size else (0.0, 1.0)
    return x if low >= 0 and high <= 1 else (x - low) / ((high - low) or 1.0)
