"""Every operation on tensors, by family: forward beside rule.

Rules and definitions get this namespace as `xp` when they run on Tensors; `tinyattn.backends` offers the same
names for arrays. `tinyattn` re-exports all of it but what stands in FOR_RULES.
"""

from tinyattn.ops.adaptive import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_max_pool1d, adaptive_max_pool2d
from tinyattn.ops.activations import gelu, logsigmoid, relu, sigmoid, silu, softplus
from tinyattn.ops.assembling import (
    atleast_1d, atleast_2d, atleast_3d, block_diag, chain_matmul, combinations, corrcoef, cov, diagflat,
    diagonal_scatter, dsplit, hamming_window, hann_window, hsplit, kron, rot90, select_scatter, slice_scatter,
    trapezoid, trapz, vander, vsplit,
)  # fmt: skip
from tinyattn.ops.attention import attention_weights, scaled_dot_product_attention, tiled_attention
from tinyattn.ops.choices import (
    bitwise_and, bitwise_left_shift, bitwise_not, bitwise_or, bitwise_right_shift, bitwise_xor, clamp, eq, ge, gt,
    isfinite, le, logical_and, logical_not, logical_or, lt, masked_fill, maximum, minimum, ne, where,
)  # fmt: skip
from tinyattn.ops.convolution import (
    conv1d, conv2d, conv_transpose1d, conv_transpose2d, convolve, convolve_input, convolve_weight, fold, overlap_add,
    unfold, windows,
)  # fmt: skip
from tinyattn.ops.copies import alias, cast, clone, move
from tinyattn.ops.creation import (
    arange, as_tensor, empty, empty_like, eye, from_dlpack, from_numpy, full, full_like, linspace, ones, ones_like,
    rand, rand_like, randint, randint_like, randn, randn_like, randperm, tensor, zeros, zeros_like,
)  # fmt: skip
from tinyattn.ops.derived import (
    absolute, aminmax, arctan2, broadcast_shapes, broadcast_tensors, cartesian_prod, clip, concatenate, cross, detach,
    diff, divide, erfinv, exp2, greater, greater_equal, histc, index_put, inner, isin, less, less_equal, logit,
    logspace, multiply, nanmean, nansum, negative, not_equal, put, ravel, subtract, t, tensordot, tril_indices,
    triu_indices, true_divide,
)  # fmt: skip
from tinyattn.ops.dropouts import dropout
from tinyattn.ops.elementwise import (
    abs, add, cos, div, erf, exp, expm1, floor_divide, log, log1p, mul, neg, pow, reciprocal, remainder, rsqrt, sign,
    sin, sqrt, square, sub, tanh,
)  # fmt: skip
from tinyattn.ops.extremes import amax, amin, argmax, argmin, max, min
from tinyattn.ops.factors import inv as inverse
from tinyattn.ops.factors import matrix_exp
from tinyattn.ops.formulas import (
    copysign, deg2rad, fmax, fmin, heaviside, isneginf, isposinf, logaddexp, logaddexp2, rad2deg, sgn, signbit, sinc,
    xlogy,
)  # fmt: skip
from tinyattn.ops.grouping import scatter_reduce
from tinyattn.ops.heads import packed_attention, split_heads
from tinyattn.ops.indexing import gather, getitem, index_select, place, setitem, ungather, write_index
from tinyattn.ops.inplace import view_again
from tinyattn.ops.joins import cat, chunk, concat, pad, split, stack, unbind
from tinyattn.ops.legacy import (
    BoolTensor, ByteTensor, CharTensor, DoubleTensor, FloatTensor, HalfTensor, IntTensor, LongTensor, ShortTensor,
    is_complex, is_floating_point, is_tensor, numel,
)  # fmt: skip
from tinyattn.ops.mathematics import (
    acos, acosh, addbmm, addcdiv, addcmul, addmm, addmv, addr, allclose, arccos, arccosh, arcsin, arcsinh, arctan,
    arctanh, asin, asinh, atan, atan2, atanh, baddbmm, ceil, clamp_max, clamp_min, cosh, dot, equal, fix, floor, fmod,
    frac, hypot, isclose, isinf, isnan, lerp, log10, log2, logical_xor, mv, nan_to_num, round, sinh, tan, trunc,
)  # fmt: skip
from tinyattn.ops.norms import cdist, cosine_similarity, dist, norm, normalize, pairwise_distance
from tinyattn.ops.order import (
    argsort, bernoulli, bincount, bucketize, median, multinomial, normal, searchsorted, sort, topk, unique,
)  # fmt: skip
from tinyattn.ops.quantiles import kthvalue, mode, nanmedian, nanquantile, quantile, unique_consecutive
from tinyattn.ops.rearranging import (
    as_strided, column_stack, diag, diag_embed, diagonal, dstack, fliplr, flipud, hstack, meshgrid, moveaxis, narrow,
    repeat_interleave, row_stack, select, swapaxes, swapdims, tensor_split, tile, trace, unflatten, vstack,
)  # fmt: skip
from tinyattn.ops.scans import cummax, cummin, logcumsumexp
from tinyattn.ops.scattering import (
    argwhere, index_add, index_copy, index_fill, masked_scatter, masked_select, nonzero, scatter, scatter_add, take,
    take_along_dim,
)  # fmt: skip
from tinyattn.ops.layers import embedding, embedding_gradient, linear, linear_gelu
from tinyattn.ops.loss import binary_cross_entropy_with_logits, cross_entropy, l1_loss, mse_loss, nll_loss, one_hot
from tinyattn.ops.normalization import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from tinyattn.ops.pooling import avg_pool1d, avg_pool2d, max_pool1d, max_pool2d
from tinyattn.ops.products import bmm, einsum, matmul, mm, outer
from tinyattn.ops.promotion import result_type
from tinyattn.ops.recurrences import recurrent
from tinyattn.ops.reductions import (
    all, any, count_nonzero, cumprod, cumsum, logsumexp, mean, prod, std, std_mean, sum, sum_to, var, var_mean,
)  # fmt: skip
from tinyattn.ops.shape import (
    broadcast_to, expand, flatten, flip, movedim, permute, reshape, roll, squeeze, transpose, tril, triu, unsqueeze,
    view,
)  # fmt: skip
from tinyattn.ops.softmaxes import log_softmax, softmax

FOR_RULES = """
adaptive_avg_pool2d adaptive_max_pool2d alias attention_weights avg_pool2d cast convolve convolve_input
convolve_weight embedding_gradient fold getitem linear_gelu max_pool2d move normalize overlap_add
packed_attention place recurrent setitem split_heads sum_to unfold ungather view_again windows write_index
""".split()
__all__ = [name for name, value in globals().items() if callable(value) and name not in FOR_RULES]
