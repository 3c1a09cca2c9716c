"""Convolution, pooling and folding of sequences, images and volumes, with torch.nn's names and initial values."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from tinyattn.nn import functional as F
from tinyattn.nn import init
from tinyattn.nn.applied import Applied
from tinyattn.nn.module import Module, Parameter
from tinyattn.ops.convolution import many
from tinyattn.tensors import Tensor


class _ConvNd(Module):
    """Base of the convolutions, none of which is a subclass of another, as in PyTorch."""

    axes, transposed = 2, False
    weight: Parameter
    bias: Parameter | None

    def __init_subclass__(cls, axes: int | None = None) -> None:
        cls.axes = cls.axes if axes is None else axes

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self._set_up(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (first, second // groups, *self.kernel_size)
        self._add_parameters(device, dtype, weight=shape, bias=out_channels if bias else None)
        self.reset_parameters()

    def _set_up(
        self, inputs: int, outputs: int, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, mode: str
    ) -> None:
        name, n = type(self).__name__, self.axes
        if groups < 1 or inputs % groups or outputs % groups:
            raise ValueError(f"{name}: groups={groups} must divide in_channels={inputs} and out_channels={outputs}")
        if mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(f"{name}: padding_mode={mode!r}; expected 'zeros', 'reflect', 'replicate' or 'circular'")
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"{name}: padding={padding!r}; expected 'same', 'valid' or integers")
        self.in_channels, self.out_channels, self.groups, self.padding_mode = inputs, outputs, groups, mode
        self.kernel_size = many(name, "kernel_size", kernel, n)
        self.stride, self.dilation = many(name, "stride", stride, n), many(name, "dilation", dilation, n)
        self.output_padding = (0,) * n  # which transposed convolutions alone can set
        self.padding = padding if isinstance(padding, str) else many(name, "padding", padding, n, 0)
        if padding == "same" and any(s != 1 for s in self.stride):
            raise ValueError(f"{name}: padding='same' needs a stride of 1, got {self.stride}")

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(max(math.prod(self.weight.shape[1:]), 1))
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Return (batch, out_channels, ...) of an input (batch, in_channels, ...), or both without the batch."""
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with this weight and bias; subclasses that change the weight call it, as PyTorch's."""
        padding: Any = self.padding
        if self.padding_mode != "zeros" and padding != "valid":
            if padding == "same":
                total = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
                sides = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
            else:
                sides = [p for p in reversed(padding) for _ in range(2)]
            input, padding = F.pad(input, sides, self.padding_mode), 0
        convolve = getattr(F, f"conv{self.axes}d")
        return convolve(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        none, one = (0,) * self.axes, (1,) * self.axes
        more = {"padding": (self.padding, none), "dilation": (self.dilation, one),
                "output_padding": (self.output_padding, none),
                "groups": (self.groups, 1), "bias": (self.bias is not None, True),
                "padding_mode": (self.padding_mode, "zeros")}  # fmt: skip
        return text + "".join(f", {k}={v}" for k, (v, usual) in more.items() if v != usual)


class Conv2d(_ConvNd):
    """Slide kernels over images: (n, in_channels, h, w) -> (n, out_channels, rows, columns). As torch.nn.Conv2d.

    padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'. weight (out_channels, in_channels / groups, *kernel)
    and bias are initialised uniformly in ± 1 / sqrt(inputs of an output). Raises ValueError for other options.

    >>> nn.Conv2d(3, 8, 3, padding=1)(ta.ones(2, 3, 5, 5)).shape
    (2, 8, 5, 5)
    """


class Conv1d(_ConvNd, axes=1):
    """Slide kernels over sequences: (n, in_channels, length) -> (n, out_channels, places). As torch.nn.Conv1d.

    >>> nn.Conv1d(3, 8, 3, padding=1)(ta.ones(2, 3, 5)).shape
    (2, 8, 5)
    """


class Conv3d(_ConvNd, axes=3):
    """Slide kernels over volumes: (n, in_channels, d, h, w) -> (n, out_channels, planes, rows, columns).

    Options, initial values and errors as Conv2d's. As torch.nn.Conv3d.

    >>> nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4))(ta.ones(1, 3, 4, 8, 8)).shape
    (1, 8, 2, 2, 2)
    """


class _ConvTransposeNd(_ConvNd):
    """Base of the transposed convolutions."""

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f"{type(self).__name__}: padding_mode={padding_mode!r}; only 'zeros' is supported")
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, "zeros", device, dtype
        )
        self.output_padding = many(type(self).__name__, "output_padding", output_padding, self.axes, 0)

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """Return the output; output_size: its last sizes, among those that one stride allows. Else ValueError."""
        transposed = getattr(F, f"conv_transpose{self.axes}d")
        added = self.output_padding if output_size is None else self._padding_to(output_size, input)
        return transposed(input, self.weight, self.bias, self.stride, self.padding, added, self.groups, self.dilation)

    def _padding_to(self, output_size: Any, input: Tensor) -> tuple[int, ...]:
        """The rows and columns to add at the end."""
        sizes: Any = zip(
            input.shape[-self.axes :], self.kernel_size, self.stride, self.padding, self.dilation, strict=True
        )
        least = [(n - 1) * step - 2 * pad + far * (kernel - 1) + 1 for n, kernel, step, pad, far in sizes]
        wanted = [int(n) for n in output_size]
        added = [n - low for n, low in zip(wanted[-self.axes :], least, strict=True)]
        if any(not 0 <= n < max(step, 1) for n, step in zip(added, self.stride, strict=True)):
            most = [low + step - 1 for low, step in zip(least, self.stride, strict=True)]
            raise ValueError(f"{type(self).__name__}: output_size={wanted}; expected sizes from {least} to {most}")
        return tuple(added)


