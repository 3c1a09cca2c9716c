"""One thread for NumPy's and PyTorch's products: side by side they would fight for the cores."""

import threadpoolctl
import torch
from toy_mnist import toy  # noqa: F401 (a fixture)

torch.set_num_threads(1)
threadpoolctl.threadpool_limits(1)
