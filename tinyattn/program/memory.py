"""The memory that a program needs besides the planned block: what NumPy allocates inside a call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from tinyattn.backends.cpu.blocks import BLOCK
from tinyattn.program.recorder import Call, Value, values

_BUFFER = np.getbufsize()  # elements that a ufunc converts or repeats at a time
_WITH_OUT = {"concatenate", "einsum", "copyto", "where", "cumsum", "cumprod", "argmax", "argmin"}


def temporary(calls: Iterable[Call], steps: Sequence[Any]) -> int:
    """The largest number of bytes that a call allocates while it runs; shares of a batch allocate at the same time.

    steps: of optimizers, which need room for a part of their parameters.
    """
    most = 0
    for split, together in groupby(calls, lambda call: call.share and call.share[0]):
        shares = groupby(together, lambda call: call.share)
        largest = [max(map(_of_call, share)) for _, share in shares]
        most = max(most, *largest) if split is None else max(most, sum(largest))
    for step in steps:
        arrays = [p.array for p, _ in step.gradients]
        most = max(most, min(sum(array.size for array in arrays), BLOCK) * max(array.itemsize for array in arrays))
    return most


def _of_call(call: Call) -> int:
    written = sum(map(size_of, call.writes))
    if call.kind == "ufunc":
        return _buffers(call)
    if call.kind == "get":
        many = prod(call.writes[0].shape) > _BUFFER
        return written + (_BUFFER * np.dtype(np.intp).itemsize if many else 0)
    if call.kind == "kernel":
        return sum(size_of(v) for v in call.options["results"] if v is not None)
    if call.kind == "function":
        casts = [v for v in values(call.args) if v.dtype == np.float32] if call.name == "bincount" else []
        return sum(2 * size_of(v) for v in casts) + (0 if call.name in _WITH_OUT else written)
    whole = call.kind in ("array", "method") or (call.kind == "draw" and call.writes[0].dtype.kind != "f")
    reshaped = call.kind == "copy" and type(call.args[0]) is Value and call.args[0].shape != call.writes[0].shape
    return written if whole or reshaped else 0


def _buffers(call: Call) -> int:
    """The buffers of a ufunc for operands that it converts or repeats."""
    read, (out,) = list(values(call.args)), call.writes or (None,)
    if call.name in ("matmul", "vecdot") or not read or out is None:
        return 0
    dtype = np.result_type(*(v.dtype for v in read))
    largest = max([out, *read], key=lambda v: prod(v.shape))
    n = min(prod(largest.shape), _BUFFER)
    converted = [v for v in (*read, out) if v.dtype not in (dtype, bool)]
    repeated = [v for v in read if v.dtype == dtype and (v.shape, v.strides) != (largest.shape, largest.strides)]
    return n * dtype.itemsize * (len(converted) + len(repeated))


def size_of(value: Value) -> int:
    """The bytes of a value."""
    return prod(value.shape) * value.dtype.itemsize