class ConvTranspose2d(_ConvTransposeNd):
    """The transpose of `Conv2d`: (n, in_channels, h, w) -> (n, out_channels, rows, columns).

    output_padding: rows and columns added at the end. As torch.nn.ConvTranspose2d.

    >>> nn.ConvTranspose2d(3, 8, 2, stride=2)(ta.ones(2, 3, 5, 5)).shape
    (2, 8, 10, 10)
    """


class ConvTranspose1d(_ConvTransposeNd, axes=1):
    """The transpose of `Conv1d`: (n, in_channels, length) -> (n, out_channels, places). As torch.nn.ConvTranspose1d.

    >>> nn.ConvTranspose1d(3, 8, 2, stride=2)(ta.ones(2, 3, 5)).shape
    (2, 8, 10)
    """


class ConvTranspose3d(_ConvTransposeNd, axes=3):
    """The transpose of `Conv3d`: (n, in_channels, d, h, w) -> (n, out_channels, planes, rows, columns).

    As torch.nn.ConvTranspose3d.

    >>> nn.ConvTranspose3d(3, 8, 2, stride=2)(ta.ones(2, 3, 5, 5, 5)).shape
    (2, 8, 10, 10, 10)
    """


# --- pooling and folding: one function each ---


class _Pool(Applied):
    """Base of the poolings by windows, whose stride is by default their size."""

    hidden: ClassVar[tuple[str, ...]] = ("return_indices", "divisor_override", "count_include_pad")
    kernel_size: Any
    stride: Any

    def _set_up(self, arguments: dict[str, Any]) -> None:
        super()._set_up(arguments)
        self.stride = self.kernel_size if self.stride is None else self.stride


class _MaxPoolNd(_Pool):
    """Base of the poolings by maximum. As in PyTorch, the functions have the last two arguments in the other order."""

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        self._set_up(locals())


class _AvgPoolNd(_Pool):
    """Base of the poolings by mean."""

    hidden = ("ceil_mode", *_Pool.hidden)

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> None:  # fmt: skip
        self._set_up(locals())


class _AdaptiveAvgPoolNd(Applied):
    """Base of the poolings by mean into a given size."""

    def __init__(self, output_size: Any) -> None:
        self._set_up(locals())


class _AdaptiveMaxPoolNd(Applied):
    """Base of the poolings by maximum into a given size."""

    hidden = ("return_indices",)

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        self._set_up(locals())


class _LPPoolNd(Applied):
    """Base of the poolings by a norm."""

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> None:
        self._set_up(locals())


class AvgPool1d(_AvgPoolNd, function=F.avg_pool1d, example=(2,)):
    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        self._set_up(locals())
        for name in ("kernel_size", "stride", "padding"):
            setattr(self, name, many("AvgPool1d", name, getattr(self, name), 1, 0))


# fmt: off
class AvgPool2d(_AvgPoolNd, function=F.avg_pool2d, example=(2,)): ...
class AvgPool3d(_AvgPoolNd, function=F.avg_pool3d, example=(2,)): ...
class MaxPool1d(_MaxPoolNd, function=F.max_pool1d, example=(2,)): ...
class MaxPool2d(_MaxPoolNd, function=F.max_pool2d, example=(2,)): ...
class MaxPool3d(_MaxPoolNd, function=F.max_pool3d, example=(2,)): ...
class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd, function=F.adaptive_avg_pool1d, example=(2,)): ...
class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd, function=F.adaptive_avg_pool2d, example=(1,)): ...
class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd, function=F.adaptive_avg_pool3d, example=(1,)): ...
class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd, function=F.adaptive_max_pool1d, example=(2,)): ...
class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd, function=F.adaptive_max_pool2d, example=(1,)): ...
class AdaptiveMaxPool3d(_AdaptiveMaxPoolNd, function=F.adaptive_max_pool3d, example=(1,)): ...
class LPPool1d(_LPPoolNd, function=F.lp_pool1d, example=(2, 2)): ...
class LPPool2d(_LPPoolNd, function=F.lp_pool2d, example=(2, (1, 2))): ...
class Unfold(Applied, function=F.unfold, example=(2,)):
    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
        self._set_up(locals())
class Fold(Applied, function=F.fold, example=((3, 3), 2)):
    def __init__(
        self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1,
    ) -> None:
        self._set_up(locals())
# fmt: on
