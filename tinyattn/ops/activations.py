"""The nonlinearities of networks: definition, kernel and rule."""

from __future__ import annotations

import math
from typing import Any

from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops.promotion import floating


@operation(
    traits="maps rectifies",
    fresh=True,
    x=lambda xp, g, out: xp.where(out <= 0, 0.0, g),
    definition=lambda xp, x: xp.where(x <= 0, 0, x),
)
def relu(xp: Any, x: Any) -> Any:
    """Return max(input, 0), elementwise; its gradient at 0 is 0. As torch.relu.

    >>> ta.relu(ta.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return xp.relu(x)


def _logistic(xp: Any, x: Any) -> Any:
    """1 / (1 + e ** -x) by tanh, whose slope stays a number where e ** -x overflows."""
    return (1 + xp.tanh(x * 0.5)) * 0.5


@operation(
    traits="maps saturates",
    promote=floating,
    fresh=True,
    x=lambda xp, g, out: g * (out * (1 - out)),
    definition=lambda xp, x: _logistic(xp, x),
)
def sigmoid(xp: Any, x: Any) -> Any:
    """Return 1 / (1 + e ** -input), elementwise, without overflow. As torch.sigmoid.

    >>> ta.sigmoid(ta.tensor([0.0, 100.0]))
    tensor([0.5, 1. ])
    """
    return xp.sigmoid(x)


def _silu_and_slope(xp: Any, x: Any) -> Any:
    s = xp.sigmoid(x)
    out = x * s
    return out, s + out * (1 - s)


@operation(
    traits="maps saturates",
    promote=floating,
    fresh=True,
    recorded=_silu_and_slope,
    extras=("slope",),
    backward=lambda xp, g, slope: (g * slope,),
    definition=lambda xp, x: x * xp.sigmoid(x),
)
def silu(xp: Any, x: Any) -> Any:
    """Return input * sigmoid(input), elementwise. As torch.nn.functional.silu (Elfwing et al. 2017).

    >>> F.silu(ta.tensor([0.0, 1.0]))
    tensor([0.    , 0.7311])
    """
    return x * xp.sigmoid(x)


_softplus = Operation(
    lambda xp, x, *, beta, threshold: xp.where(
        x * beta > threshold, x, (xp.maximum(x * beta, 0.0) + xp.log1p(xp.exp(-xp.abs(x * beta)))) / beta
    ),
    name="softplus",
    promote=floating,
    traits="maps saturates",
    fresh=True,
    x=lambda xp, g, x, beta, threshold: g * xp.where(x * beta > threshold, 1.0, xp.sigmoid(x * beta)),
)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + exp(beta input)) / beta, elementwise; the input itself where beta input > threshold.

    As torch.nn.functional.softplus.

    >>> F.softplus(ta.tensor([0.0, 30.0]))
    tensor([ 0.6931, 30.    ])
    """
    return _softplus(input, beta=beta, threshold=threshold)


@operation(promote=floating, traits="maps saturates", fresh=True, x=lambda xp, g, x: g * xp.sigmoid(-x))
def logsigmoid(xp: Any, x: Any) -> Any:
    """Return log(sigmoid(input)), elementwise, without overflow. As torch.nn.functional.logsigmoid.

    >>> F.logsigmoid(ta.tensor([0.0, -100.0]))
    tensor([  -0.6931, -100.    ])
    """
    return xp.minimum(x, 0.0) - xp.log1p(xp.exp(-xp.abs(x)))


def _gelu_definition(xp: Any, x: Any, *, approximate: str) -> Any:
    if approximate == "none":
        return x * (1 + xp.erf(x * math.sqrt(0.5))) * 0.5
    return x * (1 + xp.tanh((x + xp.pow(x, 3) * 0.044715) * math.sqrt(2 / math.pi))) * 0.5


_gelu = Operation(
    lambda xp, x, *, approximate: xp.gelu(x, approximate),
    name="gelu",
    promote=floating,
    traits="maps saturates",
    definition=_gelu_definition,
    recorded=lambda xp, x, *, approximate: xp.gelu_and_slope(x, approximate),
    extras=("slope",),
    fresh=True,
    backward=lambda xp, g, slope: (g * slope,),
)


def check_approximate(approximate: str) -> None:
    """Raise unless GELU knows this form of itself."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate={approximate!r}; expected 'none' or 'tanh'")


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Return the input times the normal distribution function at the input, elementwise.

    approximate: "none" or "tanh"; others raise ValueError. As torch.nn.functional.gelu (Hendrycks and Gimpel 2016).

    >>> F.gelu(ta.tensor([0.0, 1.0]))
    tensor([0.    , 0.8413])
    """
    check_approximate(approximate)
    return _gelu(input, approximate=approximate)
