"""Layers of torch.nn that few models use, and Adafactor."""

from __future__ import annotations

import copy
import functools
import math
from collections import namedtuple
from typing import Any

import tinyattn as ta
from tinyattn import nn, optim
from tinyattn.autograd import Function
from tinyattn.nn import functional as F
from tinyattn.nn.applied import Applied
from tinyattn.nn.normalization import _InstanceNorm
from tinyattn.ops.convolution import many
from tinyattn.ops.loss import _reduce


def rrelu(input: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False) -> Any:
    """Return the input, times a slope where it is below 0: drawn in training, else the mean. As F.rrelu."""
    slope = ta.rand_like(input) * (upper - lower) + lower if training else (lower + upper) / 2
    out = ta.where(input < 0, input * slope, input)
    return input.copy_(out) if inplace else out


class RReLU(Applied, function=rrelu):
    """As torch.nn.RReLU: `rrelu` with the layer's mode."""

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False) -> None:
        self._set_up(locals())


class InstanceNorm3d(_InstanceNorm):
    """As InstanceNorm2d, of volumes, and as torch.nn.InstanceNorm3d."""

    ndims = (4, 5)


def triplet_margin_with_distance_loss(
    anchor: Any, positive: Any, negative: Any, distance_function: Any = None, margin: float = 1.0,
    swap: bool = False, reduction: str = "mean",
) -> Any:  # fmt: skip
    """`triplet_margin_loss` by any distance of vectors. As torch.nn.functional.triplet_margin_with_distance_loss."""
    far = distance_function or F.pairwise_distance
    apart = far(anchor, negative)
    apart = ta.minimum(apart, far(positive, negative)) if swap else apart
    return _reduce((far(anchor, positive) - apart + margin).clamp(min=0), reduction)


class TripletMarginWithDistanceLoss(Applied, function=triplet_margin_with_distance_loss, inputs=3):
    """As torch.nn.TripletMarginWithDistanceLoss: that function with the layer's options."""

    def __init__(
        self, *, distance_function: Any = None, margin: float = 1.0, swap: bool = False, reduction: str = "mean"
    ) -> None:
        self._set_up(locals())


# --- batch norm in evaluation, as part of the layer before it ---


def _fuse(layer: Any, norm: Any, transpose: bool = False) -> Any:
    """Return a copy of the layer that computes norm(layer(x)). As torch.nn.utils.fusion.fuse_conv_bn_eval."""
    if layer.training or norm.training:
        raise ValueError("fuse: the layers are in training mode; expected that of evaluation (call .eval())")
    fused = copy.deepcopy(layer)
    with ta.no_grad():
        scale = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
        bias = norm.running_mean.neg() if layer.bias is None else layer.bias - norm.running_mean
        shape = [-1 if axis == int(transpose) else 1 for axis in range(layer.weight.ndim)]
        fused.weight = nn.Parameter(layer.weight * scale.reshape(shape))
        fused.bias = nn.Parameter(bias * scale + (0.0 if norm.bias is None else norm.bias))
    return fused


# --- modules ---


def no_forward(self: Any, *args: Any, **kwargs: Any) -> None:
    """Raise NotImplementedError: torch.nn.Module.forward, with which programs compare a subclass's."""
    raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')


class _IsBuffer(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, ta.Tensor) and getattr(instance, "_is_buffer", False)


class Buffer(metaclass=_IsBuffer):
    """A tensor that becomes a buffer of the module which it is assigned to. As torch.nn.Buffer."""

    def __new__(cls, data: Any = None, *, persistent: bool = True) -> Any:
        """Return the tensor, cut off from its graph. persistent: whether it belongs to the state_dict."""
        out = ta.empty(0) if data is None else data.detach().requires_grad_(data.requires_grad)
        out._is_buffer, out.persistent = True, persistent
        return out


def registering(assign: Any) -> Any:
    """Return a Module.__setattr__ that registers buffers, and assigns all else as `assign`."""

    def set_attribute(self: Any, name: str, value: Any) -> None:
        if not (isinstance(value, ta.Tensor) and getattr(value, "_is_buffer", False)):
            assign(self, name, value)
            return
        self.__dict__.get("_buffers", {}).pop(name, None)
        self.register_buffer(name, value, persistent=value.persistent)

    return set_attribute


