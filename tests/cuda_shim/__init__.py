"""CUDA sources on the processor: `.cu` files compiled by g++ and run block by block.

    module = compile(code, options)                       # as cupy.RawModule(code=code, options=options)
    kernel = module.get_function("softmax_rows")
    kernel((rows,), (128,), (x, out, 64), shared_mem=0)   # as cupy.RawKernel

Threads of a block are fibres of one thread of the processor. They take turns at barriers and at exchanges between the
lanes of a warp, and nowhere else, so a run is deterministic. What a GPU would let pass in silence is an error here
(`KernelError`): threads that leave while others wait for them, warps whose lanes part ways, writes beyond the shared
memory that was asked for, more of it than a block may have, an argument of the wrong kind or a pointer to the wrong
type. Shared memory holds NaN before it is written. Threads and blocks run in the order that `schedule` says:
"forward", "backward" or "shuffled"; where a barrier is missing, the orders give different results.

`with thorough():` has every launch run in all three orders, on copies of its arrays that lie between guard zones. The
orders must give the same bits, and nothing may have been written to the zones.

`args` are arrays (NumPy's, or whatever has `.dtype` and `.data.ptr`), plain addresses (int), NumPy scalars, or Python
numbers, which count as 64 bits wide, as in CuPy; None is a null pointer (launch(), in backends/cuda, passes 0). A struct
is a NumPy array of one element with fields; those of type uint64 count as pointers, and `guarded.memory_at` must know
the memory that they point to.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cuda_shim import guarded
from cuda_shim.guarded import Copy, Region

HERE = Path(__file__).parent
STRICT = 0  # of the modes in runtime.cpp
SCHEDULES = ("forward", "backward", "shuffled")
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-w", "-U_FORTIFY_SOURCE", "-Wl,-Bsymbolic"]
if guarded.SANITIZE:
    FLAGS += ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
_KINDS = {"?": "b", "b": "c", "B": "C", "i": "i", "I": "I", "q": "q", "l": "q", "Q": "Q", "L": "Q", "f": "f", "d": "d"}
_KERNEL = re.compile(r'extern "C"\s+__global__\s+void(?:\s+__launch_bounds__\([^)]*\))?\s+(\w+)\s*\(')
_lock = threading.Lock()
_thorough = False


class KernelError(RuntimeError):
    """A kernel did what a GPU may not notice."""


@contextmanager
def thorough() -> Iterator[None]:
    """Run every launch in all orders, on guarded copies. Not for several Python threads at once."""
    global _thorough
    before, _thorough = _thorough, True
    try:
        yield
    finally:
        _thorough = before


class Module:
    """The kernels of one source, compiled. `schedule` is the order in which threads and blocks run."""

    def __init__(self, code: str, options: Sequence[str] = (), schedule: str = "forward") -> None:
        self.schedule = schedule
        self._library = _load(code, tuple(options))
        self._functions: dict[str, Function] = {}

    def get_function(self, name: str) -> Function:
        if name not in self._functions:
            self._functions[name] = Function(self, name)
        return self._functions[name]

    def launch(
        self, name: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0
    ) -> None:
        self.get_function(name)(grid, block, args, shared_mem)


compile = Module


class Function:
    """One kernel. To be called with grid, block, arguments and bytes of shared memory."""

    def __init__(self, module: Module, name: str) -> None:
        self.name, self._module = name, module
        self.max_dynamic_shared_size_bytes = 48 << 10  # more must be asked for, as on a GPU
        try:
            self._body = getattr(module._library, f"{name}__call")
        except AttributeError:
            raise KernelError(f"there is no kernel {name!r} in this module") from None
        signature = getattr(module._library, f"{name}__signature")
        signature.restype = ctypes.c_char_p
        self.signature = signature().decode().split()  # "Pf" a pointer to float, "q" a long long ...

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], shared_mem: int = 0, **_: Any
    ) -> None:
        if len(args) != len(self.signature):
            raise KernelError(f"{self.name}: {len(args)} arguments; it takes {len(self.signature)}")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise KernelError(f"{self.name}: {shared_mem} bytes of shared memory; a block may have "
                              f"{self.max_dynamic_shared_size_bytes} unless max_dynamic_shared_size_bytes says more")  # fmt: skip
        cells = [self._cell(i, arg, kind) for i, (arg, kind) in enumerate(zip(args, self.signature, strict=True))]
        sizes = [*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3]]
        if _thorough:
            self._run_thoroughly(sizes, cells, guarded.regions(args, self._pointed_to(cells)), shared_mem)
        else:
            self._run(sizes, cells, shared_mem, self._module.schedule)

    def _run(self, sizes: list[int], cells: list[np.ndarray], shared: int, schedule: str) -> None:
        table = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
        message = ctypes.create_string_buffer(500)
        with _lock:
            failed = runtime().shim_launch(
                self._body,
                table,
                (ctypes.c_uint * 6)(*sizes),
                shared,
                SCHEDULES.index(schedule),
                STRICT,
                message,
                len(message),
            )
        if failed:
            raise KernelError(f"{self.name}: {message.value.decode()}")

    def _run_thoroughly(self, sizes: list[int], cells: list[np.ndarray], regions: list[Region], shared: int) -> None:
        first: list[Copy] = []
        for schedule in SCHEDULES[:1] if guarded.SANITIZE else SCHEDULES:  # the sanitizers take long enough
            copies = [Copy(region) for region in regions]
            self._run(
                sizes,
                [self._moved(*pair, copies) for pair in zip(cells, self.signature, strict=True)],
                shared,
                schedule,
            )
            for i, copy in enumerate(copies):
                at = copy.touched()
                if at is not None:
                    raise KernelError(f"{self.name}: a write outside of array {i} ({copy.size} bytes), at byte {at}")
            first = first or copies
            if any((a.bytes != b.bytes).any() for a, b in zip(copies, first, strict=True)):
                raise KernelError(
                    f"{self.name}: the order {schedule!r} of threads gives other bits than {SCHEDULES[0]!r}"
                )
        for region, copy in zip(regions, first, strict=True):
            region.bytes[:] = copy.bytes

    @staticmethod
    def _moved(cell: np.ndarray, kind: str, copies: list[Copy]) -> np.ndarray:
        """A pointer into a region points into its copy."""
        if kind[0] not in "PS":
            return cell
        cell = cell.copy()
        for pointers in guarded.pointers(cell):
            for place, address in enumerate(pointers.tolist()):
                for copy in copies:
                    if copy.region.low <= address < copy.region.high:
                        pointers[place] = copy.moved(address)
        return cell

    def _pointed_to(self, cells: list[np.ndarray]) -> list[tuple[int, int]]:
        """Where the memory lies that structs point to."""
        structs = [cell for cell, kind in zip(cells, self.signature, strict=True) if kind[0] == "S"]
        found = {int(a) for cell in structs for pointers in guarded.pointers(cell) for a in pointers if a}
        bounds = {address: guarded.memory_at(address) for address in found}
        unknown = [address for address, region in bounds.items() if region is None]
        if unknown:
            raise KernelError(f"{self.name}: a struct points to memory that nobody holds, {unknown[0]:#x}")
        return [region for region in bounds.values() if region is not None]

    def _cell(self, place: int, arg: Any, kind: str) -> np.ndarray:
        """The argument in memory, eight bytes of it unless it is a struct, after a look at its type."""
        if kind[0] == "S" or getattr(arg, "dtype", np.dtype(bool)).names:
            if not isinstance(arg, np.ndarray) or arg.size != 1 or kind != f"S{arg.itemsize}":
                raise KernelError(f"{self.name}: argument {place} is {_described(arg)}; the kernel takes {kind!r}")
            return arg.reshape(1).copy()
        if kind[0] != "P":
            value = np.asarray(arg, np.int64 if isinstance(arg, int) else None)
            if _KINDS.get(value.dtype.char) != kind:
                raise KernelError(f"{self.name}: argument {place} is {value.dtype}; the kernel takes {kind!r}")
            return value.reshape(1).copy()
        if guarded.is_array(arg):
            if _KINDS.get(arg.dtype.char) != kind[1:]:
                raise KernelError(f"{self.name}: argument {place} points to {arg.dtype}; the kernel takes {kind!r}")
            arg = guarded.address(arg)
        return np.array([arg or 0], np.uint64)


def _described(arg: Any) -> str:
    return (
        f"{arg.size} structs of {arg.itemsize} bytes" if isinstance(arg, np.ndarray) and arg.dtype.names else repr(arg)
    )


@functools.cache
def _folder() -> Path:
    _folder.keep = tempfile.TemporaryDirectory(prefix="cuda-shim-")  # type: ignore[attr-defined]
    return Path(_folder.keep.name)  # type: ignore[attr-defined]


@functools.cache
def runtime() -> ctypes.CDLL:
    """The library that runs kernels. There is one in a process, whose names the kernels find."""
    path = _build((HERE / "runtime.cpp").read_text(encoding="utf-8"), ())
    return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _load(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    runtime()
    return ctypes.CDLL(str(build(code, options)))


def kernels(code: str) -> list[str]:
    """The names of the kernels in a source."""
    return _KERNEL.findall(code)


def build(code: str, options: tuple[str, ...]) -> Path:
    """The shared object of a source; made once."""
    entries = "".join(f"SHIM_KERNEL({name})\n" for name in kernels(code))
    return _build(f'#include "cuda.hpp"\n{code}\n{entries}', tuple(o for o in options if o.startswith("-D")))


def _build(source: str, options: tuple[str, ...]) -> Path:
    key = hashlib.sha256(repr((source, options, FLAGS)).encode()).hexdigest()[:20]
    path = _folder() / f"{key}.so"
    if not path.exists():
        text, fresh = path.with_suffix(".cpp"), path.with_suffix(f".{threading.get_ident()}")
        text.write_text(source, encoding="utf-8")
        command = ["g++", *FLAGS, *options, f"-I{HERE}", str(text), "-o", str(fresh)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise KernelError(done.stderr[:4000])
        fresh.rename(path)
    return path
