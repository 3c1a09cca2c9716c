"""Anomaly detection: the first NaN or infinity, and every write behind the engine's back."""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

import numpy as np

from tinyattn import backends
from tinyattn.graph import Node, Operation, Saved
from tinyattn.modes import call_site, module_stack
from tinyattn.observer import Observer
from tinyattn.tensor import Tensor

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["AnomalyError", "detect_anomaly"]


class AnomalyError(RuntimeError):
    """Raised inside `detect_anomaly`. operation: its name; site: "file:line"; module: its path or ""."""

    def __init__(self, message: str, node: Node) -> None:
        super().__init__(message)
        self.operation = node.op.name if node.op else "leaf"
        self.site, self.module = str(node.site), node.module


class _Now(threading.local):
    """What a thread is in the middle of."""

    options: Sequence[Any] = ()  # of the operation that is computing
    in_rule = False  # a rule that records itself is running


class detect_anomaly(Observer):  # noqa: N801 - torch's name
    """Check all that is computed inside `with detect_anomaly():`, forward and backward.

    Raises AnomalyError, a RuntimeError, with the operation, its module, its line and the ranges of
    its arrays, at
    - the first NaN or infinity that an operation or the rule of its gradient makes. An infinity that
      the program put there (a mask of -inf) may pass through; a NaN that comes in with the data is
      reported where gradients first depend on it;
    - an array that was saved for a gradient and written to since without a Tensor's methods: through
      `.data`, or an array that shares its memory. Forward and backward must both be inside.

    check_nan: whether to look for NaN and infinities, or for writes alone. It costs a pass over
    every array, and nothing outside of the `with`. As torch.autograd.detect_anomaly.
    """

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = check_nan
        self._sums: WeakKeyDictionary[Node, dict[str, list[int]]] = WeakKeyDictionary()
        self._now = _Now()

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._now.in_rule = False
        super().__exit__(*exception)

    # --- forward ---

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._now.options = tuple(options.values())

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        if self.check_nan and not self._now.in_rule and fault(out.data):
            self._blame_forward(op, inputs, out, node)
        if node is not None and node.saved:
            self._sums[node] = {name: [checksum(s.array) for s in _each(v)] for name, v in node.saved.items()}

    def _blame_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        kind = made(out, [*inputs, *self._now.options])
        arrays = dict(zip(input_names(op, len(inputs)), inputs, strict=True))
        where = node or trace(op, out)
        if kind:
            text = f"forward: {where} made {count(out.data)} out of {_came_with(arrays)}."
        elif node is not None and "NaN" in map(fault, arrays.values()) and not _is_number(arrays):
            name = next(name for name, x in arrays.items() if fault(x) == "NaN")
            text = (
                f"forward: NaN comes into the graph with the input '{name}' of {where}. No operation made it "
                "while anomalies were looked for: it is in the data, in a parameter, or was written there."
            )
        else:
            return
        raise AnomalyError(_report(text, {**arrays, "out": out}), where)

    # --- backward ---

    def before_backward(self, node: Node, g: Any) -> None:
        recording = isinstance(g, Tensor)
        self._verify(node, recording)
        if self.check_nan and fault(g):
            raise AnomalyError(
                f"backward: the gradient that reaches {node} holds {count(_array(g))}, and no rule made it: it "
                "was given to backward(), put there by a hook, or overflowed where gradients were added up.",
                node,
            )
        self._now.in_rule = recording

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        self._now.in_rule = False
        if not self.check_nan or node.op is None:
            return
        names = input_names(node.op, len(node.edges))
        for name, edge, gradient in zip(names, node.edges, gradients, strict=False):
            if edge is None or gradient is None:
                continue
            gradient = fitted(gradient, edge)
            if fault(gradient):
                saved = {f"saved {n}": s.array for n, v in (node.saved or {}).items() for s in _each(v)}
                text = (
                    f"backward: the rule of {node} made {count(gradient)} for its input '{name}' out of a finite "
                    f"gradient and {_came_with(saved, 'saved arrays')}."
                )
                raise AnomalyError(_report(text, {"gradient": g, **saved, f"gradient of {name}": gradient}), node)

    def freed(self, node: Node) -> None:
        self._sums.pop(node, None)

    def _verify(self, node: Node, recording: bool) -> None:
        """Compare what the rules of `node` are about to read with its checksums."""
        sums = self._sums.get(node)
        if sums is None or not node.saved or node.op is None:
            return
        for name in node.op.asks(node.edges, recording):
            for saved, before in zip(_each(node.saved.get(name)), sums.get(name, ()), strict=False):
                if saved.storage.version == saved.version and checksum(saved.array) != before:
                    raise AnomalyError(
                        f"{node} saved '{name}' (shape {tuple(saved.array.shape)}) for its gradient, and somebody has "
                        "written into its memory since, behind the engine's back: through .data, or through an array "
                        "that shares it (.numpy(), from_numpy()). Write with the Tensor's own methods under "
                        "no_grad(), which name the line, or clone() the tensor first.",
                        node,
                    )

    def __enter__(self) -> Self:
        self._now.in_rule = False
        return super().__enter__()


