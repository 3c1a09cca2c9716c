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
    """Base of these layers, before the plain one.

    size, axis: the attribute that is taken from the input, and the input's axis. args, shape: those of the example.
    """

    _size: ClassVar[str]
    _axis: ClassVar[int]

    def __init_subclass__(cls, size: str = "", axis: int = 0, args: str = "", shape: tuple[int, ...] = ()) -> None:
        super().__init_subclass__()
        if not size:
            return
        cls._size, cls._axis, plain = size, axis, cls.__bases__[1].__name__
        cls.__doc__ = f"""A `{plain}` whose {size} are those of its first input. As torch.nn.{cls.__name__}.

    >>> layer = nn.{cls.__name__}({args})
    >>> _ = layer(ta.ones{shape})
    >>> type(layer).__name__, layer.{size}
    ({plain!r}, {shape[axis]})
    """

    def _begin(self, arguments: dict[str, Any]) -> None:
        """Begin as the plain layer of size 0 with the arguments of a constructor, its `locals()`."""
        arguments = {name: value for name, value in arguments.items() if name != "self"}
        super().__init__(0, **arguments)  # type: ignore[call-arg]
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
        """Take the sizes from the input, make the parameters, and run as the layer that this now is."""
        self._fit(input.shape[self._axis])
        return self.forward(input)  # no longer this one


# fmt: off
class LazyLinear(_Lazy, Linear, size="in_features", axis=-1, args="2", shape=(5, 3)):
    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        self._begin(locals())
class LazyConv1d(_Lazy, Conv1d, size="in_channels", axis=-2, args="8, 3", shape=(2, 4, 5)):
    def __init__(
        self, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:
        self._begin(locals())
class LazyConv2d(_Lazy, Conv2d, size="in_channels", axis=-3, args="8, 3", shape=(2, 4, 5, 5)):
    def __init__(
        self, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ) -> None:
        self._begin(locals())
class LazyBatchNorm1d(_Lazy, BatchNorm1d, size="num_features", axis=1, shape=(2, 3)):
    def __init__(
        self, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True,
        device: Any = None, dtype: Any = None,
    ) -> None:
        self._begin(locals())
class LazyBatchNorm2d(_Lazy, BatchNorm2d, size="num_features", axis=1, shape=(2, 3, 4, 4)):
    def __init__(
        self, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True,
        device: Any = None, dtype: Any = None,
    ) -> None:
        self._begin(locals())
# fmt: on
