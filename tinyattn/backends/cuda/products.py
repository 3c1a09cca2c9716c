"""Matrix products and Einstein sums, every floating one a single call of cuBLAS."""

from __future__ import annotations

from typing import Any

import cupy as cp

from tinyattn.backends.cuda.blas import KINDS, gemm

__all__ = ["einsum", "matmul"]

Array = Any


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
        return moved.reshape([_product(size[c] for c in group) for group in groups])

    out = matmul(matrices(a, mine, stack, rows, inner), matrices(b, theirs, stack, inner, columns))
    return out.reshape([size[c] for c in (*stack, *rows, *columns)]), "".join([*stack, *rows, *columns])


def _summed(x: Array, own: str, needed: set[str]) -> tuple[Array, str]:
    over = tuple(i for i, c in enumerate(own) if c not in needed)
    return (cp.sum(x, axis=over, dtype=x.dtype), "".join(c for c in own if c in needed)) if over else (x, own)


def _product(sizes: Any) -> int:
    total = 1
    for n in sizes:
        total *= n
    return total
