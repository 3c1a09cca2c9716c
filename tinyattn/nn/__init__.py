"""Layers, losses and models' building blocks, as torch.nn."""

from tinyattn.nn import functional, init, utils
from tinyattn.nn.attention import AdditiveAttentionPooling, MultiheadAttention
from tinyattn.nn.containers import ModuleList, Sequential
from tinyattn.nn.layers import (
    GELU, Dropout, Embedding, Flatten, Identity, LayerNorm, Linear, LinearGELU, LogSigmoid, LogSoftmax, ReLU,
    Sigmoid, SiLU, Softmax, Softplus, Tanh,
)  # fmt: skip
from tinyattn.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from tinyattn.nn.module import Module, Parameter
from tinyattn.nn.parallel import DataParallel, available_workers
from tinyattn.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from tinyattn.nn.transformer import (
    Transformer, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer,
)  # fmt: skip

__all__ = [
    "GELU", "GRU", "LSTM", "RNN", "AdditiveAttentionPooling", "BCEWithLogitsLoss", "CrossEntropyLoss", "DataParallel",
    "Dropout", "Embedding", "Flatten", "GRUCell", "Identity", "L1Loss", "LSTMCell", "LayerNorm", "Linear", "LinearGELU",
    "LogSigmoid", "LogSoftmax", "MSELoss", "Module", "ModuleList", "MultiheadAttention", "NLLLoss", "Parameter",
    "RNNCell", "ReLU", "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh", "Transformer",
    "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer",
    "available_workers", "functional", "init", "utils",
]  # fmt: skip
