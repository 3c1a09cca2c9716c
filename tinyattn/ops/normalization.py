"""Normalisation over features, batches, groups of channels and instances, and by root mean squares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyattn.engine.operation import operation
from tinyattn.engine.opmath import opmath_dtype
from tinyattn.engine.variable import Tensor, recording_namespace
from tinyattn.ops import dims as _dims
from tinyattn.ops.copies import cast
from tinyattn.ops.promotion import floating
from tinyattn.ops.reductions import deviations
from tinyattn.ops.shape import reshape, reshape_result


def _layer_definition(xp: Any, x: Any, weight: Any, bias: Any, *, shape: tuple[int, ...], eps: float) -> Any:
    dim = tuple(range(-len(shape), 0))
    centred = deviations(xp, x, dim)
    out = centred * xp.rsqrt(xp.mean(centred * centred, dim, keepdim=True) + eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _of_input(x: Any, *parameters: Any) -> tuple[Any, ...]:
    """A floating input, and the parameters in the dtype in which it is computed: a kernel reads all in one dtype."""
    (x,) = floating(x)
    return x, *(p if p is None or p.dtype == x.dtype else cast(p, opmath_dtype(x.dtype)) for p in parameters)


@operation(
    promote=_of_input,
    traits="rows",
    definition=_layer_definition,
    fresh=True,
    extras=("normal", "rstd"),
    backward=lambda xp, g, normal, rstd, weight, shape, needed: xp.layer_norm_backward(
        g, normal, rstd, weight, shape, needed
    ),
)
def _layer_norm(xp: Any, x: Any, weight: Any, bias: Any, *, shape: tuple[int, ...], eps: float) -> Any:
    return xp.layer_norm(x, weight, bias, shape, eps)


def _last_sizes(name: str, given: Any, input: Tensor) -> tuple[int, ...]:
    shape = _dims.sizes((given,))
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise RuntimeError(
            f"{name}: normalized_shape={shape} must equal the last sizes of the input, {tuple(input.shape)}"
        )
    return shape


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Shift and scale the last axes to mean 0 and variance 1, then multiply by weight and add bias.

    input: (..., *normalized_shape). weight, bias: of shape normalized_shape. eps is added to the variance. Raises
    RuntimeError for shapes that do not fit. Ba, Kiros and Hinton 2016, "Layer normalization". As
    torch.nn.functional.layer_norm.

    Example:
        >>> ta.layer_norm(ta.tensor([[1.0, 2.0, 3.0]]), 3)
        tensor([[-1.2247,  0.    ,  1.2247]])
    """
    shape = _last_sizes("layer_norm", normalized_shape, input)
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and tuple(x.shape) != shape:
            raise RuntimeError(f"layer_norm: {name} has shape {tuple(x.shape)}; expected {shape}")
    if math.prod(input.shape) == 0:
        return _layer_definition(recording_namespace(), input, weight, bias, shape=shape, eps=eps)
    return _layer_norm(input, weight, bias, shape=shape, eps=eps)


# --- batches, groups, instances, root mean squares ---


def _rows(xp: Any, x: Any) -> Any:
    """(n, channels, ...) -> (n, channels, elements)."""
    return xp.reshape(x, (*x.shape[:2], math.prod(x.shape[2:])))


def _batch_definition(xp: Any, x: Any, weight: Any, bias: Any, mean: Any, rstd: Any, *, eps: float) -> Any:
    h = _rows(xp, x)
    centred = h - xp.mean(h, (0, 2), keepdim=True)  # mean and rstd depend on x, so they are computed again
    out = centred * xp.rsqrt(xp.mean(centred * centred, (0, 2), keepdim=True) + eps)
    out = out if weight is None else out * xp.reshape(weight, (-1, 1))
    out = out if bias is None else out + xp.reshape(bias, (-1, 1))
    return xp.reshape(out, x.shape)


def _batch_backward(xp: Any, g: Any, x: Any, weight: Any, mean: Any, rstd: Any, needed: Any) -> Any:
    """With h = g weight, dx = rstd (h - mean(h) - normal mean(h normal)); the means are over the batch."""
    out = xp.empty(x.shape, x.dtype) if needed[0] else None
    dweight, dbias = xp.empty(mean.shape, x.dtype), xp.empty(mean.shape, x.dtype)
    size = math.prod(x.shape[2:])
    for part in xp.channel_blocks(x):
        gs, h = (a[:, part].reshape(len(x), -1, size) for a in (g, x))
        h = h - xp.spread(mean[part], size)
        dbias[part] = sums = xp.sum(gs, (0, 2))
        dweight[part] = along = xp.sum(gs * h, (0, 2)) * rstd[part]
        if out is not None:
            scale = rstd[part] if weight is None else rstd[part] * weight[part]
            count = x.size // x.shape[1]
            h *= xp.spread(along * scale * rstd[part] / -count, size)
            h += gs * xp.spread(scale, size)
            h -= xp.spread(sums * scale / count, size)
            out[:, part] = h.reshape(out[:, part].shape)
    return out, dweight if needed[1] else None, dbias if needed[2] else None, None, None


@operation(traits="multiplies", definition=_batch_definition, fresh=True, backward=_batch_backward)
def _batch_norm(xp: Any, x: Any, weight: Any, bias: Any, mean: Any, rstd: Any, *, eps: float) -> Any:
    out, size = xp.empty(x.shape, x.dtype), math.prod(x.shape[2:])
    for part in xp.channel_blocks(x):
        h = x[:, part].reshape(len(x), -1, size) - xp.spread(mean[part], size)
        h *= xp.spread(rstd[part] if weight is None else rstd[part] * weight[part], size)
        if bias is not None:
            h += xp.spread(bias[part], size)
        out[:, part] = h.reshape(out[:, part].shape)
    return out


