"""NumPy under our names: plain array functions, random numbers, and the kernels of fused operations."""

from tinyattn.backends.cpu.activations import *
from tinyattn.backends.cpu.arrays import *
from tinyattn.backends.cpu.attention import *
from tinyattn.backends.cpu.convolution import *
from tinyattn.backends.cpu.extremes import *
from tinyattn.backends.cpu.indexing import *
from tinyattn.backends.cpu.layers import *
from tinyattn.backends.cpu.loss import *
from tinyattn.backends.cpu.optimizer import *
from tinyattn.backends.cpu.order import *
from tinyattn.backends.cpu.softmaxes import *
