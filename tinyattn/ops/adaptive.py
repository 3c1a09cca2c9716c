"""The largest element, or the mean, of as many windows as are wanted, of sizes that may differ by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.convolution import many
from tinyattn.ops.pooling import _images, _like, _twice
from tinyattn.ops.shape import reshape
from tinyattn.ops.synonyms import bound


def _cells(x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Any, Any]:
    """The elements of each window (n, c, rows, columns, elements), which of them count, and their positions."""
    tables = []
    for m, n in zip(x.shape[2:], size, strict=True):
        starts, stops = np.arange(n) * m // n, -(-(np.arange(n) + 1) * m // n)
        at = starts[:, None] + np.arange((stops - starts).max())
        tables.append((np.minimum(at, stops[:, None] - 1), at < stops[:, None]))
    (ys, tall), (xs, wide) = tables
    position = (ys[:, None, :, None] * x.shape[3] + xs[None, :, None, :]).reshape(*size, -1)
    counted = (tall[:, None, :, None] & wide[None, :, None, :]).reshape(*size, -1)
    flat = reshape(x, (*x.shape[:2], x.shape[2] * x.shape[3]))
    return flat[:, :, creation.tensor(position, device=x.device)], counted, position


def _framed(name: str, n: int, input: Tensor, output_size: Any) -> tuple[Tensor, tuple[int, int]]:
    x = _images(name, input, n)
    given = output_size if isinstance(output_size, tuple | list) else (output_size,) * n
    given = tuple(m if g is None else g for g, m in zip(given, input.shape[-n:], strict=False))
    wanted = (*(1,) * (2 - n), *many(name, "output_size", given, n))
    return x, (wanted[0], wanted[1])


def _of_volumes(output_size: Any) -> dict[str, tuple[Any, Any]]:
    """The options of `_twice`."""
    depth, *plane = output_size if isinstance(output_size, tuple | list) else (output_size,) * 3
    return {"output_size": (tuple(plane), (depth, None))}


def _avg(n: int, input: Tensor, output_size: Any) -> Tensor:
    if n == 3:
        return _twice("adaptive_avg_pool3d", adaptive_avg_pool2d, input, _of_volumes(output_size))
    x, size = _framed(f"adaptive_avg_pool{n}d", n, input, output_size)
    if all(m % k == 0 for m, k in zip(x.shape[2:], size, strict=True)):
        kernel = [m // k for m, k in zip(x.shape[2:], size, strict=True)]
        b, c = x.shape[:2]
        return _like(reshape(x, (b, c, size[0], kernel[0], size[1], kernel[1])).mean((3, 5)), input, n)
    seen, counted, _ = _cells(x, size)
    some = creation.tensor(counted, device=x.device)
    return _like(seen.masked_fill(some.logical_not(), 0).sum(-1) / some.to(x.dtype).sum(-1), input, n)


def _max(n: int, input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    name = f"adaptive_max_pool{n}d"
    if n == 3:
        return _twice(name, adaptive_max_pool2d, input, _of_volumes(output_size), return_indices=return_indices)
    x, size = _framed(name, n, input, output_size)
    seen, _, position = _cells(x, size)
    values, chosen = seen.max(-1)
    values = _like(values, input, n)
    if not return_indices:
        return values
    where = creation.tensor(position, device=x.device).expand(*seen.shape)
    return values, _like(where.gather(-1, chosen[..., None])[..., 0], input, n)


@bound(_avg, 2)
def adaptive_avg_pool2d() -> None:
    """Return means of windows that give `output_size`: one integer, or two; None keeps a size.

    As torch.nn.functional.adaptive_avg_pool2d.

    >>> F.adaptive_avg_pool2d(ta.arange(16).float().reshape(1, 4, 4), 1).tolist()
    [[[7.5]]]
    """


@bound(_avg, 1)
def adaptive_avg_pool1d() -> None:
    """Return means of `output_size` windows of sequences. As torch.nn.functional.adaptive_avg_pool1d.

    >>> F.adaptive_avg_pool1d(ta.tensor([[1.0, 3.0, 2.0]]), 2).tolist()
    [[2.0, 2.5]]
    """


@bound(_avg, 3)
def adaptive_avg_pool3d() -> None:
    """Return means of windows that give `output_size`: one integer, or three; None keeps a size.

    As torch.nn.functional.adaptive_avg_pool3d.

    >>> F.adaptive_avg_pool3d(ta.arange(8).float().reshape(1, 1, 2, 2, 2), 1).item()
    3.5
    """


@bound(_max, 2)
def adaptive_max_pool2d() -> None:
    """Return the largest elements of windows that give `output_size`. As torch.nn.functional.adaptive_max_pool2d.

    >>> F.adaptive_max_pool2d(ta.arange(16).float().reshape(1, 4, 4), 1).tolist()
    [[[15.0]]]
    """


@bound(_max, 1)
def adaptive_max_pool1d() -> None:
    """Return the largest elements of `output_size` windows. As torch.nn.functional.adaptive_max_pool1d.

    >>> F.adaptive_max_pool1d(ta.tensor([[1.0, 3.0, 2.0]]), 2).tolist()
    [[3.0, 3.0]]
    """


@bound(_max, 3)
def adaptive_max_pool3d() -> None:
    """Return the largest elements of windows that give `output_size`. As torch.nn.functional.adaptive_max_pool3d.

    >>> F.adaptive_max_pool3d(ta.arange(8).float().reshape(1, 1, 2, 2, 2), 1).item()
    7.0
    """
