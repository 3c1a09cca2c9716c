"""Operations under their names in torch.nn.functional."""

from tinyattn.ops import (
    adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_max_pool1d, adaptive_max_pool2d, avg_pool1d, avg_pool2d,
    batch_norm, binary_cross_entropy_with_logits, conv1d, conv2d, conv_transpose1d, conv_transpose2d,
    cosine_similarity, cross_entropy, dropout, embedding, fold, gelu, group_norm, instance_norm, l1_loss, layer_norm,
    linear, linear_gelu, log_softmax, logsigmoid, max_pool1d, max_pool2d, mse_loss, nll_loss, normalize, one_hot,
    packed_attention, pad, pairwise_distance, rms_norm, scaled_dot_product_attention, sigmoid, softmax, softplus, tanh,
    unfold,
)  # fmt: skip
from tinyattn.ops.alignment_losses import ctc_loss
from tinyattn.ops.convolution import conv3d, conv_transpose3d
from tinyattn.ops.dropouts import alpha_dropout, dropout1d, dropout2d, dropout3d
from tinyattn.ops.grouping import embedding_bag
from tinyattn.ops.images import (
    affine_grid, channel_shuffle, grid_sample, interpolate, local_response_norm, pixel_shuffle, pixel_unshuffle,
    upsample,
)  # fmt: skip
from tinyattn.ops.layers import bilinear
from tinyattn.ops.multiclass_losses import (
    multi_margin_loss, multilabel_margin_loss, multilabel_soft_margin_loss,
)  # fmt: skip
from tinyattn.ops.nonlinearities import (
    celu, celu_, elu, elu_, glu, gumbel_softmax, hardshrink, hardsigmoid, hardswish, hardtanh, hardtanh_, leaky_relu,
    leaky_relu_, mish, prelu, relu, relu6, relu_, selu, selu_, silu, softmin, softshrink, softsign, tanhshrink,
    threshold, threshold_,
)  # fmt: skip
from tinyattn.ops.pair_losses import (
    binary_cross_entropy, cosine_embedding_loss, gaussian_nll_loss, hinge_embedding_loss, huber_loss, kl_div,
    margin_ranking_loss, poisson_nll_loss, smooth_l1_loss, soft_margin_loss, triplet_margin_loss,
)  # fmt: skip
from tinyattn.ops.adaptive import adaptive_avg_pool3d, adaptive_max_pool3d
from tinyattn.ops.pooling import avg_pool3d, lp_pool1d, lp_pool2d, max_pool3d
from tinyattn.ops.softmaxes import entmax, sparsemax

__all__ = [name for name, value in globals().items() if callable(value)]
