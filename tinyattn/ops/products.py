"""Matrix products and Einstein sums."""

from __future__ import annotations

import math
import re
import string
from typing import Any

import numpy as np

from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.promotion import same_type
from tinyattn.ops.rearranging import diagonal
from tinyattn.ops.reductions import sum
from tinyattn.ops.shape import permute, reshape_result

# With matrices (..., n, k) and (..., k, m): d(ab) = da b + a db.
_matmul = Operation(
    lambda xp, a, b: xp.matmul(a, b),
    name="matmul",
    traits="multiplies",
    promote=same_type,
    fresh=True,
    a=lambda xp, g, b: xp.matmul(g, b.mT),
    b=lambda xp, g, a: xp.matmul(a.mT, g),
)


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Return the matrix product, leading axes broadcast: (..., n, k) and (..., k, m) give (..., n, m).

    A vector counts as one row (left) or column (right). Raises RuntimeError for shapes that do not fit. As
    torch.matmul.

    >>> ta.matmul(ta.tensor([[1.0, 2.0], [3.0, 4.0]]), ta.tensor([1.0, 1.0]))
    tensor([3., 7.])
    """
    a, b = creation.as_tensor(input), creation.as_tensor(other)
    rows, columns = a.array.shape, b.array.shape
    if not rows or not columns:
        raise RuntimeError(f"matmul: shapes {rows} and {columns}; a 0-d tensor needs * instead")
    if rows[-1] != columns[-2:][0]:
        raise RuntimeError(
            f"matmul: shapes {rows} and {columns} do not fit: {rows[-1]} columns on the left meet {columns[-2:][0]} "
            "rows on the right"
        )
    if len(rows) == len(columns) == 2:
        return _matmul(a, b)
    left = a.reshape(1, -1) if a.ndim == 1 else a
    right = b.reshape(-1, 1) if b.ndim == 1 else b
    try:
        ahead = np.broadcast_shapes(left.shape[:-2], right.shape[:-2]) if left.ndim + right.ndim > 4 else ()
    except ValueError:
        raise RuntimeError(f"matmul: the leading axes of {rows} and {columns} do not broadcast") from None
    if left.ndim > 2 and right.ndim == 2:  # one product over all rows, not one for each matrix
        out = _matmul(left.reshape(math.prod(left.shape[:-1]), left.shape[-1]), right)
    else:
        out = _matmul(left, right)
    shape = (*ahead, *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ()))
    return out if out.shape == shape else reshape_result(out, shape)


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the product of two matrices, (n, k) and (k, m). As torch.mm.

    >>> ta.mm(ta.ones(2, 3), ta.ones(3, 4)).shape
    (2, 4)
    """
    return _product_of("mm", 2, input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the products of two batches of matrices, (b, n, k) and (b, k, m). As torch.bmm.

    >>> ta.bmm(ta.ones(5, 2, 3), ta.ones(5, 3, 4)).shape
    (5, 2, 4)
    """
    if input.ndim == mat2.ndim == 3 and input.shape[0] != mat2.shape[0]:
        raise RuntimeError(f"bmm: batches of {input.shape[0]} and {mat2.shape[0]} matrices; expected as many")
    return _product_of("bmm", 3, input, mat2)


def _product_of(name: str, ndim: int, a: Tensor, b: Tensor) -> Tensor:
    if a.ndim != ndim or b.ndim != ndim:
        raise RuntimeError(f"{name}: shapes {tuple(a.shape)} and {tuple(b.shape)}; expected {ndim} dimensions each")
    return matmul(a, b)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """Return every product of two elements of vectors: (n,) and (m,) give (n, m). As torch.outer.

    >>> ta.outer(ta.tensor([1, 2]), ta.tensor([3, 4])).tolist()
    [[3, 4], [6, 8]]
    """
    if input.ndim != 1 or vec2.ndim != 1:
        raise RuntimeError(f"outer: shapes {tuple(input.shape)} and {tuple(vec2.shape)}; expected two vectors")
    return einsum("i,j->ij", input, vec2)  # quicker than a product that broadcasts


# --- einsum ---

LETTERS = string.ascii_letters
_TERM = re.compile(r"[a-zA-Z]*(\.\.\.)?[a-zA-Z]*")


def _einsum_rule(xp: Any, g: Any, xs: Any, equation: str, needed: tuple[bool, ...]) -> list[Any]:
    """The gradient at an operand is the Einstein sum of g and the other operands onto its axes;
    axes that stand in that operand alone were summed, so they are stretched back."""
    terms, output = equation.split("->")
    labels = terms.split(",")
    gradients: list[Any] = []
    for i, mine in enumerate(labels):
        if not needed[i]:
            gradients.append(None)
            continue
        others = [x for j, x in enumerate(xs) if j != i]
        elsewhere = set(output).union(*(t for j, t in enumerate(labels) if j != i))
        shared = "".join(c for c in mine if c in elsewhere)
        inputs = ",".join([output, *(t for j, t in enumerate(labels) if j != i)])
        gi = xp.einsum(f"{inputs}->{shared}", g, *others)
        shape = xs[i].shape
        gi = xp.reshape(gi, tuple(n if c in elsewhere else 1 for c, n in zip(mine, shape, strict=True)))
        gradients.append(xp.broadcast_to(gi, shape))
    return gradients


@operation(promote=same_type, backward=_einsum_rule)
def _einsum(xp: Any, *xs: Any, equation: str) -> Any:
    return xp.einsum(equation, *xs)


def _from_lists(operands: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The equation, and the operands, of (x, [0, 1], y, [1, 2], [0, 2]); without the last list, of no "->"."""
    lists = (*operands[1::2], *operands[-1:]) if len(operands) % 2 else operands[1::2]
    terms = ["".join("..." if i is Ellipsis else LETTERS[i] for i in labels) for labels in lists]
    count = len(operands) // 2
    return "->".join([",".join(terms[:count]), *terms[count:]]), operands[: 2 * count : 2]


def einsum(equation: Any, *operands: Any) -> Tensor:
    """Multiply and sum by labelled axes; knows implicit outputs, "..." and repeated labels (diagonals).

    equation: "bij,bjk->bik"; or operands and lists of labels in turn, einsum(x, [0, 1], y, [1, 2], [0, 2]). Raises
    ValueError for labels that do not fit, RuntimeError for sizes. As torch.einsum.

    >>> ta.einsum("ij,j->i", ta.tensor([[1.0, 2.0], [3.0, 4.0]]), ta.tensor([1.0, 1.0]))
    tensor([3., 7.])
    """
    if not isinstance(equation, str):
        equation, operands = _from_lists((equation, *operands))
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = tuple(operands[0])
    tensors = [creation.as_tensor(x) for x in operands]
    labels, output = _parse(equation, tensors)
    sizes: dict[str, int] = {}
    for i, (term, x) in enumerate(zip(labels, tensors, strict=True)):
        for label, n in zip(term, x.array.shape, strict=True):
            if sizes.setdefault(label, n) == 1:
                sizes[label] = n
            if term.count(label) > 1 and n != x.shape[term.index(label)]:
                raise RuntimeError(
                    f"einsum: label {label!r} repeats in operand {i} of shape {tuple(x.shape)}; expected equal sizes"
                )
            if n not in (1, sizes[label]):
                raise RuntimeError(f"einsum: label {label!r} has size {sizes[label]} and, in operand {i}, {n}")
    for i, term in enumerate(labels):
        tensors[i], labels[i] = _distinct(tensors[i], term, sizes)
    missing = [label for label in output if not any(label in term for term in labels)]
    if missing:  # only axes of size 1 are gone: give one operand its own back
        tensors[0] = tensors[0].reshape(*tensors[0].shape, *(1 for _ in missing))
        labels[0] += "".join(missing)
    if len(tensors) == 1:  # a sum and another order of the axes, which is a view, as in PyTorch
        (x,), (term,) = tensors, labels
        gone = tuple(i for i, c in enumerate(term) if c not in output)
        kept = [c for c in term if c in output]
        return permute(sum(x, gone) if gone else x, [kept.index(c) for c in output])
    return _einsum(*tensors, equation=f"{','.join(labels)}->{output}")


def _distinct(x: Tensor, term: str, sizes: dict[str, int]) -> tuple[Tensor, str]:
    """Take diagonals until no label repeats, and drop axes of size 1 that broadcast."""
    for label in dict.fromkeys(term):
        while term.count(label) > 1:
            first = term.index(label)
            second = term.index(label, first + 1)
            x = diagonal(x, 0, first, second)
            term = "".join(c for k, c in enumerate(term) if k not in (first, second)) + label
    shape = x.array.shape
    keep = [k for k, label in enumerate(term) if shape[k] == sizes[label]]
    if len(keep) < len(term):
        x = x.reshape([shape[k] for k in keep])
    return x, "".join([term[k] for k in keep])


def _parse(equation: str, tensors: list[Tensor]) -> tuple[list[str], str]:
    """Spell "..." and the output out in single letters."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    labels = inputs.split(",")
    if len(labels) != len(tensors):
        raise ValueError(f"einsum: {equation!r} names {len(labels)} operands, got {len(tensors)}")
    spare = [c for c in string.ascii_letters if c not in equation] if "..." in equation else []
    widest = ""
    for term in (*labels, output):
        if not _TERM.fullmatch(term):
            raise ValueError(f"einsum: {term!r} in {equation!r}; expected letters a-z and A-Z, and '...' at most once")
    for i, (term, x) in enumerate(zip(labels, tensors, strict=True)):
        named = len(term.replace("...", ""))
        if "..." in term and x.ndim >= named:
            dots = "".join(spare[: x.ndim - named][::-1])  # aligned at the right, as broadcasting is
            widest = max(widest, dots, key=len)
            labels[i] = term.replace("...", dots)
        if len(labels[i]) != x.ndim:
            raise ValueError(f"einsum: {term!r} has {named} labels for operand {i} of shape {tuple(x.shape)}")
    if not arrow:
        seen = "".join(labels)
        single = sorted(c for c in set(seen) if seen.count(c) == 1 and c not in widest)
        return labels, widest + "".join(single)
    output = output.replace("...", widest)
    unknown = [c for c in output if not any(c in term for term in labels)]
    if unknown or len(set(output)) < len(output):
        raise ValueError(f"einsum: output {output!r} of {equation!r} must name labels of the inputs, each once")
    return labels, output
