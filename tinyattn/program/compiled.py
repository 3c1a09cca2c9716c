"""A function on the CPU with its programs: when one is recorded, checked, run, or given up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyattn.engine.observer import Observer
from tinyattn.locks import fork_safe
from tinyattn.program.arguments import PLAIN, flat, named, others, rebuilt
from tinyattn.program.program import Changed, Program
from tinyattn.program.trace import Example, Trace
from tinyattn.program.traced import RECORDING
from tinyattn.tensors import Tensor

_log = logging.getLogger("tinyattn")
_MISSES, TRACES = 4, 8  # failed runs in a row before a program is recorded anew; recordings before it is given up


class CompiledOnCPU:
    """A function for one kind of arguments: run once, recorded, checked beside the function, then run as a program.

    `program`: None before and where the function runs by itself; then `why_not` has the reason.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function, self._name = function, name
        self.program: Program | None = None
        self.why_not = ""
        self._leaves: list[Tensor] | None = None  # None: not called yet
        self._checked = False
        self._traces = self._misses = 0
        self._form: Any = None  # of the result
        self._layout: Any = None  # of the result: its tuples, lists and dicts
        self._lock = fork_safe(threading.Lock())

    def __call__(self, tensors: Sequence[Tensor], args: Any, kwargs: Any) -> Any:
        """Return the result of the function, by the program if there is one and no other thread is in it."""
        if self.why_not or not self._lock.acquire(blocking=False):
            return self._function(*args, **kwargs)
        try:
            return self._run(tensors, args, kwargs)
        finally:
            self._lock.release()

    def _run(self, tensors: Sequence[Tensor], args: Any, kwargs: Any) -> Any:
        if self._leaves is None:
            with _Gradients() as leaves:
                result = self._function(*args, **kwargs)
            self._leaves = list(leaves.found.values())
            return result
        if self.program is None or not self.program.valid():
            return self._record(tensors, args, kwargs)
        if not self._checked:
            return self._check(tensors, args, kwargs)
        try:
            results = self.program.run(tensors)
        except Changed:
            return self._missed(args, kwargs)
        self._misses = 0
        left = iter(results)
        return rebuilt(self._form, lambda _: next(left))

    def _missed(self, args: Any, kwargs: Any) -> Any:
        """The step took another branch than in the recording: it runs by itself, and is recorded anew if it insists."""
        self._misses += 1
        if self._misses >= _MISSES:
            self.program, self._misses = None, 0
        return self._function(*args, **kwargs)

    def _give_up(self, why: str) -> None:
        self.program, self.why_not = None, why
        _log.info("%s runs without a program, operation by operation, because of %s", self._name, why)

    def _record(self, tensors: Sequence[Tensor], args: Any, kwargs: Any) -> Any:
        """Run the function and make its program."""
        self.program, self._checked = None, False
        if not RECORDING.acquire(blocking=False):  # another thread records its own
            return self._function(*args, **kwargs)
        try:
            return self._record_alone(tensors, args, kwargs)
        finally:
            RECORDING.release()

    def _record_alone(self, tensors: Sequence[Tensor], args: Any, kwargs: Any) -> Any:
        self._traces += 1
        if self._traces > TRACES:
            self._give_up("changes between calls that never end")
            return self._function(*args, **kwargs)
        names = named(self._function)
        with Trace(tensors, names, self._leaves or ()) as trace:
            result = self._function(*args, **kwargs)
        try:
            found, self._layout = flat(result)
        except TypeError as error:
            found = []
            trace.recorder.refuse(f"its result ({error})")
        for x in (*others((args, kwargs), PLAIN), *others(result, (type(None),))):
            trace.recorder.refuse(f"an argument or a result of type {type(x).__name__}")
        values = trace.finish(found)
        self._leaves = [*trace.leaves.values()]
        if trace.recorder.refused:
            self._give_up(trace.recorder.refused)
        else:
            self._form = rebuilt(result, lambda _: Tensor._from(None))
            example = Example(self._function, args, kwargs, names)
            self.program = Program(trace, values, self._name, example)
        return rebuilt(result, lambda t: Tensor._from(t.array)) if self.program else result

    def _check(self, tensors: Sequence[Tensor], args: Any, kwargs: Any) -> Any:
        """Run the program up to the optimizers, put everything back, run the function, and compare every bit."""
        program = self.program
        assert program is not None
        before = program.state()
        try:
            program.compute(tensors)
        except Exception as error:
            program.restore(before)
            result = self._missed(args, kwargs)
            if not isinstance(error, Changed):
                self._give_up(f"{error} ({type(error).__name__})")
            return result
        found, after = program.found(), program.state()
        program.restore(before)
        with _Gradients() as leaves:
            result = self._function(*args, **kwargs)
        final = [None if leaf.grad is None else leaf.grad.array for leaf in program.leaves]
        results, layout = flat(result)
        if layout == self._layout and _bits([*found, *after]) == _bits(
            [[t.array for t in results], leaves.gradients, final, *program.state()]
        ):
            self._checked = True
        else:
            self._give_up("a difference between program and function on the next batch")
        return rebuilt(result, lambda t: Tensor._from(t.array)) if self._checked else result


def _bits(x: Any) -> Any:
    """`x` with the bits of arrays in their place, so that NaN equals NaN, also of another sign."""
    if isinstance(x, np.ndarray):
        known = np.where(np.isnan(x), x.dtype.type(np.nan), x) if x.dtype.kind == "f" else x
        return x.shape, x.dtype, known.tobytes()
    if type(x) in (tuple, list):
        return [_bits(part) for part in x]
    return {key: _bits(v) for key, v in x.items()} if type(x) is dict else x


class Leaves(Observer):
    """Collects the leaves that receive gradients, and all nodes on the way."""

    def __init__(self) -> None:
        self.found: dict[int, Tensor] = {}
        self.walked: dict[int, Any] = {}

    def before_backward(self, node: Any, g: Any) -> None:
        self.walked[id(node)] = node
        tensor = node.tensor() if node.tensor is not None else None
        if tensor is not None:
            self.found[id(tensor)] = tensor


class _Gradients(Leaves):
    """Collects copies of the gradients at each step of an optimizer too."""

    in_threads = True

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[Any] = []

    def before_step(self, optimizer: Any) -> None:
        for param in (p for group in optimizer.param_groups for p in group["params"]):
            self.found[id(param)] = param
            if param.grad is not None:
                self.gradients.append(param.grad.array.copy())
