"""CuPy under our names: plain array functions, random numbers, and the kernels of fused operations.

Imported when somebody first asks for a GPU. What stands in `cpu/` stands here under the same names; `.cu` files beside
this one hold the kernels that are written by hand.
"""

from tinyattn.backends.cuda.activations import *
from tinyattn.backends.cuda.arrays import *
from tinyattn.backends.cuda.attention import *
from tinyattn.backends.cuda.device import *
from tinyattn.backends.cuda.flags import *
from tinyattn.backends.cuda.graphs import *
from tinyattn.backends.cuda.indexing import *
from tinyattn.backends.cuda.layers import *
from tinyattn.backends.cuda.loss import *
from tinyattn.backends.cuda.memory import *
from tinyattn.backends.cuda.optimizer import *
from tinyattn.backends.cuda.random import *
from tinyattn.backends.cuda.softmaxes import *
