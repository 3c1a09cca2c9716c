"""More losses: of numbers, of distributions, and of pairs and triplets of vectors. The others are in `loss.py`.

In all of them, reduction is "mean", "sum" or "none" (others raise ValueError); size_average and reduce are PyTorch's
older names for it. input and target have one shape.
"""

from __future__ import annotations

import math
from typing import Any

from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.ops import creation
from tinyattn.ops.activations import logsigmoid
from tinyattn.ops.choices import clamp, masked_fill, minimum, where
from tinyattn.ops.elementwise import abs as _abs
from tinyattn.ops.elementwise import exp, log, square
from tinyattn.ops.formulas import xlogy
from tinyattn.ops.loss import _reduce, paired, shaped
from tinyattn.ops.norms import pairwise_distance
from tinyattn.ops.promotion import floating, opmath
from tinyattn.ops.synonyms import older_reduction

# --- numbers ---


def _huber_slope(xp: Any, x: Any, delta: float) -> Any:
    """`x` limited to [-delta, delta]: a constant from delta on, where a clamp would pass a gradient."""
    if isinstance(x, Variable):
        return xp.where(xp.abs(x) >= delta, xp.sign(x) * delta, x)
    return xp.clamp(x, -delta, delta)


@operation(traits="maps valley", fresh=True, x=lambda xp, g, x, delta: g * _huber_slope(xp, x, delta))
def _huber(xp: Any, x: Any, *, delta: float = 1.0) -> Any:
    near = xp.clamp(x, -delta, delta)
    return near * (x - near * 0.5)


