"""The CUDA sources are compiled for real GPUs by NVRTC, which needs none: without warnings, and without spills."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from unittest.mock import MagicMock

import nvrtc
import pytest

spec = importlib.util.spec_from_file_location("launch", Path(__file__).parents[1] / "tinyattn/backends/cuda/launch.py")
launch = importlib.util.module_from_spec(spec)
with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "cupy", MagicMock())  # sources can be read without it
    spec.loader.exec_module(launch)

GPUS = ["sm_75", "sm_80", "sm_90"]  # Turing, Ampere, Hopper
OPTIONS = ("-ftz=true", "--ptxas-options=-v")  # as CuPy has it; say what the machine code needs
_REPORT = re.compile(
    r"Compiling entry function '(\w+)'[^\n]*\n[^\n]*\n[^\n]*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n[^\n]*?Used (\d+) registers"
)
LIBRARY = nvrtc.library()
needs_nvrtc = pytest.mark.skipif(
    LIBRARY is None and not (os.environ.get("CI") and sys.platform == "linux"),
    reason="needs NVRTC: pip install nvidia-cuda-nvrtc-cu12",
)


def compiled(source: str, dtype: str, arch: str) -> tuple[bytes, str]:
    assert LIBRARY is not None, "CI must have NVRTC: pip install nvidia-cuda-nvrtc-cu12"
    return nvrtc.Compiler(LIBRARY).cubin(launch.text(source), (*launch.options(dtype), f"-arch={arch}", *OPTIONS))


def check(source: str, dtype: str, arch: str) -> None:
    cubin, log = compiled(source, dtype, arch)
    assert cubin[:4] == b"\x7fELF"
    assert "warning" not in log, log
    reports = {name: [int(n) for n in numbers] for name, *numbers in _REPORT.findall(log)}
    names = re.findall(r'extern "C" __global__ void[^(]*(?:\([^)]*\))?\s+(\w+)\(', launch.text(source))
    assert {*reports} == {*names}, log
    for name, (_, stores, loads, registers) in reports.items():
        assert stores == loads == 0, f"{name} spills {stores} and {loads} bytes with {registers} registers"


@needs_nvrtc
@pytest.mark.parametrize("source", launch.sources())
def test_a_source_compiles_without_spills(source):
    check(source, "float32", "sm_80")


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("arch", GPUS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("source", launch.sources())
def test_a_source_compiles_for_every_gpu_without_spills(source, dtype, arch):
    check(source, dtype, arch)


@needs_nvrtc
def test_the_compiler_says_what_is_wrong():
    with pytest.raises(nvrtc.CompileError, match=r"kernels\.cu\(1\): error: .*undefined"):
        nvrtc.Compiler(LIBRARY).cubin("__global__ void f() { g(); }", ("-arch=sm_80",))


@needs_nvrtc
def test_a_spill_would_be_seen():
    """The report is read rightly: a kernel that may use few registers spills."""
    code = (
        'extern "C" __global__ void __launch_bounds__(1024, 2) f(const float* x, float* y) { float a[64];'
        "for (int i = 0; i < 64; i++) a[i] = x[i]; __syncthreads();"
        "for (int i = 0; i < 64; i++) y[i] = a[63 - i] * a[i]; }"
    )
    _, log = nvrtc.Compiler(LIBRARY).cubin(code, ("-arch=sm_80", *OPTIONS))
    ((name, _, stores, loads, registers),) = _REPORT.findall(log)
    assert name == "f" and int(stores) > 0 and int(loads) > 0 and int(registers) <= 32
