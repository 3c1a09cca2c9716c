"""Matrix products and Einstein sums, every floating one a single call of cuBLAS.

CuPy refuses to call cuBLAS while launches are being captured into a graph, copies operands of batched products into
row order first, and may take its workspace from anywhere. So the one routine that is needed is called here through
ctypes, on handles of our own, each with its own workspace, and with the operands where they lie.
"""

from __future__ import annotations

import ctypes
import math
import threading
from functools import cache
from typing import Any, NamedTuple

import cupy as cp
import numpy as np

from tinyattn.backends.shared import get_float32_matmul_precision
from tinyattn.locks import fork_safe

__all__ = ["einsum", "matmul"]

Array = Any
_WORKSPACE = 32 << 20  # bytes: what cuBLAS asks for on Hopper; earlier GPUs want 4 MiB
_PLAIN, _TRANSPOSED = 0, 1  # cublasOperation_t
_DEFAULT_ALGORITHM = -1  # cublasGemmAlgo_t
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_TF32 = 68, 70, 77  # cublasComputeType_t


class _Kind(NamedTuple):
    """A dtype in cuBLAS's words: cudaDataType_t, cublasComputeType_t, and the type of alpha and beta."""

    data: int
    compute: int
    scalar: Any


KINDS = {
    np.dtype("float32"): _Kind(0, _COMPUTE_32F, ctypes.c_float),
    np.dtype("float64"): _Kind(1, _COMPUTE_64F, ctypes.c_double),
    np.dtype("float16"): _Kind(2, _COMPUTE_32F, ctypes.c_float),  # sums are kept in float32
}


class _Operand(NamedTuple):
    """A stack of matrices as cuBLAS, which counts down the columns, sees the rows of ours."""

    array: Array  # keeps the memory, which may be a copy
    flag: int  # whether it must be transposed
    width: int  # elements from one row (or column) to the next
    stride: int  # elements from one matrix to the next; 0: the same one again


def matmul(a: Array, b: Array) -> Array:
    """(..., n, k) (..., k, m) -> (..., n, m)"""
    if a.dtype not in KINDS:
        return cp.matmul(a, b)  # integers: CuPy has a kernel of its own for them
    lead = a.shape[:-2] if a.shape[:-2] == b.shape[:-2] else cp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return gemm(a, b, cp.empty((*lead, a.shape[-2], b.shape[-1]), a.dtype))


def einsum(equation: str, *operands: Array) -> Array:
    """`equation` has an output and no "...", and no operand has a label twice."""
    terms, output = equation.split("->")
    labels = terms.split(",")
    x, mine = operands[0], labels[0]
    for i, (y, theirs) in enumerate(zip(operands[1:], labels[1:], strict=True), 2):
        needed = set(output).union(*labels[i:])
        x, mine = _contract(x, mine, y, theirs, needed)
    x, mine = _summed(x, mine, set(output))
    out = cp.transpose(x, [mine.index(label) for label in output])
    return out.copy() if len(operands) == 1 else out  # of one operand it can be a view


def _contract(a: Array, mine: str, b: Array, theirs: str, needed: set[str]) -> tuple[Array, str]:
    """Multiply and sum over the labels that are not `needed` any more, as one product of stacked matrices."""
    a, mine = _summed(a, mine, needed | set(theirs))
    b, theirs = _summed(b, theirs, needed | set(mine))
    stack = [c for c in mine if c in theirs and c in needed]
    inner = [c for c in mine if c in theirs and c not in needed]
    rows = [c for c in mine if c not in theirs]
    columns = [c for c in theirs if c not in mine]
    size = dict(zip(mine + theirs, a.shape + b.shape, strict=True))

    def matrices(x: Array, own: str, *groups: list[str]) -> Array:
        moved = cp.transpose(x, [own.index(c) for group in groups for c in group])
        return moved.reshape([math.prod(size[c] for c in group) for group in groups])

    out = matmul(matrices(a, mine, stack, rows, inner), matrices(b, theirs, stack, inner, columns))
    return out.reshape([size[c] for c in (*stack, *rows, *columns)]), "".join([*stack, *rows, *columns])


def _summed(x: Array, own: str, needed: set[str]) -> tuple[Array, str]:
    over = tuple(i for i, c in enumerate(own) if c not in needed)
    return (cp.sum(x, axis=over, dtype=x.dtype), "".join(c for c in own if c in needed)) if over else (x, own)


# --- one product ---


