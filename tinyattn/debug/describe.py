"""Arrays, recorded operations and tables as the tools of this folder see and show them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.engine.modes import call_site, module_stack
from tinyattn.engine.node import Node, Saved
from tinyattn.engine.operation import Operation
from tinyattn.tensors import Tensor

# --- arrays ---


def array_of(x: Any) -> Any:
    """The plain array of a Tensor or of a sparse gradient; `x` itself otherwise."""
    if isinstance(x, Tensor):
        return x.array
    return x.values if isinstance(x, backends.Placed) else x


def fault(x: Any) -> str:
    """ "NaN" or "infinity", whichever a tensor, array or number contains; "" if all of it is finite."""
    x = array_of(x)
    if isinstance(x, float):
        return "" if math.isfinite(x) else "NaN" if math.isnan(x) else "infinity"
    if getattr(getattr(x, "dtype", None), "kind", "") != "f" or bool(backends.of(x).isfinite(x).all()):
        return ""
    return "NaN" if bool((x != x).any()) else "infinity"


def made(out: Any, inputs: Sequence[Any]) -> str:
    """The fault of `out` unless `inputs` explain it: a NaN or infinity among them; "" if they do."""
    kind = fault(out)
    brought = set(map(fault, inputs)) - {""} if kind else set()
    return "" if kind in brought or (kind == "infinity" and brought) else kind


def fitted(gradient: Any, edge: Node) -> Any:
    """A rule's gradient as the backward pass hands it on: in the shape and dtype of the input."""
    if isinstance(gradient, backends.Placed):
        gradient = gradient.dense()
    array = array_of(gradient)
    xp = backends.of(array)
    with xp.quiet():
        array = array if array.shape == edge.shape else xp.sum_to(array, edge.shape)
        return array if array.dtype == edge.dtype else xp.cast(array, edge.dtype)


def checksum(array: Any) -> int:
    """CRC-32 of the elements, whatever the strides."""
    array = array.get() if hasattr(array, "get") else array  # out of the memory of a GPU
    if not array.flags.c_contiguous:
        array = array.T if array.flags.f_contiguous else np.ascontiguousarray(array)
    return zlib.crc32(array)


# --- recorded operations ---


def trace(op: Operation, out: Tensor) -> Node:
    """A node for an operation that recorded none, with the line and modules where it ran."""
    node = Node(op, (), out.array)
    node.site, node.modules = call_site(), module_stack.get()
    return node


def input_names(op: Operation, count: int) -> list[str]:
    """The names of an operation's inputs: x, weight; or xs[0], xs[1] ..."""
    return [f"{op.inputs[0]}[{i}]" for i in range(count)] if op.variadic else op.inputs[:count]


def shares(node: Node, gradients: Sequence[Any]) -> Iterator[tuple[str, Node, Any]]:
    """The name, the node and the gradient (or None) of each input of `node` that has a node; none for a leaf."""
    names = input_names(node.op, len(node.edges)) if node.op else []
    for name, edge, gradient in zip(names, node.edges, gradients, strict=False):
        if edge is not None:
            yield name, edge, gradient


def saved_by(node: Node) -> Iterator[tuple[str, Saved]]:
    """The arrays that `node` has saved, by name: x, out; or xs[0], xs[1] ...; none once they are freed."""
    for name, value in (node.saved or {}).items():
        several = type(value) is list
        for i, one in enumerate(value if several else (value,)):
            if type(one) is Saved:
                yield f"{name}[{i}]" if several else name, one


def value(node: Node, name: str) -> Any:
    """What the rules of `node` read by this name: a saved array, a shape, an option or an extra."""
    return node.read([name], False)[0]


# --- text ---


def count(array: Any) -> str:
    """ "3 NaN and 1 infinity in 12 elements" """
    array = array_of(array)
    nan = int((array != array).sum())
    infinite = int((~backends.of(array).isfinite(array)).sum()) - nan
    found = [f"{nan} NaN"] * (nan > 0) + [f"{infinite} infinit{'y' if infinite == 1 else 'ies'}"] * (infinite > 0)
    return f"{' and '.join(found)} in {array.size} element{'s' * (array.size != 1)}"


def describe(x: Any) -> str:
    """Shape, dtype and range of a tensor or array, non-finite elements counted; `repr` of anything else."""
    x = array_of(x)
    if not hasattr(x, "dtype"):
        return repr(x)
    text = f"{tuple(x.shape)} {x.dtype}"
    if x.size == 0:
        return f"{text}, empty"
    finite = x[backends.of(x).isfinite(x)] if x.dtype.kind == "f" else x
    if finite.size:
        text += f", from {finite.min().item():.4g} to {finite.max().item():.4g}"
    return text if finite.size == x.size else f"{text}, {count(x)}"


def in_units(x: float, units: Sequence[tuple[str, float]], places: int) -> str:
    """`x` in the first of `units` that it reaches, "1.2 MB"; "" if it reaches none."""
    return next((f"{x / length:.{places}f} {unit}" for unit, length in units if x >= length), "")


def size(n: int) -> str:
    """Bytes as text: "1.2 MB"."""
    return in_units(n, (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)), 1) or f"{n} B"


def table(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """The lines of a table with aligned columns: those in `left` at the left, the others at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    signs = ["<" if i in left else ">" for i in range(len(widths))]
    cells = ([f"{x:{sign}{w}}" for x, sign, w in zip(row, signs, widths, strict=True)] for row in rows)
    return ["  " + "  ".join(row).rstrip() for row in cells]


def arrays_in(x: Any) -> Iterator[Any]:
    """The arrays in an input or option, which may be an index."""
    if isinstance(x, Tensor | np.ndarray):
        yield array_of(x)
    elif isinstance(x, tuple | list):
        for part in x:
            yield from arrays_in(part)
