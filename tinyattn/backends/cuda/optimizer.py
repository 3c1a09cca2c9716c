"""Optimizer kernels: in place, one launch for all parameters, nothing while an index is out of range (see flags.py).

Learning rate and step number may be 0-d arrays on the GPU, so that a replayed graph sees them change.
What each kernel computes is written out in `tinyattn/optim/sgd.py` and `tinyattn/optim/adam.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import cupy as cp
import numpy as np

from tinyattn.backends import cpu
from tinyattn.backends.cuda.flags import flag
from tinyattn.backends.cuda.launch import blocks, launch
from tinyattn.backends.cuda.rows import contiguous
from tinyattn.backends.cuda.tensors import THREADS, Roles, launch_on, lists, share_of

__all__ = [
    "adam_step", "adam_steps", "clip_to_norm", "clip_to_value", "count", "counted", "overlapping", "sgd_step",
    "sgd_steps", "total_norm",
]  # fmt: skip

Array = Any
Arrays: TypeAlias = Sequence[Array]


def _bounds(array: Array) -> tuple[int, int]:
    """The addresses of the first byte of an array and of the one after its last."""
    reach = [stride * (n - 1) for n, stride in zip(array.shape, array.strides, strict=True)]
    start = array.data.ptr
    if not array.size:
        return start, start
    return start + sum(r for r in reach if r < 0), start + sum(r for r in reach if r > 0) + array.itemsize


overlapping = functools.partial(cpu.overlapping, bounds=_bounds)


def count(steps: Array, mask: Array) -> None:
    """steps += mask, unless an index is out of range: then no step is made. Both float32, (n,)."""
    launch("optimizer", "count_steps", (blocks(steps.size, THREADS),), (THREADS,), [steps, mask, steps.size, flag()])


def counted(step: Array) -> Array:
    """Increment a 0-d step count, unless an index is out of range; return it as float64 ()."""
    count(step.reshape(1), cp.ones(1, np.float32))
    return step.astype(np.float64)


@functools.wraps(cpu.sgd_step)
def sgd_step(param: Array, grad: Array, momentum_buffer: Array | None, *, first: bool, **options: Any) -> None:
    """One step of SGD for one parameter, see `sgd_steps`."""
    sgd_steps([param], [grad], None if momentum_buffer is None else [momentum_buffer], first=[first], **options)


def sgd_steps(
    params: Arrays, grads: Arrays, momentum_buffers: Arrays | None, *, first: Sequence[bool], lr: float,
    momentum: float, dampening: float, weight_decay: float, nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    """One step of SGD, in place in `params` and, where there are any, in `momentum_buffers`.

    All arrays of a parameter have one shape. `first`, of each: the buffer holds nothing yet and becomes the gradient.
    """
    options = [float(momentum), float(dampening), float(weight_decay), bool(nesterov), bool(maximize), flag()]
    rate = _number(lr, np.float64)
    for beginning in dict.fromkeys(first):
        places = [i for i, is_first in enumerate(first) if is_first == beginning]
        roles = [None if role is None else [role[i] for i in places] for role in (params, grads, momentum_buffers)]
        args = [rate, bool(beginning), *options]
        _in_place("optimizer", "sgd_step", roles, lambda dtype, args=args: args)  # type: ignore[misc]


@functools.wraps(cpu.adam_step)
def adam_step(
    param: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, max_exp_avg_sq: Array | None, step: Any,
    **options: Any,
) -> None:  # fmt: skip
    """One step of Adam for one parameter, see `adam_steps`."""
    tops = None if max_exp_avg_sq is None else [max_exp_avg_sq]
    adam_steps([param], [grad], [exp_avg], [exp_avg_sq], tops, [step], **options)


def adam_steps(
    params: Arrays, grads: Arrays, exp_avgs: Arrays, exp_avg_sqs: Arrays, max_exp_avg_sqs: Arrays | None,
    steps: Sequence[Any], *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    decoupled: bool, maximize: bool,
) -> None:  # fmt: skip
    """A step of Adam or AdamW, in place in `params` and their moments.

    All arrays of a parameter have one shape; `max_exp_avg_sqs` is None without amsgrad; steps: of each parameter the
    number of its step, from 1. The same numbers as `tinyattn.optim.adam.adam_definition` but for rounding: the bias
    corrections are taken out of the root and out of the quotient.
    """
    rate = _number(lr, np.float64)
    options = [float(beta1), float(beta2), float(eps), float(weight_decay), bool(decoupled), bool(maximize), flag()]
    roles = [params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs]
    numbers = [_number(step, np.float32) for step in steps]
    _in_place("optimizer", "adam_step", roles, lambda dtype: [rate, *options], numbers, shared_bytes=2 * 8)


def _in_place(
    source: str, kernel: str, roles: Roles, args: Callable[[Any], list[Any]], steps: Arrays = (),
    shared_bytes: int = 0,
) -> None:  # fmt: skip
    """Run a kernel on tensors; all roles but the second, the gradients, are written to.

    args: what the kernel takes after the tensors, by the dtype that it computes in.
    """
    for dtype, places in _together(roles[0] or ()):
        some = [None if role is None else [role[i] for i in places] for role in roles]
        flat = [None if role is None else _flat(role, dtype) for role in some]
        launch_on(source, kernel, flat, args(dtype), dtype, [steps[i] for i in places] if steps else (), shared_bytes)
        for arrays, results in zip(some[:1] + some[2:], flat[:1] + flat[2:], strict=True):
            for array, result in zip(arrays or (), results or (), strict=True):
                if result is not array:  # it could not be written in place
                    array[...] = result


def _together(arrays: Arrays) -> Iterator[tuple[Any, list[int]]]:
    """Places of arrays that one launch can do, with the dtype that it computes in: all of one dtype, or, where arrays
    share memory, one after the other."""
    dtypes = [_flat_dtype(array.dtype) for array in arrays]
    if overlapping(arrays):
        yield from ((dtype, [i]) for i, dtype in enumerate(dtypes))
        return
    for dtype in dict.fromkeys(dtypes):
        yield dtype, [i for i, its in enumerate(dtypes) if its == dtype]


def _flat_dtype(dtype: Any) -> Any:
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _flat(arrays: Arrays, dtype: Any) -> list[Array]:
    """As the kernels want them: contiguous and in the dtype of the parameters, but float32 instead of float16."""
    return [contiguous(array.astype(dtype, copy=False)) for array in arrays]


def _number(value: Any, dtype: Any) -> Array:
    """A number in the GPU's memory, where it may be already; else a launch fills it, and nothing is copied."""
    if isinstance(value, cp.ndarray):
        return value.astype(dtype, copy=False)
    return cp.full((), float(value), dtype)


