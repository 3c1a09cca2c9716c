"""Convolution and pooling of volumes (videos, scans), by those of images; and pooling by a norm."""

from __future__ import annotations

from typing import Any

from tinyattn.engine.variable import Tensor
from tinyattn.ops.activations import relu
from tinyattn.ops.convolution import _batched, _check_weight, _same, conv2d, many
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import abs, mul, pow, sign
from tinyattn.ops.indexing import gather
from tinyattn.ops.joins import pad, stack
from tinyattn.ops.pooling import adaptive_avg_pool2d, avg_pool1d, avg_pool2d, max_pool2d
from tinyattn.ops.shape import permute, reshape, reshape_result


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Slide kernels over volumes: (n, c, d, h, w), (o, c / groups, kd, kh, kw) -> (n, o, planes, rows, columns).

    The planes under a kernel become channels of images. As `conv2d`, and as torch.nn.functional.conv3d.

    >>> F.conv3d(ta.ones(1, 1, 2, 2, 2), ta.ones(1, 1, 2, 2, 2)).item()
    8.0
    """
    _check_weight("conv3d", weight, bias, groups, 3, weight.shape[0] if weight.ndim else 0)
    x, alone = _batched("conv3d", input, 3, weight.shape[1] * groups)
    stride, dilation = many("conv3d", "stride", stride, 3), many("conv3d", "dilation", dilation, 3)
    x, padding = _same(x, padding, weight.shape[2:], stride, dilation, "conv3d")
    x = pad(x, (0, 0, 0, 0, padding[0], padding[0])) if padding[0] else x
    o, c, kd, kh, kw = weight.shape
    reach = dilation[0] * (kd - 1)
    places = (x.shape[2] - reach - 1) // stride[0] + 1
    if places < 1:
        raise RuntimeError(
            f"conv3d: the input of size {tuple(input.shape[-3:])}, padded by {padding}, is smaller than the kernel "
            f"{(kd, kh, kw)} with dilation {dilation}"
        )
    starts = [i * dilation[0] for i in range(kd)]
    planes = [x[:, :, i : i + (places - 1) * stride[0] + 1 : stride[0]] for i in starts]  # (n, c, places, h, w) each
    seen = permute(stack(planes, 2), (0, 3, 1, 2, 4, 5))
    images = reshape(seen, (seen.shape[0] * places, seen.shape[2] * kd, *seen.shape[4:]))
    flat = reshape(weight, (o, c * kd, kh, kw))
    out = conv2d(images, flat, bias, stride[1:], padding[1:], dilation[1:], groups)
    out = permute(reshape(out, (x.shape[0], places, *out.shape[1:])), (0, 2, 1, 3, 4))
    return reshape_result(out, out.shape[alone:])


def _twice(name: str, pool: Any, input: Tensor, options: dict[str, tuple[Any, Any]], **others: Any) -> Any:
    """Pool the planes (n, c, d, h, w), then along the depth; `options`: those of each of the two."""
    if input.ndim not in (4, 5):
        raise RuntimeError(f"{name}: the input has shape {tuple(input.shape)}; expected 4 or 5 axes")
    x = input if input.ndim == 5 else reshape(input, (1, *input.shape))
    n, c, d = x.shape[:3]
    flat = pool(reshape(x, (n, c * d, *x.shape[3:])), **{k: v[0] for k, v in options.items()}, **others)
    flat, within = flat if isinstance(flat, tuple) else (flat, None)
    rows, columns = flat.shape[2:]
    out = pool(reshape(flat, (n, c, d, rows * columns)), **{k: v[1] for k, v in options.items()}, **others)
    if within is None:
        return reshape_result(out, (*input.shape[:-3], out.shape[2], rows, columns))
    out, at = out
    within = gather(reshape(within, (n, c, -1)), 2, reshape(at, (n, c, -1)))
    at = at // (rows * columns) * (x.shape[3] * x.shape[4]) + reshape(within, at.shape)
    return tuple(reshape_result(t, (*input.shape[:-3], t.shape[2], rows, columns)) for t in (out, at))


def _windows(name: str, **given: Any) -> dict[str, tuple[Any, Any]]:
    """Options of three axes as those of planes and of the depth; neutral along the flattened plane."""
    kernel = many(name, "kernel_size", given.pop("kernel_size"), 3)
    stride = given.pop("stride")
    stride = kernel if stride is None else many(name, "stride", stride, 3)
    found: dict[str, tuple[Any, Any]] = {
        "kernel_size": (kernel[1:], (kernel[0], 1)),
        "stride": (stride[1:], (stride[0], 1)),
    }
    for option, neutral in (("padding", 0), ("dilation", 1)):
        if option in given:
            values = many(name, option, given[option], 3, 0)
            found[option] = values[1:], (values[0], neutral)
    return found


def max_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the largest element of each window of volumes: (n, c, d, h, w) -> (n, c, planes, rows, columns).

    return_indices: also the positions in the flattened volumes. As torch.nn.functional.max_pool3d.

    >>> F.max_pool3d(ta.arange(8).float().reshape(1, 1, 2, 2, 2), 2).item()
    7.0
    """
    options = _windows("max_pool3d", kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)
    return _twice("max_pool3d", max_pool2d, input, options, ceil_mode=ceil_mode, return_indices=return_indices)


def avg_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean of each window of volumes. As `avg_pool2d`, and as torch.nn.functional.avg_pool3d.

    >>> F.avg_pool3d(ta.arange(8).float().reshape(1, 1, 2, 2, 2), 2).item()
    3.5
    """
    if input.dtype.kind != "f":  # cut to an integer once, and not in each of the two pools
        means = avg_pool3d(
            cast(input, "float64"), kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
        return cast(means + sign(means) * 1e-9, input.dtype)
    options = _windows("avg_pool3d", kernel_size=kernel_size, stride=stride, padding=padding)
    options["divisor_override"] = (None if divisor_override is None else 1), divisor_override
    others = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return _twice("avg_pool3d", avg_pool2d, input, options, **others)


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Return means of windows that give `output_size`: one integer, or three; None keeps a size.

    As torch.nn.functional.adaptive_avg_pool3d.

    >>> F.adaptive_avg_pool3d(ta.arange(8).float().reshape(1, 1, 2, 2, 2), 1).item()
    3.5
    """
    depth, *plane = output_size if isinstance(output_size, tuple | list) else (output_size,) * 3
    return _twice("adaptive_avg_pool3d", adaptive_avg_pool2d, input, {"output_size": (tuple(plane), (depth, None))})


def _root(mean: Tensor, norm_type: float, elements: int) -> Tensor:
    return pow(mul(mul(sign(mean), relu(abs(mean))), elements), 1 / norm_type)


def lp_pool2d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """Return the root of the sum of the powers `norm_type` of each window. As torch.nn.functional.lp_pool2d.

    >>> F.lp_pool2d(ta.tensor([[[3.0, 4.0]]]), 2, (1, 2)).item()
    5.0
    """
    kernel = many("lp_pool2d", "kernel_size", kernel_size, 2)
    return _root(avg_pool2d(pow(input, norm_type), kernel, stride, 0, ceil_mode), norm_type, kernel[0] * kernel[1])


def lp_pool1d(input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Tensor:
    """As `lp_pool2d`, of sequences: (n, c, length) -> (n, c, places).

    >>> F.lp_pool1d(ta.tensor([[3.0, 4.0]]), 2, 2).item()
    5.0
    """
    kernel = many("lp_pool1d", "kernel_size", kernel_size, 1)
    return _root(avg_pool1d(pow(input, norm_type), kernel, stride, 0, ceil_mode), norm_type, kernel[0])