def gemm(a: Array, b: Array, out: Array, scale: float = 1.0) -> Array:
    """out = a b scale, for stacks of matrices (..., n, k) (..., k, m) (..., n, m), of one dtype in KINDS; returns out.

    The leading axes of a and b broadcast to those of `out`, which is in row order.
    """
    *lead, n, m = out.shape
    k = a.shape[-1]
    if not out.size:
        return out
    if not k:
        out.fill(0)
        return out
    kind, exact = KINDS[out.dtype], get_float32_matmul_precision() == "highest"
    compute = _COMPUTE_TF32 if out.dtype == np.float32 and not exact else kind.compute
    # In columns, out' = b' a': what lies row by row is the transpose, column by column.
    left, right = _operand(b, lead), _operand(a, lead)
    count, most = out.size // (n * m), 65_535 if out.dtype == np.float16 else out.size  # pytorch#46001, of Turing
    for first in range(0, count, most):
        _call(
            "cublasGemmStridedBatchedEx",
            _handle(),
            *map(ctypes.c_int, (left.flag, right.flag, m, n, k)),
            ctypes.byref(kind.scalar(scale)),
            *_described(left, kind.data, first),
            *_described(right, kind.data, first),
            ctypes.byref(kind.scalar(0)),
            *_described(_Operand(out, _PLAIN, m, n * m), kind.data, first),
            *map(ctypes.c_int, (min(most, count - first), compute, _DEFAULT_ALGORITHM)),
        )
    return out


def _described(x: _Operand, data: int, first: int) -> tuple[Any, ...]:
    start = x.array.data.ptr + first * x.stride * x.array.itemsize
    return ctypes.c_void_p(start), ctypes.c_int(data), ctypes.c_int(x.width), ctypes.c_longlong(x.stride)


def _operand(x: Array, lead: list[int]) -> _Operand:
    """`x`, broadcast to the leading axes, where it lies if one stride leads through it, else copied."""
    rows, columns = x.shape[-2:]
    if tuple(x.shape[:-2]) != tuple(lead):
        x = cp.broadcast_to(x, (*lead, rows, columns))
    *ahead, down, along = (step // x.itemsize for step in x.strides)
    stride = _single_stride(lead, ahead)
    if stride is not None and stride >= 0:  # cuBLAS refuses a step backwards
        if (along == 1 or columns == 1) and (down >= columns or rows == 1):
            return _Operand(x, _PLAIN, max(down if rows > 1 else 0, columns), stride)
        if (down == 1 or rows == 1) and (along >= rows or columns == 1):
            return _Operand(x, _TRANSPOSED, max(along if columns > 1 else 0, rows), stride)
    return _Operand(cp.ascontiguousarray(x), _PLAIN, columns, rows * columns)


def _single_stride(sizes: list[int], steps: list[int]) -> int | None:
    """The one step that leads through all of these axes in row order, or None."""
    stride, inner = 0, 1
    for size, step in zip(reversed(sizes), reversed(steps), strict=True):
        if size == 1:
            continue
        if inner == 1:
            stride = step
        elif step != stride * inner:
            return None
        inner *= size
    return stride


# --- the library, and a handle of it for each stream ---

_lock = fork_safe(threading.Lock())
_handles: dict[tuple[int, int, int], tuple[ctypes.c_void_p, Array]] = {}


@cache
def library() -> Any:
    """cuBLAS, as CuPy finds it: in the wheels beside it, in conda, or in the toolkit."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)


def _call(name: str, *args: Any) -> None:
    with _lock:
        status = getattr(library(), name)(*args)
    if status:
        raise RuntimeError(f"{name} failed with cublasStatus_t {status}")


def _handle() -> ctypes.c_void_p:
    """The handle of the current stream (2: another in each thread). Its first use allocates: before a capture."""
    key = cp.cuda.Device().id, (stream := cp.cuda.get_current_stream().ptr), threading.get_ident() * (stream == 2)
    if key not in _handles:
        handle, workspace = ctypes.c_void_p(), cp.empty(_WORKSPACE, np.uint8)
        _call("cublasCreate_v2", ctypes.byref(handle))
        _call("cublasSetStream_v2", handle, ctypes.c_void_p(stream))  # first: it takes the workspace away
        _call("cublasSetWorkspace_v2", handle, ctypes.c_void_p(workspace.data.ptr), ctypes.c_size_t(_WORKSPACE))
        _handles[key] = handle, workspace
    return _handles[key][0]
