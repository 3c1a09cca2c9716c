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

from tinyattn.engine import operation as _operation  # first: it ties the core together
from tinyattn import autograd, backends, ops
from tinyattn.autograd.gradients import grad
from tinyattn.backends import (
    device, get_default_device, get_float32_matmul_precision, set_default_device, set_float32_matmul_precision,
)  # fmt: skip
from tinyattn.engine.operation import Operation, operation
from tinyattn.ops.creation import (
    arange, as_tensor, empty, empty_like, eye, from_dlpack, from_numpy, full, full_like, linspace, ones, ones_like,
    rand, rand_like, randint, randint_like, randn, randn_like, randperm, tensor, zeros, zeros_like,
)  # fmt: skip
from tinyattn.dtypes import (
    float16, float32, float64, get_default_dtype, int8, int16, int32, int64, set_default_dtype, uint8,
)  # fmt: skip
from tinyattn.dtypes import bool_ as bool
from tinyattn.engine.modes import definitions, enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from tinyattn.ops import (
    abs, add, amax, amin, argmax, argmin, binary_cross_entropy_with_logits, bmm, broadcast_to, cat, chunk, clamp,
    clone, concat, cos, cross_entropy, cumsum, div, dropout, einsum, embedding, eq, erf, exp, expand, expm1,
    flatten, flip, gather, ge, gelu, gt, index_select, isfinite, l1_loss, layer_norm, le, linear, log, log1p,
    log_softmax, logical_and, logical_not, logical_or, logsigmoid, logsumexp, lt, masked_fill, matmul, max, maximum,
    mean, min, minimum, mm, movedim, mse_loss, mul, ne, neg, nll_loss, one_hot, outer, pad, permute, pow, prod,
    reciprocal, relu, reshape, result_type, roll, rsqrt, scaled_dot_product_attention, sigmoid, sign, silu, sin,
    softmax, softplus, split, sqrt, square, squeeze, stack, std, std_mean, sub, sum, tanh, transpose, tril, triu,
    unbind, unsqueeze, var, var_mean, view, where,
)  # fmt: skip
from tinyattn.ops.attention import tiled_attention
from tinyattn.files.errors import FileFormatError, MissingFileError
from tinyattn.random import Generator, default_generator, initial_seed, manual_seed
from tinyattn.tensors import Tensor
from tinyattn.files.serialization import load, load_metadata, save
from tinyattn.autograd.transforms import hessian, hvp, jacobian, jvp, vjp
from tinyattn.autograd.recompute import checkpoint
from tinyattn.cuda.replay import compile
from tinyattn.debug import detect_anomaly, explain, gradcheck, gradgradcheck, memory_ledger, profile

double, half, long = float64, float16, int64
float, int = float32, int32  # torch's names; the built-ins are builtins.float and builtins.int

from tinyattn import cuda, nn, optim  # noqa: E402

__version__ = "0.1.0"


def __getattr__(name: builtins.str) -> _Any:  # ta.viz and its like, imported when first asked for
    if name in ("data", "models", "train", "viz"):
        return importlib.import_module(f"tinyattn.{name}")
    raise AttributeError(f"module 'tinyattn' has no attribute {name!r}")
