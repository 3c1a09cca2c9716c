"""CuPy under our names: plain array functions, random numbers, and the kernels of fused operations.

Imported at the first use of a GPU. The functions are those of `cpu/`; hand-written kernels are in `kernels/*.cu`.
"""

from tinyattn.backends.cuda.arrays import *
from tinyattn.backends.cuda.convolution import *
from tinyattn.backends.cuda.device import *
from tinyattn.backends.cuda.flags import *
from tinyattn.backends.cuda.graphs import *
from tinyattn.backends.cuda.indexing import *
from tinyattn.backends.cuda.layers import *
from tinyattn.backends.cuda.optimizer import *
from tinyattn.backends.cuda.order import *
from tinyattn.backends.cuda.random import *
from tinyattn.backends.cuda.softmaxes import *
