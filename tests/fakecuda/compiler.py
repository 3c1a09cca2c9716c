"""g++ in the place of NVRTC: CUDA C++ that CuPy generates, or that this project has, becomes a shared object.

Its bytes stand where those of a cubin would, so CuPy keeps them in its cache and loads them through runtime.c.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cuda_shim
import cupy
from cupy.cuda import compiler

from fakecuda import PINNED
from fakecuda.cache import HERE, build, folder

STRICT, LENIENT, PLAIN = range(3)  # as in cuda_shim/runtime.cpp
_FLAGS = ["-std=c++17", "-O1", "-fPIC", "-w", "-U_FORTIFY_SOURCE", "-ffp-contract=off"]
_SHARED = re.compile(r"extern\s+__shared__\s+([\w ]+?)\s+(\w+)\[\];")
_WAITING = re.compile(r"__syncthreads|__syncwarp|__shfl|__ballot|_sync\(")


def install() -> None:
    """Have CuPy compile so."""
    for name in ("_NVRTCProgram", "_get_nvrtc_version"):
        if not hasattr(compiler, name):
            raise RuntimeError(f"CuPy has moved: cupy.cuda.compiler.{name} is missing; tests/fakecuda is for {PINNED}.")
    compiler._NVRTCProgram = Program
    compiler._get_nvrtc_version = lambda: (12, 9)


class Program:
    """What CuPy makes of a source: see cupy.cuda.compiler._NVRTCProgram."""

    def __init__(
        self, src: Any, name: str = "", headers: Iterable[str] = (), include_names: Iterable[str] = (),
        name_expressions: Sequence[str] | None = None, method: str = "ptx",
    ) -> None:  # fmt: skip
        self.source = src.decode() if isinstance(src, bytes) else src
        self.name, self.expressions = name, sorted(name_expressions or ())

    def compile(self, options: Iterable[str] = (), log_stream: Any = None) -> tuple[bytes, dict[str, str] | None]:
        """Return the shared object, and which names in it the instances of templates have.

        Raises CuPy's CompileException with g++'s words.
        """
        if not self.source.strip():  # CuPy asks for the compiler's version, as a part of its cache's keys
            return folder().name.encode(), None
        defined = [option for option in options if option.startswith("-D")]
        instances = {expression: f"instance_{i}" for i, expression in enumerate(self.expressions)}
        own = any(option.startswith("-Dreal=") for option in defined)  # a source of this project
        with tempfile.TemporaryDirectory() as place:
            source, made = Path(place, "kernel.cpp"), Path(place, "kernel.so")
            source.write_text(_translated(self.source, own, instances), encoding="utf-8")
            command = ["g++", *_flags(own), *defined, "-shared", "-s", "-Wl,-Bsymbolic", str(source), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise compiler.CompileException(done.stderr[:4000], self.source, self.name, tuple(options), "g++")
            return made.read_bytes(), instances or None


def _flags(own: bool) -> list[str]:
    """The shim's headers for a source of this project; else CuPy's and ours, precompiled: half of the time."""
    shim = f"-I{cuda_shim.HERE}"
    return [*_FLAGS, shim] if own else [*_FLAGS, f"-I{_precompiled()}", f"-I{HERE / 'include'}", shim, _cupy_headers()]


@cache
def _precompiled() -> Path:
    flags = [*_FLAGS, f"-I{HERE / 'include'}", f"-I{cuda_shim.HERE}", _cupy_headers()]
    build("cupy_side.hpp.gch", ["g++", *flags, "-x", "c++-header", str(HERE / "cupy_side.hpp")])
    return folder()


def _cupy_headers() -> str:
    return f"-I{Path(cupy.__file__).parent / '_core' / 'include'}"


def _translated(code: str, own: bool, instances: dict[str, str]) -> str:
    """The source for g++: with what NVRTC knows, and with the functions that runtime.c looks for."""
    names = cuda_shim.kernels(code)
    mode = PLAIN if not _WAITING.search(code) else STRICT if own else LENIENT
    if not own:
        code = _SHARED.sub(r"\1* \2 = reinterpret_cast<\1*>(block_memory);", code)
    return "\n".join([
        '#include "cuda.hpp"' if own else '#include "cupy_side.hpp"',
        code,
        *(f"SHIM_KERNEL({name})" for name in names),
        *(_entry(expression, name) for expression, name in instances.items()),
        f'extern "C" const int fakecuda_mode; const int fakecuda_mode = {mode};',
        "",
    ])  # fmt: skip


def _entry(expression: str, name: str) -> str:
    """SHIM_KERNEL for an instance of a template, which may have commas."""
    entry = f"ShimEntry<decltype(&{expression})>"
    return (
        f'extern "C" void {name}__call(void** args) {{ {entry}::call(&{expression}, args); }}\n'
        f'extern "C" const int* {name}__sizes() {{ return {entry}::sizes(); }}'
    )
