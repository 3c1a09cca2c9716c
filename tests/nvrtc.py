"""NVRTC from its wheel, by ctypes: CUDA sources to machine code, on a machine without a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any


class CompileError(Exception):
    """What the compiler said."""


def library() -> Path | None:
    """The newest libnvrtc of the wheels nvidia-cuda-nvrtc (CUDA 13) and nvidia-cuda-nvrtc-cu12; None without one."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    found = [path for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*") if "alt" not in path.name]
    return max(found, key=lambda path: int(path.suffix[1:]), default=None)


class Compiler:
    """NVRTC, loaded."""

    def __init__(self, path: Path) -> None:
        self._c = ctypes.CDLL(str(path))
        self._c.nvrtcGetErrorString.restype = ctypes.c_char_p

    def cubin(self, code: str, options: tuple[str, ...]) -> tuple[bytes, str]:
        """The machine code, and what the compiler and the assembler have to say. Raises CompileError."""
        program = ctypes.c_void_p()
        self._check(self._c.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None))
        try:
            flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = self._c.nvrtcCompileProgram(program, len(options), flags)
            log = self._text(program, "ProgramLog").decode()
            if failed:
                raise CompileError(log)
            return self._text(program, "CUBIN"), log
        finally:
            self._c.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: Any, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._c, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._c, f"nvrtcGet{what}")(program, text))
        return text.raw.rstrip(b"\0") if what == "ProgramLog" else text.raw

    def _check(self, result: int) -> None:
        if result:
            raise CompileError(self._c.nvrtcGetErrorString(result).decode())
