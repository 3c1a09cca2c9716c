"""Optimizers and learning-rate schedules, as in torch.optim.

Each algorithm is an `Optimizer` whose `update` changes one parameter. `adam_definition` and `sgd_definition` are the
formulas; a kernel of the backend computes the same numbers, and fused.py updates many parameters by few calls.
"""

from tinyattn.optim import lr_scheduler
from tinyattn.optim.adam import Adam, AdamW, adam_definition
from tinyattn.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
    StepLR,
)
from tinyattn.optim.optimizer import Optimizer
from tinyattn.optim.sgd import SGD, sgd_definition

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "Optimizer",
    "SequentialLR",
    "StepLR",
    "adam_definition",
    "lr_scheduler",
    "sgd_definition",
]
