"""Every operation on tensors, by family: forward beside rule.

Rules and definitions get this namespace as `xp` when they run on Tensors; `tinyattn.backends` offers the same
names for arrays. `tinyattn` re-exports all of it but what stands in FOR_RULES.
"""

from tinyattn.ops.activations import gelu, logsigmoid, relu, sigmoid, silu, softplus
from tinyattn.ops.attention import attention_weights, scaled_dot_product_attention, tiled_attention
from tinyattn.ops.choices import (
    bitwise_and, bitwise_not, bitwise_or, bitwise_xor, clamp, eq, ge, gt, isfinite, le, logical_and, logical_not,
    logical_or, lt, masked_fill, maximum, minimum, ne, where,
)  # fmt: skip
from tinyattn.ops.copies import alias, cast, clone, move
from tinyattn.ops.creation import (
    arange, as_tensor, empty, empty_like, eye, from_dlpack, from_numpy, full, full_like, linspace, ones, ones_like,
    rand, rand_like, randint, randint_like, randn, randn_like, randperm, tensor, zeros, zeros_like,
)  # fmt: skip
from tinyattn.ops.dropouts import dropout
from tinyattn.ops.elementwise import (
    abs, add, cos, div, erf, exp, expm1, floor_divide, log, log1p, mul, neg, pow, reciprocal, remainder, rsqrt, sign,
    sin, sqrt, square, sub, tanh,
)  # fmt: skip
from tinyattn.ops.extremes import amax, amin, argmax, argmin, max, min
from tinyattn.ops.heads import packed_attention, split_heads
from tinyattn.ops.indexing import gather, getitem, index_select, place, scatter, setitem, write_index
from tinyattn.ops.inplace import view_again
from tinyattn.ops.joins import cat, chunk, concat, pad, split, stack, unbind
from tinyattn.ops.layers import embedding, embedding_gradient, linear, linear_gelu
from tinyattn.ops.loss import binary_cross_entropy_with_logits, cross_entropy, l1_loss, mse_loss, nll_loss, one_hot
from tinyattn.ops.normalization import layer_norm
from tinyattn.ops.products import bmm, einsum, matmul, mm, outer
from tinyattn.ops.promotion import result_type
from tinyattn.ops.recurrences import recurrent
from tinyattn.ops.reductions import any, cumsum, logsumexp, mean, prod, std, std_mean, sum, sum_to, var, var_mean
from tinyattn.ops.shape import (
    broadcast_to, expand, flatten, flip, movedim, permute, reshape, roll, squeeze, transpose, tril, triu, unsqueeze,
    view,
)  # fmt: skip
from tinyattn.ops.softmaxes import log_softmax, softmax

FOR_RULES = """
alias any attention_weights cast embedding_gradient getitem linear_gelu move packed_attention place recurrent
scatter setitem split_heads sum_to view_again write_index
""".split()
__all__ = [name for name, value in globals().items() if callable(value) and name not in FOR_RULES]
