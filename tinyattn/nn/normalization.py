"""Layers that normalise over batches, groups and instances, and by root mean squares, as torch.nn's."""

from __future__ import annotations

from typing import Any

from tinyattn.nn import functional as F
from tinyattn.nn.layers import _Norm
from tinyattn.nn.parallel import in_later_share
from tinyattn.ops import creation
from tinyattn.tensors import Tensor


class _NormBase(_Norm):
    """Base of the normalisations with running statistics."""

    _shown = (
        "{0.num_features}, eps={0.eps}, momentum={0.momentum}, affine={0.affine}, bias={bias}, "
        "track_running_stats={0.track_running_stats}"
    )
    ndims: tuple[int, ...]
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        shape = num_features if affine else None
        self._add_parameters(device, dtype, weight=shape, bias=shape)
        for name, fill in (("running_mean", creation.zeros), ("running_var", creation.ones)):
            self.register_buffer(name, fill(num_features, device=device, dtype=dtype) if track_running_stats else None)
        count = creation.zeros((), device=device, dtype="int64") if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set the running statistics to those of no batch."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Reset the running statistics, set weight to one and bias to zero."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check_input_dim(self, input: Tensor) -> None:
        """Raise ValueError for another number of axes; subclasses override it, as PyTorch's."""
        if input.ndim not in self.ndims:
            raise ValueError(
                f"{type(self).__name__}: the input has shape {tuple(input.shape)}; expected {self.ndims} axes"
            )

    def _check(self, input: Tensor, channels: int) -> None:
        name = type(self).__name__
        self._check_input_dim(input)
        if input.shape[channels] != self.num_features:
            raise RuntimeError(f"{name}: expected {self.num_features} channels, got the shape {tuple(input.shape)}")

    def _running(self, by_batch: bool) -> tuple[Any, Any]:
        """The running statistics; none where there are none, and where another share of the batch moves them."""
        hidden = by_batch and (not self.track_running_stats or in_later_share.get())
        return (None, None) if hidden else (self.running_mean, self.running_var)

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape; in training mode, update the running statistics."""
        self._check(input, 1)
        momentum = 0.0 if self.momentum is None else self.momentum
        tracks = self.track_running_stats and self.num_batches_tracked is not None
        if self.training and tracks and not in_later_share.get():
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1 / self.num_batches_tracked.item()
        by_batch = self.training or self.running_mean is None
        mean, var = self._running(by_batch)
        return F.batch_norm(input, mean, var, self.weight, self.bias, by_batch, momentum, self.eps)


class _BatchNorm(_NormBase):
    """Base of the normalisations over the batch."""


class BatchNorm2d(_BatchNorm):
    """Normalise each channel of (n, num_features, h, w) over the batch, then scale and shift. As torch.nn.BatchNorm2d.

    In training by the batch's statistics, of which running_mean and running_var keep an average: they move by
    `momentum` each time, or with None average all batches, which num_batches_tracked counts. In evaluation by these,
    unless track_running_stats=False. Inside DataParallel every share is normalised by its own statistics, and the first
    share moves the running ones. Raises ValueError for other axes. Ioffe and Szegedy 2015, "Batch normalization".

    >>> nn.BatchNorm2d(3)(ta.ones(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    ndims = (4,)


class BatchNorm1d(_BatchNorm):
    """Normalise each channel of (n, num_features) or (n, num_features, length). As torch.nn.BatchNorm1d.

    >>> nn.BatchNorm1d(3)(ta.ones(2, 3)).shape
    (2, 3)
    """

    ndims = (2, 3)


class BatchNorm3d(_BatchNorm):
    """Normalise each channel of (n, num_features, d, h, w) over the batch. As BatchNorm2d, and torch.nn.BatchNorm3d.

    >>> nn.BatchNorm3d(3)(ta.ones(2, 3, 4, 4, 4)).shape
    (2, 3, 4, 4, 4)
    """

    ndims = (5,)


class _InstanceNorm(_NormBase):
    """Base of the normalisations of each sample."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape, which may have no batch axis."""
        alone = input.ndim == self.ndims[0]
        if not alone or self.affine or self.track_running_stats:
            self._check(input, 0 if alone else 1)
        x = input.unsqueeze(0) if alone else input
        own = self.training or not self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        mean, var = self._running(own)
        out = F.instance_norm(x, mean, var, self.weight, self.bias, own, momentum, self.eps)
        return out.squeeze(0) if alone else out


class InstanceNorm2d(_InstanceNorm):
    """Normalise each channel of each sample of (n, num_features, h, w). As torch.nn.InstanceNorm2d.

    affine and track_running_stats are False by default. An input without the batch is normalised too.

    >>> nn.InstanceNorm2d(3)(ta.ones(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    ndims = (3, 4)


class InstanceNorm1d(_InstanceNorm):
    """Normalise each channel of each sample of (n, num_features, length). As torch.nn.InstanceNorm1d.

    >>> nn.InstanceNorm1d(3)(ta.ones(2, 3, 4)).shape
    (2, 3, 4)
    """

    ndims = (2, 3)


class GroupNorm(_Norm):
    """Normalise each group of channels of each sample, then scale and shift each channel. As torch.nn.GroupNorm.

    Raises ValueError if num_groups does not divide num_channels. Wu and He 2018, "Group normalization".

    >>> nn.GroupNorm(2, 4)(ta.ones(2, 4, 3, 3)).shape
    (2, 4, 3, 3)
    """

    _shown = "{0.num_groups}, {0.num_channels}, eps={0.eps}, affine={0.affine}, bias={bias}"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_groups={num_groups} must divide num_channels={num_channels}")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        shape = num_channels if affine else None
        self._add_parameters(device, dtype, weight=shape, bias=shape)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (batch, num_channels, ...), group by group; the shape stays."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class RMSNorm(_Norm):
    """Divide the last axes by their root mean square, then scale. As torch.nn.RMSNorm; eps as F.rms_norm.

    >>> nn.RMSNorm(2)(ta.tensor([3.0, 3.0])).tolist()
    [1.0, 1.0]
    """

    _shown = "{0.normalized_shape}, eps={0.eps}, elementwise_affine={0.elementwise_affine}"

    def __init__(
        self,
        normalized_shape: Any,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self._add_parameters(device, dtype, weight=shape if elementwise_affine else None)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Scale the axes of normalized_shape, the last ones; the shape stays."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)
