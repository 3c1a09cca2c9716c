"""Images read at places that are computed: spatial transformers, deformable attention."""

from __future__ import annotations

from typing import Any

from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.choices import clamp, where
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import abs
from tinyattn.ops.indexing import gather
from tinyattn.ops.joins import stack
from tinyattn.ops.mathematics import floor, fmod, round
from tinyattn.ops.products import matmul
from tinyattn.ops.promotion import opmath
from tinyattn.ops.rearranging import meshgrid
from tinyattn.ops.shape import broadcast_to, reshape, transpose


@opmath
def affine_grid(theta: Tensor, size: Any, align_corners: bool | None = None) -> Tensor:
    """Return where an affine map takes the pixels of an image: theta (n, 2, 3) and size (n, c, h, w) give (n, h, w, 2).

    Places are (x, y) from -1 to 1 across the image: between the centres of its corner pixels with align_corners, else
    between its edges. Raises ValueError for other shapes. As torch.nn.functional.affine_grid, of images.

    >>> F.affine_grid(ta.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]), (1, 1, 1, 2)).tolist()
    [[[[-0.5, 0.0], [0.5, 0.0]]]]
    """
    if len(size) != 4 or tuple(theta.shape) != (size[0], 2, 3):
        raise ValueError(
            f"affine_grid: theta {tuple(theta.shape)} and size {tuple(size)}; expected (n, 2, 3), (n, c, h, w)"
        )
    n, _, h, w = size
    lines = []
    for count in (h, w):
        line = creation.linspace(-1, 1, count, dtype=theta.dtype, device=theta.device)
        lines.append(line if align_corners and count > 1 else line * ((count - 1) / count))
    y, x = meshgrid(*lines, indexing="ij")
    points = reshape(stack([x, y, creation.ones_like(x)], -1), (1, h * w, 3))
    return reshape(matmul(points, transpose(theta, 1, 2)), (n, h, w, 2))


@opmath
def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """Read images at places: input (n, c, h, w) and grid (n, rows, columns, 2) give (n, c, rows, columns).

    grid: (x, y) as `affine_grid` returns them. mode: "bilinear" or "nearest". padding_mode: what lies outside, "zeros",
    the "border", or a "reflection". Jaderberg et al. 2015, "Spatial transformer networks". Raises ValueError for other
    modes and shapes. As torch.nn.functional.grid_sample, of images.

    >>> image = ta.tensor([[[[1.0, 3.0]]]])
    >>> F.grid_sample(image, ta.tensor([[[[0.0, 0.0], [0.5, 0.0]]]])).tolist()
    [[[[2.0, 3.0]]]]
    """
    if mode not in ("bilinear", "nearest") or padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(
            f"grid_sample: mode={mode!r}, padding_mode={padding_mode!r}; expected 'bilinear' or 'nearest', and "
            "'zeros', 'border' or 'reflection'"
        )
    if input.ndim != 4 or grid.ndim != 4 or grid.shape[3] != 2 or grid.shape[0] != input.shape[0]:
        raise ValueError(
            f"grid_sample: input {tuple(input.shape)}, grid {tuple(grid.shape)}; expected (n, c, h, w) and "
            "(n, rows, columns, 2)"
        )
    h, w = input.shape[2:]
    x = _pixel(grid[..., 0], w, padding_mode, bool(align_corners))
    y = _pixel(grid[..., 1], h, padding_mode, bool(align_corners))
    if mode == "nearest":
        return _read(input, round(x), round(y))
    left, top = floor(x).detach(), floor(y).detach()
    right, bottom = x - left, y - top  # shares of the neighbours on these sides
    corners = [
        (left, top, (1 - right) * (1 - bottom)), (left + 1, top, right * (1 - bottom)),
        (left, top + 1, (1 - right) * bottom), (left + 1, top + 1, right * bottom),
    ]  # fmt: skip
    first, *others = (_read(input, column, row) * share[:, None] for column, row, share in corners)
    for other in others:
        first = first + other
    return first


def _pixel(place: Tensor, size: int, padding_mode: str, align: bool) -> Tensor:
    """Places from -1 to 1 as numbers of pixels, brought into the image if something is to be read outside."""
    at = (place + 1) * ((size - 1) / 2) if align else ((place + 1) * size - 1) / 2
    if padding_mode == "zeros":
        return at
    if padding_mode == "reflection":
        low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
        if high == low:
            return at * 0
        off = abs(at - low)
        over = fmod(off, high - low)
        back = floor(off / (high - low)).detach() % 2 == 1
        at = where(back, high - over, over + low)
    return clamp(at, 0, size - 1)


def _read(input: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """The pixels in these columns and rows (n, rows, columns), 0 outside the image."""
    n, c, h, w = input.shape
    inside = (column >= 0) & (column <= w - 1) & (row >= 0) & (row <= h - 1)
    at = cast(where(inside, row * w + column, 0.0), "int64")
    index = broadcast_to(reshape(at, (n, 1, -1)), (n, c, at.numel() // max(n, 1)))
    found = reshape(gather(reshape(input, (n, c, h * w)), 2, index), (n, c, *column.shape[1:]))
    return where(inside[:, None], found, 0.0)
