"""Convolution, pooling and folding layers, with the names, shapes and initial values of torch.nn."""

from __future__ import annotations

import math
from typing import Any

from tinyattn.nn import functional as F
from tinyattn.nn import init
from tinyattn.nn.module import Module, Parameter
from tinyattn.ops import creation
from tinyattn.ops.convolution import many
from tinyattn.tensors import Tensor

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AvgPool1d", "AvgPool2d",
    "Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d", "Fold", "MaxPool1d", "MaxPool2d", "Unfold",
]  # fmt: skip


class _ConvNd(Module):
    """Base of the convolutions, none of which is a subclass of another, as in PyTorch."""

    axes, transposed = 2, False
    weight: Parameter
    bias: Parameter | None

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
        self.weight = Parameter(creation.empty(*shape, device=device, dtype=dtype))
        unset = Parameter(creation.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", unset)
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
        padding: Any = self.padding
        if self.padding_mode != "zeros" and padding != "valid":
            if padding == "same":
                total = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
                sides = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
            else:
                sides = [p for p in reversed(padding) for _ in range(2)]
            input, padding = F.pad(input, sides, self.padding_mode), 0
        convolve = getattr(F, f"conv{self.axes}d")
        return convolve(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        none, one = (0,) * self.axes, (1,) * self.axes
        more = {"padding": (self.padding, none), "dilation": (self.dilation, one),
                "output_padding": (getattr(self, "output_padding", none), none),
                "groups": (self.groups, 1), "bias": (self.bias is not None, True),
                "padding_mode": (self.padding_mode, "zeros")}  # fmt: skip
        return text + "".join(f", {k}={v}" for k, (v, usual) in more.items() if v != usual)


class Conv2d(_ConvNd):
    """Slide kernels over images: (n, in_channels, h, w) -> (n, out_channels, rows, columns). As torch.nn.Conv2d.

    padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'. weight (out_channels, in_channels / groups, *kernel)
    and bias are initialised uniformly in ± 1 / sqrt(inputs of an output). Raises ValueError for other options.

    Example:
        >>> nn.Conv2d(3, 8, 3, padding=1)(ta.ones(2, 3, 5, 5)).shape
        (2, 8, 5, 5)
    """


class Conv1d(_ConvNd):
    """Slide kernels over sequences: (n, in_channels, length) -> (n, out_channels, places). As torch.nn.Conv1d.

    Example:
        >>> nn.Conv1d(3, 8, 3, padding=1)(ta.ones(2, 3, 5)).shape
        (2, 8, 5)
    """

    axes = 1


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

    def forward(self, input: Tensor) -> Tensor:
        transposed = F.conv_transpose2d if self.axes == 2 else F.conv_transpose1d
        options = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return transposed(input, self.weight, self.bias, *options)


class ConvTranspose2d(_ConvTransposeNd):
    """The transpose of `Conv2d`: (n, in_channels, h, w) -> (n, out_channels, rows, columns).

    output_padding: rows and columns added at the end. As torch.nn.ConvTranspose2d, whose output_size is left out.

    Example:
        >>> nn.ConvTranspose2d(3, 8, 2, stride=2)(ta.ones(2, 3, 5, 5)).shape
        (2, 8, 10, 10)
    """


class ConvTranspose1d(_ConvTransposeNd):
    """The transpose of `Conv1d`: (n, in_channels, length) -> (n, out_channels, places). As torch.nn.ConvTranspose1d.

    Example:
        >>> nn.ConvTranspose1d(3, 8, 2, stride=2)(ta.ones(2, 3, 5)).shape
        (2, 8, 10)
    """

    axes = 1


# --- pooling ---


class _Options(Module):
    """A layer without parameters, whose attributes are the options of a function."""

    function: str
    _names: tuple[str, ...]

    def _keep(self, **options: Any) -> None:
        self._names = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, input: Tensor) -> Any:
        return getattr(F, self.function)(input, **{name: getattr(self, name) for name in self._names})

    def extra_repr(self) -> str:
        shown = [n for n in self._names if n not in ("return_indices", "divisor_override", "count_include_pad")]
        average = self.function.startswith("avg")
        values = {n: getattr(self, n) for n in shown if not (average and n == "ceil_mode")}
        if self.function == "avg_pool1d":
            values = {n: (v,) if isinstance(v, int) else tuple(v) for n, v in values.items()}
        return ", ".join(f"{name}={value!r}" for name, value in values.items())


class _MaxPoolNd(_Options):
    """Base of the poolings by maximum."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        self._keep(kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode,
                   return_indices=return_indices)  # fmt: skip


class MaxPool2d(_MaxPoolNd):
    """Return the largest element of each window of images. As torch.nn.MaxPool2d; options as F.max_pool2d.

    Example:
        >>> nn.MaxPool2d(2)(ta.ones(1, 3, 4, 4)).shape
        (1, 3, 2, 2)
    """

    function = "max_pool2d"


class MaxPool1d(_MaxPoolNd):
    """Return the largest element of each window of sequences. As torch.nn.MaxPool1d.

    Example:
        >>> nn.MaxPool1d(2)(ta.ones(1, 3, 4)).shape
        (1, 3, 2)
    """

    function = "max_pool1d"


class _AvgPoolNd(_Options):
    """Base of the poolings by mean of images and volumes."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        self._keep(kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode,
                   count_include_pad=count_include_pad, divisor_override=divisor_override)  # fmt: skip


