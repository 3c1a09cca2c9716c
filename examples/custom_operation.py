"""An operation of your own: a forward and, for each input, the rule of its gradient.

    python examples/custom_operation.py

swish(x) = x s(beta x), where s is the sigmoid and beta is learned (Ramachandran et al. 2017). Ten lines make it an
operation like those of the library: broadcast, with saved tensors, drawn in graphs, differentiable any number of times.
Two more check the gradients, and the rest shows how a wrong rule is found.
"""

from __future__ import annotations

from typing import Any

from parts import run_script

import tinyattn as ta
from tinyattn import train
from tinyattn.debug import GradcheckError


# The forward gets arrays and xp, the array library they belong to (NumPy under our names). A rule gets xp, the gradient
# g of the output, and every other parameter by its name: any input, `out`, an input's shape (`x_shape`), an option.
# Only these are saved for the backward pass. Use xp and operators alone: then the same rule also runs on tensors, which
# record it, and second derivatives follow. The backward pass undoes broadcasting and converts dtypes.
def slope(xp: Any, x: Any, beta: Any) -> Any:
    """d swish / dx = s + beta x s (1 - s)"""
    s = xp.sigmoid(x * beta)
    return s + x * beta * s * (1 - s)


def slope_in_beta(xp: Any, x: Any, beta: Any) -> Any:
    """d swish / dbeta = x^2 s (1 - s)"""
    s = xp.sigmoid(x * beta)
    return x * x * s * (1 - s)


@ta.operation(
    x=lambda xp, g, x, beta: g * slope(xp, x, beta), beta=lambda xp, g, x, beta: g * slope_in_beta(xp, x, beta)
)
def swish(xp: Any, x: Any, beta: Any) -> Any:
    return x * xp.sigmoid(x * beta)


# The same with a mistake that training would hide: the second term of the product rule is missing.
@ta.operation(x=lambda xp, g, x, beta: g * xp.sigmoid(x * beta))
def wrong_swish(xp: Any, x: Any, beta: Any) -> Any:
    return x * xp.sigmoid(x * beta)


def fit(x: ta.Tensor, y: ta.Tensor, steps: int = 200, lr: float = 2.0) -> float:
    """Learn beta from examples by gradient descent."""
    beta = ta.tensor(0.5, requires_grad=True)
    for _ in range(steps):
        (downhill,) = ta.grad(-((swish(x, beta) - y) ** 2).mean(), beta)
        with ta.no_grad():
            beta += lr * downhill
    return float(beta)


def main() -> None:
    train.Parser(description=__doc__).parse_args()
    ta.manual_seed(0)
    x = ta.randn(3, 4, dtype=ta.float64, requires_grad=True)
    beta = ta.rand(4, dtype=ta.float64, requires_grad=True)  # one for each column: broadcast over the rows
    print("first derivatives right: ", ta.gradcheck(swish, (x, beta)))
    print("second derivatives right:", ta.gradgradcheck(swish, (x, beta)))
    try:
        ta.gradcheck(wrong_swish, (x, beta.detach()))
    except GradcheckError as error:
        print("the wrong rule is found: ", error)
    inputs = ta.randn(200)
    print(f"beta learned from examples with beta = 1.7: {fit(inputs, swish(inputs, 1.7)):.3f}")


if __name__ == "__main__":
    run_script(main)
