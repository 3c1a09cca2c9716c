"""Activations as layers; the formulas are in `ops/activations.py` and `ops/nonlinearities.py`. As in torch.nn."""

from __future__ import annotations

from typing import Any

from tinyattn.nn import functional as F
from tinyattn.nn import init
from tinyattn.nn.applied import Applied
from tinyattn.nn.module import Module
from tinyattn.tensors import Tensor


class _Inplace(Applied):
    def __init__(self, inplace: bool = False) -> None:
        self._set_up(locals())


# fmt: off
class ReLU(_Inplace, function=F.relu): ...
class LeakyReLU(Applied, function=F.leaky_relu):
    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self._set_up(locals())
class ELU(Applied, function=F.elu):
    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self._set_up(locals())
class CELU(Applied, function=F.celu):
    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self._set_up(locals())
class SELU(_Inplace, function=F.selu): ...
class GELU(Applied, function=F.gelu):
    def __init__(self, approximate: str = "none") -> None:
        self._set_up(locals())
class GLU(Applied, function=F.glu):
    def __init__(self, dim: int = -1) -> None:
        self._set_up(locals())
class SiLU(_Inplace, function=F.silu): ...
class Mish(_Inplace, function=F.mish): ...
class Hardswish(_Inplace, function=F.hardswish): ...
class Hardsigmoid(_Inplace, function=F.hardsigmoid): ...
class Hardtanh(Applied, function=F.hardtanh):
    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        self._set_up(locals())
class ReLU6(Hardtanh, function=F.relu6):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)
class Threshold(Applied, function=F.threshold, example=(0.5, 0.0)):
    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        self._set_up(locals())
class Tanh(Applied, function=F.tanh): ...
class Tanhshrink(Applied, function=F.tanhshrink): ...
class Sigmoid(Applied, function=F.sigmoid): ...
class LogSigmoid(Applied, function=F.logsigmoid): ...
class Softplus(Applied, function=F.softplus):
    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self._set_up(locals())
class Softsign(Applied, function=F.softsign): ...
class Softmax(Applied, function=F.softmax, example=(1,)):
    def __init__(self, dim: int | None = None) -> None:
        self._set_up(locals())
class Softmin(Applied, function=F.softmin, example=(1,)):
    def __init__(self, dim: int | None = None) -> None:
        self._set_up(locals())
class LogSoftmax(Applied, function=F.log_softmax, example=(1,)):
    def __init__(self, dim: int | None = None) -> None:
        self._set_up(locals())
# fmt: on


class _Shrink(Applied):
    def __init__(self, lambd: float = 0.5) -> None:
        self._set_up(locals())

    def extra_repr(self) -> str:
        return str(self.lambd)


class Hardshrink(_Shrink, function=F.hardshrink): ...


class Softshrink(_Shrink, function=F.softshrink): ...


class Softmax2d(Module):
    """Turn scores into probabilities along the channels: (..., channels, h, w), of 3 or 4 axes (ValueError).

    As torch.nn.Softmax2d.

    >>> nn.Softmax2d()(ta.zeros(4, 1, 1)).tolist()
    [[[0.25]], [[0.25]], [[0.25]], [[0.25]]]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return probabilities of the input's shape, which sum to 1 over the channels."""
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: the input has shape {tuple(input.shape)}; expected 3 or 4 axes")
        return F.softmax(input, -3)


class PReLU(Module):
    """Return the input where it is above 0, else weight * input, with a weight to train. As torch.nn.PReLU.

    num_parameters: 1, or the number of channels (axis 1). init: the first values of `weight` (num_parameters,).

    >>> nn.PReLU(init=0.5)(ta.tensor([-1.0, 2.0])).tolist()
    [-0.5, 2.0]
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self._add_parameters(device, dtype, weight=num_parameters)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to its first values."""
        init.constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
