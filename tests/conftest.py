"""For all tests: one thread for NumPy's and PyTorch's products, which would fight for the cores, and no network."""

import socket

import threadpoolctl
import torch
from toy_mnist import toy  # noqa: F401 (a fixture)

torch.set_num_threads(1)
threadpoolctl.threadpool_limits(1)

_connect = socket.socket.connect


def _connect_to_this_machine(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise RuntimeError(f"no test may ask the network, and this one asked {address}")
    return _connect(self, address)


socket.socket.connect = _connect_to_this_machine
