"""A cuBLAS that reads what it is told through bare addresses, as the real one: columns first, leading sizes in elements."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from standin import machine

_TYPES = {0: np.float32, 1: np.float64, 2: np.float16}
_SUCCESS, _INVALID = 0, 7


class Library:
    """The routines that are used. Each returns a cublasStatus_t."""

    def __init__(self) -> None:
        self.streams: dict[int, int] = {}
        self.workspaces: dict[int, int] = {}
        self.compute: int | None = None  # the cublasComputeType_t of the last product

    def cublasCreate_v2(self, handle: Any) -> int:
        if machine.capturing() is not None:
            return _INVALID  # it allocates
        handle._obj.value = 1000 + len(self.streams)
        self.streams[handle._obj.value] = 0
        return _SUCCESS

    def cublasSetStream_v2(self, handle: Any, stream: Any) -> int:
        self.streams[handle.value] = stream.value or 0
        self.workspaces.pop(handle.value, None)  # back to its own, which it allocates
        return _SUCCESS

    def cublasSetWorkspace_v2(self, handle: Any, workspace: Any, size: Any) -> int:
        self.workspaces[handle.value] = workspace.value
        return _SUCCESS

    def cublasGemmStridedBatchedEx(
        self, handle: Any, op_a: Any, op_b: Any, m: Any, n: Any, k: Any, alpha: Any, a: Any, a_type: Any, lda: Any, step_a: Any,
        b: Any, b_type: Any, ldb: Any, step_b: Any, beta: Any, c: Any, c_type: Any, ldc: Any, step_c: Any, count: Any,
        compute: Any, algorithm: Any,
    ) -> int:  # fmt: skip
        if self.streams[handle.value] != machine.current_stream().ptr or handle.value not in self.workspaces:
            return _INVALID
        self.compute = compute.value
        rows, columns, inner = m.value, n.value, k.value
        a_shape = (rows, inner) if op_a.value == 0 else (inner, rows)
        b_shape = (inner, columns) if op_b.value == 0 else (columns, inner)
        if lda.value < max(1, a_shape[0]) or ldb.value < max(1, b_shape[0]) or ldc.value < max(1, rows):
            return _INVALID
        left = _matrices(a, a_type, a_shape, lda, step_a, count)
        right = _matrices(b, b_type, b_shape, ldb, step_b, count)
        out = _matrices(c, c_type, (rows, columns), ldc, step_c, count)
        scale, old = alpha._obj.value, beta._obj.value

        def body() -> None:
            x = left if op_a.value == 0 else left.swapaxes(-1, -2)
            y = right if op_b.value == 0 else right.swapaxes(-1, -2)
            with np.errstate(all="ignore"):
                product = np.matmul(x, y) * np.asarray(scale, out.dtype)
                np.copyto(out, product + out * np.asarray(old, out.dtype) if old else product)

        machine.launch(body)
        return _SUCCESS


def _matrices(address: Any, kind: Any, shape: tuple[int, int], width: Any, step: Any, count: Any) -> np.ndarray:
    """(count, rows, columns) at an address, each column after the other."""
    rows, columns = shape
    item = np.dtype(_TYPES[kind.value])
    size = ((count.value - 1) * step.value + (columns - 1) * width.value + rows) * item.itemsize
    block = np.frombuffer((ctypes.c_char * size).from_address(address.value), item)
    strides = (step.value * item.itemsize, item.itemsize, width.value * item.itemsize)
    return np.lib.stride_tricks.as_strided(block, (count.value, rows, columns), strides)
