"""Program: a step as a list of NumPy calls on memory that is planned once."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinyattn.engine.modes import definitions_enabled
from tinyattn.engine.threads import side_by_side
from tinyattn.files.whole import write_whole
from tinyattn.program.file import File, spawn
from tinyattn.program.guards import Guards
from tinyattn.program.plan import ALIGNED, make_plan, size_of, temporary
from tinyattn.program.recorder import Value, whole
from tinyattn.program.trace import Example, Trace
from tinyattn.program.write import Writer
from tinyattn.tensors import Tensor


class Changed(Exception):  # noqa: N818 - no error: the step itself runs instead
    """Something that the recording took for granted is different."""


class Program:
    """A recorded step; `print` shows its calls.

    peak_bytes: the memory that a call needs, the block of all values and what NumPy allocates on the way.
    results: the values of what the step returns. example: a call, to record it again.
    """

    def __init__(self, trace: Trace, results: Sequence[Value], name: str, example: Example | None) -> None:
        self.name, self._example = name, example
        self.by_definition = example is None or definitions_enabled()
        recorder = self._recorder = trace.recorder
        self._results, self._inputs = list(results), trace.input_values
        self._steps, self._gradients = trace.steps, trace.gradients
        self._written = [(t, t.array) for t in trace.written.values()]
        optimizers = [step.optimizer for step in trace.steps]
        called = None if example is None else (example.function, example.found)
        self._guards = Guards(trace.tensors.values(), trace.modules.values(), trace.leaves.values(), optimizers, called)
        self._without_gradient = trace.without_gradient
        self.generators = trace.draws.generators
        self._shares = Shares()
        kept = [*results, *(v for _, v in trace.gradients if v), *(v for s in trace.steps for _, v in s.gradients)]
        self._plan = make_plan(recorder, kept)
        self._writer = Writer(self._plan, recorder, _known_names(trace, self._plan.roots), self.generators)
        self.peak_bytes = self._plan.size + temporary(self._plan.calls, trace.steps) + sum(map(size_of, results))
        self.value_bytes = self._plan.values
        self._bind(kept)
        for root in recorder.roots:
            root.array = None

    def _bind(self, kept: Sequence[Value]) -> None:
        """Make the memory, the views of it, and the function."""
        memory = np.empty(self._plan.size + ALIGNED, np.uint8)
        memory = memory[-memory.__array_interface__["data"][0] % ALIGNED :]
        writer = self._writer
        for value in (*self._inputs, *kept):
            writer.name(value)
        names = {**vars(np), "np": np, "Changed": Changed, **writer.kernels}
        names |= {"spawn": spawn, "side_by_side": self._shares}
        names |= {name: np.array(x, dtype) for (_, dtype), (name, x) in writer.numbers.items()}
        self._arrays = {}
        roots = self._recorder.roots
        self._roots = {i: _flat(root.array) for i, root in enumerate(roots) if root.role in ("tensor", "constant")}
        for value, name in writer.names.items():
            whole = self._roots.get(value.root, memory)
            offset = value.offset + self._plan.places.get(value.root, 0)
            self._arrays[value] = names[name] = np.ndarray(value.shape, value.dtype, whole, offset, value.strides)
        exec(compile(self.text, "<program>", "exec"), names)
        self._compute = names["compute"]
        self._buffers = [self._array(v) for v in self._inputs]
        grads = {v: Tensor._from(self._array(v)) for v in kept}
        self._final = [(leaf, None if v is None else grads[v]) for leaf, v in self._gradients]
        self._steps_with = [
            (s.optimizer, [*((p, grads[v]) for p, v in s.gradients), *((p, None) for p in s.without)])
            for s in self._steps
        ]

    def _array(self, value: Value) -> Any:
        return self._arrays[self._plan.at(value)]

    @property
    def text(self) -> str:
        """The function that computes everything but the steps of optimizers."""
        streams = ", ".join(self._writer.streams)
        return f"def compute({streams}):\n" + textwrap.indent("\n".join(self._writer.lines or ["pass"]), "    ") + "\n"

    def __str__(self) -> str:
        steps = [f"    {type(optimizer).__name__}.step()" for optimizer, _ in self._steps_with]
        return "\n".join([self.text.rstrip(), *steps])

    def source(self, style: str = "kernels") -> str:
        """Return the text of the file that `save` writes."""
        return self._file(style).text

    def save(self, path: str | os.PathLike[str], style: str = "kernels") -> None:
        """Write a Python file that runs the step with NumPy alone, and parameters and state in an .npz beside it.

        `step(*arrays)` in it takes the arrays of the step's tensors, in order, and returns arrays: the bits that the
        step itself would have computed from here.
        style: "kernels", what this program calls; "definitions", what the step computes in `with ta.definitions():`,
        where attention, norms, losses and optimizers are elementary operations. For this the function runs once more,
        with the arguments of the recorded call; its tensors, optimizers and random numbers are put back.
        Raises ValueError for another style, and for optimizers other than SGD, Adam and AdamW.
        """
        file = self._file(style)
        write_whole(Path(path), file.text.encode())
        if file.arrays:
            np.savez(Path(path).with_suffix(".npz"), **file.arrays)

    def _file(self, style: str) -> File:
        if style not in ("kernels", "definitions"):
            raise ValueError(f"save: style={style!r}; expected 'kernels' or 'definitions'")
        if style == "kernels" or self.by_definition or self._example is None:
            return File(self)
        optimizers = [optimizer for optimizer, _ in self._steps_with]
        touched = self._guards.tensors
        trace, results = self._example.by_definition(self.leaves, touched, optimizers, self.generators)
        if trace.recorder.refused:
            raise ValueError(f"save: the step cannot be recorded by definition, because of {trace.recorder.refused}")
        return File(Program(trace, results, self.name, None))

    # --- run ---

    def valid(self) -> bool:
        """Whether names, modules, parameters and gradients are as the recording found them, and the memory is free."""
        unset = all(t._grad is None for t in self._without_gradient)
        return unset and not self._shares.running and self._guards.hold()

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run the step; returns its results. Raises Changed where nothing has been done."""
        if any(np.may_share_memory(x.array, array) for x in inputs for _, array in self._written):
            raise Changed("an argument that shares memory with what the step writes")
        self._run_or_undo(inputs)
        for optimizer, gradients in self._steps_with:
            for param, grad in gradients:
                param._grad = grad
            optimizer.step()
        for tensor, _ in self._written:
            tensor._wrote("a compiled step")
        for leaf, gradient in self._final:
            leaf._grad = gradient
        return [Tensor._from(self._array(value).copy()) for value in self._results]

    def _run_or_undo(self, inputs: Sequence[Tensor]) -> None:
        saved = self.state()
        try:
            self.compute(inputs)
        except Exception as error:
            self.restore(saved)
            raise Changed(f"{error} ({type(error).__name__})") from error
        except BaseException:
            self.restore(saved)
            raise

    def compute(self, inputs: Sequence[Tensor]) -> None:
        """Compute everything but the steps of optimizers, into the program's own memory and the written tensors."""
        for buffer, tensor in zip(self._buffers, inputs, strict=True):
            np.copyto(buffer, tensor.array)
        with np.errstate(all="ignore"):
            self._compute(*(generator._stream for generator in self.generators))

    def state(self) -> Any:
        """What `compute` changes outside: written tensors and random streams."""
        streams = [generator._stream.bit_generator.state for generator in self.generators]
        return [array.copy() for _, array in self._written], streams

    def restore(self, state: Any) -> None:
        """Put back a `state`; gradients that lie in the program's memory are gone."""
        for (_, array), saved in zip(self._written, state[0], strict=True):
            np.copyto(array, saved)
        for generator, stream in zip(self.generators, state[1], strict=True):
            generator._stream.bit_generator.state = stream
        for leaf, gradient in self._final:
            if leaf._grad is gradient:
                leaf._grad = None

    def found(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Copies of what `compute` found: results, gradients at each step, gradients at the end."""
        steps = [grad.array.copy() for _, gradients in self._steps_with for _, grad in gradients if grad is not None]
        final = [None if grad is None else grad.array.copy() for _, grad in self._final]
        return [self._array(value).copy() for value in self._results], steps, final

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors whose `.grad` the step sets."""
        return [leaf for leaf, _ in self._final]


class Shares:
    """Runs the shares of a program side by side.

    running: those that have begun and not ended. After a call that is only so after a second Ctrl-C; then they still
    write into the program's memory.
    """

    def __init__(self) -> None:
        self.running: list[Callable[[], None]] = []
        self._call: object = None  # the one that waits for its shares

    def __call__(self, *shares: Callable[[], None]) -> None:
        """Run them; all have ended when this returns or raises, except after a second Ctrl-C."""
        self._call = call = object()
        try:
            side_by_side([partial(self._run, call, share) for share in shares])
        finally:
            self._call = None

    def _run(self, call: object, share: Callable[[], None]) -> None:
        self.running.append(share)
        try:
            if self._call is call:  # else it begins after a second Ctrl-C: nobody waits for it
                share()
        finally:
            self.running.remove(share)


def _flat(array: Any) -> Any:
    """The memory of an array as one that `np.ndarray` can make views of."""
    return array if array.flags.c_contiguous else array.transpose(np.argsort([-step for step in array.strides]))


def _known_names(trace: Trace, used: set[int]) -> dict[Value, str]:
    """Names of arguments, of tensors (their paths in the modules that ran), of constants and of gradients."""
    paths: dict[int, str] = {}
    for module in trace.modules.values():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            paths.setdefault(id(tensor), name)
    names = {value: f"x{i}" for i, value in enumerate(trace.input_values)}
    for i, root in enumerate(trace.recorder.roots):
        if root.role in ("tensor", "constant") and i in used:
            array = _flat(root.array)
            names[whole(i, array)] = paths.get(id(root.source), "tensor") if root.role == "tensor" else _kind(array)
    return names | {value: f"d_{paths.get(id(leaf), 'leaf')}" for leaf, value in trace.gradients if value}


def _kind(array: Any) -> str:
    if array.size and (array == 1).all():
        return f"ones_{'x'.join(map(str, array.shape))}"
    if array.ndim == 1 and array.dtype.kind == "i" and (array == np.arange(len(array))).all():
        return f"range_{len(array)}"
    return "constant"
