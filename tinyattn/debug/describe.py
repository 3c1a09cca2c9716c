"""What the tools of this folder say about arrays and about the operations that made them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.engine.modes import call_site, module_stack
from tinyattn.engine.node import Node
from tinyattn.engine.operation import Operation
from tinyattn.tensors import Tensor


def array_of(x: Any) -> Any:
    """The plain array of a Tensor or of a gradient that is zero but for some places; else `x` itself."""
    if isinstance(x, Tensor):
        return x.array
    return x.values if isinstance(x, backends.Placed) else x


def fault(x: Any) -> str:
    """ "NaN" or "infinity", whichever is in a tensor, array or number; "" if all of it is finite."""
    x = array_of(x)
    if isinstance(x, float):
        return "" if math.isfinite(x) else "NaN" if math.isnan(x) else "infinity"
    if getattr(getattr(x, "dtype", None), "kind", "") != "f" or bool(backends.of(x).isfinite(x).all()):
        return ""
    return "NaN" if bool((x != x).any()) else "infinity"


def made(out: Any, inputs: Sequence[Any]) -> str:
    """The fault of `out` if none of `inputs` can have brought it, else ""."""
    kind = fault(out)
    if not kind:
        return ""
    brought = set(map(fault, inputs)) - {""}
    return "" if kind in brought or (kind == "infinity" and brought) else kind


def fitted(gradient: Any, edge: Node) -> Any:
    """A rule's gradient as the walk hands it on: in the shape and dtype of the input."""
    if isinstance(gradient, backends.Placed):
        gradient = gradient.dense()
    array = array_of(gradient)
    xp = backends.of(array)
    with xp.quiet():
        array = array if array.shape == edge.shape else xp.sum_to(array, edge.shape)
        return array if array.dtype == edge.dtype else xp.cast(array, edge.dtype)


def trace(op: Operation, out: Tensor) -> Node:
    """A node for an operation that recorded none: says where it ran."""
    node = Node(op, (), out.array)
    node.site, node.modules = call_site(), module_stack.get()
    return node


def input_names(op: Operation, count: int) -> list[str]:
    """What the inputs of an operation are called: x, weight; or xs[0], xs[1] ..."""
    return [f"{op.inputs[0]}[{i}]" for i in range(count)] if op.variadic else op.inputs[:count]


def checksum(array: Any) -> int:
    """A number that changes when a byte does, whatever the strides."""
    array = array.get() if hasattr(array, "get") else array  # out of the memory of a GPU
    if not array.flags.c_contiguous:
        array = array.T if array.flags.f_contiguous else np.ascontiguousarray(array)
    return zlib.crc32(array)


def count(array: Any) -> str:
    """ "3 NaN and 1 infinity in 12 elements" """
    nan = int((array != array).sum())
    infinite = int((~backends.of(array).isfinite(array)).sum()) - nan
    found = [f"{nan} NaN"] * (nan > 0) + [f"{infinite} infinit{'y' if infinite == 1 else 'ies'}"] * (infinite > 0)
    return f"{' and '.join(found)} in {array.size} element{'s' * (array.size != 1)}"


def describe(x: Any) -> str:
    """Shape, dtype and range of a tensor or array, with what is not finite counted; numbers as they are."""
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
