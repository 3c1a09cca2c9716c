"""How many floating-point operations an operation takes, from the shapes alone.

The definition in first principles is counted: a product (n, k) @ (k, m) is 2 n k m; an elementwise operation,
including comparisons and functions like exp, 1 for each number that it gives; a reduction 1 for each number that it
reads; moving, choosing and casting nothing. Backward, each gradient of a product is a product of the same size,
exactly; each gradient of anything else counts as its forward, which is an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tinyattn.engine.operation import Operation

Shape = tuple[int, ...]
Shapes = Sequence[Shape | None]
Count = Callable[[Shapes, Shape, dict[str, Any]], int]  # from the shapes of inputs and output, and options

size = math.prod


def _given(n: float) -> Count:
    """n for each element of the output."""
    return lambda shapes, out, options: int(n * size(out))


def _read(n: float, each: float = 0) -> Count:
    """n for each element of the first input, and `each` for each element of the output."""
    return lambda shapes, out, options: int(n * size(shapes[0] or ()) + each * size(out))


def _matmul(shapes: Shapes, out: Shape, options: dict[str, Any]) -> int:
    a, b = shapes[:2]
    return 2 * size(out) * (a[-1] if a is not None else b[-2] if b is not None else 0)


def _linear(shapes: Shapes, out: Shape, options: dict[str, Any]) -> int:
    return 2 * size(out) * (shapes[1] or shapes[0] or (0,))[-1] + size(out) * (shapes[2] is not None)


def _einsum(shapes: Shapes, out: Shape, options: dict[str, Any]) -> int:
    terms, output = options["equation"].split("->")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms.split(","), shapes, strict=True):
        sizes |= dict(zip(term, shape or (), strict=False))
    sums = bool(set(sizes) - set(output))
    return size(sizes.values()) * (len(shapes) - 1 + sums)


def _softmax(scores: int, rows: int) -> int:
    return 5 * scores + 2 * rows  # maximum, difference, exp, sum, quotient; two checks for rows emptied by a mask


def _log_softmax(shape: Shape, dim: int) -> int:
    return 5 * size(shape) + size(shape) // max(shape[dim] if shape else 1, 1)


def _attention(shapes: Shapes, out: Shape, options: dict[str, Any]) -> int:
    q, k, v = shapes[0], shapes[1] or shapes[2], shapes[2] or shapes[1]
    if k is None or v is None:
        return 0
    rows, keys, dim = size(out[:-1]), k[-2], (q or k)[-1]
    masks = sum(1 for i in (3, 5) if i < len(shapes) and shapes[i] is not None)  # added to scores, times weights
    products = 2 * rows * keys * (dim + v[-1])
    return products + size(q or ()) + _softmax(rows * keys, rows) + masks * rows * keys


def _packed_attention(shapes: Shapes, out: Shape, options: dict[str, Any]) -> int:
    batch, tokens, dim = size(out[:-2]), out[-2], out[-1]
    rows = batch * options["heads"] * tokens
    return 4 * batch * tokens * tokens * dim + batch * tokens * dim + _softmax(rows * tokens, rows)


def _layer_norm(shapes: Shapes, out: Shape, options: dict[str, Any]) -> int:
    affine = sum(shape is not None for shape in shapes[1:3])
    return (7 + affine) * size(out) + 2 * size(out) // max(size(options["shape"]), 1)


def _batch_norm(shapes: Shapes, out: Shape, options: dict[str, Any]) -> int:
    affine = sum(shape is not None for shape in shapes[1:3])
    return (5 + affine) * size(out) + 2 * out[1]


def _convolve(shapes: Shapes, out: Shape, options: dict[str, Any]) -> int:
    return size(out) * (2 * size((shapes[1] or (0,))[1:]) + (shapes[2] is not None))


def _recurrent(shapes: Shapes, out: Shape, options: dict[str, Any]) -> int:
    h, gates = size(out[1:]), (shapes[1] or (0,))[0] // max(out[-1], 1)
    return h * (2 * out[-1] * gates + {"gru": 16, "lstm": 22}.get(options["kind"], 2) + gates * (shapes[2] is not None))


def _gelu(shapes: Shapes, out: Shape, options: dict[str, Any]) -> int:
    return (5 if options["approximate"] == "none" else 8) * size(out)


_MOVES = """batch_mean_var cast detach isfinite join logical_and logical_not logical_or masked_fill place scatter
    setitem where"""
_REDUCTIONS = "amax amin argmax argmin cumprod cumsum embedding_gradient mean pick prod sum"

COUNTS: dict[str, Count] = {
    **dict.fromkeys(_MOVES.split(), _given(0)),
    **dict.fromkeys(_REDUCTIONS.split(), _read(1)),
    "dropout": _given(2), "sigmoid": _given(4), "silu": _given(5), "softplus": _given(7), "logsigmoid": _given(6),
    "binary_cross_entropy": _given(9),
    "gelu": _gelu, "var": _read(4), "std": _read(4, each=1), "logsumexp": _read(4, each=2), "softmax": _read(5),
    "log_softmax": lambda shapes, out, options: _log_softmax(out, options["dim"]),
    "cross_entropy": lambda shapes, out, options: _log_softmax(shapes[0] or (), 1) + size(out),
    "layer_norm": _layer_norm, "batch_norm": _batch_norm, "recurrent": _recurrent,
    "convolve": _convolve,
    "convolve_input": lambda shapes, out, options: _convolve((out, shapes[1], None), shapes[0] or (), {}),
    "convolve_weight": lambda shapes, out, options: _convolve((None, out, None), shapes[0] or (), {}),
    "matmul": _matmul, "linear": _linear, "einsum": _einsum,
    "linear_gelu": lambda shapes, out, options: _linear(shapes, out, options) + _gelu(shapes, out, options),
    "attention": _attention, "tiled_attention": _attention, "packed_attention": _packed_attention,
}  # fmt: skip


def forward_flops(op: Operation, shapes: Shapes, out: Shape, options: dict[str, Any]) -> int | None:
    """FLOPs of an operation with inputs of these shapes (None: no array).

    An operation of this package that is not in the table counts 1 per output element, or 0 if it only moves elements
    (its traits say so). None for a custom operation.
    """
    if op.name in COUNTS:
        return COUNTS[op.name](tuple(shapes), out, options)
    if op.forward.__module__.startswith("tinyattn."):
        return 0 if "moves" in op.traits else size(out)
    return None


def backward_flops(
    op: Operation, shapes: Shapes, out: Shape, options: dict[str, Any], needed: Sequence[bool]
) -> int | None:
    """FLOPs of its gradients, for the inputs that need one."""
    name, forward = op.name, forward_flops(op, shapes, out, options)
    if forward is None:
        return None
    count = {"linear": _linear, "linear_gelu": _linear, "convolve": _convolve}.get(name)
    if count is not None:
        product = count((*shapes[:2], None), out, {})
        return product * sum(needed[:2]) + size(out) * (any(needed[2:3]) + (name == "linear_gelu"))
    if name in ("attention", "tiled_attention", "packed_attention", "recurrent"):  # all at once, needed or not
        return 2 * forward + (name == "tiled_attention") * forward // 2  # which computes the weights again
    if name == "embedding":
        return size(out)
    if name in ("layer_norm", "batch_norm", "softmax", "log_softmax", "cross_entropy"):
        return forward
    return forward * sum(needed)
