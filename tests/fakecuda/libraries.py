"""CUDA's libraries that CuPy uses: cuBLAS, of which cublas.c has the routines of this project, and Thrust's sorting."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cupy_backends
import numpy as np

from fakecuda.cache import HERE, build, folder

_UNSUPPORTED = 15  # cublasStatus_t


def built(headers: dict[str, str], *options: str) -> Path:
    """Return runtime.c and cublas.c as one library. It has cuBLAS's name and all names that CuPy's module for cuBLAS
    wants to find, since that is loaded even for products of integers, which CuPy computes itself."""
    (module,) = Path(cupy_backends.__path__[0]).glob("cuda/libs/cublas.*.so")
    wanted = dict(re.findall(r" U (cublas\w+)@(\S+)", subprocess.check_output(["nm", "-D", str(module)], text=True)))
    (file,) = set(wanted.values())  # libcublas.so.12
    own = set(re.findall(r"^int (cublas\w+)", (HERE / "cublas.c").read_text(encoding="utf-8"), re.MULTILINE))
    texts = {
        **headers,
        "stubs.c": "".join(f"int {name}() {{ return {_UNSUPPORTED}; }}\n" for name in sorted(wanted.keys() - own)),
        "versions": f"{file} {{ global: *; }};\n",
    }
    place = folder()
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")
    sources = [str(HERE / "runtime.c"), str(HERE / "cublas.c"), str(place / "stubs.c")]
    linker = ["-Wl,-Bsymbolic", f"-Wl,-soname,{file}", f"-Wl,--version-script={place / 'versions'}", "-ldl"]
    return build(
        file, ["gcc", "-O3", "-Wall", "-Werror", "-shared", "-fPIC", *options, f"-I{place}", *sources, *linker]
    )


def install_cublas(library: ctypes.PyDLL) -> None:
    """Have CuPy and this project find `library` where they look for cuBLAS, and our headers for CUDA's."""
    from cuda import pathfinder

    finder = pathfinder.load_nvidia_dynamic_lib
    found = SimpleNamespace(abs_path=library._name)
    pathfinder.load_nvidia_dynamic_lib = lambda name: found if name.startswith("cublas") else finder(name)
    pathfinder.find_nvidia_header_directory = lambda name: str(HERE / "include")


def install_thrust() -> None:
    """Have NumPy sort."""
    from cupy.cuda import thrust

    thrust.sort, thrust.argsort = _sort, _argsort


def _memory(address: int, dtype: Any, shape: Any) -> np.ndarray:
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype).reshape(shape)


def _sort(dtype: Any, data: int, keys: int, shape: Any) -> None:
    _memory(data, dtype, shape).sort(axis=-1)


def _argsort(dtype: Any, order: int, data: int, keys: int, shape: Any) -> None:
    values = _memory(data, dtype, shape)
    found = np.argsort(values, axis=-1, kind="stable")
    _memory(order, np.int64, shape)[...] = found
    values[...] = np.take_along_axis(values, found, -1)
