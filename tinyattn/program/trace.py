"""Trace: one call of a step, run as always and recorded on the way; and once more, by definitions, without a trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np

from tinyattn import random
from tinyattn.backends.cpu.recording import recording
from tinyattn.engine.fork import Fork
from tinyattn.engine.hooks import of_every_module
from tinyattn.engine.modes import Mode, definition_mode, grad_mode, module_stack
from tinyattn.engine.observer import Observer
from tinyattn.program.arguments import flat, held, is_module, reachable
from tinyattn.program.draws import Draws
from tinyattn.program.recorder import Call, Recorder, Value, values
from tinyattn.program.traced import RECORDING, Traced, plain, recorded_numpy
from tinyattn.tensors import Tensor


class Step:
    """An optimizer's step: the parameters that had a gradient, and which; `without`: those that had none."""

    def __init__(self, optimizer: Any, gradients: list[tuple[Tensor, Value]], without: list[Tensor]) -> None:
        self.optimizer, self.gradients, self.without = optimizer, gradients, without
        self.options = _options(optimizer)


class Trace(Observer):
    """Records what runs inside `with trace:`.

    inputs: the tensors that differ from call to call.
    found: what the step names; `leaves`: the tensors that an earlier call gave gradients to.
    Afterwards `recorder` holds the calls, and the rest is what a program must do and check besides: `tensors` that it
    reads or writes where they lie, `modules`, `steps` of optimizers, `gradients` to leave in `.grad`.
    """

    def __init__(self, inputs: Sequence[Tensor], found: Sequence[Any], leaves: Sequence[Tensor]) -> None:
        self.recorder = Recorder()
        self.inputs = list(inputs)
        self.found = found
        self._outside = [*leaves, *reachable(found)]
        # options at the beginning: a schedule may step inside, before the optimizer does
        self._before = [(x, _options(x)) for x in found if hasattr(x, "param_groups")]
        self.input_values: list[Value] = []
        self.tensors: dict[int, tuple[Tensor, Any]] = {}  # with their arrays, by id
        self.modules: dict[int, Any] = {}
        self.steps: list[Step] = []
        self.leaves: dict[int, Tensor] = {}
        self.gradients: list[tuple[Tensor, Value | None]] = []
        self.without_gradient: list[Tensor] = []
        self.written: dict[int, Tensor] = {}
        self.draws = Draws(self.recorder)
        self.walked: dict[int, Any] = {}  # nodes that a backward pass has reached
        self._inputs: list[tuple[Tensor, Any]] = []
        self._entry = {id(leaf): leaf.grad is not None for leaf in leaves}  # whether it had a gradient before
        self._defined: list[str] = []  # operations that run by their definitions, outermost first
        self._parts: dict[int, str] = {}  # of nodes of definitions, by id: their operation in its definition
        self._stepping: Any = None
        self._before_steps = 0

    # --- begin and end ---

    def __enter__(self) -> Trace:
        for tensor in self.inputs:
            array = tensor.array
            if type(array) is not np.ndarray or self.recorder.known(array) or min(array.strides, default=0) < 0:
                self.recorder.refuse("two arguments that share memory")
                continue
            self._inputs.append((tensor, array))
            tensor.array = self.recorder.add(array, "input")
            self.input_values.append(self.recorder.value(tensor.array))
        for tensor in self._outside:  # also what is read without an operation
            if tensor.is_leaf and not any(tensor is x for x in self.inputs):
                self._follow(tensor)
        self._numpy = recorded_numpy()
        self._numpy.__enter__()
        self._tokens = recording.set(self.recorder), random.watching_draws.set(self.draws)
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        recording.reset(self._tokens[0])
        random.watching_draws.reset(self._tokens[1])
        self._numpy.__exit__(None, None, None)
        for leaf in self.leaves.values() if exception[0] is not None else ():
            if leaf.grad is not None:
                leaf.grad.array = plain(leaf.grad.array)
        for tensor, array in (*self._inputs, *self.tensors.values()):
            now = plain(tensor.array)
            if now is array or (_place(now) == _place(array)):
                tensor.array = array
            else:
                tensor.array = now
                self.recorder.refuse("a tensor whose .data or shape the step replaces")

    def finish(self, results: Sequence[Tensor]) -> list[Value]:
        """After the block: note gradients and modules; returns the values of the results, which become ordinary."""
        for leaf in self.leaves.values():
            grad = leaf.grad
            if grad is not None and type(grad.array) is Traced:
                value = self.recorder.value(grad.array)
                self.gradients.append((leaf, value))
                if self.recorder.roots[value.root].role != "made":
                    self.recorder.refuse("a gradient that is written where it was")
                grad.array = plain(grad.array)
            elif grad is None and self._entry[id(leaf)]:
                self.gradients.append((leaf, None))
            if not self._entry[id(leaf)]:
                self.without_gradient.append(leaf)
        found = []
        for tensor in results:
            if (
                type(tensor.array) is not Traced
                or self.recorder.roots[self.recorder.value(tensor.array).root].role != "made"
            ):
                self.recorder.refuse("a result that the step did not compute")
            found.append(self.recorder.value(tensor.array))
            if tensor.requires_grad and id(tensor.node) not in self.walked:
                self.recorder.refuse("a result that requires a gradient (use no_grad, or backward() inside),")
            tensor.array = plain(tensor.array)
        if len({value.root for value in found}) < len(found):
            self.recorder.refuse("results that share memory")
        self._check_after_steps()
        if _dependent(self.recorder.calls):
            self.recorder.refuse("workers of DataParallel that share a tensor which one of them writes")
        before = [*self._before, *((step.optimizer, step.options) for step in self.steps)]
        if any(options != _options(optimizer) for optimizer, options in before):
            self.recorder.refuse("an option of an optimizer that the step changes (call the schedule outside)")
        self._check_modules()
        return found

    def _check_modules(self) -> None:
        """Refuse hooks, and tensors that outlive the step; also in modules that have computed nothing this time."""
        for module in (*self.modules.values(), *filter(is_module, self.found)):
            for part in module.modules():
                self.modules.setdefault(id(part), part)
        if any(of_every_module.values()):
            self.recorder.refuse("hooks of every module")
        for module in self.modules.values():
            if any(value for name, value in vars(module).items() if name.endswith("_hooks") and "load" not in name):
                self.recorder.refuse(f"{type(module).__name__} with hooks")
        for x in (*self.modules.values(), *self.found):
            if any(isinstance(v, Tensor) and type(v.array) is Traced for v in held(x)):
                self.recorder.refuse(f"{type(x).__name__}, which keeps a tensor,")

    def _check_after_steps(self) -> None:
        """A program computes all before the optimizers' steps: nothing after one may read what it wrote."""
        if not self.steps:
            return
        known = self.recorder
        changed = {known.value(p.array).root for step in self.steps for p, _ in step.gradients if known.known(p.array)}
        for call in known.calls[self._before_steps :]:
            reads = {value.root for value in values([call.args, call.options])}
            writes = any(known.roots[value.root].role == "tensor" for value in call.writes)
            if reads & changed or writes or call.kind in ("draw", "spawn"):
                known.refuse("what the step computes after an optimizer's step")

    # --- while the step runs ---

    def before_forward(self, op: Any, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        stack = module_stack.get()
        for module in stack:
            self.modules[id(module)] = module
        if random.taped():
            self.recorder.refuse("checkpoint()")
        name = f"{self._defined[0]} ({op.name})" if self._defined else op.name
        self.recorder.label = f"{_path(stack)}: {name}" if stack else name
        for x in chain(inputs, options.values()):
            for tensor in x if isinstance(x, list | tuple) else (x,):
                if isinstance(tensor, Tensor):
                    self._follow(tensor)

    def after_forward(self, op: Any, inputs: Sequence[Any], out: Any, node: Any) -> None:
        if self._defined and node is not None:
            self._parts[node.id] = f"{self._defined[0]} ({op.name})"

    def before_definition(self, op: Any, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self._defined.append(op.name)

    def after_definition(self, op: Any) -> None:
        self._defined.pop()

    def before_write(self, tensor: Any) -> None:
        self._follow(tensor)
        if tensor.requires_grad and tensor.is_leaf:
            self.recorder.refuse("a write into a parameter other than by an optimizer of tinyattn.optim")
        if self.recorder.roots[self.recorder.value(tensor.array).root].role == "tensor":
            self.written[id(tensor)] = tensor

    def before_read(self, tensor: Any) -> None:
        if type(tensor.array) is not Traced:  # which makes a guard of a comparison, and refuses the rest by itself
            self.recorder.refuse("numbers that are read from a tensor (.item(), .numpy() or printing)")

    def before_backward(self, node: Any, g: Any) -> None:
        self.walked[id(node)] = node
        if node.hooks:
            self.recorder.refuse("a hook of a tensor")
        name = self._parts.get(node.id, node.op.name) if node.op else "leaf"
        self.recorder.label = f"d {_path(node.modules) if node.op else ''}: {name}".replace(" : ", " ")
        tensor = node.tensor() if node.tensor is not None else None
        if tensor is not None:
            if any(tensor is x for x in self.inputs) or not tensor.is_leaf:
                self.recorder.refuse("the gradient of an argument, or of a tensor that is computed,")
            self._leaf(tensor)

    def before_share(self, i: int) -> None:
        if i == 0:
            self.recorder.splits.append(len(self.recorder.calls))
        self.recorder.share = len(self.recorder.splits), i

    def after_shares(self) -> None:
        self.recorder.share = None

    def before_step(self, optimizer: Any) -> None:
        own = type(optimizer).step.__module__.startswith("tinyattn.optim") and "step" not in vars(optimizer)
        if not own:
            self.recorder.refuse(f"{type(optimizer).__name__}, which has a step() of its own,")
        params = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [(p, self.recorder.value(p.grad.array)) for p in params if p.grad is not None]
        if any(type(p.grad.array) is not Traced for p, _ in gradients):
            self.recorder.refuse("a gradient that the step did not compute")
        self.steps.append(Step(optimizer, gradients, [p for p in params if p.grad is None]))
        for p in params:
            self._leaf(p)
            p.array = plain(p.array)
            if p.grad is not None:
                p.grad.array = plain(p.grad.array)
        self._stepping = recording.set(None)

    def after_step(self, optimizer: Any) -> None:
        recording.reset(self._stepping)
        for p, _ in self.steps[-1].gradients:
            if p.grad is not None:
                p.grad.array = p.grad.array.view(Traced)
        if len(self.steps) == 1:
            self._before_steps = len(self.recorder.calls)

    def _follow(self, tensor: Tensor) -> None:
        """Record what is computed from a tensor from outside."""
        if type(tensor.array) is Traced or type(tensor._node) is Fork:
            return
        if self.recorder.known(tensor.array):  # a view that was taken outside, or a detached tensor
            if self.recorder.roots[self.recorder.value(tensor.array).root].role == "input":
                self.recorder.refuse("an argument that shares memory with a tensor from outside")
            self.tensors.setdefault(id(tensor), (tensor, tensor.array))
            tensor.array = tensor.array.view(Traced)
            return
        self.tensors[id(tensor)] = (tensor, tensor.array)
        if tensor.requires_grad and tensor.is_leaf:
            self._leaf(tensor)
        elif tensor.requires_grad:
            self.recorder.refuse("a tensor that was computed outside and requires a gradient")
        tensor.array = self.recorder.add(tensor.array, "tensor", tensor)

    def _leaf(self, tensor: Tensor) -> None:
        if id(tensor) not in self.leaves:
            self.leaves[id(tensor)] = tensor
            self._entry.setdefault(id(tensor), False)


def _dependent(calls: Iterable[Call]) -> bool:
    """Whether a share writes what another one reads or writes at the same time."""
    users, written = defaultdict[Any, set[int]](set), set()
    for call in calls:
        if call.share is not None:
            split, i = call.share
            writes = {(split, value.root) for value in call.writes}
            written |= writes
            for key in writes | {(split, value.root) for value in values([call.args, call.options])}:
                users[key].add(i)
    return any(len(users[key]) > 1 for key in written)


def _options(optimizer: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def _place(array: Any) -> Any:
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype


def _path(stack: Sequence[Any]) -> str:
    if not stack:
        return ""
    names = {id(module): name for name, module in stack[0].named_modules()}
    return names.get(id(stack[-1])) or type(stack[-1]).__name__


# --- once more, by the definitions of its operations ---


class Example:
    """A call of a function, kept to record it again."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, found: list[Any]) -> None:
        self.function, self.args, self.kwargs, self.found = function, args, kwargs, found
        self.gradients = grad_mode.get()

    def by_definition(
        self, leaves: Sequence[Tensor], touched: Iterable[Tensor], optimizers: Sequence[Any], generators: Sequence[Any]
    ) -> tuple[Trace, Any]:
        """Record the call by definitions; returns the trace and the values of the results.

        What it does to these tensors, optimizers and generators, and to tensors that it names, is undone.
        """
        tensors, _ = flat((self.args, self.kwargs))
        trace = Trace(tensors, self.found, leaves)
        everything = {id(t): t for t in (*leaves, *touched, *reachable(self.found), *tensors)}
        modes = RECORDING, Mode(grad_mode, self.gradients), Mode(definition_mode, True)
        with modes[0], modes[1], modes[2], _undone([*everything.values()], optimizers, generators):
            with trace:
                result = self.function(*self.args, **self.kwargs)
            return trace, trace.finish(flat(result)[0])


@contextmanager
def _undone(tensors: list[Tensor], optimizers: Sequence[Any], generators: Sequence[Any]) -> Iterator[None]:
    """Put back, after the block, numbers and gradients of tensors, states of optimizers, and random numbers."""
    states = [x for o in optimizers for state in o.state.values() for x in state.values() if isinstance(x, Tensor)]
    gradients = [(t, t._grad) for t in tensors]
    written = [*tensors, *states, *(grad for _, grad in gradients if grad is not None)]
    saved = [(t, t.array, t.array.copy()) for t in written]
    drawn = [(generator, generator.bookmark()) for generator in generators]
    try:
        yield
    finally:
        for tensor, array, numbers in saved:
            tensor.array = array
            np.copyto(array, numbers)
        for tensor, grad in gradients:
            tensor._grad = grad
        for generator, state in drawn:
            generator.go_to(state)