# --- looking at arrays ---


def _array(x: Any) -> Any:
    """The plain array of a Tensor, of a gradient that is zero but for some places, or of itself."""
    if isinstance(x, Tensor):
        return x.data
    return x.values if isinstance(x, backends.Placed) else x


def fault(x: Any) -> str:
    """ "NaN" or "infinity", whichever is in a tensor, array or number; "" if all of it is finite."""
    x = _array(x)
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
        return gradient.values
    array = _array(gradient)
    F = backends.of(array)
    with F.quiet():
        array = array if array.shape == edge.shape else F.sum_to(array, edge.shape)
        return array if array.dtype == edge.dtype else F.cast(array, edge.dtype)


def checksum(array: Any) -> int:
    """A number that changes when a byte does."""
    array = array.get() if hasattr(array, "get") else array  # from the memory of a GPU
    if not array.flags.c_contiguous:
        array = array.T if array.flags.f_contiguous else np.ascontiguousarray(array)
    return zlib.crc32(array)


def _each(saved: Any) -> Iterator[Saved]:
    """The arrays in one entry of what a node saved."""
    for value in saved if type(saved) is tuple else (saved,):
        if type(value) is Saved:
            yield value


# --- words ---


def trace(op: Operation, out: Tensor) -> Node:
    """A node for an operation that recorded none: says where it ran."""
    node = Node(op, (), out.data)
    node.site, node.modules = call_site(), module_stack.get()
    return node


def input_names(op: Operation, count: int) -> list[str]:
    """What the inputs of an operation are called: x, weight; or xs[0], xs[1] ..."""
    return [f"{op.inputs[0]}[{i}]" for i in range(count)] if op.variadic else op.inputs[:count]


def count(array: Any) -> str:
    """ "3 NaN and 1 infinity of 12 elements" """
    nan = int((array != array).sum())
    infinite = int((~backends.of(array).isfinite(array)).sum()) - nan
    found = [f"{nan} NaN"] * (nan > 0) + [f"{infinite} infinit{'y' if infinite == 1 else 'ies'}"] * (infinite > 0)
    return f"{' and '.join(found) or 'nothing'} in {array.size} element{'s' * (array.size != 1)}"


def describe(x: Any) -> str:
    """Shape, dtype and range of a tensor or array, with what is not finite counted; numbers as they are."""
    x = _array(x)
    if not hasattr(x, "dtype"):
        return repr(x)
    text = f"{tuple(x.shape)} {x.dtype}"
    if x.size == 0:
        return f"{text}, empty"
    finite = x[backends.of(x).isfinite(x)] if x.dtype.kind == "f" else x
    if finite.size:
        text += f", from {finite.min().item():.4g} to {finite.max().item():.4g}"
    return text if finite.size == x.size else f"{text}, {count(x)}"


def _report(sentence: str, arrays: dict[str, Any]) -> str:
    """The sentence, and a line for each array."""
    return "\n".join([sentence, *(f"    {name}: {describe(x)}" for name, x in arrays.items())])


def _came_with(arrays: dict[str, Any], what: str = "inputs") -> str:
    bad = [f"'{name}'" for name, x in arrays.items() if fault(x)]
    return f"{what} of which {' and '.join(bad)} held infinities or NaN" if bad else f"finite {what}"


def _is_number(arrays: dict[str, Any]) -> bool:
    """Whether a NaN was given as a number: then it is meant."""
    return any(isinstance(x, float) and math.isnan(x) for x in arrays.values())
