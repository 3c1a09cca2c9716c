"""The nonlinearities of networks: definition, kernel and rule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tinyattn.graph import Operation, operation
from tinyattn.ops.promotion import floating

if TYPE_CHECKING:
    from tinyattn.tensor import Tensor


@operation(x=lambda F, g, out: F.where(out <= 0, 0.0, g), definition=lambda F, x: F.where(x <= 0, 0.0, x))
def relu(F: Any, x: Any) -> Any:
    """max(x, 0); its gradient at 0 is 0. As torch.relu."""
    return F.relu(x)


def _logistic(F: Any, x: Any) -> Any:
    """1 / (1 + e ** -x) by tanh, whose slope stays a number where e ** -x overflows."""
    return (1 + F.tanh(x * 0.5)) * 0.5


@operation(promote=floating, x=lambda F, g, out: g * (out * (1 - out)), definition=lambda F, x: _logistic(F, x))
def sigmoid(F: Any, x: Any) -> Any:
    """1 / (1 + e ** -x). As torch.sigmoid."""
    return F.sigmoid(x)


def _silu_rule(F: Any, g: Any, x: Any) -> Any:
    s = F.sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


@operation(promote=floating, x=_silu_rule, definition=lambda F, x: x * _logistic(F, x))
def silu(F: Any, x: Any) -> Any:
    """x sigmoid(x). As torch.nn.functional.silu (Elfwing et al. 2017)."""
    return x * F.sigmoid(x)


_softplus = Operation(
    lambda F, x, *, beta, threshold: F.softplus(x, beta, threshold),
    name="softplus",
    definition=lambda F, x, beta, threshold: F.where(
        x * beta > threshold, x, F.log1p(F.exp(F.clamp(x * beta, max=threshold))) / beta
    ),
    x=lambda F, g, x, beta, threshold: g * F.where(x * beta > threshold, 1.0, F.sigmoid(x * beta)),
)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold. As torch.nn.functional.softplus."""
    return _softplus(input, beta=beta, threshold=threshold)


@operation(x=lambda F, g, x: g * F.sigmoid(-x), definition=lambda F, x: F.minimum(x, 0.0) - F.log1p(F.exp(-F.abs(x))))
def logsigmoid(F: Any, x: Any) -> Any:
    """log(sigmoid(x)), without overflow. As torch.nn.functional.logsigmoid."""
    return F.logsigmoid(x)


def _gelu_definition(F: Any, x: Any, *, approximate: str) -> Any:
    if approximate == "none":
        return x * (1 + F.erf(x * math.sqrt(0.5))) * 0.5
    return x * (1 + F.tanh((x + F.pow(x, 3) * 0.044715) * math.sqrt(2 / math.pi))) * 0.5


_gelu = Operation(
    lambda F, x, *, approximate: F.gelu(x, approximate),
    name="gelu",
    definition=_gelu_definition,
    recorded=lambda F, x, *, approximate: F.gelu_and_slope(x, approximate),
    extras=("slope",),
    backward=lambda F, g, slope: (g * slope,),
)


def check_approximate(approximate: str) -> None:
    """Raise unless GELU knows this form of itself."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate={approximate!r}; expected 'none' or 'tanh'")


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function at x; "tanh" approximates it.

    As torch.nn.functional.gelu (Hendrycks and Gimpel 2016).
    """
    check_approximate(approximate)
    return _gelu(input, approximate=approximate)
