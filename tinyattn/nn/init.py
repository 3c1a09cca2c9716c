"""Initial values of parameters, written in place. As torch.nn.init.

Every function fills `tensor` without recording it, takes numbers from `generator` (the process-wide
one if None) and returns the tensor.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

from tinyattn.engine.modes import no_grad
from tinyattn.ops import creation
from tinyattn.random import Generator
from tinyattn.tensors import Tensor

__all__ = [
    "calculate_gain", "constant_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "trunc_normal_",
    "uniform_", "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip


@no_grad()
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform numbers from [a, b)."""
    return tensor.uniform_(a, b, generator=generator)


@no_grad()
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal numbers."""
    return tensor.normal_(mean, std, generator=generator)


@no_grad()
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Normal numbers, those outside [a, b] drawn again.

    Raises ValueError where the interval holds under a thousandth of the distribution: that would
    take for ever (torch warns there).
    """
    curve = NormalDist(mean, std)
    if not curve.cdf(b) - curve.cdf(a) > 1e-3:
        raise ValueError(
            f"trunc_normal_: hardly any number with mean={mean} and std={std} lies in [{a}, {b}]; "
            "choose an interval around the mean, in the units of the tensor and not of std"
        )
    tensor.normal_(mean, std, generator=generator)
    outside = (tensor < a) | (tensor > b)
    while count := int(outside.sum().item()):
        tensor[outside] = (
            creation.randn(count, dtype=tensor.dtype, device=tensor.device, generator=generator) * std + mean
        )
        outside = (tensor < a) | (tensor > b)
    return tensor


@no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    """One number everywhere."""
    return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform in ± gain sqrt(6 / (fan_in + fan_out)): signals keep their size both ways.

    Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward networks".
    """
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with standard deviation gain sqrt(2 / (fan_in + fan_out)). Glorot and Bengio 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform in ± gain sqrt(3 / fan): signals keep their size through `nonlinearity`.

    a: the negative slope, for leaky_relu. mode: "fan_in" (forward) or "fan_out" (backward).
    He et al. 2015, "Delving deep into rectifiers".
    """
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan); arguments as `kaiming_uniform_`. He et al. 2015."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


_GAINS = {
    "linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv3d": 1.0, "sigmoid": 1.0,
    "tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 0.75,
}  # fmt: skip


def calculate_gain(nonlinearity: str, param: Any = None) -> float:
    """How much larger weights must be before `nonlinearity`; param: the slope of "leaky_relu"."""
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else float(param)
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"calculate_gain: nonlinearity={nonlinearity!r}; expected one of {[*_GAINS, 'leaky_relu']}")
    return _GAINS[nonlinearity]


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode={mode!r}; expected 'fan_in' or 'fan_out'")
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def _fans(tensor: Tensor) -> tuple[int, int]:
    """How many inputs an output of this weight (out, in, ...) has, and how many outputs an input."""
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out need a weight (out, in, ...), got shape {tuple(tensor.shape)}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field