@paired
def huber_loss(input: Tensor, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Compute d ** 2 / 2 for d = |input - target| up to delta, and delta (d - delta / 2) beyond.

    Raises ValueError for a delta that is not positive. As torch.nn.functional.huber_loss.

    >>> F.huber_loss(ta.tensor([0.5, 3.0]), ta.zeros(2), reduction="none").tolist()
    [0.125, 2.5]
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta={delta}; expected a positive number")
    return _reduce(_huber(input - target, delta=delta), reduction)


@older_reduction()
@paired
def smooth_l1_loss(input: Tensor, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Compute d ** 2 / (2 beta) for d = |input - target| up to beta, and d - beta / 2 beyond: `huber_loss` / beta.

    Raises ValueError for a negative beta. As torch.nn.functional.smooth_l1_loss.

    >>> F.smooth_l1_loss(ta.tensor([0.5, 3.0]), ta.zeros(2), reduction="none", beta=0.5).tolist()
    [0.25, 2.75]
    """
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: beta={beta}; expected a number of at least 0")
    difference = input - target
    return _reduce(_huber(difference, delta=beta), reduction) / beta if beta else _reduce(_abs(difference), reduction)


@opmath
def gaussian_nll_loss(
    input: Tensor, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """Compute (log var + (input - target) ** 2 / var) / 2 for normal numbers of mean `input` and variance `var`.

    var: shaped as the input, with a last axis of 1, or without the last axis; it counts as at least eps. full: add
    log(2 pi) / 2. Raises ValueError for another shape and, on the CPU, for a variance below 0.
    As torch.nn.functional.gaussian_nll_loss.

    >>> F.gaussian_nll_loss(ta.tensor([1.0]), ta.tensor([3.0]), ta.tensor([1.0])).item()
    2.0
    """
    var = creation.as_tensor(var, device=input.device)
    if var.ndim and var.shape != input.shape:
        if var.shape == input.shape[:-1]:
            var = var.unsqueeze(-1)
        elif var.shape != (*input.shape[:-1], 1):
            raise ValueError(f"gaussian_nll_loss: var {tuple(var.shape)} does not fit input {tuple(input.shape)}")
    fixed = var.detach()
    if not var.is_cuda and (fixed < 0).any():  # a look at a GPU would synchronise
        raise ValueError("gaussian_nll_loss: var has a number below 0; pass variances, such as exp(x)")
    var = var + (clamp(fixed, eps) - fixed)  # the bound lets the gradient pass
    losses = (log(var) + square(input - target) / var) * 0.5
    return _reduce(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


@older_reduction("eps")
@opmath
def poisson_nll_loss(
    input: Tensor, target: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
) -> Tensor:
    """Compute exp(input) - target input, for counts whose log-rate is `input`; of a rate, input - target log(input).

    log_input: whether the input is a log-rate. eps: added to a rate. full: add Stirling's log(target!) above 1.
    As torch.nn.functional.poisson_nll_loss.

    >>> F.poisson_nll_loss(ta.tensor([0.0]), ta.tensor([3.0])).item()
    1.0
    """
    target = creation.as_tensor(target)
    losses = exp(input) - target * input if log_input else input - target * log(input + eps)
    if full:
        some = masked_fill(target, target <= 1, 1)
        stirling = some * log(some) - some + log(some * (2 * math.pi)) * 0.5
        losses = losses + masked_fill(stirling, target <= 1, 0.0)
    return _reduce(losses, reduction)


# --- probabilities and distributions ---


@operation(
    traits="maps valley",
    promote=floating,
    fresh=True,
    x=lambda xp, g, x, target: g * (x - target) / xp.maximum(x * (1 - x), 1e-12),
    target=lambda xp, g, x: g * (xp.log1p(-x) - xp.log(x)),
)
def _binary_cross_entropy(xp: Any, x: Any, target: Any) -> Any:
    """-(t log x + (1 - t) log(1 - x)), with logarithms of at least -100."""
    return (target - 1) * xp.maximum(xp.log1p(-x), -100.0) - target * xp.maximum(xp.log(x), -100.0)


@older_reduction()
@opmath
def binary_cross_entropy(input: Tensor, target: Any, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Compute -(target log(input) + (1 - target) log(1 - input)) weight, with logarithms of at least -100.

    input, target: probabilities; `binary_cross_entropy_with_logits` is more accurate. weight: broadcast to them.
    Raises ValueError for two shapes and, on the CPU, RuntimeError for inputs and targets outside 0 to 1.
    As torch.nn.functional.binary_cross_entropy.

    >>> F.binary_cross_entropy(ta.tensor([0.5]), ta.tensor([1.0]))
    tensor(0.6931)
    """
    target = shaped("binary_cross_entropy", target, input)
    for name, x in (("an input", input), ("a target", target)):
        if not x.is_cuda and not ((x >= 0) & (x <= 1)).all():  # a look at a GPU would synchronise
            raise RuntimeError(
                f"binary_cross_entropy: {name} is outside 0 to 1; apply sigmoid, or use "
                "binary_cross_entropy_with_logits"
            )
    losses = _binary_cross_entropy(input, target)
    return _reduce(losses if weight is None else losses * weight, reduction)


@older_reduction()
@opmath
def kl_div(input: Tensor, target: Any, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Compute target (log target - input), the Kullback-Leibler divergence, of log-probabilities `input`.

    log_target: whether the targets are log-probabilities too. reduction: also "batchmean", the sum divided by the
    size of the first axis, which is the divergence itself. As torch.nn.functional.kl_div.

    >>> F.kl_div(ta.tensor([[0.5, 0.5]]).log(), ta.tensor([[1.0, 0.0]]), reduction="batchmean")
    tensor(0.6931)
    """
    target = creation.as_tensor(target)
    if log_target:
        losses = exp(target) * (target - input)
    else:
        losses = xlogy(target, target) - target * input  # 0 log 0 is 0
    if reduction == "batchmean":
        return _reduce(losses, "sum") / input.shape[0]
    return _reduce(losses, reduction)


# --- pairs and triplets: target is 1 or -1 ---


@older_reduction()
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Any, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Compute 1 - cos where target is 1 and max(cos - margin, 0) where it is -1, of pairs of vectors.

    input1, input2: (batch, dim) or (dim,); target (batch,) or (). As torch.nn.functional.cosine_embedding_loss.

    >>> F.cosine_embedding_loss(ta.tensor([[1.0, 0.0]]), ta.tensor([[0.0, 2.0]]), ta.tensor([1])).item()
    1.0
    """
    target = creation.as_tensor(target)
    return _by_angle(input1, input2, target == 1, target == -1, margin, reduction)


@opmath  # whose dtype is the inputs': targets are only compared
def _by_angle(input1: Tensor, input2: Tensor, near: Tensor, far: Tensor, margin: float, reduction: str) -> Tensor:
    lengths = ((square(input1).sum(-1) + 1e-12) * (square(input2).sum(-1) + 1e-12)).sqrt()
    cos = (input1 * input2).sum(-1) / lengths
    return _reduce(where(near, 1 - cos, 0.0) + where(far, clamp(cos - margin, 0.0), 0.0), reduction)


@older_reduction()
@opmath
def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Any, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Compute max(margin - target (input1 - input2), 0): target is 1 where input1 should rank higher, else -1.

    As torch.nn.functional.margin_ranking_loss.

    >>> F.margin_ranking_loss(ta.tensor([1.0]), ta.tensor([3.0]), ta.tensor([1.0])).item()
    2.0
    """
    return _reduce(clamp(margin - (input1 - input2) * target, 0.0), reduction)


@older_reduction()
def hinge_embedding_loss(input: Tensor, target: Any, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """Compute the distance `input` where target is 1, and max(margin - input, 0) where it is -1.

    As torch.nn.functional.hinge_embedding_loss.

    >>> F.hinge_embedding_loss(ta.tensor([0.25, 0.25]), ta.tensor([1, -1]), reduction="none").tolist()
    [0.25, 0.75]
    """
    target = creation.as_tensor(target)
    return _hinge(input, target != -1, target != 1, margin, reduction)


@opmath
def _hinge(input: Tensor, near: Tensor, far: Tensor, margin: float, reduction: str) -> Tensor:
    return _reduce(where(far, clamp(margin - input, 0.0), 0.0) + where(near, input, 0.0), reduction)


@older_reduction()
@opmath
def soft_margin_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """Compute log(1 + exp(-target input)), with targets 1 and -1. As torch.nn.functional.soft_margin_loss.

    >>> F.soft_margin_loss(ta.tensor([0.0]), ta.tensor([1.0]))
    tensor(0.6931)
    """
    return _reduce(-logsigmoid(input * target), reduction)


@older_reduction()
@opmath
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Compute max(|anchor - positive| - |anchor - negative| + margin, 0), of vectors (batch, dim) or (dim,).

    p, eps: of `pairwise_distance`. swap: take |positive - negative| where that is smaller. As
    torch.nn.functional.triplet_margin_loss.

    >>> F.triplet_margin_loss(ta.zeros(1, 2), ta.zeros(1, 2), ta.tensor([[3.0, 4.0]]), margin=6.0, eps=0.0).item()
    1.0
    """
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = minimum(far, pairwise_distance(positive, negative, p, eps))
    return _reduce(clamp(near - far + margin, 0.0), reduction)
