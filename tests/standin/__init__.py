"""A strict stand-in for CuPy and a GPU, so that tests can run `tinyattn/backends/cuda` where there is none.

    import standin
    standin.install()                # from now on `import cupy` finds this
    x = ta.ones(3, device="cuda")
    with standin.counting() as counts:
        ...
    assert not counts["download"]

It behaves as CuPy where that differs from NumPy: implicit conversions and mixed operands are refused, indices out of
range come round again in silence, 0-d results stay arrays, arguments that CuPy's functions lack are TypeErrors, cuBLAS
is refused during a capture. And it is stricter: what CuPy would upload in secret (an index that is a list) is refused.
Kernels in CUDA C++ run on the processor (tests/cuda_shim), launched here.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from cuda_shim import guarded

from standin import arrays, cublas, functions, machine
from standin.machine import counting, counts

__all__ = ["counting", "counts", "install"]


class RawModule:
    """CUDA C++, run on the processor."""

    def __init__(
        self, code: str | None = None, *, path: str | None = None, options: tuple[str, ...] = (), backend: str = "nvrtc",
        translate_cucomplex: bool = False, enable_cooperative_groups: bool = False, name_expressions: Any = None,
        jitify: Any = None,
    ) -> None:  # fmt: skip
        self.code, self.options = code, tuple(options)
        self._module: Any = None

    def get_function(self, name: str) -> RawKernel:
        if self._module is None:
            import cuda_shim

            self._module = cuda_shim.Module(self.code, self.options)
        return RawKernel(self._module.get_function(name))


class RawKernel:
    """One function of it."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.attributes: dict[str, int] = {}

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._function.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self._function.max_dynamic_shared_size_bytes = size

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0, stream: Any = None) -> None:
        held = []
        for arg in args:
            if isinstance(arg, np.ndarray):
                arg = _by_value(arg)
            held.append(arg._a if isinstance(arg, arrays.ndarray) else arg)
        machine.launch(lambda: self._function(grid, block, held, shared_mem=shared_mem))


def _by_value(struct: np.ndarray) -> np.ndarray:
    """The bytes of a NumPy array of one element, as they are now; that is how CuPy passes a struct."""
    if struct.size != 1 or struct.dtype.names is None:
        raise TypeError(f"a kernel was given an array of the processor, of shape {struct.shape}")
    for pointers in guarded.pointers(struct):
        for address in pointers.tolist():
            memory = machine.memory_at(address) if address else None
            if address and (memory is None or memory.device_id != machine.current_device()):
                raise ValueError(f"a struct points to {address:#x}, which is no memory of the current device")
    return struct.copy()


class Device:
    """A GPU by number, the current one unless said."""

    def __init__(self, device: int | None = None) -> None:
        self.id = machine.current_device() if device is None else int(device)
        self._before: list[int] = []

    def use(self) -> None:
        machine.set_device(self.id)

    def __enter__(self) -> Device:
        self._before.append(machine.current_device())
        self.use()
        return self

    def __exit__(self, *exception: object) -> None:
        machine.set_device(self._before.pop())

    def synchronize(self) -> None:
        machine.synchronise()

    @property
    def mem_info(self) -> tuple[int, int]:
        return (8 << 30) - machine.default_pool.total_bytes(), 8 << 30

    @property
    def compute_capability(self) -> str:
        return "80"

    attributes = property(lambda self: {"MultiProcessorCount": 4, "MaxSharedMemoryPerBlockOptin": 99 << 10})


def _runtime() -> ModuleType:
    runtime = ModuleType("cupy.cuda.runtime")
    vars(runtime).update(
        CUDARuntimeError=machine.CUDARuntimeError,
        driverGetVersion=lambda: 12090,
        runtimeGetVersion=lambda: 12090,
        getDeviceCount=lambda: machine.GPUS,
        getDevice=machine.current_device,
        setDevice=machine.set_device,
        deviceSynchronize=machine.synchronise,
        getDeviceProperties=lambda index: {"name": b"Stand-in", "totalGlobalMem": 8 << 30, "major": 8, "minor": 0},
        streamCaptureModeThreadLocal=1,
        streamCaptureModeRelaxed=2,
    )
    return runtime


def _modules() -> dict[str, ModuleType]:
    cupy, cuda, cupyx = ModuleType("cupy"), ModuleType("cupy.cuda"), ModuleType("cupyx")
    scipy, special = ModuleType("cupyx.scipy"), ModuleType("cupyx.scipy.special")
    vars(cupy).update({name: value for name, value in vars(functions).items() if not name.startswith("_")})
    vars(cupy).update(
        ndarray=arrays.ndarray, RawModule=RawModule, cuda=cuda, __version__="14.2.0",
        get_default_memory_pool=lambda: machine.default_pool,
    )  # fmt: skip
    memory = ModuleType("cupy.cuda.memory")
    vars(memory).update(OutOfMemoryError=machine.OutOfMemoryError)
    vars(cuda).update(
        Device=Device, Stream=machine.Stream, Event=machine.Event, Graph=machine.Graph, MemoryPool=machine.MemoryPool,
        MemoryHook=machine.MemoryHook,
        runtime=_runtime(), memory=memory, get_current_stream=machine.current_stream, is_available=lambda: True,
        using_allocator=machine.using_allocator, set_allocator=machine.set_allocator, get_allocator=machine.get_allocator,
        alloc_pinned_memory=machine.PinnedMemory,
    )  # fmt: skip
    special.erf = lambda x: arrays.compute(_erf, x)  # type: ignore[attr-defined]
    scipy.special, cupyx.scipy = special, scipy  # type: ignore[attr-defined]
    pathfinder = ModuleType("cuda.pathfinder")
    vars(pathfinder).update(
        find_nvidia_header_directory=str, DynamicLibNotFoundError=RuntimeError,
        load_nvidia_dynamic_lib=lambda name: SimpleNamespace(abs_path="libcublas.so.12"),
    )  # fmt: skip
    names = [cupy, cuda, cuda.runtime, memory, cupyx, scipy, special, pathfinder]  # type: ignore[attr-defined]
    return {module.__name__: module for module in names}


def _bounds(address: int) -> tuple[int, int] | None:
    memory = machine.memory_at(address)
    return None if memory is None else (memory.ptr, memory.ptr + memory.asked_for)


def _erf(x: Any) -> Any:
    from tinyattn.backends.cpu.error_function import erf

    return erf(x)


def install() -> None:
    """Have `import cupy` find this from now on. Once; no real CuPy may have been imported before."""
    if getattr(sys.modules.get("cupy"), "RawModule", None) is RawModule:
        return
    if "cupy" in sys.modules:
        raise RuntimeError("the stand-in comes too late: cupy is imported already")
    sys.modules.update(_modules())
    from tinyattn.backends.cuda import products

    guarded.know_memory(_bounds)
    library = cublas.Library()
    products.library = lambda: library  # type: ignore[assignment]
