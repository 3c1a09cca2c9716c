"""Windows that slide over images, and convolution as a product of weights and windows: for both array libraries.

`xp` is the library, `room` how many elements of windows are held at once: what the cache holds on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

Array = Any
Pair = tuple[int, int]


class Windows(NamedTuple):
    """How a window slides over the last two axes; each pair is (vertical, horizontal)."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int = 1) -> Windows:
        return cls(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups)

    def places(self, size: Any) -> Pair:
        """The number of places for a window on images of this size."""
        a, b = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        return a, b

    def parts(self, rows: range, columns: int) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
        """For each element of a window: its place, and the part of a padded image that it sees."""
        (sy, sx), (dy, dx) = self.stride, self.dilation
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                y, x = i * dy + rows[0] * sy, j * dx
                yield i, j, (..., slice(y, y + sy * (len(rows) - 1) + 1, sy), slice(x, x + sx * (columns - 1) + 1, sx))


def framed(xp: Any, x: Array, padding: Pair, value: float = 0.0) -> Array:
    """Images with `padding` on all sides; `x` itself if there is none."""
    if padding == (0, 0):
        return x
    (*lead, h, w), (a, b) = x.shape, padding
    out = xp.full((*lead, h + 2 * a, w + 2 * b), value, x.dtype)
    out[..., a : a + h, b : b + w] = x
    return out


def windows(xp: Any, x: Array, how: Windows) -> Array:
    """(n, c, h, w) -> (n, c, *kernel, rows, columns): what every window sees."""
    rows, columns = how.places(x.shape[2:])
    x = framed(xp, x, how.padding)
    out = xp.empty((*x.shape[:2], *how.kernel, rows, columns), x.dtype)
    if out.size:
        for i, j, part in how.parts(range(rows), columns):
            out[:, :, i, j] = x[part]
    return out


def overlap_add(xp: Any, g: Array, size: Pair, how: Windows) -> Array:
    """The transpose of `windows`: (n, c, *kernel, rows, columns) -> (n, c, *size), adding where windows overlap."""
    (h, w), (a, b) = size, how.padding
    out = xp.zeros((*g.shape[:2], h + 2 * a, w + 2 * b), g.dtype)
    if g.size:
        for i, j, part in how.parts(range(g.shape[-2]), g.shape[-1]):
            out[part] += g[:, :, i, j]
    return out[..., a : a + h, b : b + w]


# --- convolution ---
# With a stride of 1, every element of the windows sees one stretch of the flattened padded image, so a block of
# windows is a few long copies. Each row of places is then as wide as the padded image: `spare` more than there are
# places, and these hold windows that wrap around. They are cut off, or have a gradient of zero.


