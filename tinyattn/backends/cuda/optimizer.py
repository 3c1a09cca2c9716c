"""Optimizer kernels: in place, one launch a parameter, and nothing while an index is out of range (see flags.py).

Learning rate and step number may be 0-d arrays on the GPU, so that a replayed graph sees them change.
What each kernel computes is written out in `tinyattn/optim/sgd.py` and `tinyattn/optim/adam.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cupy as cp
import numpy as np

from tinyattn.backends.cuda.flags import flag
from tinyattn.backends.cuda.launch import blocks, launch
from tinyattn.backends.cuda.rows import contiguous, launch_elements

__all__ = ["adam_step", "clip_to_norm", "clip_to_value", "end_to_end", "overlapping", "sgd_step", "total_norm"]

Array = Any
_PARTS = 256  # blocks that share the norm of one array, at most


def end_to_end(arrays: Sequence[Array], out: Array) -> Array:
    """All elements of `arrays`, one array after the other, in the 1-d `out`."""
    start = 0
    for array in arrays:
        out[start : start + array.size] = array.reshape(-1)
        start += array.size
    return out


def overlapping(arrays: Sequence[Array]) -> set[int]:
    """Places of the arrays to leave out so that no two of those that remain share memory."""
    places = set()
    end = 0
    for low, high, i in sorted((*_bounds(array), i) for i, array in enumerate(arrays)):
        if low < end:
            places.add(i)
        else:
            end = high
    return places


def _bounds(array: Array) -> tuple[int, int]:
    """The addresses of the first byte of an array and of the one after its last."""
    reach = [stride * (n - 1) for n, stride in zip(array.shape, array.strides, strict=True)]
    start = array.data.ptr
    if not array.size:
        return start, start
    return start + sum(r for r in reach if r < 0), start + sum(r for r in reach if r > 0) + array.itemsize


def sgd_step(
    param: Array,
    grad: Array,
    momentum_buffer: Array | None,
    *,
    first: bool,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """One step of SGD, in place in `param` and, where there is one, in `momentum_buffer`.

    All arrays have one shape. `first`: the buffer holds nothing yet and becomes the gradient.
    """
    options = [bool(first), float(momentum), float(dampening), float(weight_decay), bool(nesterov), bool(maximize)]
    changed = [param, momentum_buffer]
    (p, buffer), g = _flat(changed), _matching(grad, param)
    args = [p, g, buffer, param.size, _number(lr, np.float64), *options, flag()]
    launch_elements("optimizer", "sgd_step", args, param.size)
    _write_back(changed, [p, buffer])


def adam_step(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array | None,
    step: Any,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """Step number `step` (from 1) of Adam or AdamW, in place in `param` and its moments.

    All arrays have one shape; `max_exp_avg_sq` is None without amsgrad. The same numbers as
    `tinyattn.optim.adam.adam_definition` but for rounding: the bias corrections are taken out of
    the root and out of the quotient.
    """
    options = [float(beta1), float(beta2), float(eps), float(weight_decay), bool(decoupled), bool(maximize)]
    changed = [param, exp_avg, exp_avg_sq, max_exp_avg_sq]
    (p, m, v, top), g = _flat(changed), _matching(grad, param)
    numbers = [_number(step, np.float32), _number(lr, np.float64)]
    args = [p, g, m, v, top, param.size, *numbers, *options, flag()]
    launch_elements("optimizer", "adam_step", args, param.size, shared_bytes=2 * 8)
    _write_back(changed, [p, m, v, top])


def _flat(arrays: Sequence[Array]) -> list[Array]:
    """As the kernels want them: contiguous, float32 or float64."""
    wide = [a if a is None or a.dtype != np.float16 else a.astype(np.float32) for a in arrays]
    return [a if a is None else contiguous(a) for a in wide]


def _matching(grad: Array, param: Array) -> Array:
    return contiguous(grad.astype(np.float32 if param.dtype == np.float16 else param.dtype, copy=False))


def _write_back(arrays: Sequence[Array], results: Sequence[Array]) -> None:
    """Results that could not be written in place."""
    for array, result in zip(arrays, results, strict=True):
        if result is not array:
            array[...] = result


def _number(value: Any, dtype: Any) -> Array:
    """A number in the GPU's memory, where it may be already; else a launch fills it, and nothing is copied."""
    if isinstance(value, cp.ndarray):
        return value.astype(dtype, copy=False)
    return cp.full((), float(value), dtype)


def total_norm(arrays: Sequence[Array], norm_type: float) -> Array:
    """The p-norm of all arrays read as one vector, a 0-d array of their dtype; 0 for none."""
    dtype = np.result_type(*(array.dtype for array in arrays)) if arrays else np.dtype(np.float32)
    arrays = _flat([array for array in arrays if array.size])
    cuts = [blocks(array.size, 4 * 256 * 4, _PARTS if norm_type else 1) for array in arrays]
    parts, total, start = cp.empty(sum(cuts), np.float64), cp.zeros((), _flat_dtype(dtype)), 0
    for array, cut in zip(arrays, cuts, strict=True):
        args = [array, parts[start : start + cut], array.size, float(norm_type)]
        launch("norms", "norm_parts", (cut,), (256,), args, shared_bytes=8 * 256)
        start += cut
    if arrays:
        args = [parts, total, parts.size, float(norm_type)]
        launch("norms", "norm_whole", (1,), (256,), args, shared_bytes=8 * 256, dtype=total.dtype)
    return total.astype(dtype, copy=False)


def _flat_dtype(dtype: Any) -> Any:
    return np.float32 if dtype == np.float16 else dtype


def clip_to_norm(arrays: Sequence[Array], norm: Array, max_norm: float) -> None:
    """Multiply every array, in place, by max_norm / norm unless that is above one."""
    norm = _number(norm, np.float64)
    for array in arrays:
        (x,) = _flat([array])
        args = [x, x.size, norm, float(max_norm)]
        launch_elements("norms", "clip_to_norm", args, x.size, dtype=x.dtype)
        _write_back([array], [x])


def clip_to_value(arrays: Sequence[Array], limit: float) -> None:
    """Bring every element, in place, between -limit and limit; NaN stays."""
    for array in arrays:
        (x,) = _flat([array])
        launch_elements("norms", "clip_to_value", [x, x.size, float(limit)], x.size)
        _write_back([array], [x])