@operation()
def _batch_mean_var(xp: Any, x: Any) -> Any:
    """The mean and the biased variance of each channel: (2, channels)."""
    out = xp.empty((2, x.shape[1]), x.dtype)
    count, size = float(x.size // x.shape[1]), math.prod(x.shape[2:])
    for part in xp.channel_blocks(x):
        h = x[:, part].reshape(len(x), -1, size)
        out[0, part] = mean = xp.sum(h, (0, 2)) / count
        h = h - xp.spread(mean, size)
        h *= h
        out[1, part] = xp.sum(h, (0, 2)) / count
    return out


def _check(name: str, input: Tensor, channels: int, **tensors: Tensor | None) -> None:
    for what, x in tensors.items():
        if x is not None and tuple(x.shape) != (channels,):
            raise RuntimeError(
                f"{name}: {what} has shape {tuple(x.shape)}; expected ({channels},), one number for each channel of "
                f"the input {tuple(input.shape)}"
            )


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of (n, channels, ...) over the batch, then multiply by weight and add bias.

    training: normalise by the batch's own statistics, and move the running ones (if given) towards them, in place, by
    `momentum`; otherwise normalise by the running ones. Raises ValueError for a batch of one number a channel.
    Ioffe and Szegedy 2015, "Batch normalization". As torch.nn.functional.batch_norm.

    >>> F.batch_norm(ta.tensor([[1.0], [3.0]]), None, None, training=True, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    if input.shape == (0,):  # as in PyTorch
        return input.clone()
    if input.ndim < 2:
        raise RuntimeError(f"batch_norm: the input has shape {tuple(input.shape)}; expected (n, channels, ...)")
    channels = input.shape[1]
    _check("batch_norm", input, channels, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("batch_norm: without training, give running_mean and running_var")
        shape = (channels, *(1 for _ in input.shape[2:]))
        scale = recording_namespace().rsqrt(running_var.detach() + eps)
        scale = scale if weight is None else scale * weight
        out = (input - reshape(running_mean.detach(), shape)) * reshape(scale, shape)
        return out if bias is None else out + reshape(bias, shape)
    count = math.prod(input.shape) // max(channels, 1)
    if count == 1:
        raise ValueError(
            f"batch_norm: expected more than one value a channel in training, got the shape {tuple(input.shape)}; "
            "give a larger batch, or call eval()"
        )
    if not math.prod(input.shape):
        return _batch_definition(recording_namespace(), input, weight, bias, None, None, eps=eps)
    if input.dtype == np.float16:  # squares leave its range above 256
        w, b = (x if x is None else x.float() for x in (weight, bias))
        return batch_norm(input.float(), running_mean, running_var, w, b, True, momentum, eps).to(input.dtype)
    mean, var = _batch_mean_var(input.detach())
    for running, new in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        if running is not None:
            running.copy_(running.detach() * (1 - momentum) + new * momentum)
    return _batch_norm(input, weight, bias, mean, (var + eps).rsqrt(), eps=eps)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise each group of channels of each sample of (n, channels, ...), then multiply by weight and add bias.

    Raises RuntimeError if the channels cannot be divided. Wu and He 2018, "Group normalization". As
    torch.nn.functional.group_norm.

    >>> F.group_norm(ta.tensor([[1.0, 3.0, 5.0, 5.0]]), 2, eps=0.0)[0, :2].tolist()
    [-1.0, 1.0]
    """
    if input.ndim < 2 or num_groups < 1 or input.shape[1] % num_groups:
        raise RuntimeError(f"group_norm: cannot divide {tuple(input.shape)} by {num_groups} groups")
    channels = input.shape[1]
    _check("group_norm", input, channels, weight=weight, bias=bias)
    width = math.prod(input.shape[1:]) // num_groups
    out = layer_norm(reshape(input, (input.shape[0], num_groups, width)), width, eps=eps)
    out = reshape_result(out, input.shape)
    shape = (channels, *(1 for _ in input.shape[2:]))
    out = out if weight is None else out * reshape(weight, shape)
    return out if bias is None else out + reshape(bias, shape)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each sample of (n, channels, ...). As torch.nn.functional.instance_norm.

    use_input_stats: by its own statistics, whose means over the batch move the running ones; else by the running ones.

    >>> F.instance_norm(ta.tensor([[[1.0, 3.0]]]), eps=0.0).tolist()
    [[[-1.0, 1.0]]]
    """
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    count = math.prod(input.shape[2:])
    if count == 1:
        raise ValueError(f"instance_norm: expected more than one value a channel, got the shape {tuple(input.shape)}")
    if running_mean is not None or running_var is not None:
        x = input.detach()
        dim = tuple(range(2, x.ndim))
        for running, new in ((running_mean, x.mean(dim)), (running_var, x.var(dim))):
            if running is not None:
                running.copy_(running.detach() * (1 - momentum) + new.mean(0) * momentum)
    return group_norm(input, max(input.shape[1], 1), weight, bias, eps)


def rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Divide the last axes, normalized_shape, by their root mean square, then multiply by weight.

    eps: added to the mean square; None: the smallest step of the dtype. Zhang and Sennrich 2019, "Root mean square
    layer normalization". As torch.nn.functional.rms_norm.

    >>> F.rms_norm(ta.tensor([3.0, 3.0]), 2).tolist()
    [1.0, 1.0]
    """
    shape = _last_sizes("rms_norm", normalized_shape, input)
    x = input.float() if input.dtype == np.float16 else input
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    square = (x * x).mean(tuple(range(-len(shape), 0)), keepdim=True)
    out = (x * (square + eps).rsqrt()).to(input.dtype)
    return out if weight is None else out * weight
