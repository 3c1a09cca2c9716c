"""torch.cuda's types, events, streams and memory; operations run in order here, so streams have no effect."""

from __future__ import annotations

import time
import types
from collections.abc import Callable
from typing import Any

import tinyattn as ta
from tinyattn.compat.parts import Nothing, ignored, no


class _OneOfAny(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, ta.device)


class device(metaclass=_OneOfAny):  # noqa: N801 - torch's name
    """As ta.device, but a device that is nowhere here can be named, and compared with others. As torch.device."""

    def __new__(cls, type: Any, index: int | None = None) -> Any:
        """Return a ta.device, on which tensors can be made if its type is "cpu" or "cuda"."""
        if type not in ("meta", "mps", "xpu", "npu", "hpu", "xla"):
            return ta.device(type, index)
        self = str.__new__(ta.device, type)
        self.type, self.index = type, index
        return self


class _OnCuda(type):
    """The constructor of tensors of a dtype on the GPU, which they are instances of: torch.cuda.FloatTensor."""

    def __call__(cls, *data: Any) -> Any:
        return getattr(ta, cls.__name__)(*data).cuda()

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, getattr(ta, cls.__name__)) and instance.is_cuda


KINDS = "Float Double Half Long Int Short Char Byte Bool".split()
CUDA_TYPES = {f"{kind}Tensor": _OnCuda(f"{kind}Tensor", (), {}) for kind in KINDS}


def current_accelerator(check_available: bool = False) -> Any:
    """The GPU, or None."""
    return ta.device("cuda") if ta.cuda.is_available() else None


def synchronize(device: Any = None) -> None:
    """Wait for the GPU, if there is one."""
    if ta.cuda.is_available():
        ta.cuda.synchronize(device)


class Event:
    """A moment, when all that was run before it is done."""

    def __init__(self, *options: Any, **named: Any) -> None:
        self.record()

    def record(self, stream: Any = None) -> None:
        """Wait for the GPU, and take the time."""
        synchronize()
        self.time = time.perf_counter()

    def elapsed_time(self, end_event: Event) -> float:
        """Return the milliseconds from this event to another."""
        return (end_event.time - self.time) * 1e3

    synchronize = wait = ignored


class Stream(Nothing):
    """A queue of the GPU, of which there is one."""

    synchronize = staticmethod(synchronize)
    wait_stream = wait_event = record_event = ignored


def get_device_properties(device: Any = None) -> Any:
    """The name, the memory in bytes and the compute capability of a GPU."""
    major, minor = ta.cuda.get_device_capability(device)
    name, memory = ta.cuda.get_device_name(device), ta.cuda.mem_get_info(device)[1]
    return types.SimpleNamespace(name=name, total_memory=memory, major=major, minor=minor)


def _memory(name: str) -> Callable[..., int]:
    return lambda device=None: getattr(ta.cuda, name)(device) if ta.cuda.is_available() else 0


MEMORY = {name: _memory(name) for name in ("memory_allocated", "max_memory_allocated", "memory_reserved")}  # 0 without
MEMORY["max_memory_reserved"] = MEMORY["memory_reserved"]
STREAMS = {
    "Event": Event, "Stream": Stream, "stream": Nothing, "current_stream": Stream, "default_stream": Stream,
    "get_device_properties": get_device_properties, "is_current_stream_capturing": no, "ipc_collect": ignored,
    "is_initialized": ta.cuda.is_available, "OutOfMemoryError": MemoryError, "init": ignored,
    "reset_max_memory_allocated": ta.cuda.reset_peak_memory_stats,
}  # fmt: skip