def _blocks(images: int, rows: int, each: int, room: int) -> Iterator[tuple[slice, range]]:
    """Blocks of images, or of rows of one image, with `each` elements of windows a row."""
    step, some = max(room // max(each * rows, 1), 1), min(max(room // max(each, 1), 1), rows)
    for n in range(0, images, step):
        for r in range(0, rows, some):
            yield slice(n, n + step), range(r, min(r + some, rows))


def _spare(how: Windows, wrapping: bool) -> int:
    return (how.kernel[1] - 1) * how.dilation[1] if wrapping and how.stride == (1, 1) else 0


def _padded(xp: Any, x: Array, how: Windows, spare: int) -> Array:
    """Padded images, flattened with `spare` zeros behind each if windows may wrap."""
    (n, c, h, w), (a, b) = x.shape, how.padding
    if not spare:
        return framed(xp, x, how.padding)
    h, w = h + 2 * a, w + 2 * b
    out = xp.zeros((n, c, h * w + spare), x.dtype)
    out[..., : h * w].reshape(n, c, h, w)[..., a : h - a, b : w - b] = x
    return out


def _places(how: Windows, rows: range, columns: int, spare: int) -> Iterator[tuple[int, int, Any]]:
    if not spare:
        yield from how.parts(rows, columns)
        return
    wide = columns + spare
    for i in range(how.kernel[0]):
        for j in range(how.kernel[1]):
            start = (rows[0] + i * how.dilation[0]) * wide + j * how.dilation[1]
            yield i, j, (..., slice(start, start + len(rows) * wide))


def _columns(xp: Any, x: Array, how: Windows, rows: range, columns: int, spare: int) -> Array:
    """The windows at some rows of padded images, one a column: (n, groups, elements of a window, places)."""
    n, c = x.shape[:2]
    (ky, kx), places = how.kernel, len(rows) * (columns + spare)
    shape = (n, how.groups, c // how.groups * ky * kx, places)
    if how.kernel == how.stride == (1, 1) and len(rows) == x.shape[2]:
        return x.reshape(shape)
    out = xp.empty((n, c, ky, kx, *((places,) if spare else (len(rows), columns))), x.dtype)
    for i, j, part in _places(how, rows, columns, spare):
        out[:, :, i, j] = x[part]
    return out.reshape(shape)


def _rows_apart(how: Windows, c: int, o: int) -> int:
    """In how many products to take the rows of the kernels, each with windows of one row, which are fewer copies.

    Where outputs are many, one product with whole windows takes less time.
    """
    return how.kernel[0] if how.stride == (1, 1) and c * how.kernel[1] > o else 1


def convolve(xp: Any, room: int, x: Array, weight: Array, bias: Array, how: Windows) -> Array:
    """(n, c, h, w), (o, c / groups, *kernel), (o,) or None -> (n, o, rows, columns)."""
    (n, c), o, (rows, columns), (ky, kx) = x.shape[:2], len(weight), how.places(x.shape[2:]), how.kernel
    groups, apart = how.groups, _rows_apart(how, c, o)
    spare = _spare(how, apart == 1 or groups > 1)  # else longer copies gain less than a wider product loses
    wide = columns + spare
    seen = how._replace(kernel=(ky // apart, kx))
    elements = c // groups * seen.kernel[0] * kx
    matrix = weight.reshape(groups, o // groups, c // groups, apart, seen.kernel[0] * kx)
    matrix = xp.permute(matrix, (0, 3, 1, 2, 4)).reshape(groups, apart * o // groups, elements)
    out = xp.empty((n, o, rows, columns), x.dtype)
    of = None
    for images, some in _blocks(n, rows, groups * elements * wide, room):
        if images != of:
            padded, of = _padded(xp, x[images], how, spare), images
        under = range(some[0], some[-1] + 1 + (apart - 1) * how.dilation[0])
        found = xp.matmul(matrix, _columns(xp, padded, seen, under, columns, spare))
        found = found.reshape(len(padded), groups, apart, o // groups, len(under) * wide)
        starts = (i * how.dilation[0] * wide for i in range(apart))
        first, *others = (found[:, :, i, :, start : start + len(some) * wide] for i, start in enumerate(starts))
        y = sum(others, first).reshape(len(padded), o, len(some), wide)[..., :columns]
        out[images, :, some[0] : some[-1] + 1] = y if bias is None else y + bias[:, None, None]
    return out


def _widened(xp: Any, g: Array, how: Windows, some: range, spare: int) -> Array:
    """The output gradient at some rows, with zeros where windows wrap: (n, groups, o / groups, places)."""
    g = g[:, :, some[0] : some[-1] + 1]
    n, o, rows, columns = g.shape
    if spare:
        wide = xp.zeros((n, o, rows, columns + spare), g.dtype)
        wide[..., :columns] = g
        g = wide
    return g.reshape(n, how.groups, o // how.groups, rows * (columns + spare))


def convolve_input(xp: Any, room: int, g: Array, weight: Array, size: Pair, how: Windows) -> Array:
    """The gradient of `convolve` at x, of images of this size; also the transposed convolution of `g`."""
    (n, o, rows, columns), (ky, kx), (h, w), (a, b) = g.shape, how.kernel, size, how.padding
    c = weight.shape[1] * how.groups
    finite = not xp.perhaps(lambda: ~xp.isfinite(weight))  # zero times infinity would spoil other places
    if finite and how.stride == (1, 1) and o <= c:  # as a convolution of g with reversed kernels, of smaller windows
        top, left = (d * (k - 1) - p for k, p, d in zip(how.kernel, how.padding, how.dilation, strict=True))
        turned = how._replace(padding=(top, left))
        if min(top, left) >= 0 and turned.places(g.shape[2:]) == tuple(size):
            kernels = weight.reshape(how.groups, o // how.groups, c // how.groups, ky, kx)[..., ::-1, ::-1]
            kernels = xp.clone(xp.permute(kernels, (0, 2, 1, 3, 4))).reshape(c, o // how.groups, ky, kx)
            return convolve(xp, room, g, kernels, None, turned)
    spare = _spare(how, finite)
    out = xp.zeros((n, c, h, w), g.dtype)
    matrix = xp.clone(weight.reshape(how.groups, o // how.groups, c // how.groups * ky * kx).mT)
    if not n or not c:
        return out
    of = None
    for images, some in _blocks(n, rows, c * ky * kx * (columns + spare), room):
        if images != of:
            m, of = len(g[images]), images
            tall, wide = h + 2 * a, w + 2 * b
            padded = xp.zeros((m, c, tall * wide + spare) if spare else (m, c, tall, wide), g.dtype)
        y = xp.matmul(matrix, _widened(xp, g[images], how, some, spare))
        y = y.reshape(m, c, ky, kx, *((y.shape[-1],) if spare else (len(some), columns)))
        for i, j, part in _places(how, some, columns, spare):
            padded[part] += y[:, :, i, j]
        if some[-1] == rows - 1:
            if spare:
                padded = padded[..., :-spare].reshape(m, c, tall, wide)
            out[images] = padded[..., a : a + h, b : b + w]
    return out


def convolve_weight(xp: Any, room: int, g: Array, x: Array, how: Windows, wrapping: bool = True) -> Array:
    """The gradient of `convolve` at its weight."""
    (n, c), (o, rows, columns), (ky, kx) = x.shape[:2], g.shape[1:], how.kernel
    spare, each, down = _spare(how, wrapping), c // how.groups, how.dilation[0]
    apart = _rows_apart(how, c, o)
    seen, step = how._replace(kernel=(ky // apart, kx)), down * (columns + spare)
    total = xp.zeros((apart, how.groups, each * ky // apart * kx, o // how.groups), g.dtype)
    of = None
    for images, some in _blocks(n, rows, c * how.kernel[0] * how.kernel[1] * (columns + spare), room):
        if images != of:
            padded, of = _padded(xp, x[images], how, spare), images
        under = range(some[0], some[-1] + 1 + (apart - 1) * down)
        windows = _columns(xp, padded, seen, under, columns, spare)
        gradient = _widened(xp, g[images], how, some, spare).mT  # (images, groups, places, o / groups)
        for i in range(apart):
            found = xp.matmul(windows[..., i * step : i * step + gradient.shape[-2]], gradient)
            total[i] += found[0] if len(found) == 1 else found.sum(0)
    if spare and xp.perhaps(lambda: ~xp.isfinite(total)):  # zero times an infinity that a wrapped window saw
        return convolve_weight(xp, room, g, x, how, False)
    total = total.reshape(apart, how.groups, each, ky // apart, kx, o // how.groups)
    return xp.clone(xp.permute(total, (1, 5, 2, 0, 3, 4))).reshape(o, each, ky, kx)
