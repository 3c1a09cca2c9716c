"""compile: record a training step once, and replay it: on a GPU as one CUDA graph, on the CPU as a NumPy program."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from tinyattn import backends
from tinyattn.backends.cpu.recording import recording
from tinyattn.dtypes import get_default_dtype
from tinyattn.engine.modes import definitions_enabled, module_stack, observers
from tinyattn.grad_mode import is_grad_enabled
from tinyattn.program.arguments import flat, is_module, named, reachable, rebuilt
from tinyattn.program.compiled import TRACES, CompiledOnCPU, Leaves
from tinyattn.program.guards import Guards, same
from tinyattn.program.program import Program
from tinyattn.random import redirected
from tinyattn.tensors import Tensor

__all__ = ["compile"]

_log = logging.getLogger("tinyattn")
_KINDS = 64  # of arguments on the CPU that get a program; a number that counts up would make one a call


def compile(function: Callable[..., Any] | None = None, *, mode: str = "reduce-overhead", disable: bool = False) -> Any:
    """Record `function` once, and replay it in later calls, bit for bit: `@ta.compile`.

        @ta.compile
        def step(images, labels):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

    The step of a small model is hundreds of operations, each shorter than the Python that issues it. Every call runs
    the step once and returns new tensors without a graph. Arguments may be tensors (also in tuples, lists and dicts)
    and hashable values. The function is recorded again for tensors of another shape, dtype or device, for other
    values, and for other modes. Its Python code runs in the first three calls only: no print or data loading in it.
    `zero_grad()` belongs inside, a schedule's `step()` outside. Learning rates are read at each call, and each call
    draws new random numbers. `.grad` is overwritten by the next call.

    On a GPU, the first two calls run normally, the third is captured into a CUDA graph. A tensor with the same address
    in the first two calls (for example the whole data set) is read in place; other tensors are copied. `.item()` and
    `.cpu()` end the capture. Another changed option of an optimizer triggers a new capture.

    On the CPU, the second call is recorded as NumPy calls, the third runs both ways and compares every bit. `program`
    is then the program: print it, or `.program.save("step.py")`. Where the data takes another branch, the function
    runs itself. A change of a module, a parameter or a mode triggers a new recording on either.

    The function runs normally while an Observer is active, where a result requires a gradient that the function does
    not take itself, and where it cannot be recorded: `why_not` and one line of the logger "tinyattn" (a warning on a
    GPU) say why. disable: return the function itself. Raises ValueError for
    another mode, TypeError for anything but a function or an argument without a hash. As torch.compile, with one mode.

    Example:
        >>> double = ta.compile(lambda x: x * 2)
        >>> double(ta.ones(2)).tolist()
        [2.0, 2.0]
    """
    if mode != "reduce-overhead":
        raise ValueError(f"compile: mode={mode!r}; expected 'reduce-overhead', the only mode")
    if function is None:
        return functools.partial(compile, mode=mode, disable=disable)
    if not callable(function):
        raise TypeError(f"compile: expected a function or a module, got {type(function).__name__}")
    return function if disable else functools.wraps(function, updated=())(_Compiled(function))


class _Compiled:
    """A function and its graphs, one for each kind of arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._captures: dict[Any, _Capture] = {}
        self._on_cpu: dict[Any, CompiledOnCPU] = {}
        self._last: CompiledOnCPU | None = None
        self._changes = 0  # of modules and the like, each of which made a graph useless
        self._failed = False

    def __repr__(self) -> str:
        return f"<compiled {getattr(self._function, '__qualname__', repr(self._function))}>"

    def __get__(self, instance: Any, owner: Any = None) -> Any:  # binds, so that a method can be compiled
        return self if instance is None else functools.partial(self, instance)

    @backends.keeps_gpu
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the function, by a replay if there is a graph."""
        tensors, form = flat((args, kwargs))
        device = next((t.device for t in tensors if t.is_cuda), backends.get_default_device())
        if self._failed or observers.get():
            return self._function(*args, **kwargs)
        modes = (is_grad_enabled(), definitions_enabled(), get_default_dtype(), backends.get_float32_matmul_precision())
        kinds = tuple((t.shape, t.dtype, t.device, t.requires_grad) for t in tensors)
        key = (form, kinds, modes, device)
        if device == "cpu":
            return self._run_on_cpu((key, *(t.array.strides for t in tensors)), tensors, args, kwargs)
        library = backends.get(device)
        if library.capturing():  # part of the graph of another function
            return self._function(*args, **kwargs)
        capture = self._captures.get(key)
        changed = capture is not None and capture.changed()
        self._changes += changed
        if capture is None or changed or capture.stale(tensors):
            capture = self._captures[key] = _Capture(self._function, library.Recorder())
        try:
            if self._changes > TRACES:
                raise _CaptureFailedError("changes of what it names, or of modules, between calls")
            return capture(tensors, args, kwargs)
        except _CaptureFailedError as failure:
            self._failed = True
            self._captures.clear()
            _warn(self._function, f"it cannot be captured: {failure}")
            return self._function(*args, **kwargs)

    def _run_on_cpu(self, key: Any, tensors: list[Tensor], args: Any, kwargs: Any) -> Any:
        if recording.get() is not None or redirected():  # part of another program; draws that go elsewhere
            return self._function(*args, **kwargs)
        if key not in self._on_cpu:
            if len(self._on_cpu) >= _KINDS:
                return self._function(*args, **kwargs)
            name = getattr(self._function, "__qualname__", type(self._function).__name__)
            self._on_cpu[key] = CompiledOnCPU(self._function, name)
        self._last = self._on_cpu[key]
        return self._last(tensors, args, kwargs)

    @property
    def program(self) -> Program | None:
        """The NumPy program of the last call on the CPU; None where there is none, for the reason in `why_not`."""
        return self._last.program if self._last is not None else None

    @property
    def why_not(self) -> str:
        """Why the last call ran without a program; "" where it ran by one, or will."""
        return self._last.why_not if self._last is not None else ""


def _warn(function: Any, why: str) -> None:
    name = getattr(function, "__qualname__", function)
    _log.warning("%s runs without a CUDA graph, launch by launch, because %s", name, why)


class _CaptureFailedError(Exception):
    """The reason why there is no graph."""


class _Seen(Leaves):
    """Collects the modules that run and the optimizers that step, too."""

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[int, Any] = {}
        self.optimizers: dict[int, Any] = {}

    def before_forward(self, op: Any, inputs: Sequence[Any], options: dict[str, Any]) -> None:
        self.modules |= {id(module): module for module in module_stack.get()}

    def before_step(self, optimizer: Any) -> None:
        self.optimizers[id(optimizer)] = optimizer

    def guards(self, function: Any, before: list[Any], inputs: Sequence[Tensor]) -> Guards:
        """What the graph takes for granted from now on, other than its arguments.

        before: what the function named before it ran. Where it changes that itself, as by counting its calls, names
        are not guarded: no replay counts.
        """
        found = named(function)
        called = (function, found) if same(before, found) else None
        modules = {id(m): m for x in (*self.modules.values(), *filter(is_module, found)) for m in x.modules()}
        tensors = {id(t): t for t in (*self.found.values(), *reachable((*found, *modules.values())))}
        outside = [(t, t.array) for t in tensors.values() if not any(t is x for x in inputs)]
        leaves, optimizers = self.found.values(), self.optimizers.values()
        return Guards(outside, modules.values(), leaves, optimizers, called)


class _Capture:
    """The graph for one kind of arguments: two normal calls, then the capture, then replays."""

    def __init__(self, function: Callable[..., Any], recorder: Any) -> None:
        self._function, self._recorder = function, recorder
        self._calls = 0
        self._inputs: list[Tensor] = []  # that the graph reads: arguments with a fixed address, and copies of others
        self._copied: list[bool] = []  # which of them are copies, overwritten at each call
        self._changed: list[bool] = []  # which arguments the function writes, or gives a gradient
        self._normal = False  # whether all calls run normally
        self._graph: Any = None
        self._guards: Guards | None = None
        self._result: Any = None

    def __call__(self, tensors: list[Tensor], args: Any, kwargs: Any) -> Any:
        if self._normal:
            return self._function(*args, **kwargs)
        backends.check()
        self._calls += 1
        if self._calls == 1:  # creates the state of optimizers, compiled kernels, memory in the pool
            self._inputs = tensors
            return self._look(tensors, lambda: self._function(*args, **kwargs))
        if self._calls == 2:  # an unchanged address is taken to be fixed
            places = zip(_addresses(self._inputs), _addresses(tensors), strict=True)
            self._copied = [a != b or not t.is_cuda for (a, b), t in zip(places, tensors, strict=True)]
            if any(c and changed for c, changed in zip(self._copied, self._changed, strict=True)):
                self._run_normally("it writes into an argument, or gives it a gradient")
                return self._function(*args, **kwargs)
            self._inputs = [self._copy(t) if c else t for t, c in zip(tensors, self._copied, strict=True)]
        for own, tensor, copied in zip(self._inputs, tensors, self._copied, strict=True):
            if copied:
                own.array[...] = tensor.array
        own_inputs = iter(self._inputs)
        own_args, own_kwargs = rebuilt((args, kwargs), lambda t: next(own_inputs))
        if self._calls == 2:  # with the arguments of the capture, so that the pool has all its memory
            return _copies(self._recorder.run(lambda: self._function(*own_args, **own_kwargs)))
        if self._graph is None:
            self._capture(own_args, own_kwargs)
        self._graph.replay()
        return _copies(self._result)

    def _look(self, tensors: list[Tensor], function: Callable[[], Any]) -> Any:
        """Call `function` for the first time, and see whether a graph can take the place of later calls."""
        before = [(t.array, t.requires_grad, t.storage.version) for t in tensors]
        with Leaves() as leaves:
            result = self._recorder.run(function)
        self._changed = [
            t.storage.version != version or (id(t) in leaves.found and t.grad is not None)
            for t, (_, _, version) in zip(tensors, before, strict=True)
        ]
        found: list[Tensor] = []
        rebuilt(result, found.append)
        if any(t.requires_grad and id(t.node) not in leaves.walked for t in found):
            self._run_normally("a result requires a gradient (use no_grad, or backward() inside)")
        elif any(t.array is not a or t.requires_grad != r for t, (a, r, _) in zip(tensors, before, strict=True)):
            self._run_normally("it reshapes or replaces an argument, or asks for its gradient")
        return result if self._normal else _copies(result)

    def _run_normally(self, why: str) -> None:
        self._normal, self._inputs = True, []
        _warn(self._function, why)

    def changed(self) -> bool:
        """Whether what the graph takes for granted has changed: a mode of a module, a parameter, what it names."""
        return self._guards is not None and not self._guards.hold()

    def stale(self, tensors: list[Tensor]) -> bool:
        """Whether an option of an optimizer, or the address of an argument read in place, has changed since."""
        if self._calls < 2 or self._normal:
            return False
        places = zip(_addresses(self._inputs), _addresses(tensors), self._copied, strict=True)
        moved = any(own != now and not copied for own, now, copied in places)
        return moved or (self._graph is not None and self._graph.stale())

    def _capture(self, args: Any, kwargs: Any) -> None:
        before = named(self._function)
        try:
            with _Seen() as seen:
                result, self._graph = self._recorder.capture(lambda: self._function(*args, **kwargs))
        except Exception as error:
            for leaf in seen.found.values():  # their gradients were recorded, but never computed
                leaf.grad = None
            raise _CaptureFailedError(f"{error} ({type(error).__name__})") from error
        self._guards = seen.guards(self._function, before, self._inputs)
        self._result = rebuilt(result, lambda t: Tensor._from(t.array))  # without saved tensors

    def _copy(self, tensor: Tensor) -> Tensor:
        copy = Tensor._from(self._recorder.run(lambda: backends.of(tensor.array).clone(tensor.array)))
        return copy.requires_grad_(tensor.requires_grad)


def _copies(result: Any) -> Any:
    """Copy a result, because the next replay overwrites the memory of the graph."""
    return rebuilt(result, lambda t: Tensor._from(backends.of(t.array).clone(t.array)))


def _addresses(tensors: list[Tensor]) -> list[int]:
    return [t.array.data.ptr if t.is_cuda else 0 for t in tensors]
