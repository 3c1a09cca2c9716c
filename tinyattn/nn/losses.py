"""Losses as modules; the formulas are in `nn.functional`. As in torch.nn.

reduction: "mean", "sum" or "none", in all of them.
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
    """(input - target) ** 2. As torch.nn.MSELoss."""

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(_Loss):
    """|input - target|. As torch.nn.L1Loss."""

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return F.l1_loss(input, target, reduction=self.reduction)


class NLLLoss(_Loss):
    """-input[target]: input (batch, classes, ...) holds log-probabilities, target class numbers.

    weight (classes,) weighs the classes; targets equal to ignore_index do not count. As
    torch.nn.NLLLoss.
    """

    def __init__(self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return F.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class CrossEntropyLoss(NLLLoss):
    """-log softmax(input)[target]: input (batch, classes, ...) holds scores; target class numbers, or
    probabilities of the input's shape.

    label_smoothing: how much of each target is spread evenly over the classes, 0 to 1. As
    torch.nn.CrossEntropyLoss.
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
    """Cross-entropy of yes and no: input holds scores, target probabilities of yes, of one shape.

    weight rescales each element; pos_weight the answer yes, by class. As torch.nn.BCEWithLogitsLoss.
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
