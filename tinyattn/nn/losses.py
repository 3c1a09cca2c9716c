"""Losses as modules; the formulas are in `ops/loss.py` and its neighbours. As in torch.nn.

reduction, in all of them: "mean" or "sum" of the losses, a tensor (), or "none". Others raise ValueError.
"""

from __future__ import annotations

from typing import Any

from tinyattn.nn import functional as F
from tinyattn.nn.applied import Applied
from tinyattn.ops.synonyms import reduction_of


class _Loss(Applied, function=F.l1_loss, inputs=2):
    """Base of the losses, also of those that others write."""

    reductions: tuple[str, ...] = ("mean", "sum", "none")
    reduction: str

    def __init__(
        self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:  # fmt: skip
        self._set_up(locals())

    def _set_up(self, arguments: dict[str, Any]) -> None:
        super()._set_up(arguments)
        size_average, reduce = (self.__dict__.pop(name, None) for name in ("size_average", "reduce"))
        self.reduction = reduction_of(size_average, reduce, self.reduction)
        if self.reduction not in self.reductions:
            expected = " or ".join(map(repr, self.reductions))
            raise ValueError(f"{type(self).__name__}: reduction={self.reduction!r}; expected {expected}")

    def extra_repr(self) -> str:
        return ""


class _WeightedLoss(_Loss, function=F.binary_cross_entropy, inputs=2):
    """Base of the losses with a buffer `weight`."""

    def __init__(
        self, weight: Any = None, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:
        self._set_up(locals())


# fmt: off
class L1Loss(_Loss, function=F.l1_loss, inputs=2): ...
class MSELoss(_Loss, function=F.mse_loss, inputs=2): ...
class SmoothL1Loss(_Loss, function=F.smooth_l1_loss, inputs=2):
    def __init__(
        self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean", beta: float = 1.0,
    ) -> None:
        self._set_up(locals())
class HuberLoss(_Loss, function=F.huber_loss, inputs=2):
    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        self._set_up(locals())
class GaussianNLLLoss(_Loss, function=F.gaussian_nll_loss, inputs=3):
    def __init__(self, full: bool = False, eps: float = 1e-06, reduction: str = "mean") -> None:
        self._set_up(locals())
class PoissonNLLLoss(_Loss, function=F.poisson_nll_loss, inputs=2):
    def __init__(
        self, log_input: bool = True, full: bool = False, size_average: bool | None = None, eps: float = 1e-08,
        reduce: bool | None = None, reduction: str = "mean",
    ) -> None:
        self._set_up(locals())
class NLLLoss(_WeightedLoss, function=F.nll_loss, inputs=2):
    def __init__(
        self, weight: Any = None, size_average: bool | None = None, ignore_index: int = -100,
        reduce: bool | None = None, reduction: str = "mean",
    ) -> None:
        self._set_up(locals())
class CrossEntropyLoss(_WeightedLoss, function=F.cross_entropy, inputs=2):
    def __init__(
        self, weight: Any = None, size_average: bool | None = None, ignore_index: int = -100,
        reduce: bool | None = None, reduction: str = "mean", label_smoothing: float = 0.0,
    ) -> None:
        self._set_up(locals())
class BCELoss(_WeightedLoss, function=F.binary_cross_entropy, inputs=2): ...
class BCEWithLogitsLoss(_Loss, function=F.binary_cross_entropy_with_logits, inputs=2):
    def __init__(
        self, weight: Any = None, size_average: bool | None = None, reduce: bool | None = None,
        reduction: str = "mean", pos_weight: Any = None,
    ) -> None:
        self._set_up(locals())
class CTCLoss(_Loss, function=F.ctc_loss, inputs=4):
    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        self._set_up(locals())
class MultiMarginLoss(_WeightedLoss, function=F.multi_margin_loss, inputs=2):
    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: Any = None, size_average: bool | None = None,
        reduce: bool | None = None, reduction: str = "mean",
    ) -> None:
        self._set_up(locals())
class MultiLabelMarginLoss(_Loss, function=F.multilabel_margin_loss, inputs=2): ...
class MultiLabelSoftMarginLoss(_WeightedLoss, function=F.multilabel_soft_margin_loss, inputs=2): ...
class CosineEmbeddingLoss(_Loss, function=F.cosine_embedding_loss, inputs=3):
    def __init__(
        self, margin: float = 0.0, size_average: bool | None = None, reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        self._set_up(locals())
class MarginRankingLoss(_Loss, function=F.margin_ranking_loss, inputs=3):
    def __init__(
        self, margin: float = 0.0, size_average: bool | None = None, reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        self._set_up(locals())
class HingeEmbeddingLoss(_Loss, function=F.hinge_embedding_loss, inputs=2):
    def __init__(
        self, margin: float = 1.0, size_average: bool | None = None, reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        self._set_up(locals())
class SoftMarginLoss(_Loss, function=F.soft_margin_loss, inputs=2): ...
class TripletMarginLoss(_Loss, function=F.triplet_margin_loss, inputs=3):
    def __init__(
        self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-06, swap: bool = False,
        size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean",
    ) -> None:
        self._set_up(locals())
# fmt: on


class KLDivLoss(_Loss, function=F.kl_div, inputs=2):
    reductions = ("mean", "batchmean", "sum", "none")

    def __init__(
        self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean",
        log_target: bool = False,
    ) -> None:  # fmt: skip
        self._set_up(locals())
