"""Layers, losses and models' building blocks, as torch.nn."""

from tinyattn.nn import functional, init, utils
from tinyattn.nn.attention import AdditiveAttentionPooling, MultiheadAttention
from tinyattn.nn.containers import ModuleList, Sequential
from tinyattn.nn.convolution import (
    AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveMaxPool1d, AdaptiveMaxPool2d, AvgPool1d, AvgPool2d, Conv1d,
    Conv2d, ConvTranspose1d, ConvTranspose2d, Fold, MaxPool1d, MaxPool2d, Unfold,
)  # fmt: skip
from tinyattn.nn.layers import (
    GELU, Dropout, Embedding, Flatten, Identity, LayerNorm, Linear, LinearGELU, LogSigmoid, LogSoftmax, ReLU,
    Sigmoid, SiLU, Softmax, Softplus, Tanh,
)  # fmt: skip
from tinyattn.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from tinyattn.nn.module import Module, Parameter
from tinyattn.nn.normalization import (
    BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm1d, InstanceNorm2d, RMSNorm,
)  # fmt: skip
from tinyattn.nn.parallel import DataParallel, available_workers
from tinyattn.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from tinyattn.nn.transformer import (
    Transformer, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer,
)  # fmt: skip

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdditiveAttentionPooling",
    "AvgPool1d", "AvgPool2d", "BCEWithLogitsLoss", "BatchNorm1d", "BatchNorm2d", "Conv1d", "Conv2d",
    "ConvTranspose1d", "ConvTranspose2d", "CrossEntropyLoss", "DataParallel", "Dropout", "Embedding", "Flatten",
    "Fold", "GELU", "GRU", "GRUCell", "GroupNorm", "Identity", "InstanceNorm1d", "InstanceNorm2d", "L1Loss", "LSTM",
    "LSTMCell", "LayerNorm", "Linear", "LinearGELU", "LogSigmoid", "LogSoftmax", "MSELoss", "MaxPool1d", "MaxPool2d",
    "Module", "ModuleList", "MultiheadAttention", "NLLLoss", "Parameter", "RMSNorm", "RNN", "RNNCell", "ReLU",
    "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh", "Transformer", "TransformerDecoder",
    "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer", "Unfold", "available_workers",
    "functional", "init", "utils",
]  # fmt: skip