@ta.no_grad()
def sparse_(tensor: Any, sparsity: float, std: float = 0.01, generator: Any = None) -> Any:
    """Fill a matrix (rows, columns) with normal numbers, but a share of each column with 0. As torch.nn.init.sparse_.

    sparsity: the share of zeros, 0 to 1. Raises ValueError unless the tensor has two dimensions.
    """
    if tensor.ndim != 2:
        raise ValueError(f"sparse_: the tensor has shape {tuple(tensor.shape)}; expected 2 dimensions")
    order = ta.rand(*tensor.shape, device=tensor.device, generator=generator).argsort(0)  # of each column
    return tensor.normal_(0, std, generator=generator).masked_fill_(order < math.ceil(sparsity * len(tensor)), 0)


# --- the inverse of pooling ---


class _Unpool(Function):
    """Elements at their positions; if several meet in one, each has the gradient there, as in PyTorch."""

    @staticmethod
    def forward(ctx: Any, x: Any, index: Any, size: int) -> Any:
        ctx.save_for_backward(index)
        return x.new_zeros(*x.shape[:-1], size).scatter(-1, index, x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g.gather(-1, ctx.saved_tensors[0]), None, None


def _max_unpool(
    n: int, input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Any:
    """Return zeros, and the elements of `input` at the positions that max_pool returned. As F.max_unpool2d."""
    name, lead = f"max_unpool{n}d", input.shape[: input.ndim - n]
    kernel = many(name, "kernel_size", kernel_size, n)
    stride, padding = many(name, "stride", stride or kernel, n), many(name, "padding", padding, n, 0)
    each = zip(input.shape[-n:], kernel, stride, padding, strict=True)
    usual = [(m - 1) * s - 2 * p + k for m, k, s, p in each]
    size = usual if output_size is None else [int(m) for m in output_size][-n:]
    if any(abs(m - u) >= s for m, u, s in zip(size, usual, stride, strict=True)):
        raise ValueError(f"{name}: output_size={size}; expected less than the stride {stride} from {usual}")
    flat = _Unpool.apply(input.reshape(*lead, -1), indices.reshape(*lead, -1), ta.Size(size).numel())
    return flat.reshape(*lead, *size)


class _MaxUnpool(nn.Module):
    _shown = "kernel_size={0.kernel_size}, stride={0.stride}, padding={0.padding}"
    axes = 2

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        super().__init__()
        given = {"kernel_size": kernel_size, "stride": stride or kernel_size, "padding": padding}
        for name, value in given.items():
            setattr(self, name, many(type(self).__name__, name, value, self.axes, 0 if name == "padding" else 1))

    def forward(self, input: Any, indices: Any, output_size: Any = None) -> Any:
        return _max_unpool(self.axes, input, indices, self.kernel_size, self.stride, self.padding, output_size)


# --- a softmax over many classes ---

Likelihood = namedtuple("Likelihood", "output loss")


class AdaptiveLogSoftmaxWithLoss(nn.Module):
    """A softmax over many classes, sorted by frequency: the rarer a cluster of them, the narrower its projection.

    cutoffs: where the clusters after the first begin. As torch.nn.AdaptiveLogSoftmaxWithLoss (Grave et al. 2017).
    """

    def __init__(
        self, in_features: int, n_classes: int, cutoffs: Any, div_value: float = 4.0, head_bias: bool = False,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        ends = [0, *cutoffs, n_classes]
        if len(ends) < 3 or ends != sorted({int(end) for end in ends}):
            raise ValueError(f"cutoffs={cutoffs}; expected increasing integers between 1 and n_classes - 1")
        self.in_features, self.n_classes, self.cutoffs = in_features, n_classes, ends[1:]
        self.div_value, self.shortlist_size, self.n_clusters = div_value, ends[1], len(ends) - 2
        where = {"device": device, "dtype": dtype}
        self.head = nn.Linear(in_features, ends[1] + self.n_clusters, bias=head_bias, **where)
        self.tail = nn.ModuleList()
        for i in range(self.n_clusters):
            width, size = int(in_features // div_value ** (i + 1)), ends[i + 2] - ends[i + 1]
            each = [nn.Linear(m, n, bias=False, **where) for m, n in ((in_features, width), (width, size))]
            self.tail.append(nn.Sequential(*each))

    def forward(self, input_: Any, target_: Any) -> Any:
        """Return the log-probabilities of the targets, and the mean of minus them."""
        x, target = (input_, target_) if target_.ndim else (input_[None], target_[None])
        if len(x) != len(target) or not bool(((target >= 0) & (target < self.n_classes)).all()):
            raise RuntimeError(f"{len(target)} targets for {len(x)} rows; expected as many, below {self.n_classes}")
        first, output = target, x.new_zeros(len(x))
        for i, low in enumerate(self.cutoffs[:-1]):
            rows = ((target >= low) & (target < self.cutoffs[i + 1])).nonzero()[:, 0]
            within = F.log_softmax(self.tail[i](x[rows]), 1).gather(1, target[rows][:, None] - low)
            output = output.index_add(0, rows, within[:, 0])
            first = first.index_fill(0, rows, self.shortlist_size + i)
        output = output + F.log_softmax(self.head(x), 1).gather(1, first[:, None])[:, 0]
        return Likelihood(output if target_.ndim else output[0], -output.mean())

    def log_prob(self, input: Any) -> Any:
        """Return the log-probabilities of all classes, (batch, n_classes)."""
        head, n = F.log_softmax(self.head(input), 1), self.shortlist_size
        clusters = [F.log_softmax(tail(input), 1) + head[:, n + i, None] for i, tail in enumerate(self.tail)]
        return ta.cat([head[:, :n], *clusters], 1)

    def predict(self, input: Any) -> Any:
        """Return the most probable classes."""
        return self.log_prob(input).argmax(1)


class Adafactor(optim.Optimizer):
    """Adam whose averages of the squares of a matrix are those of its rows and columns. As torch.optim.Adafactor.

    lr: the longest relative step; others are 1 / sqrt(t). beta2_decay: the averages keep 1 - t ** beta2_decay. eps: the
    least square (None: the dtype's eps), and the least scale of a parameter. d: the longest update (Shazeer 2018).
    """

    def __init__(
        self, params: Any, lr: Any = 1e-2, beta2_decay: float = -0.8, eps: Any = (None, 1e-3), d: float = 1.0,
        weight_decay: float = 0.0, *, foreach: Any = None, maximize: bool = False,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize}, foreach=foreach)

    def check(self, options: Any) -> None:
        least = {"lr": 0, "d": 1, "weight_decay": 0}
        if options["beta2_decay"] > 0 or any(options[name] < limit for name, limit in least.items()):
            raise ValueError(f"Adafactor: {options}; expected lr and weight_decay >= 0, d >= 1 and beta2_decay <= 0")

    @ta.no_grad()
    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        p, g = param.detach(), ta.as_tensor(grad)
        if not state:
            sums = {"row_var": g[..., :1], "col_var": g[..., :1, :]} if g.ndim > 1 else {"variance": g}
            state.update(step=ta.tensor(0.0), **{name: ta.zeros_like(x) for name, x in sums.items()})
        state["step"] += 1
        t, (least, scale), size = state["step"].item(), group["eps"], p.numel() ** 0.5
        least, share = ta.finfo(p.dtype).eps if least is None else least, t ** group["beta2_decay"]
        alpha = max(scale, p.norm().item() / size) * min(group["lr"], t**-0.5)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        if g.ndim > 1:
            rows = state["row_var"].lerp_((g * g).mean(-1, True), share)
            square = rows @ state["col_var"].lerp_((g * g).mean(-2, True), share)
            square = square / rows.mean(-2, True).clamp(min=least)
        else:
            square = state["variance"].lerp_(g * g, share)
        step = square.clamp(min=least * least).rsqrt() * (-g if group["maximize"] else g)
        p.sub_(step * (alpha / max(1.0, step.norm().item() / (size * group["d"]))))


FUSION = {"fuse_conv_bn_eval": _fuse, "fuse_linear_bn_eval": _fuse}
FUNCTIONAL: dict[str, Any] = {f.__name__: f for f in (rrelu, triplet_margin_with_distance_loss)}
FUNCTIONAL |= {f"max_unpool{n}d": functools.partial(_max_unpool, n) for n in (1, 2, 3)}
POOLS = {f"max_pool{n}d_with_indices": getattr(F, f"max_pool{n}d") for n in (1, 2, 3)}
FUNCTIONAL |= {name: functools.partial(pool, return_indices=True) for name, pool in POOLS.items()}
NN: dict[str, Any] = {f"MaxUnpool{n}d": type(f"MaxUnpool{n}d", (_MaxUnpool,), {"axes": n}) for n in (1, 2, 3)}
NN |= {x.__name__: x for x in (AdaptiveLogSoftmaxWithLoss, InstanceNorm3d, RReLU, TripletMarginWithDistanceLoss)}
