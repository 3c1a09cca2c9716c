"""Optimizers and learning-rate schedules, as in torch.optim.

Each algorithm is an `Optimizer` whose `update` changes one parameter. `adam_definition` and its like are the formulas;
a kernel of the backend computes the same numbers for Adam and SGD, and fused.py updates many parameters by few calls.
"""

from tinyattn.nn.applied import own_constructors
from tinyattn.optim import lr_scheduler, swa_utils
from tinyattn.optim.adam import Adam, AdamW, adam_definition
from tinyattn.optim.lr_scheduler import (
    ChainedScheduler, ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, CyclicLR, ExponentialLR, LambdaLR,
    LinearLR, LRScheduler, MultiplicativeLR, MultiStepLR, OneCycleLR, PolynomialLR, ReduceLROnPlateau, SequentialLR,
    StepLR,
)  # fmt: skip
from tinyattn.optim.lbfgs import LBFGS
from tinyattn.optim.optimizer import Optimizer
from tinyattn.optim.scaled import Adagrad, RMSprop, adagrad_definition, rmsprop_definition
from tinyattn.optim.sgd import SGD, sgd_definition
from tinyattn.optim.variants import ASGD, Adadelta, Adamax, NAdam, RAdam, Rprop

own_constructors(LambdaLR, MultiplicativeLR)

__all__ = [name for name, x in globals().items() if getattr(x, "__module__", "").startswith("tinyattn.optim.")]
__all__ += ["lr_scheduler", "swa_utils"]
