"""checkpoint: recompute instead of saving (Chen et al. 2016, "Training deep nets with sublinear memory cost").

The graph of a checkpointed function is recorded as always, so gradients, hooks and pictures are the usual
ones; only what its nodes had saved is dropped at once. The first rule that asks for it has the function run
again, and this time every node keeps what it saves, until the walk has passed it.
"""

from __future__ import annotations

import contextvars
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tinyattn.engine.modes import observers
from tinyattn.engine.node import Node
from tinyattn.engine.observer import Observer
from tinyattn.engine.operation import Operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.grad_mode import is_grad_enabled
from tinyattn.random import Generator, Tape, process_wide_generators, replay

__all__ = ["checkpoint"]


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    preserve_rng_state: bool = True,
    use_reentrant: bool | None = None,
    **kwargs: Any,
) -> Any:
    """function(*args, **kwargs), keeping none of what its gradient needs: that is computed again in backward.

    Memory for time: of a chain of n blocks, each checkpointed, backward holds the inputs of the blocks and
    the insides of one, and runs every forward twice. Gradients are bit for bit those of the plain run, also
    of parameters that `function` captures, of any order, and with checkpoints inside checkpoints.

    function: runs twice, so it must do the same twice: what it is given or captures may not be changed in
    place before backward (RuntimeError), forward hooks and prints happen twice.
    preserve_rng_state: the second run draws the same random numbers (dropout), whatever other threads draw
    meanwhile. On a GPU, this holds for the process-wide generator and Generators among the arguments, in one thread.
    use_reentrant: without effect.
    As torch.utils.checkpoint.checkpoint with use_reentrant=False.

    >>> x = ta.ones(2, requires_grad=True)
    >>> ta.checkpoint(lambda x: (x * x).exp(), x).sum().backward()
    >>> x.grad
    tensor([5.4366, 5.4366])
    """
    if not is_grad_enabled():
        return function(*args, **kwargs)
    generators = [x for x in (*process_wide_generators(), *args, *kwargs.values()) if isinstance(x, Generator)]
    tape = Tape() if preserve_rng_state else None
    segment = _Segment(lambda: function(*args, **kwargs), generators if tape else [], tape)
    with _FirstRun(segment), tape or nullcontext():
        result = function(*args, **kwargs)
    segment.running = False
    return result


