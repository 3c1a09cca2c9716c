"""CuPy itself, its real wheel, on the processor: where there is no GPU, tests can still run what a user would run.

    import fakecuda
    fakecuda.install()  # from now on CuPy has two GPUs, whose memory is the processor's
    x = ta.ones(3, device="cuda")

CuPy's arrays, memory pools, streams, indexing and code generation are its own. Below them, `runtime.c` replaces CUDA's
runtime and driver (`hooks.py`), g++ replaces NVRTC (`compiler.py`), tests/cuda_shim runs kernels that have barriers,
`cublas.c` replaces cuBLAS and NumPy replaces Thrust (`libraries.py`).

It cannot show what depends on time or on the hardware: every launch is complete when it returns, denormal numbers are
kept, products round as C's, CuPy's reductions do not use CUB.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

WHEELS = "cupy-cuda12x", "cupy-cuda13x"
PINNED = "14.2"  # the minor version of CuPy that this was written for; its internals may move with the next


def why_not() -> str:
    """Return in one sentence why CuPy cannot run here without a GPU; "" if it can."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        return "CuPy without a GPU needs Linux and g++, version 12 or later"
    found = [f"{wheel} {version_of(wheel)}" for wheel in WHEELS if version_of(wheel)]
    if not any(f" {PINNED}." in name for name in found):
        return f'CuPy without a GPU needs its wheel: pip install "cupy-cuda12x=={PINNED}.*" (found: {", ".join(found) or "none"})'
    return ""


def version_of(wheel: str) -> str:
    """Return the version of a wheel that is here, or ""."""
    try:
        return version(wheel)
    except PackageNotFoundError:
        return ""


def install() -> None:
    """Have CuPy run on the processor from now on. No kernel may have been launched before.

    Raises RuntimeError, with the reason, where that is impossible.
    """
    if "fakecuda.hooks" in sys.modules:
        return
    if "cupy" in sys.modules:
        raise RuntimeError("fakecuda.install() comes too late: cupy is imported already")
    if why_not():
        raise RuntimeError(why_not())
    from fakecuda import cache

    os.environ["CUPY_CACHE_DIR"] = str(cache.kernels())  # read when CuPy is imported, as is the next
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB would be another compiled library
    from fakecuda import hooks

    hooks.install()
    from fakecuda import libraries

    libraries.install_cublas(hooks.library())
    from fakecuda import compiler  # imports CuPy

    compiler.install()
    libraries.install_thrust()
