"""Losses as modules; the formulas are in `ops/loss.py`. As in torch.nn.

reduction, in all of them: "mean" or "sum" of the losses, a tensor (), or "none". Others raise ValueError.
"""

from __future__ import annotations

from typing import Any

from tinyattn.nn import functional as F
from tinyattn.nn.module import Module
from tinyattn.tensors import Tensor

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "L1Loss", "MSELoss", "NLLLoss"]


class _Loss(Module):
    weight: Tensor | None

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"{type(self).__name__}: reduction={reduction!r}; expected 'mean', 'sum' or 'none'")
        self.reduction = reduction


class MSELoss(_Loss):
    """Compute (input - target) ** 2, for tensors of one shape. As torch.nn.MSELoss.

    Example:
        >>> nn.MSELoss()(ta.tensor([1.0, 2.0]), ta.tensor([1.0, 4.0])).item()
        2.0
    """

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(_Loss):
    """Compute |input - target|, for tensors of one shape. As torch.nn.L1Loss.

    Example:
        >>> nn.L1Loss()(ta.tensor([1.0, 2.0]), ta.tensor([1.0, 4.0])).item()
        1.0
    """

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return F.l1_loss(input, target, reduction=self.reduction)


class NLLLoss(_Loss):
    """Compute -input[target] from log-probabilities. As torch.nn.NLLLoss.

    input (batch, classes, ...); target (batch, ...): class numbers, integers. weight (classes,): of the classes.
    Targets equal to ignore_index do not count. Raises IndexError for a class out of range.

    Example:
        >>> nn.NLLLoss()(ta.tensor([[-1.0, -2.0]]), ta.tensor([1])).item()
        2.0
    """

    def __init__(self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class CrossEntropyLoss(NLLLoss):
    """Compute -log softmax(input)[target] from scores (logits). As torch.nn.CrossEntropyLoss.

    input (batch, classes, ...); target (batch, ...): class numbers, integers, or probabilities in the input's shape.
    label_smoothing: share of each target that is spread evenly over the classes, 0 to 1.
    weight, ignore_index and errors as for `NLLLoss`.

    Example:
        >>> round(nn.CrossEntropyLoss()(ta.zeros(1, 10), ta.tensor([3])).item(), 4)  # log(10)
        2.3026
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction)
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return F.cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, label_smoothing=self.label_smoothing
        )


class BCEWithLogitsLoss(_Loss):
    """Compute the binary cross-entropy from scores (logits). As torch.nn.BCEWithLogitsLoss.

    input and target: tensors of one shape; target holds probabilities. weight: of each element, broadcast.
    pos_weight: of the positive answer, by class.

    Example:
        >>> round(nn.BCEWithLogitsLoss()(ta.tensor([0.0]), ta.tensor([1.0])).item(), 4)  # log(2)
        0.6931
    """

    pos_weight: Tensor | None

    def __init__(
        self, weight: Tensor | None = None, *, reduction: str = "mean", pos_weight: Tensor | None = None
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )
