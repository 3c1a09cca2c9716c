"""How attention's kernels cut their work into tiles, and where arrays lie."""

from __future__ import annotations

import math
from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.launch import SHARED_BYTES, launch

__all__: list[str] = []

Array = Any
Strides = tuple[int, int, int, int]
_TILES = (64, 32, 16, 8, 4, 2, 1)  # rows and columns
_PREFERRED = 48 << 10  # bytes of shared memory: two blocks fit even on a GPU that has little


def odd(n: int) -> int:
    """How far apart rows of n numbers lie in shared memory: an odd number (kernels/tiles.cuh)."""
    return n | 1


def choose_tile(longest: int, per_row: int, itemsize: int) -> tuple[int, int]:
    """The size of square tiles, and the bytes of shared memory of a kernel that needs, for each row of a
    tile, `per_row` numbers and a row of scores. Raises ValueError where not even one row fits."""
    for limit in (_PREFERRED, SHARED_BYTES):
        for tile in _TILES:
            needed = tile * (per_row + odd(tile)) * itemsize
            if needed <= limit and (tile <= 8 or tile < 2 * longest):
                return tile, needed
    raise ValueError(
        f"attention on cuda: {per_row * itemsize} bytes for each token of a head are too many for the GPU's shared "
        f"memory ({SHARED_BYTES} bytes a block); use more heads, or compute inside `with tinyattn.definitions():`"
    )


def launch_tiles(
    source: str, kernel: str, args: list[Any], heads: int, longest: int, tile: tuple[int, int], dtype: Any
) -> None:  # fmt: skip
    """A kernel in which a block does one tile of the rows of one head; `heads` counts those of all samples."""
    size, shared = tile
    launch(source, kernel, (heads * -(-longest // size),), (256,), args, shared_bytes=shared, dtype=dtype)


def lead_of(*arrays: Array) -> tuple[int, ...]:
    """The leading axes that all broadcast to."""
    return np.broadcast_shapes(*(x.shape[:-2] for x in arrays if x is not None))


def as_heads(x: Array, lead: tuple[int, ...], ends: tuple[int, int]) -> Array:
    """x as (samples, heads, rows, columns), a view where that can be; None stays None."""
    if x is None:
        return None
    x = cp.broadcast_to(x, (*lead, *ends))
    if len(lead) < 2:
        return x.reshape(*(1 for _ in range(2 - len(lead))), *x.shape)
    return x if len(lead) == 2 else x.reshape(math.prod(lead[:-1]), lead[-1], *ends)


def strides(x: Array) -> Strides:
    """How many elements apart neighbours along each of its four axes are; zeros for None."""
    if x is None:
        return 0, 0, 0, 0
    return tuple(0 if n == 1 else stride // x.itemsize for n, stride in zip(x.shape, x.strides, strict=True))  # type: ignore[return-value]


def heads_last(lead: tuple[int, ...], ends: tuple[int, int], dtype: Any) -> Array:
    """Memory for (*lead, *ends) in which the heads of a token lie together, as whoever joins them wants."""
    if len(lead) != 2:
        return cp.empty((*lead, *ends), dtype)
    rows, columns = ends
    return cp.empty((lead[0], rows, lead[1], columns), dtype).transpose(0, 2, 1, 3)
