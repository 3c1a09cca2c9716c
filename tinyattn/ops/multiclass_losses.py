"""Losses with several classes a sample, and with margins between classes. Reductions are as in `pair_losses.py`."""

from __future__ import annotations

from typing import Any

from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.activations import logsigmoid, relu
from tinyattn.ops.choices import eq, ge, gt, logical_and, logical_not, where
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import pow
from tinyattn.ops.indexing import gather
from tinyattn.ops.loss import _reduce, like
from tinyattn.ops.promotion import opmath
from tinyattn.ops.reductions import cumprod, mean, sum
from tinyattn.ops.scattering import scatter_add
from tinyattn.ops.synonyms import older_reduction


@older_reduction()
@opmath
def multilabel_soft_margin_loss(
    input: Tensor, target: Any, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Compute the mean over classes of the binary cross-entropy of scores (..., classes) with targets 0 and 1.

    weight: factors of the classes. As torch.nn.functional.multilabel_soft_margin_loss.

    >>> f"{F.multilabel_soft_margin_loss(ta.zeros(2, 3), ta.ones(2, 3)).item():.4f}"
    '0.6931'
    """
    target = like("multilabel_soft_margin_loss", target, input)
    losses = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    return _reduce(mean(losses if weight is None else losses * weight, -1), reduction)


@older_reduction()
@opmath
def multi_margin_loss(
    input: Tensor, target: Any, p: int = 1, margin: float = 1.0, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Compute the sum over other classes j of max(0, margin - input[target] + input[j]) ** p / classes.

    input: (batch, classes) or (classes,); target: class numbers, (batch,) or (). p: 1 or 2. weight: a factor for each
    target class. Raises ValueError for other arguments. As torch.nn.functional.multi_margin_loss.

    >>> F.multi_margin_loss(ta.tensor([[0.0, 1.0]]), ta.tensor([0])).item()
    1.0
    """
    target, input = creation.as_tensor(target, device=input.device), input.reshape(-1) if input.ndim == 0 else input
    if p not in (1, 2) or input.ndim not in (1, 2) or target.numel() * input.shape[-1] != input.numel():
        raise ValueError(
            f"multi_margin_loss: p={p}, input {tuple(input.shape)}, target {tuple(target.shape)}; expected p 1 or 2, "
            "scores (batch, classes) and as many targets"
        )
    shape, target = target.shape, target.reshape((*input.shape[:-1], 1))
    losses = pow(relu(margin - gather(input, -1, target) + input), p)
    losses = losses if weight is None else losses * weight[target]
    others = eq(creation.arange(input.shape[-1], device=input.device), target).logical_not()
    losses = sum(where(others, losses, 0.0), -1) / input.shape[-1]
    return _reduce(losses.reshape(shape), reduction)


@older_reduction()
@opmath
def multilabel_margin_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """Compute the sum of max(0, 1 - input[j] + input[i]) / classes over target classes j and all other classes i.

    input: (batch, classes) or (classes,). target: class numbers up to the first -1, of the input's shape; raises
    ValueError for another. As torch.nn.functional.multilabel_margin_loss.

    >>> F.multilabel_margin_loss(ta.tensor([0.0, 1.0]), ta.tensor([1, -1])).item()
    0.0
    """
    target = creation.as_tensor(target, device=input.device)
    if target.shape != input.shape:
        raise ValueError(f"multilabel_margin_loss: target {tuple(target.shape)}; expected {tuple(input.shape)}")
    target, input = (x.reshape(-1) if x.ndim == 0 else x for x in (target, input))
    given = cumprod(cast(ge(target, 0), "int64"), -1)
    target = target * given
    counts = scatter_add(creation.zeros_like(target), -1, target, given)
    margins = relu(1 - gather(input, -1, target).unsqueeze(-1) + input.unsqueeze(-2))  # (..., target, class)
    pairs = logical_and(gt(given, 0).unsqueeze(-1), logical_not(gt(counts, 0)).unsqueeze(-2))
    return _reduce(sum(where(pairs, margins, 0.0), (-2, -1)) / input.shape[-1], reduction)
