"""Anomaly detection: the first NaN or infinity, and every write behind the engine's back."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self
from weakref import WeakKeyDictionary

from tinyattn.debug.describe import array_of, checksum, count, describe, fault, fitted, input_names, made, trace
from tinyattn.engine.node import Node, Saved
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.tensors import Tensor

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

    Raises AnomalyError, a RuntimeError, that names the operation, its module and line and the ranges
    of its arrays, at

    - the first NaN or infinity that an operation makes, or the rule of its gradient. An infinity that
      the program put there (a mask of -inf) may pass through; a NaN that comes in with the data is
      reported where gradients first depend on it;
    - an array that was saved for a gradient and has been written to since, not by a Tensor's methods
      but through `.array` or another array that shares its memory.

    check_nan: False looks for writes alone. It costs some passes over every array, and nothing
    outside of the `with`; forward and backward must both be inside. As torch.autograd.detect_anomaly.
    """

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = check_nan
        self._sums: WeakKeyDictionary[Node, dict[str, list[int]]] = WeakKeyDictionary()
        self._now = _Now()

    def __enter__(self) -> Self:
        self._now.in_rule = False
        return super().__enter__()

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._now.options = tuple(options.values())

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        if self.check_nan and not self._now.in_rule and fault(out):
            self._blame_forward(op, inputs, out, node)
        if node is not None and node.saved:
            self._sums[node] = {name: [checksum(s.array) for s in _each(v)] for name, v in node.saved.items()}

    def _blame_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        where = node or trace(op, out)
        arrays = dict(zip(input_names(op, len(inputs)), inputs, strict=True))
        carriers = [name for name, x in arrays.items() if fault(x) == "NaN"]
        if made(out, [*inputs, *self._now.options]):
            text = f"forward: {where} made {count(out.array)} out of {_state(arrays.items(), 'inputs')}."
        elif node is not None and carriers and not any(isinstance(arrays[name], float) for name in carriers):
            text = (
                f"forward: NaN comes into the graph with the input '{carriers[0]}' of {where}. No operation seen "
                "here made it: it is in the data or in a parameter, or was written there."
            )
        else:
            return
        raise AnomalyError(_report(text, [*arrays.items(), ("out", out)]), where)

    def before_backward(self, node: Node, g: Any) -> None:
        recording = isinstance(g, Tensor)
        self._verify(node, recording)
        if self.check_nan and fault(g):
            raise AnomalyError(
                f"backward: the gradient that reaches {node} has {count(array_of(g))}, and no rule made it: it was "
                "given to backward(), put there by a hook, or overflowed where gradients were added up.",
                node,
            )
        self._now.in_rule = recording

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        self._now.in_rule = False
        if not self.check_nan or node.op is None:
            return
        names = input_names(node.op, len(node.edges))
        for name, edge, gradient in zip(names, node.edges, gradients, strict=False):
            if edge is None or gradient is None or not fault(gradient := fitted(gradient, edge)):
                continue
            saved = [(f"saved {n}", s.array) for n, value in (node.saved or {}).items() for s in _each(value)]
            text = (
                f"backward: the rule of {node} made {count(gradient)} for its input '{name}' out of a finite gradient "
                f"and {_state(saved, 'saved arrays')}."
            )
            raise AnomalyError(_report(text, [("gradient", g), *saved, (f"gradient of {name}", gradient)]), node)

    def freed(self, node: Node) -> None:
        self._sums.pop(node, None)

    def _verify(self, node: Node, recording: bool) -> None:
        """Compare what the rules of `node` are about to read with its checksums."""
        sums = self._sums.get(node)
        if sums is None or not node.saved:
            return
        for name in _asked(node, recording):
            for saved, before in zip(_each(node.saved.get(name)), sums.get(name, ()), strict=False):
                if saved.storage.version == saved.version and checksum(saved.array) != before:
                    raise AnomalyError(
                        f"{node} saved '{name}' (shape {tuple(saved.array.shape)}) for its gradient, and somebody has "
                        "written into its memory since, behind the engine's back: through .array, or through an array "
                        "that shares it (.numpy(), from_numpy()). Write with a Tensor's own methods under no_grad(), "
                        "which the engine notices, or clone() the tensor first.",
                        node,
                    )


def _asked(node: Node, recording: bool) -> Iterable[str]:
    """The names of what the rules of `node` will read."""
    op = node.op
    assert op is not None
    if op.backward is not None:
        return op.inputs if recording and op.definition else op.joint
    needed = [name for name, edge in zip(op.inputs, node.edges, strict=False) if edge is not None]
    return dict.fromkeys(asked for name in needed for asked in op.asks.get(name, ()))


def _each(saved: Any) -> Iterator[Saved]:
    """The arrays in one entry of what a node saved."""
    for value in saved if isinstance(saved, tuple) else (saved,):
        if type(value) is Saved:
            yield value


def _report(sentence: str, arrays: Iterable[tuple[str, Any]]) -> str:
    """The sentence, and a line for each array."""
    return "\n".join([sentence, *(f"    {name}: {describe(x)}" for name, x in arrays)])


def _state(arrays: Iterable[tuple[str, Any]], what: str) -> str:
    bad = [f"'{name}'" for name, x in arrays if fault(x)]
    return f"{what} of which {' and '.join(bad)} held infinities or NaN" if bad else f"finite {what}"
