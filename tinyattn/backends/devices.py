"""Names of devices, "cpu", "cuda" and "cuda:1"; whether a GPU can be used, and if not, what to install."""

from __future__ import annotations

import importlib
import re
from typing import Any

_NAME = re.compile(r"(cpu|cuda)(?::(\d+))?")


class device(str):  # noqa: N801 - torch's name
    """A device by name: device("cpu"), device("cuda"), device("cuda", 1), device("cuda:1"). As torch.device.

    A string with two more attributes, so that names and devices are interchangeable (`index` replaces str's method).
    type: "cpu" or "cuda". index: the number of the GPU; None for the CPU and for the current GPU.

    >>> ta.device("cuda:1").index
    1
    """

    type: str
    index: int | None  # type: ignore[assignment]

    def __new__(cls, type: Any, index: int | None = None) -> device:
        """Raises ValueError for a name that is none of these."""
        if isinstance(type, int) and not isinstance(type, bool):
            type, index = "cuda", type  # torch counts GPUs so
        name = str(type) if index is None else f"{type}:{index}"
        found = _NAME.fullmatch(name)
        if found is None or (name.startswith("cpu:") and name != "cpu:0"):
            raise ValueError(f"device={name!r} is no device; expected 'cpu', 'cuda' or 'cuda:1' (the number of a GPU)")
        kind = found[1]
        self = super().__new__(cls, "cpu" if kind == "cpu" else name)
        self.type, self.index = kind, int(found[2]) if found[2] and kind == "cuda" else None
        return self

    def __repr__(self) -> str:
        return f"device(type={self.type!r}{'' if self.index is None else f', index={self.index}'})"

    def __reduce__(self) -> Any:
        return device, (str(self),)


def is_device(x: Any) -> bool:
    """Whether `x` names a device: what `to()` takes beside dtypes."""
    return isinstance(x, str) and (x == "cpu" or x == "cuda" or x.startswith(("cpu:", "cuda:")))


CPU = device("cpu")


# --- whether a GPU can be used ---

_INSTALL = (
    'pip install "tinyattn[cuda13]" where nvidia-smi shows "CUDA Version: 13" or later, "tinyattn[cuda12]" where it '
    "shows 12"
)


def why_not() -> str:
    """Return in one sentence why no GPU can be used; "" if one can.

    >>> (ta.cuda.why_not() == "") == ta.cuda.is_available()
    True
    """
    try:
        check_driver()
    except (ImportError, RuntimeError) as error:
        return str(error)
    return ""


def check_driver() -> None:
    """Check that CuPy, a driver of a matching version and a GPU are present.

    Raises ImportError if CuPy is missing or does not load, RuntimeError for the driver, the GPU and parts of CUDA.
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
    _check_parts(built // 1000)


def _check_parts(cuda: int) -> None:
    """Check that CUDA's headers and cuBLAS of this version are present: CuPy's own wheel has neither."""
    pathfinder = importlib.import_module("cuda.pathfinder")  # by which CuPy and we load them
    install = f'pip install "tinyattn[cuda{cuda}]"'
    if pathfinder.find_nvidia_header_directory("cudart") is None:
        raise RuntimeError(f"no GPU: CUDA's headers, which CuPy compiles with, are missing; {install}")
    try:
        path = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
    except pathfinder.DynamicLibNotFoundError:
        raise RuntimeError(f"no GPU: cuBLAS, which computes matrix products, is missing; {install}") from None
    version = re.search(r"cublas(?:64_|\.so\.)(\d+)", path)
    if version is not None and int(version[1]) != cuda:
        raise RuntimeError(
            f"no GPU: this CuPy was built for CUDA {cuda}, but the cuBLAS found first, {path}, is of CUDA "
            f"{version[1]}; {install} in an environment without CUDA {version[1]}"
        )


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
