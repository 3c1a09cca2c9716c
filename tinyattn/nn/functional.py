"""Operations under their names in torch.nn.functional."""

from tinyattn.ops import (
    binary_cross_entropy_with_logits,
    cosine_similarity,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    l1_loss,
    layer_norm,
    linear,
    linear_gelu,
    log_softmax,
    logsigmoid,
    mse_loss,
    nll_loss,
    normalize,
    one_hot,
    packed_attention,
    pad,
    pairwise_distance,
    relu,
    scaled_dot_product_attention,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)  # fmt: skip

__all__ = [
    "binary_cross_entropy_with_logits", "cosine_similarity", "cross_entropy", "dropout", "embedding", "gelu", "l1_loss",
    "layer_norm", "normalize", "pairwise_distance",
    "linear", "linear_gelu", "log_softmax", "logsigmoid", "mse_loss", "nll_loss", "one_hot", "pad", "relu",
    "packed_attention", "scaled_dot_product_attention", "sigmoid", "silu", "softmax", "softplus", "tanh",
]  # fmt: skip
