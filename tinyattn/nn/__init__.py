"""Layers, losses and models' building blocks, as torch.nn."""

from tinyattn.nn import every_module, functional, init, utils
from tinyattn.nn.activations import (
    CELU, ELU, GELU, GLU, SELU, Hardshrink, Hardsigmoid, Hardswish, Hardtanh, LeakyReLU, LogSigmoid, LogSoftmax, Mish,
    PReLU, ReLU, ReLU6, Sigmoid, SiLU, Softmax, Softmax2d, Softmin, Softplus, Softshrink, Softsign, Tanh, Tanhshrink,
    Threshold,
)  # fmt: skip
from tinyattn.nn.applied import own_constructors
from tinyattn.nn.attention import AdditiveAttentionPooling, MultiheadAttention
from tinyattn.nn.containers import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from tinyattn.nn.convolution import (
    AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d, AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d,
    AvgPool1d, AvgPool2d, AvgPool3d, Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, Fold,
    LPPool1d, LPPool2d, MaxPool1d, MaxPool2d, MaxPool3d, Unfold,
)  # fmt: skip
from tinyattn.nn.embeddings import Embedding, EmbeddingBag
from tinyattn.nn.layers import (
    AlphaDropout, Bilinear, Dropout, Dropout1d, Dropout2d, Dropout3d, Identity, LayerNorm, Linear, LinearGELU,
)  # fmt: skip
from tinyattn.nn.lazy import LazyBatchNorm1d, LazyBatchNorm2d, LazyConv1d, LazyConv2d, LazyLinear
from tinyattn.nn.losses import (
    BCELoss, BCEWithLogitsLoss, CosineEmbeddingLoss, CrossEntropyLoss, CTCLoss, GaussianNLLLoss, HingeEmbeddingLoss,
    HuberLoss, KLDivLoss, L1Loss, MarginRankingLoss, MSELoss, MultiLabelMarginLoss, MultiLabelSoftMarginLoss,
    MultiMarginLoss, NLLLoss, PoissonNLLLoss, SmoothL1Loss, SoftMarginLoss, TripletMarginLoss,
)  # fmt: skip
from tinyattn.nn.module import Module, Parameter
from tinyattn.nn.normalization import (
    BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, InstanceNorm1d, InstanceNorm2d, RMSNorm,
)  # fmt: skip
from tinyattn.nn.parallel import DataParallel, available_workers
from tinyattn.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from tinyattn.nn.resizing import (
    ChannelShuffle, CircularPad1d, CircularPad2d, CircularPad3d, ConstantPad1d, ConstantPad2d, ConstantPad3d,
    CosineSimilarity, Flatten, LocalResponseNorm, PairwiseDistance, PixelShuffle, PixelUnshuffle, ReflectionPad1d,
    ReflectionPad2d, ReflectionPad3d, ReplicationPad1d, ReplicationPad2d, ReplicationPad3d, Unflatten, Upsample,
    UpsamplingBilinear2d, UpsamplingNearest2d, ZeroPad1d, ZeroPad2d, ZeroPad3d,
)  # fmt: skip
from tinyattn.nn.transformer import (
    Transformer, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer,
)  # fmt: skip

__all__ = [name for name, value in globals().items() if getattr(value, "__module__", "").startswith("tinyattn.nn.")]
__all__.remove("own_constructors")
own_constructors(*(x for x in map(globals().get, __all__) if isinstance(x, type) and issubclass(x, Module)))
__all__ += ["available_workers", "every_module", "functional", "init", "utils"]
