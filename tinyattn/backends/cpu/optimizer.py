"""Optimizer kernels on NumPy: in place, in the parameter's own dtype (float16: in float32), in blocks.

Hyper-parameters go through `float()`: a NumPy scalar would widen float32 to float64 (NEP 50).
What each kernel computes is written out in `tinyattn/optim/sgd.py` and `tinyattn/optim/adam.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from tinyattn.backends.cpu.blocks import stretches
from tinyattn.backends.cpu.halves import widen
from tinyattn.backends.cpu.sums import row_dots, total

__all__ = [
    "adam_step",
    "clip_to_norm",
    "clip_to_value",
    "counted",
    "live",
    "overlapping",
    "sgd_step",
    "total_norm",
    "update_if",
]

Array = NDArray[Any]

# A first moment without new gradients shrinks until it is denormal, where every operation takes
# some 50 times longer, and never reaches zero by itself. A look now and then costs nothing.
_FLUSH_EVERY = 128


def overlapping(arrays: Sequence[Array], bounds: Callable[[Array], tuple[int, int]] = byte_bounds) -> set[int]:
    """Places of the arrays to leave out so that no two of those that remain share memory.

    bounds: the addresses of the first byte of an array and of the one after its last.
    """
    places = set()
    end = 0
    for low, high, i in sorted((*bounds(array), i) for i, array in enumerate(arrays)):
        if low < end:
            places.add(i)
        else:
            end = high
    return places


def live(group: dict[str, Any], name: str) -> Any:
    """The number `group[name]`, for a kernel; on a GPU, an array that a replayed graph reads."""
    return group[name]


def counted(step: Array) -> int:
    """Increment a 0-d step count; return it."""
    step += 1
    return int(step)


def _to_minimise(p: Array, g: Array, weight_decay: float, maximize: bool) -> Array:
    """The gradient of what shall fall: the loss (or minus the gain) plus weight_decay/2 * |p|^2."""
    if not weight_decay:
        return np.negative(g) if maximize else g
    out = np.multiply(p, weight_decay, out=np.empty_like(p))
    return (np.subtract if maximize else np.add)(out, g, out=out)


@np.errstate(all="ignore")  # an overflow or a NaN shows in the parameters, as in PyTorch
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
    lr, momentum, weight_decay = float(lr), float(momentum), float(weight_decay)
    new = 1.0 - float(dampening)
    arrays = (param, grad) if momentum_buffer is None else (param, grad, momentum_buffer)
    for whole, g, *rest in stretches(*arrays):
        p, g = widen(whole), widen(g)
        g = _to_minimise(p, g, weight_decay, maximize)
        scratch = np.empty_like(p)
        if rest:
            (buffer,) = rest
            if first:
                buffer[...] = g
            else:
                buffer *= momentum
                buffer += np.multiply(g, new, out=scratch)
            if nesterov:
                np.multiply(buffer, momentum, out=scratch)
                g = np.add(scratch, g, out=scratch)
            else:
                g = buffer
        p -= np.multiply(g, lr, out=scratch)
        if p is not whole:
            whole[...] = p


@np.errstate(all="ignore")
def adam_step(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array | None,
    step: int,
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

    All arrays have one shape; `max_exp_avg_sq` is None without amsgrad. The same numbers as `adam_definition` but for
    rounding: the bias corrections are taken out of the root and the quotient, which saves two passes over the arrays.
    """
    lr, beta1, beta2, weight_decay = float(lr), float(beta1), float(beta2), float(weight_decay)
    root = math.sqrt(1.0 - beta2**step)
    rate, floor = lr * root / (1.0 - beta1**step), float(eps) * root
    shrink = 1.0 - lr * weight_decay if decoupled else 1.0
    penalty = 0.0 if decoupled else weight_decay
    tops = () if max_exp_avg_sq is None else (max_exp_avg_sq,)
    for whole, g, m, v, *top in stretches(param, grad, exp_avg, exp_avg_sq, *tops):
        p, g = widen(whole), widen(g)
        g = _to_minimise(p, g, penalty, maximize)
        if shrink != 1.0:
            p *= shrink
        scratch = np.multiply(g, 1.0 - beta1, out=np.empty_like(p))
        m *= beta1
        m += scratch
        np.square(g, out=scratch)  # quicker than g * g
        scratch *= 1.0 - beta2
        v *= beta2
        v += scratch
        if top:
            v = np.maximum(top[0], v, out=top[0])
        np.sqrt(v, out=scratch)
        scratch += floor
        np.divide(m, scratch, out=scratch)
        scratch *= rate
        p -= scratch
        if p is not whole:
            whole[...] = p
        if step % _FLUSH_EVERY == 0:
            m[np.abs(m, out=scratch) < np.finfo(m.dtype).tiny] = 0.0


@np.errstate(all="ignore")
def total_norm(arrays: Sequence[Array], norm_type: float) -> Array:
    """The p-norm of all arrays read as one vector, a 0-d array of their dtype (float16: float32); 0 for none."""
    arrays = [widen(array) for array in arrays]
    dtype = np.result_type(*arrays) if arrays else np.dtype(np.float32)
    norms = [_norm(array.reshape(-1), norm_type) for array in arrays if array.size]
    norm = _norm(np.asarray(norms, dtype=np.float64), norm_type) if norms else 0.0
    return np.asarray(norm, dtype=dtype)


def _norm(x: Array, p: float) -> Any:
    """(sum |x|^p)^(1/p) of a vector that is not empty; limit at p = +-inf, count at p = 0."""
    if p == 2.0:
        return np.sqrt(row_dots(x[None], x[None])[0])
    if p == 0.0:
        return np.count_nonzero(x)
    size = np.abs(x)
    if math.isinf(p):
        return size.max() if p > 0 else size.min()
    return total(size if p == 1.0 else size**p, None)[0] ** (1.0 / p)


@np.errstate(all="ignore")
def clip_to_norm(arrays: Sequence[Array], norm: Array, max_norm: float) -> None:
    """Multiply every array, in place, by max_norm / norm unless that is above one."""
    scale = np.minimum(float(max_norm) / (np.asarray(norm, np.float64) + 1e-6), 1.0)
    for array in arrays:
        np.multiply(array, scale, out=array, dtype=np.result_type(array, np.float32), casting="same_kind")


def clip_to_value(arrays: Sequence[Array], limit: float) -> None:
    """Bring every element, in place, between -limit and limit; NaN stays."""
    for array in arrays:
        np.clip(array, -float(limit), float(limit), out=array)


def update_if(condition: Array, update: Callable[[], Any]) -> None:
    """Call `update`, a step of optimizers, if `condition`, a bool (), is True."""
    if condition:
        update()