class _Segment:
    """A function that can be run again, and the trace of its first run."""

    def __init__(self, run: Callable[[], Any], generators: list[Generator], tape: Tape | None) -> None:
        self.run, self.generators, self.tape = run, generators, tape
        self.states = [(generator, generator.bookmark()) for generator in generators if generator.device != "cpu"]
        self.context = contextvars.copy_context()  # modes such as definitions() hold in the second run too
        self.context.run(observers.set, ())  # but who watches now need not watch then
        self.trace: list[tuple[Operation, tuple[int, ...]]] = []  # each operation, the versions of its inputs
        self.nodes: dict[int, weakref.ref[Node]] = {}  # what it left behind, by its place in the trace
        self.running = True
        _segments.add(self)
        self.lock = threading.RLock()  # the branches of a DataParallel in it may miss values at the same time

    def remember(self) -> None:
        """Run again, and give the nodes of the first run what they save in the second."""
        if self.running:
            raise RuntimeError(
                "checkpoint: the function asks for a gradient of its own operations while it runs, when they have "
                "saved nothing yet. Compute that gradient outside of checkpoint()."
            )
        watching = observers.get()
        again = _SecondRun(self)

        def run() -> None:
            observers.set((again, *watching))  # it comes first, so that the others see the nodes they know
            with self._random_numbers():  # in here the default generator is the one that the first run drew from
                self.run()

        with self._hooks():
            self.context.copy().run(run)
        if again.place < len(self.trace):
            raise again.different(f"ended before {self.trace[again.place][0].name}")

    @contextmanager
    def _random_numbers(self) -> Iterator[None]:
        """Every draw is that of the first run, and the generators do not notice the second."""
        now = [(generator, generator.bookmark()) for generator, _ in self.states]
        streams = [(generator, vars(generator).copy()) for generator in self.generators]  # if the function seeds them
        try:
            for generator, state in self.states:
                generator.go_to(state)
            replay(self.tape)
            yield
        finally:
            for generator, stream in streams:
                vars(generator).update(stream)
            for generator, state in now:
                generator.go_to(state)

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Hooks that the function registers on tensors are not registered twice."""
        own = [node for ref in self.nodes.values() if (node := ref()) is not None]
        nodes = {node for one in own for node in (one, *one.edges) if node is not None}
        before = [(node, set(node.hooks or ()), node.tensor) for node in nodes]
        yield
        for node, hooks, tensor in before:
            node.tensor = tensor
            for key in set(node.hooks or ()) - hooks:
                del node.hooks[key]  # type: ignore[union-attr]


_segments: weakref.WeakSet[_Segment] = weakref.WeakSet()


def _renew_locks() -> None:
    """After a fork: the threads that held the locks of segments are in the parent."""
    for segment in _segments:
        segment.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class _Forgotten(dict[str, Any]):
    """Stands in for what a node has saved, and has it recomputed when a value is read."""

    def __init__(self, segment: _Segment, owner: Node) -> None:
        self._segment, self._owner = segment, weakref.ref(owner)

    def __missing__(self, name: str) -> Any:
        """Recompute the saved values of the whole segment, then return this one."""
        owner: Any = self._owner()
        with self._segment.lock:
            if owner.saved is self:  # else another thread has recomputed them meanwhile
                self._segment.remember()
        return owner.saved[name]


class _FirstRun(Observer):
    """Notes what runs, and drops what the nodes save."""

    def __init__(self, segment: _Segment) -> None:
        self.segment = segment

    def before_forward(self, op: Operation, inputs: Any, options: Any) -> None:
        self.segment.trace.append((op, _versions(inputs)))

    def after_forward(self, op: Operation, inputs: Any, out: Tensor, node: Node | None) -> None:
        if node is None:
            return
        self.segment.nodes[len(self.segment.trace) - 1] = weakref.ref(node)
        if node.free():
            node.saved = _Forgotten(self.segment, node)
            for other in observers.get():
                other.freed(node)


class _SecondRun(Observer):
    """Holds the second run against the trace of the first, and refills the nodes that still wait."""

    def __init__(self, segment: _Segment) -> None:
        self.segment, self.place = segment, 0

    def before_forward(self, op: Operation, inputs: Any, options: Any) -> None:
        trace = self.segment.trace
        expected, versions = trace[self.place] if self.place < len(trace) else (None, ())
        if op is not expected or len(inputs) != len(versions):
            raise self.different(f"came to {op.name} instead of {expected.name if expected else 'its end'}")
        self.place += 1
        for x, now, then in zip(inputs, _versions(inputs), versions, strict=True):
            if now != then:
                raise RuntimeError(
                    f"checkpoint: {x.storage.last_write()} changed a tensor of shape {tuple(x.shape)} that the "
                    f"function gives to {op.name}, and it has to run once more on the old values. Change it after "
                    "backward, or a clone() of it."
                )

    def after_forward(self, op: Operation, inputs: Any, out: Tensor, node: Node | None) -> None:
        ref = self.segment.nodes.get(self.place - 1)
        if (ref is None) != (node is None):
            raise self.different(f"came to {op.name} with{'out' * (node is None)} inputs that require gradients")
        original = ref() if ref is not None else None
        if original is None or node is None:
            return
        if original.shape != node.shape:
            raise self.different(f"got shape {tuple(node.shape)} instead of {tuple(original.shape)} from {op.name}")
        original.saved = node.saved
        out.node = original  # what comes now saves this node, not its twin

    def different(self, how: str) -> RuntimeError:
        """The error of a second run that is not the first."""
        return RuntimeError(
            f"checkpoint: the function {how} (operation {self.place}) when it ran a second time, for the gradients. It "
            "must do the same twice: no counters, no requires_grad switched meanwhile, and random numbers only from "
            "the default generator or one among its arguments."
        )


def _versions(inputs: Any) -> tuple[int, ...]:
    """How often the memory of each input had been written to."""
    return tuple(x.storage.version if isinstance(x, Variable) else 0 for x in inputs)
