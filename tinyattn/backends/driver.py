"""Whether a GPU can be used here, and if not, what to install."""

from __future__ import annotations

import importlib
from typing import Any

_INSTALL = (
    'pip install "tinyattn[cuda13]" where nvidia-smi shows "CUDA Version: 13" or later, "tinyattn[cuda12]" where it '
    "shows 12"
)


def why_not() -> str:
    """In one sentence, why no GPU can be used; "" if one can."""
    try:
        check_driver()
    except (ImportError, RuntimeError) as error:
        return str(error)
    return ""


def check_driver() -> None:
    """Do nothing if CuPy, a driver that suits it and a GPU are there.

    Raises ImportError where CuPy is missing or does not load, RuntimeError for the driver and the GPU.
    """
    cupy = _cupy()
    runtime = cupy.cuda.runtime
    try:
        driver = int(runtime.driverGetVersion())
        built = int(runtime.runtimeGetVersion())
    except runtime.CUDARuntimeError as error:
        raise RuntimeError(f"no GPU: the NVIDIA driver does not answer ({error}); install one, or use 'cpu'") from None
    if driver == 0:
        raise RuntimeError("no GPU: there is no NVIDIA driver on this machine; install one, or use device='cpu'")
    if driver // 1000 < built // 1000:
        raise RuntimeError(
            f"no GPU: the NVIDIA driver knows CUDA {_dotted(driver)}, but this CuPy was built for {_dotted(built)}; "
            f'pip uninstall {_wheel(built)}, then pip install "tinyattn[cuda{max(driver // 1000, 12)}]"'
        )
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise RuntimeError(f"no GPU: {error}") from None
    if count == 0:
        raise RuntimeError("no GPU: the driver sees none (is CUDA_VISIBLE_DEVICES empty?); use device='cpu'")


def _cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        what = "CuPy is not installed" if missing else f"CuPy does not load ({_line(error)})"
        raise ImportError(f"device 'cuda' needs CuPy, and {what}: {_INSTALL}.") from None


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =-*")]
    return lines[0] if lines else type(error).__name__


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _wheel(version: int) -> str:
    return f"cupy-cuda{version // 1000}x"
