"""Losses as modules; the formulas are in `ops/loss.py` and its neighbours. As in torch.nn.

reduction, in all of them: "mean" or "sum" of the losses, a tensor (), or "none". Others raise ValueError.
"""

from __future__ import annotations

from typing import Any

from tinyattn.nn import functional as F
from tinyattn.nn.applied import Applied
from tinyattn.ops.synonyms import reduction_of


class _Loss(Applied, function=F.l1_loss, inputs=2):  # its arguments are those of the losses that others derive from it
    """Base of the losses."""

    reductions: tuple[str, ...] = ("mean", "sum", "none")
    reduction: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size_average, reduce = (self.__dict__.pop(name, None) for name in ("size_average", "reduce"))
        self.reduction = reduction_of(size_average, reduce, self.reduction)
        if self.reduction not in self.reductions:
            expected = " or ".join(map(repr, self.reductions))
            raise ValueError(f"{type(self).__name__}: reduction={self.reduction!r}; expected {expected}")

    def extra_repr(self) -> str:
        return ""


class _WeightedLoss(_Loss, function=F.binary_cross_entropy, inputs=2):
    """Base of the losses with a buffer `weight`."""


# fmt: off
class L1Loss(_Loss, function=F.l1_loss, inputs=2): ...
class MSELoss(_Loss, function=F.mse_loss, inputs=2): ...
class SmoothL1Loss(_Loss, function=F.smooth_l1_loss, inputs=2): ...
class HuberLoss(_Loss, function=F.huber_loss, inputs=2): ...
class GaussianNLLLoss(_Loss, function=F.gaussian_nll_loss, inputs=3): ...
class PoissonNLLLoss(_Loss, function=F.poisson_nll_loss, inputs=2): ...
class NLLLoss(_WeightedLoss, function=F.nll_loss, inputs=2): ...
class CrossEntropyLoss(_WeightedLoss, function=F.cross_entropy, inputs=2): ...
class BCELoss(_WeightedLoss, function=F.binary_cross_entropy, inputs=2): ...
class BCEWithLogitsLoss(_Loss, function=F.binary_cross_entropy_with_logits, inputs=2): ...
class MultiMarginLoss(_WeightedLoss, function=F.multi_margin_loss, inputs=2): ...
class MultiLabelMarginLoss(_Loss, function=F.multilabel_margin_loss, inputs=2): ...
class MultiLabelSoftMarginLoss(_WeightedLoss, function=F.multilabel_soft_margin_loss, inputs=2): ...
class CosineEmbeddingLoss(_Loss, function=F.cosine_embedding_loss, inputs=3): ...
class MarginRankingLoss(_Loss, function=F.margin_ranking_loss, inputs=3): ...
class HingeEmbeddingLoss(_Loss, function=F.hinge_embedding_loss, inputs=2): ...
class SoftMarginLoss(_Loss, function=F.soft_margin_loss, inputs=2): ...
class TripletMarginLoss(_Loss, function=F.triplet_margin_loss, inputs=3): ...
# fmt: on


class KLDivLoss(_Loss, function=F.kl_div, inputs=2):
    reductions = ("mean", "batchmean", "sum", "none")
