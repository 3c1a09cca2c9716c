"""What machine this is: processor, cores, versions, and which BLAS kernel NumPy runs on it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tinyattn.cores import available_workers

# What OpenBLAS says of the library in this process; run in a process of its own, with or without the pin.
ASK_BLAS = """
import json, numpy, threadpoolctl
blas = [x for x in threadpoolctl.threadpool_info() if x["user_api"] == "blas"] or [{}]
print(json.dumps({k: blas[0].get(k) for k in ("internal_api", "version", "architecture", "num_threads")}))
"""
PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
ASK_DRIVER = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
LIBRARIES = ("tinyattn", "numpy", "torch", "jax", "tinygrad", "autograd", "mygrad", "dezero")


def usable_cores() -> list[int]:
    """The cores this process may use: what its affinity and its container leave."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return cores[: available_workers()]


def describe(device: str = "cpu") -> dict[str, Any]:
    """Everything about the machine that a figure depends on."""
    return {
        "gpu": None if device == "cpu" else _gpu(device),
        "processor": _processor(),
        "cores": len(usable_cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
        "blas": _blas(os.environ),
        "pins": {name: os.environ[name] for name in PINS if name in os.environ},
        "hint": _hint(),
    }


def lines(machine: dict[str, Any]) -> list[str]:
    """The same in words."""
    blas, gpu = machine["blas"], machine.get("gpu")
    said = [
        f"{machine['processor']}, {machine['cores']} cores usable, {machine['system']}",
        f"Python {machine['python']}, " + ", ".join(f"{name} {v}" for name, v in machine["versions"].items()),
    ]
    if gpu:
        capability, memory = ".".join(map(str, gpu["capability"])), gpu["memory"] / 2**30
        return [
            f"{gpu['name']} ({gpu['device']}), compute capability {capability}, {memory:.1f} GiB",
            f"NVIDIA driver {gpu['driver']}, for CUDA {gpu['cuda of the driver']} and older; "
            f"CuPy {gpu['cupy']}, built for CUDA {gpu['cuda of cupy']}",
            *said,
        ]
    said += [
        f"NumPy's BLAS: {blas.get('internal_api')} {blas.get('version')}, kernels for {blas.get('architecture')}, "
        f"{blas.get('num_threads')} threads unless told otherwise; here each side is told: one a core, or one a worker"
    ]
    return said + ([machine["hint"]] if machine["hint"] else [])


def _gpu(device: str) -> dict[str, Any]:
    """The GPU and what drives it."""
    import cupy

    import tinyattn as ta

    runtime = cupy.cuda.runtime
    return {
        "device": device,
        "name": ta.cuda.get_device_name(device),
        "capability": ta.cuda.get_device_capability(device),
        "memory": ta.cuda.mem_get_info(device)[1],
        "driver": _driver(),
        "cuda of the driver": _dotted(runtime.driverGetVersion()),
        "cupy": cupy.__version__,
        "cuda of cupy": _dotted(runtime.runtimeGetVersion()),
    }


def _driver() -> str:
    """The version of NVIDIA's driver, which all GPUs share."""
    if not shutil.which(ASK_DRIVER[0]):
        return "of unknown version"
    said = subprocess.run(ASK_DRIVER, capture_output=True, text=True).stdout.split()
    return said[0] if said else "of unknown version"


def _dotted(version: int) -> str:
    """12.9 for 12090."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _hint() -> str:
    """A line where OPENBLAS_CORETYPE has OpenBLAS run other kernels than it would choose by itself."""
    if "OPENBLAS_CORETYPE" not in os.environ:
        return ""
    pinned = _blas(os.environ).get("architecture")
    free = _blas({k: v for k, v in os.environ.items() if k not in PINS}).get("architecture")
    if pinned == free:
        return ""
    unset = " ".join(f"-u {name}" for name in PINS)
    return (
        f"OPENBLAS_CORETYPE={os.environ['OPENBLAS_CORETYPE']} pins kernels for {pinned}, where OpenBLAS would take "
        f"those for {free}; to measure without: env {unset} python examples/benchmark.py"
    )


def _blas(environment: Any) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", ASK_BLAS], capture_output=True, text=True, env=dict(environment))
    return json.loads(done.stdout) if done.returncode == 0 else {}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
