"""Convolution and its transpose, and the windows that they are made of.

Convolution, its gradient at the input and its gradient at the weight are three readings of one trilinear form: the
gradients of each are the other two, so derivatives of any order follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyattn.backends.windows import Windows
from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.joins import pad, stack
from tinyattn.ops.promotion import present, same_type
from tinyattn.ops.scattering import index_add
from tinyattn.ops.shape import permute, reshape, reshape_result, unsqueeze
from tinyattn.ops.synonyms import bound, positional

# --- windows ---


@operation(traits="moves chooses", x=lambda xp, g, x_shape, how: xp.overlap_add(g, x_shape[2:], how))
def _windows(xp: Any, x: Any, *, how: Windows) -> Any:
    """What every window sees: (n, c, h, w) -> (n, c, *kernel, rows, columns)."""
    return xp.windows(x, how)


@operation(traits="multiplies", g=lambda xp, g, how: xp.windows(g, how))
def _overlap_add(xp: Any, g: Any, *, size: Any, how: Windows) -> Any:
    """The transpose of `windows`."""
    return xp.overlap_add(g, size, how)


windows, overlap_add = positional(_windows), positional(_overlap_add)

# --- convolution ---


def _definition(xp: Any, x: Any, weight: Any, bias: Any, *, how: Windows) -> Any:
    seen = xp.windows(x, how)  # (n, c, *kernel, rows, columns)
    n, c, ky, kx, rows, columns = seen.shape
    seen = xp.reshape(seen, (n, how.groups, c // how.groups * ky * kx, rows * columns))
    o = weight.shape[0]
    matrix = xp.reshape(weight, (how.groups, o // how.groups, c // how.groups * ky * kx))
    out = xp.reshape(xp.matmul(matrix, seen), (n, o, rows, columns))
    return out if bias is None else out + xp.reshape(bias, (o, 1, 1))


def _channel_sums(xp: Any, g: Any) -> Any:
    return xp.sum(xp.sum(xp.reshape(g, (*g.shape[:2], g.shape[2] * g.shape[3])), -1), 0)


@operation(
    traits="multiplies",
    definition=_definition,
    promote=present,
    x=lambda xp, g, weight, x_shape, how: xp.convolve_input(g, weight, x_shape[2:], how),
    weight=lambda xp, g, x, how: xp.convolve_weight(g, x, how),
    bias=lambda xp, g: _channel_sums(xp, g),
)
def _convolve(xp: Any, x: Any, weight: Any, bias: Any, *, how: Windows) -> Any:
    """The convolution of images (n, c, h, w)."""
    return xp.convolve(x, weight, bias, how)


@operation(
    traits="multiplies",
    promote=same_type,
    g=lambda xp, g, weight, how: xp.convolve(g, weight, None, how),
    weight=lambda xp, h, g, how: xp.convolve_weight(g, h, how),
)
def _convolve_input(xp: Any, g: Any, weight: Any, *, size: Any, how: Windows) -> Any:
    """The gradient of `convolve` at its images, of this size."""
    return xp.convolve_input(g, weight, size, how)


@operation(
    traits="multiplies",
    g=lambda xp, h, x, how: xp.convolve(x, h, None, how),
    x=lambda xp, h, g, x_shape, how: xp.convolve_input(g, h, x_shape[2:], how),
)
def _convolve_weight(xp: Any, g: Any, x: Any, *, how: Windows) -> Any:
    """The gradient of `convolve` at its weight."""
    return xp.convolve_weight(g, x, how)


convolve, convolve_input, convolve_weight = map(positional, (_convolve, _convolve_input, _convolve_weight))


def many(name: str, what: str, given: Any, n: int, least: int = 1) -> tuple[int, ...]:
    """An option of n axes: one integer for all of them, or n. Raises ValueError for others, and below `least`."""
    values = _dims.sizes((given,))
    values = values * n if len(values) == 1 else values
    if len(values) != n or any(v < least for v in values):
        raise ValueError(f"{name}: {what}={given}; expected an integer, or {n}, of at least {least}")
    return values


def _batched(name: str, x: Tensor, n: int, channels: int) -> tuple[Tensor, bool]:
    """`x` with a batch axis in front, and whether it had none."""
    if x.ndim not in (n + 1, n + 2) or x.shape[-n - 1] != channels:
        raise RuntimeError(
            f"{name}: the input has shape {tuple(x.shape)}; expected (batch, {channels} channels, {n} sizes), "
            "as the weight has, or the same without the batch"
        )
    return (unsqueeze(x, 0), True) if x.ndim == n + 1 else (x, False)


def _check_weight(name: str, weight: Tensor, bias: Any, groups: int, n: int, out: int) -> None:
    if weight.ndim != n + 2 or groups < 1 or weight.shape[0] % groups:
        raise RuntimeError(
            f"{name}: the weight has shape {tuple(weight.shape)}; expected {n + 2} axes, the first divisible by "
            f"groups={groups}"
        )
    if bias is not None and tuple(bias.shape) != (out,):
        raise RuntimeError(f"{name}: the bias has shape {tuple(bias.shape)}; expected ({out},)")


def _same(x: Tensor, padding: Any, kernel: Any, stride: Any, dilation: Any, name: str) -> tuple[Tensor, Any]:
    """The padding of 'same' and 'valid'; where it differs on both sides, the input is padded on the right first."""
    if not isinstance(padding, str):
        return x, many(name, "padding", padding, len(kernel), 0)
    if padding not in ("same", "valid"):
        raise ValueError(f"{name}: padding={padding!r}; expected 'same', 'valid' or integers")
    if padding == "valid":
        return x, (0,) * len(kernel)
    if any(s != 1 for s in stride):
        raise ValueError(f"{name}: padding='same' needs a stride of 1, got {tuple(stride)}")
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if any(t % 2 for t in total):
        x = pad(x, [side for t in reversed(total) for side in (0, t % 2)])
    return x, tuple(t // 2 for t in total)


def frame(n: int, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int = 1) -> Windows:
    """Windows over the last two axes, of which sequences have the second one alone."""
    one, none = (1,) * (2 - n), (0,) * (2 - n)
    return Windows.of((*one, *kernel), (*one, *stride), (*none, *padding), (*one, *dilation), groups)


def _conv(
    n: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    name = f"conv{n}d"
    _check_weight(name, weight, bias, groups, n, weight.shape[0] if weight.ndim else 0)
    x, alone = _batched(name, input, n, weight.shape[1] * groups)
    stride, dilation = many(name, "stride", stride, n), many(name, "dilation", dilation, n)
    x, padding = _same(x, padding, weight.shape[2:], stride, dilation, name)
    each = zip(x.shape[2:], weight.shape[2:], padding, dilation, strict=True)
    if any(m + 2 * p <= d * (k - 1) for m, k, p, d in each):
        raise RuntimeError(
            f"{name}: the input of size {tuple(x.shape[-n:])}, padded by {padding}, is smaller than the kernel "
            f"{tuple(weight.shape[-n:])} with dilation {dilation}"
        )
    if n == 3:
        return _without(_by_planes(x, weight, bias, stride, padding, dilation, groups), n, alone)
    how = frame(n, weight.shape[2:], stride, padding, dilation, groups)
    if n == 1:
        x, weight = unsqueeze(x, 2), unsqueeze(weight, 2)
    return _without(_convolve(x, weight, bias, how=how), n, alone)


def _by_planes(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """The convolution of volumes, (n, c, d, h, w): the planes under a kernel become channels of images."""
    x = pad(x, (0, 0, 0, 0, padding[0], padding[0])) if padding[0] else x
    o, c, kd, kh, kw = weight.shape
    places = (x.shape[2] - dilation[0] * (kd - 1) - 1) // stride[0] + 1
    starts = [i * dilation[0] for i in range(kd)]
    planes = [x[:, :, i : i + (places - 1) * stride[0] + 1 : stride[0]] for i in starts]  # (n, c, places, h, w) each
    seen = permute(stack(planes, 2), (0, 3, 1, 2, 4, 5))
    images = reshape(seen, (seen.shape[0] * places, seen.shape[2] * kd, *seen.shape[4:]))
    flat = reshape(weight, (o, c * kd, kh, kw))
    out = conv2d(images, flat, bias, stride[1:], padding[1:], dilation[1:], groups)
    return permute(reshape(out, (x.shape[0], places, *out.shape[1:])), (0, 2, 1, 3, 4))


def _without(out: Tensor, n: int, alone: bool) -> Tensor:
    """The result without the axes that the input did not have."""
    shape = out.shape[alone:2] + out.shape[out.ndim - n :]
    return out if shape == out.shape else reshape_result(out, shape)


@bound(_conv, 2)
def conv2d() -> None:
    """Slide kernels over images: (n, c, h, w), (o, c / groups, kh, kw), (o,) -> (n, o, rows, columns).

    padding: zeros on all sides, or 'same' or 'valid'. Raises RuntimeError for shapes that do not fit. As
    torch.nn.functional.conv2d.

    >>> F.conv2d(ta.ones(1, 1, 3, 3), ta.ones(1, 1, 2, 2)).tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """


@bound(_conv, 1)
def conv1d() -> None:
    """Slide kernels over sequences: (n, c, length), (o, c / groups, k) -> (n, o, places). As `conv2d`.

    >>> F.conv1d(ta.tensor([[[1.0, 2.0, 3.0]]]), ta.tensor([[[1.0, 1.0]]])).tolist()
    [[[3.0, 5.0]]]
    """


@bound(_conv, 3)
def conv3d() -> None:
    """Slide kernels over volumes: (n, c, d, h, w), (o, c / groups, kd, kh, kw) -> (n, o, planes, rows, columns).

    As `conv2d`, and as torch.nn.functional.conv3d.

    >>> F.conv3d(ta.ones(1, 1, 2, 2, 2), ta.ones(1, 1, 2, 2, 2)).item()
    8.0
    """


def _transposed(
    n: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    name = f"conv_transpose{n}d"
    _check_weight(name, weight, bias, groups, n, weight.shape[1] * groups if weight.ndim > 1 else 0)
    x, alone = _batched(name, input, n, weight.shape[0])
    stride, dilation = many(name, "stride", stride, n), many(name, "dilation", dilation, n)
    padding, more = many(name, "padding", padding, n, 0), many(name, "output_padding", output_padding, n, 0)
    if any(m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
        raise RuntimeError(f"{name}: output_padding={more} must be below stride={stride} or dilation={dilation}")
    kernel = tuple(weight.shape[2:])
    places = [m // s for m, s in zip(more, stride, strict=True)]  # more windows fit: they hold zeros
    each = zip(x.shape[2:], kernel, stride, padding, dilation, more, strict=True)
    size = tuple((m - 1) * s - 2 * p + d * (k - 1) + o + 1 for m, k, s, p, d, o in each)
    if any(v < 1 for v in size):
        raise RuntimeError(f"{name}: input {tuple(x.shape)} with padding {padding} would give the size {size}")
    if n == 3:
        return _without(_onto_planes(x, weight, bias, stride, padding, dilation, more, groups), n, alone)
    how = frame(n, kernel, stride, padding, dilation, groups)
    if n == 1:
        x, weight, size = unsqueeze(x, 2), unsqueeze(weight, 2), (1, *size)
    if any(places):
        x = pad(x, [side for p in reversed(places) for side in (0, p)])
    out = _convolve_input(x, weight, size=size, how=how)
    if bias is not None:
        out = out + reshape(bias, (-1, 1, 1))
    return _without(out, n, alone)


def _onto_planes(
    x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, more: Any, groups: int
) -> Tensor:
    """The transpose for volumes, (n, c, d, h, w): each plane gives one for every depth of the kernel; they add up."""
    c, o, kd, kh, kw = weight.shape
    b, _, d, *plane = x.shape
    images = reshape(permute(x, (0, 2, 1, 3, 4)), (b * d, c, *plane))
    flat = reshape(weight, (c, o * kd, kh, kw))
    out = conv_transpose2d(images, flat, None, stride[1:], padding[1:], more[1:], groups, dilation[1:])
    out = permute(reshape(out, (b, d, o * groups, kd, *out.shape[2:])), (0, 2, 1, 3, 4, 5))
    out = reshape(out, (b, o * groups, d * kd, *out.shape[4:]))
    at = creation.arange(d, device=x.device)[:, None] * stride[0] + creation.arange(kd, device=x.device) * dilation[0]
    depth = (d - 1) * stride[0] + dilation[0] * (kd - 1) + 1 + more[0]
    whole = creation.zeros(*out.shape[:2], depth, *out.shape[3:], dtype=out.dtype, device=out.device)
    out = index_add(whole, 2, reshape(at, -1), out)[:, :, padding[0] : depth - padding[0]]
    return out if bias is None else out + reshape(bias, (-1, 1, 1, 1))


@bound(_transposed, 2)
def conv_transpose2d() -> None:
    """The transpose of `conv2d`: (n, c, h, w), (c, o / groups, kh, kw) -> (n, o, rows, columns).

    output_padding: rows and columns added at the end. As torch.nn.functional.conv_transpose2d.

    >>> F.conv_transpose2d(ta.ones(1, 1, 1, 1), ta.ones(1, 1, 2, 2)).tolist()
    [[[[1.0, 1.0], [1.0, 1.0]]]]
    """


@bound(_transposed, 1)
def conv_transpose1d() -> None:
    """The transpose of `conv1d`, as `conv_transpose2d`.

    >>> F.conv_transpose1d(ta.ones(1, 1, 2), ta.ones(1, 1, 2)).tolist()
    [[[1.0, 2.0, 1.0]]]
    """


@bound(_transposed, 3)
def conv_transpose3d() -> None:
    """The transpose of `conv3d`, as `conv_transpose2d`, and as torch.nn.functional.conv_transpose3d.

    >>> F.conv_transpose3d(ta.ones(1, 1, 1, 1, 1), ta.ones(1, 1, 2, 1, 1)).tolist()
    [[[[[1.0]], [[1.0]]]]]
    """


# --- unfold and fold ---


def _sliding(name: str, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Windows:
    kernel, stride = many(name, "kernel_size", kernel, 2), many(name, "stride", stride, 2)
    padding, dilation = many(name, "padding", padding, 2, 0), many(name, "dilation", dilation, 2)
    return Windows.of(kernel, stride, padding, dilation)


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """Return the windows of images as columns: (n, c, h, w) -> (n, c * kh * kw, places).

    As torch.nn.functional.unfold.

    >>> F.unfold(ta.ones(1, 2, 3, 3), 2).shape
    (1, 8, 4)
    """
    how = _sliding("unfold", kernel_size, dilation, padding, stride)
    x = input if input.ndim == 4 else unsqueeze(input, 0)
    if x.ndim != 4 or any(v < 1 for v in how.places(x.shape[2:])):
        raise RuntimeError(f"unfold: no window {how.kernel} fits an input of shape {tuple(input.shape)}")
    rows, columns = how.places(x.shape[2:])
    out = _windows(x, how=how)
    shape = (x.shape[0], x.shape[1] * how.kernel[0] * how.kernel[1], rows * columns)
    return reshape_result(out, shape[4 - input.ndim :])


def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """Add windows up to images, the transpose of `unfold`: (n, c * kh * kw, places) -> (n, c, *output_size).

    As torch.nn.functional.fold.

    >>> F.fold(ta.ones(1, 4, 4), (3, 3), 2)[0, 0].tolist()
    [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]
    """
    how, size = _sliding("fold", kernel_size, dilation, padding, stride), many("fold", "output_size", output_size, 2)
    x = input if input.ndim == 3 else unsqueeze(input, 0)
    elements, (rows, columns) = how.kernel[0] * how.kernel[1], how.places(size)
    if x.ndim != 3 or x.shape[1] % elements or x.shape[2] != rows * columns:
        raise RuntimeError(
            f"fold: the input has shape {tuple(input.shape)}; expected (n, a multiple of {elements}, {rows * columns}) "
            f"for output_size={tuple(size)}"
        )
    shape: Sequence[int] = (x.shape[0], x.shape[1] // elements, *how.kernel, rows, columns)
    out = _overlap_add(reshape(x, shape), size=size, how=how)
    return out if input.ndim == 3 else reshape_result(out, out.shape[1:])
