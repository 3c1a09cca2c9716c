"""Softmaxes that give exactly 0 to low scores, made of other operations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyattn.engine.variable import Tensor, Variable
from tinyattn.grad_mode import no_grad
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import clamp, where
from tinyattn.ops.extremes import amax
from tinyattn.ops.promotion import floating, opmath
from tinyattn.ops.reductions import sum as _sum
from tinyattn.ops.softmaxes import softmax


def sparsemax(input: Tensor, dim: int = -1) -> Tensor:
    """Project each slice along `dim` onto the probability simplex: max(input - tau, 0), with the tau of sum 1.

    This is `entmax` with alpha 2; shapes, gradients and errors as there. Martins and Astudillo 2016, "From softmax to
    sparsemax".

    >>> F.sparsemax(ta.tensor([1.0, 0.5, -1.0])).tolist()
    [0.75, 0.25, 0.0]
    """
    return entmax(input, 2.0, dim)


@opmath
def entmax(input: Tensor, alpha: Any = 1.5, dim: int = -1) -> Tensor:
    """Return max((alpha - 1) input - tau, 0) ** (1 / (alpha - 1)) along `dim`, with the tau of sum 1.

    alpha: a number from 1, where this is `softmax`, to 2, where it is `sparsemax`; or a tensor of such numbers above 1,
        of size 1 along `dim`, that broadcasts with the input and gets a gradient. A tensor's values are not checked.
    A score of -inf gets 0; a slice that holds only -inf gives NaN, as in `softmax`. Raises ValueError for another
    number, or for a tensor of another size along `dim`. Peters, Niculae and Martins 2019, "Sparse
    sequence-to-sequence models"; the learned alpha: Correia, Niculae and Martins 2019.

    >>> F.entmax(ta.tensor([1.0, 1.0, 1.0, 1.0, -2.0])).tolist()
    [0.25, 0.25, 0.25, 0.25, 0.0]
    """
    dim, input = _dims.one(dim, input.ndim), floating(input)[0]
    if isinstance(alpha, Variable):
        if alpha.ndim >= input.ndim - dim and alpha.shape[dim - input.ndim] != 1:
            raise ValueError(
                f"entmax: alpha of shape {tuple(alpha.shape)} differs along dim={dim}; give one alpha a slice"
            )
    elif not 1 <= alpha <= 2:
        raise ValueError(f"entmax: alpha={alpha}; expected a number from 1 (softmax) to 2 (sparsemax)")
    elif alpha == 1:
        return softmax(input, dim)
    if input.numel() == 0:
        return input * alpha
    lowest = float(np.finfo(input.dtype).min)  # instead of -inf, which would make alpha's gradient 0 * inf
    scores = (alpha - 1) * clamp(input - amax(input, dim, keepdim=True).detach(), lowest)
    tau, power = amax(scores, dim, keepdim=True).detach() - 1, 1 / (alpha - 1)
    with no_grad():
        for _ in range(math.ceil(math.log(input.shape[dim])) + 10):
            tau = _newton(scores, tau, power, dim)
    for _ in range(2):  # recorded: the steps change nothing but give tau its exact first and second derivative
        tau = _newton(scores, tau, power, dim)
    base, slope = _terms(scores, tau, power)
    return base * slope


def _terms(scores: Tensor, tau: Tensor, power: Any) -> tuple[Tensor, Tensor]:
    """Return u = max(scores - tau, 0) and u ** (power - 1), both 0 and without gradient where u is 0."""
    base = scores - tau
    positive = where(base > 0, base, 1)  # a power of 0 has a gradient of NaN
    return clamp(base, 0), where(base > 0, positive ** (power - 1), 0)


def _newton(scores: Tensor, tau: Tensor, power: Any, dim: int) -> Tensor:
    """Move tau towards sum(max(scores - tau, 0) ** power) = 1.

    The sum is convex and falls with tau, so from a tau that is too low no step goes too far.
    """
    base, slope = _terms(scores, tau, power)
    return tau + (_sum(base * slope, dim, keepdim=True) - 1) / (power * _sum(slope, dim, keepdim=True))
