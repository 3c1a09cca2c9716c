"""Layers of volumes (videos, scans), and poolings by a norm."""

from __future__ import annotations

from typing import Any

from tinyattn.nn.convolution import _AdaptiveAvgPoolNd, _AvgPoolNd, _ConvNd, _MaxPoolNd, _Options
from tinyattn.nn.normalization import _BatchNorm

__all__ = ["AdaptiveAvgPool3d", "AvgPool3d", "BatchNorm3d", "Conv3d", "LPPool1d", "LPPool2d", "MaxPool3d"]


class Conv3d(_ConvNd):
    """Slide kernels over volumes: (n, in_channels, d, h, w) -> (n, out_channels, planes, rows, columns).

    Options, initial values and errors as Conv2d's. As torch.nn.Conv3d.

    Example:
        >>> nn.Conv3d(3, 8, (2, 4, 4), stride=(2, 4, 4))(ta.ones(1, 3, 4, 8, 8)).shape
        (1, 8, 2, 2, 2)
    """

    axes = 3


class BatchNorm3d(_BatchNorm):
    """Normalise each channel of (n, num_features, d, h, w) over the batch. As BatchNorm2d, and torch.nn.BatchNorm3d.

    Example:
        >>> nn.BatchNorm3d(3)(ta.ones(2, 3, 4, 4, 4)).shape
        (2, 3, 4, 4, 4)
    """

    ndims = (5,)


class MaxPool3d(_MaxPoolNd):
    """Return the largest element of each window of volumes. As torch.nn.MaxPool3d; options as F.max_pool3d.

    Example:
        >>> nn.MaxPool3d(2)(ta.ones(1, 3, 4, 4, 4)).shape
        (1, 3, 2, 2, 2)
    """

    function = "max_pool3d"


class AvgPool3d(_AvgPoolNd):
    """Return the mean of each window of volumes. As torch.nn.AvgPool3d; options as F.avg_pool3d.

    Example:
        >>> nn.AvgPool3d(2)(ta.ones(1, 3, 4, 4, 4)).shape
        (1, 3, 2, 2, 2)
    """

    function = "avg_pool3d"


class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd):
    """Return means of windows that give `output_size`. As torch.nn.AdaptiveAvgPool3d.

    Example:
        >>> nn.AdaptiveAvgPool3d(1)(ta.ones(1, 3, 4, 4, 4)).shape
        (1, 3, 1, 1, 1)
    """

    function = "adaptive_avg_pool3d"


class _LPPoolNd(_Options):
    """Base of the poolings by a norm."""

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> None:
        super().__init__()
        self._keep(norm_type=norm_type, kernel_size=kernel_size, stride=stride, ceil_mode=ceil_mode)


class LPPool2d(_LPPoolNd):
    """Return the root of the sum of the powers `norm_type` of each window. As torch.nn.LPPool2d.

    Example:
        >>> nn.LPPool2d(2, (1, 2))(ta.tensor([[[3.0, 4.0]]])).item()
        5.0
    """

    function = "lp_pool2d"


class LPPool1d(_LPPoolNd):
    """As LPPool2d, of sequences, and as torch.nn.LPPool1d.

    Example:
        >>> nn.LPPool1d(2, 2)(ta.tensor([[3.0, 4.0]])).item()
        5.0
    """

    function = "lp_pool1d"
