"""tinyattn: an autograd engine from scratch, with PyTorch's names, that trains attention models.

>>> import tinyattn as ta
>>> x = ta.tensor([1.0, 2.0, 3.0], requires_grad=True)
>>> (x * x).sum().backward()
>>> x.grad
tensor([2., 4., 6.])
"""

import builtins
import importlib
from typing import Any as _Any

from tinyattn.backends import (
    device, get_default_device, get_float32_matmul_precision, set_default_device, set_float32_matmul_precision,
)  # fmt: skip
from tinyattn.dtypes import (
    bool_, float16, float32, float64, get_default_dtype, finfo, iinfo, int8, int16, int32, int64,
    set_default_dtype, uint8,
)  # fmt: skip
from tinyattn.random import Generator, default_generator, initial_seed, manual_seed
from tinyattn.engine.modes import definitions
from tinyattn.grad_mode import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Size
from tinyattn.ops import *
from tinyattn.autograd import checkpoint, grad, hessian, hvp, jacobian, jvp, vjp
from tinyattn.tensors import Tensor
from tinyattn.files.whole import FileFormatError, MissingFileError
from tinyattn.files.serialization import load, load_metadata, save
from tinyattn.cuda.replay import compile
from tinyattn.debug import detect_anomaly, explain, gradcheck, gradgradcheck, memory_ledger, profile
from tinyattn import autograd, backends, cuda, linalg, nn, ops, optim

double, half, long, short = float64, float16, int64, int16
bool, float, int = bool_, float32, int32  # torch's names; the built-ins are builtins.float and builtins.int
del bool_
inf, nan, pi, e, newaxis = builtins.float("inf"), builtins.float("nan"), 3.141592653589793, 2.718281828459045, None

__version__ = "0.1.0"


def __getattr__(name: builtins.str) -> _Any:  # ta.viz and its like, imported when first asked for
    if name in ("data", "distributed", "distributions", "models", "train", "viz"):
        return importlib.import_module(f"tinyattn.{name}")
    raise AttributeError(f"module 'tinyattn' has no attribute {name!r}")