def total_norm(arrays: Arrays, norm_type: float) -> Array:
    """The p-norm of all arrays read as one vector, a 0-d array of their dtype (float16: float32); 0 for none."""
    dtype = _flat_dtype(np.result_type(*(array.dtype for array in arrays))) if arrays else np.dtype(np.float32)
    sizes = [array.size for array in arrays]
    share = share_of(sizes) if norm_type else max([4, *sizes]) // 4 * 4 + 4  # for p = 0 a block does a whole array
    flat = [(own, _flat([arrays[i] for i in places], own)) for own, places in _together(arrays)]
    cuts = [(own, *cut) for own, some in flat for cut in lists([some], share)]
    if not cuts:
        return cp.zeros((), dtype)
    parts, total, start = cp.empty(sum(n for *_, n in cuts), np.float64), cp.empty((), dtype), 0
    for own, some, n in cuts:
        args = [some, parts[start : start + n], float(norm_type)]
        launch("norms", "norm_parts", (n,), (THREADS,), args, 8 * THREADS, own)
        start += n
    args = [parts, total, parts.size, float(norm_type)]
    launch("norms", "norm_whole", (1,), (THREADS,), args, 8 * THREADS, total.dtype)
    return total


def clip_to_norm(arrays: Arrays, norm: Array, max_norm: float) -> None:
    """Multiply every array, in place, by max_norm / norm unless that is above one."""
    _in_place("norms", "clip_to_norm", [arrays], lambda dtype: [_number(norm, dtype), float(max_norm)])


def clip_to_value(arrays: Arrays, limit: float) -> None:
    """Bring every element, in place, between -limit and limit; NaN stays."""
    _in_place("norms", "clip_to_value", [arrays], lambda dtype: [float(limit)])