class AvgPool2d(_AvgPoolNd):
    """Return the mean of each window of images. As torch.nn.AvgPool2d; options as F.avg_pool2d.

    Example:
        >>> nn.AvgPool2d(2)(ta.ones(1, 3, 4, 4)).shape
        (1, 3, 2, 2)
    """

    function = "avg_pool2d"


class AvgPool1d(_Options):
    """Return the mean of each window of sequences. As torch.nn.AvgPool1d.

    Example:
        >>> nn.AvgPool1d(2)(ta.ones(1, 3, 4)).shape
        (1, 3, 2)
    """

    function = "avg_pool1d"

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        self._keep(kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode,
                   count_include_pad=count_include_pad)  # fmt: skip


class _AdaptiveAvgPoolNd(_Options):
    """Base of the poolings by mean into a given size."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self._keep(output_size=output_size)


class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd):
    """Return means of windows that give `output_size`. As torch.nn.AdaptiveAvgPool2d.

    Example:
        >>> nn.AdaptiveAvgPool2d(1)(ta.ones(1, 3, 4, 4)).shape
        (1, 3, 1, 1)
    """

    function = "adaptive_avg_pool2d"


class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd):
    """Return means of `output_size` windows of sequences. As torch.nn.AdaptiveAvgPool1d.

    Example:
        >>> nn.AdaptiveAvgPool1d(2)(ta.ones(1, 3, 4)).shape
        (1, 3, 2)
    """

    function = "adaptive_avg_pool1d"


class _AdaptiveMaxPoolNd(_Options):
    """Base of the poolings by maximum into a given size."""

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__()
        self._keep(output_size=output_size, return_indices=return_indices)


class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd):
    """Return the largest elements of windows that give `output_size`. As torch.nn.AdaptiveMaxPool2d.

    Example:
        >>> nn.AdaptiveMaxPool2d(1)(ta.ones(1, 3, 4, 4)).shape
        (1, 3, 1, 1)
    """

    function = "adaptive_max_pool2d"


class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd):
    """Return the largest elements of `output_size` windows. As torch.nn.AdaptiveMaxPool1d.

    Example:
        >>> nn.AdaptiveMaxPool1d(2)(ta.ones(1, 3, 4)).shape
        (1, 3, 2)
    """

    function = "adaptive_max_pool1d"


class Unfold(_Options):
    """Return the windows of images as columns. As torch.nn.Unfold; options as F.unfold.

    Example:
        >>> nn.Unfold(2)(ta.ones(1, 2, 3, 3)).shape
        (1, 8, 4)
    """

    function = "unfold"

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
        super().__init__()
        self._keep(kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride)


class Fold(_Options):
    """Add windows up to images, the transpose of `Unfold`. As torch.nn.Fold; options as F.fold.

    Example:
        >>> nn.Fold((3, 3), 2)(ta.ones(1, 8, 4)).shape
        (1, 2, 3, 3)
    """

    function = "fold"

    def __init__(
        self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
    ) -> None:
        super().__init__()
        self._keep(output_size=output_size, kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride)
