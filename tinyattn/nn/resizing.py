"""Layers without parameters that change sizes, and distances of vectors. As in torch.nn."""

from __future__ import annotations

from typing import Any, ClassVar

from tinyattn.nn import functional as F
from tinyattn.nn.applied import Applied
from tinyattn.nn.module import Module
from tinyattn.tensors import Tensor


def _flatten(input: Tensor, start_dim: int, end_dim: int) -> Tensor:
    return input.flatten(start_dim, end_dim)


class Flatten(Applied, function=_flatten):
    """Merge the axes from start_dim to end_dim into one. As torch.nn.Flatten.

    Raises IndexError for an axis that the input does not have.

    >>> nn.Flatten()(ta.ones(2, 3, 4)).shape
    (2, 12)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self._set_up(locals())


def _unflatten(input: Tensor, dim: int, unflattened_size: Any) -> Tensor:
    return input.unflatten(dim, unflattened_size)


class Unflatten(Applied, function=_unflatten):
    """Split axis `dim` into axes of the sizes `unflattened_size`, of which one may be -1. As torch.nn.Unflatten.

    >>> nn.Unflatten(1, (2, 3))(ta.ones(5, 6)).shape
    (5, 2, 3)
    """

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        self._set_up(locals())


def _upsample(
    input: Tensor, size: Any, scale_factor: Any, mode: str, align_corners: Any, recompute_scale_factor: Any
) -> Tensor:
    return F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor)


class Upsample(Applied, function=_upsample):
    """Resize images by `F.interpolate`: (batch, channels, *sizes) -> (batch, channels, *size). As torch.nn.Upsample.

    >>> nn.Upsample(scale_factor=2)(ta.ones(1, 1, 2, 3)).shape
    (1, 1, 4, 6)
    """

    scale_factor: Any

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:  # fmt: skip
        self._set_up(locals())
        factor, many = self.scale_factor, isinstance(self.scale_factor, tuple | list)
        self.scale_factor = tuple(map(float, factor)) if many else factor and float(factor)

    def extra_repr(self) -> str:
        size = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{size}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """`Upsample` with mode="nearest". As torch.nn.UpsamplingNearest2d.

    >>> nn.UpsamplingNearest2d(scale_factor=2)(ta.ones(1, 1, 1, 1)).tolist()
    [[[[1.0, 1.0], [1.0, 1.0]]]]
    """

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor)


class UpsamplingBilinear2d(Upsample):
    """`Upsample` with mode="bilinear" and align_corners=True. As torch.nn.UpsamplingBilinear2d.

    >>> nn.UpsamplingBilinear2d(size=(1, 3))(ta.tensor([[[[0.0, 2.0]]]])).tolist()
    [[[[0.0, 1.0, 2.0]]]]
    """

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, "bilinear", align_corners=True)


class _Distance(Applied):
    def extra_repr(self) -> str:
        return ""


class _Pad(Module):
    """Base of the layers that pad the last axes; their padding is a number, or (before, after) of the last axis, ..."""

    axes: ClassVar[int]
    mode: ClassVar[str]

    def __init_subclass__(cls, axes: int, mode: str = "constant") -> None:
        cls.axes, cls.mode = axes, mode
        if cls.__doc__ is not None:
            return
        cls.__doc__ = f"""Pad the last {axes} axes, as `F.pad` with mode={mode!r}. As torch.nn.{cls.__name__}.

    padding: a number for all sides, or (before, after) of the last axis, then of the last but one ...; ValueError for
    another count.

    >>> nn.{cls.__name__}(1{", 0.5" if cls.__name__[0] == "C" and mode == "constant" else ""})
    {cls(1, 0.5)!r}
    """

    def __init__(self, padding: Any, value: float = 0.0) -> None:
        super().__init__()
        self.padding = (padding,) * (2 * self.axes) if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 2 * self.axes:
            raise ValueError(f"{type(self).__name__}: padding={padding}; expected a number, or {2 * self.axes}")
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        """Return the input (..., *sizes) with `padding` elements more at the ends of its last axes."""
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _Constant(_Pad, axes=0):
    """Base of those with a value."""

    def __init_subclass__(cls, axes: int) -> None:
        super().__init_subclass__(axes)

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding, value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


# fmt: off
class ConstantPad1d(_Constant, axes=1): ...
class ConstantPad2d(_Constant, axes=2): ...
class ConstantPad3d(_Constant, axes=3): ...
class ZeroPad1d(_Pad, axes=1): ...
class ZeroPad2d(_Pad, axes=2): ...
class ZeroPad3d(_Pad, axes=3): ...
class ReflectionPad1d(_Pad, axes=1, mode="reflect"): ...
class ReflectionPad2d(_Pad, axes=2, mode="reflect"): ...
class ReflectionPad3d(_Pad, axes=3, mode="reflect"): ...
class ReplicationPad1d(_Pad, axes=1, mode="replicate"): ...
class ReplicationPad2d(_Pad, axes=2, mode="replicate"): ...
class ReplicationPad3d(_Pad, axes=3, mode="replicate"): ...
class CircularPad1d(_Pad, axes=1, mode="circular"): ...
class CircularPad2d(_Pad, axes=2, mode="circular"): ...
class CircularPad3d(_Pad, axes=3, mode="circular"): ...
class PixelShuffle(Applied, function=F.pixel_shuffle, example=(2,)):
    def __init__(self, upscale_factor: int) -> None:
        self._set_up(locals())
class ChannelShuffle(Applied, function=F.channel_shuffle, example=(2,)):
    def __init__(self, groups: int) -> None:
        self._set_up(locals())
class PixelUnshuffle(Applied, function=F.pixel_unshuffle, example=(2,)):
    def __init__(self, downscale_factor: int) -> None:
        self._set_up(locals())
class CosineSimilarity(_Distance, function=F.cosine_similarity, inputs=2):
    def __init__(self, dim: int = 1, eps: float = 1e-08) -> None:
        self._set_up(locals())
class PairwiseDistance(_Distance, function=F.pairwise_distance, inputs=2):
    def __init__(self, p: float = 2.0, eps: float = 1e-06, keepdim: bool = False) -> None:
        self._set_up(locals())
# fmt: on


class LocalResponseNorm(Applied, function=F.local_response_norm, example=(2,)):
    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self._set_up(locals())

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
