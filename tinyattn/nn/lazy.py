"""Layers that take the size of their first input, or that of the state they load; from then on they are plain layers.

Until then the axes of that size are empty. Parameters stay the same objects, so an optimizer may be made before. The
arguments are those of the plain layers without the first, the size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from tinyattn.nn.convolution import Conv1d, Conv2d
from tinyattn.nn.layers import Linear
from tinyattn.nn.module import Module
from tinyattn.nn.normalization import BatchNorm1d, BatchNorm2d
from tinyattn.ops import creation
from tinyattn.tensors import Tensor


class _Lazy(Module):
    """Base of these layers, before the plain one; `_size` names the attribute, `_axis` the input's axis."""

    _size: ClassVar[str] = "in_channels"
    _axis: ClassVar[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(0, *args, **kwargs)  # type: ignore[call-arg]
        self._register_load_state_dict_pre_hook(self._fit_state)

    def _empty(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, x) for name, x in self.state_dict(keep_vars=True).items() if 0 in x.shape)

    def _fit(self, size: int) -> None:
        groups = getattr(self, "groups", 1)
        if size % groups:
            raise ValueError(f"{type(self).__name__}: groups={groups} must divide the input's {size} channels")
        setattr(self, self._size, size)
        for _, x in self._empty():
            requires_grad, shape = x.requires_grad, [n or size // groups for n in x.shape]
            x._set(creation.empty(shape, dtype=x.dtype, device=x.device).array)
            x.requires_grad_(requires_grad)
        self.reset_parameters()
        self._load_pre_hooks.clear()
        self.__class__ = type(self).__bases__[1]

    def _fit_state(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, x in list(self._empty()):
            shape: Any = getattr(state_dict.get(f"{prefix}{name}"), "shape", ())
            if len(shape) == x.ndim and 0 not in shape:
                self._fit(shape[x.shape.index(0)] * getattr(self, "groups", 1))
                return

    def forward(self, input: Tensor) -> Tensor:
        self._fit(input.shape[self._axis])
        return self.forward(input)  # no longer this one


class LazyLinear(_Lazy, Linear):
    """A `Linear` whose in_features are those of its first input. As torch.nn.LazyLinear.

    >>> layer = nn.LazyLinear(2)
    >>> layer(ta.ones(5, 3)).shape, layer
    ((5, 2), Linear(in_features=3, out_features=2, bias=True))
    """

    _size, _axis = "in_features", -1


class LazyConv1d(_Lazy, Conv1d):
    """A `Conv1d` whose in_channels are those of its first input. As torch.nn.LazyConv1d.

    >>> nn.LazyConv1d(8, 3)(ta.ones(2, 4, 5)).shape
    (2, 8, 3)
    """

    _axis = -2


class LazyConv2d(_Lazy, Conv2d):
    """A `Conv2d` whose in_channels are those of its first input. As torch.nn.LazyConv2d.

    >>> nn.LazyConv2d(8, 3)(ta.ones(2, 4, 5, 5)).shape
    (2, 8, 3, 3)
    """

    _axis = -3


class LazyBatchNorm1d(_Lazy, BatchNorm1d):
    """A `BatchNorm1d` whose num_features are those of its first input. As torch.nn.LazyBatchNorm1d.

    >>> nn.LazyBatchNorm1d()(ta.ones(2, 3)).shape
    (2, 3)
    """

    _size, _axis = "num_features", 1


class LazyBatchNorm2d(_Lazy, BatchNorm2d):
    """A `BatchNorm2d` whose num_features are those of its first input. As torch.nn.LazyBatchNorm2d.

    >>> nn.LazyBatchNorm2d()(ta.ones(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    _size, _axis = "num_features", 1
