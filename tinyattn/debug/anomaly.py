"""Anomaly detection: the first NaN or infinity, and every write that the engine does not see."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, Self
from weakref import WeakKeyDictionary

from tinyattn.debug.describe import checksum, count, describe, fault, fitted, input_names, made, saved_by, shares, trace
from tinyattn.engine.modes import observers
from tinyattn.engine.node import Node
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.tensors import Tensor

__all__ = ["AnomalyError", "detect_anomaly", "set_detect_anomaly"]


class AnomalyError(RuntimeError):
    """Raised inside `detect_anomaly`. operation: its name; site: "file:line"; module: its path or "".

    >>> try:
    ...     with ta.detect_anomaly():
    ...         ta.log(ta.tensor(-1.0, requires_grad=True))
    ... except ta.debug.AnomalyError as error:
    ...     print(error.operation)
    log
    """

    def __init__(self, message: str, node: Node, arrays: Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__("\n".join([message, *(f"    {name}: {describe(x)}" for name, x in arrays)]))
        self.operation = node.op.name if node.op else "leaf"
        self.site, self.module = str(node.site), node.module


class _Thread(threading.local):
    """The state of one thread."""

    options: Sequence[Any] = ()  # of the operation that is computing
    in_rule = False  # whether a rule that records itself is running


class detect_anomaly(Observer):  # noqa: N801 - torch's name
    """Check all that is computed inside `with detect_anomaly():`, forward and backward.

    Raises AnomalyError, a RuntimeError, that names the operation, its module and line and the ranges of its arrays, at

    - the first NaN or infinity that an operation makes, or the rule of its gradient. An infinity that the program put
      there (a mask of -inf) may pass; a NaN in the data is reported where gradients first depend on it;
    - an array that was saved for a gradient and has been written to since, not by a Tensor's methods but through
      `.data` or another array that shares its memory.

    check_nan: False checks for writes alone. Costs some passes over every array, and nothing outside of the `with`;
    forward and backward must both be inside. As torch.autograd.detect_anomaly.

    >>> with ta.detect_anomaly():
    ...     ta.tensor(1.0, requires_grad=True).log().item()
    0.0
    """

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = check_nan
        self._sums: WeakKeyDictionary[Node, dict[str, int]] = WeakKeyDictionary()  # of what each node saved
        self._here = _Thread()

    def __enter__(self) -> Self:
        self._here.in_rule = False
        return super().__enter__()

    def before_forward(self, op: Operation, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._here.options = tuple(options.values())

    def after_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        if self.check_nan and not self._here.in_rule and fault(out):
            self._blame_forward(op, inputs, out, node)
        if node is not None and node.saved:
            self._sums[node] = {name: checksum(saved.array) for name, saved in saved_by(node)}

    def _blame_forward(self, op: Operation, inputs: Sequence[Any], out: Tensor, node: Node | None) -> None:
        where = node or trace(op, out)
        arrays = dict(zip(input_names(op, len(inputs)), inputs, strict=True))
        carriers = [name for name, x in arrays.items() if fault(x) == "NaN"]
        if made(out, [*inputs, *self._here.options]):
            text = f"forward: {where} made {count(out.array)} out of {_state(arrays.items(), 'inputs')}."
        elif node is not None and carriers and not any(isinstance(arrays[name], float) for name in carriers):
            text = (
                f"forward: NaN comes into the graph with the input '{carriers[0]}' of {where}. No observed operation "
                "made it: it is in the data or in a parameter, or was written there."
            )
        else:
            return
        raise AnomalyError(text, where, [*arrays.items(), ("out", out)])

    def before_backward(self, node: Node, g: Any) -> None:
        create_graph = isinstance(g, Tensor)
        self._verify(node, create_graph)
        if self.check_nan and fault(g):
            raise AnomalyError(
                f"backward: the gradient that reaches {node} has {count(g)}, and no rule made it: it was "
                "given to backward(), returned by a hook, or overflowed in a sum of gradients.",
                node,
            )
        self._here.in_rule = create_graph

    def after_backward(self, node: Node, g: Any, gradients: Sequence[Any]) -> None:
        self._here.in_rule = False
        for name, edge, gradient in shares(node, gradients) if self.check_nan else ():
            if gradient is None or not fault(gradient := fitted(gradient, edge)):
                continue
            saved = [(f"saved {n}", s.array) for n, s in saved_by(node)]
            text = (
                f"backward: the rule of {node} made {count(gradient)} for its input '{name}' out of a finite gradient "
                f"and {_state(saved, 'saved arrays')}."
            )
            raise AnomalyError(text, node, [("gradient", g), *saved, (f"gradient of {name}", gradient)])

    def freed(self, node: Node) -> None:
        self._sums.pop(node, None)

    def _verify(self, node: Node, create_graph: bool) -> None:
        """Compare what the rules of `node` are about to read with its checksums."""
        sums, asked = self._sums.get(node, {}), _asked(node, create_graph)
        for label, saved in saved_by(node) if sums else ():
            name = label.partition("[")[0]
            if name in asked and saved.storage.version == saved.version and checksum(saved.array) != sums[label]:
                raise AnomalyError(
                    f"{node} saved '{name}' (shape {tuple(saved.array.shape)}) for its gradient, and its memory has "
                    "changed since, behind the engine's back: through .data, or an array that shares it (.numpy(), "
                    "from_numpy()). Use a Tensor's own methods under no_grad(), or clone() the tensor first.",
                    node,
                )


class set_detect_anomaly:  # noqa: N801 - torch's name
    """Switch `detect_anomaly` on or off at once, in this thread; as a context manager, only inside.

    As torch.autograd.set_detect_anomaly.

    >>> with ta.debug.set_detect_anomaly(True):
    ...     ta.tensor(float("nan"), requires_grad=True) * 2
    Traceback (most recent call last):
    tinyattn.debug.anomaly.AnomalyError: forward: NaN comes into the graph with the input 'a' of mul (made at ...
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = observers.get()
        rest = tuple(x for x in self._before if not isinstance(x, detect_anomaly))
        observers.set((*rest, detect_anomaly(check_nan)) if mode else rest)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        observers.set(self._before)


def _asked(node: Node, create_graph: bool) -> set[str]:
    """The names of what the rules of `node` are about to read."""
    op = node.op
    if op is None:
        return set()
    if op.backward is not None:
        return {*(op.inputs if create_graph and op.definition else op.backward_asks)}
    needed = [name for name, edge in zip(op.inputs, node.edges, strict=False) if edge is not None]
    return {asked for name in needed for asked in op.asks.get(name, ())}


def _state(arrays: Iterable[tuple[str, Any]], what: str) -> str:
    bad = [f"'{name}'" for name, x in arrays if fault(x)]
    return f"{what} of which {' and '.join(bad)} held infinities or NaN" if bad else f"finite {what}"
