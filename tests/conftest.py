"""For all tests: one thread for NumPy's and PyTorch's products, which would fight for the cores; no network; the devices.

A test module with `ON_EVERY_DEVICE = True` (or the names of some of its tests) runs on the CPU and on a GPU: the
default device is set, and tensors are made there. Which GPU that is, TINYATTN_GPU says (gpus.py). Tests that need one are
marked `gpu`. Where the processor plays it, only some of these runs belong to the default tests, chosen by their names;
all of them are among the slow ones.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterator

import gpus
import hypothesis
import pytest
import threadpoolctl
from answers import torch
from browser import browser, show  # noqa: F401 (fixtures)
from toy_mnist import toy  # noqa: F401 (a fixture)

if hasattr(torch, "__version__"):  # not a stand-in for it
    torch.set_num_threads(1)
threadpoolctl.threadpool_limits(1)
hypothesis.settings.register_profile("without a clock", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("without a clock")

_connect = socket.socket.connect


def _connect_to_this_machine(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise RuntimeError(f"no test may ask the network, and this one asked {address}")
    return _connect(self, address)


socket.socket.connect = _connect_to_this_machine

EVERY = 8  # one in so many runs on the processor is a default one


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = getattr(metafunc.module, "ON_EVERY_DEVICE", ())
    if chosen is True or (chosen and metafunc.function.__name__ in chosen):
        metafunc.parametrize("device", ["cpu", "cuda"], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        where = getattr(item, "callspec", None)
        on_gpu = where is not None and where.params.get("device") == "cuda"
        if on_gpu or "gpu" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)
        if on_gpu and gpus.CHOICE != "1" and zlib.crc32(item.nodeid.encode()) % EVERY:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device that tensors are made on."""
    import tinyattn as ta

    name = getattr(request, "param", "cpu")
    if name == "cuda":
        request.getfixturevalue("gpu")
        import cupy

        cupy.cuda.Device(0).use()  # an earlier test of several GPUs may have left CuPy at another one
    ta.set_default_device(name)
    yield name
    ta.set_default_device("cpu")


@pytest.fixture(scope="session")
def gpu() -> None:
    """A device "cuda" for tests that name it."""
    gpus.install()
