"""The record of a step: which NumPy calls ran, on which parts of which memory.

A value is a place in memory: who owns it, and offset, shape, strides and dtype. So views need no call, and two names of
one memory are one value. Nothing is raised while recording: where the record would not tell all, it notes why, and the
step goes on as it would have without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinyattn import backends
from tinyattn.backends.cpu.recording import recording
from tinyattn.engine.modes import call_site
from tinyattn.program.traced import Traced, plain

Array = Any


class Value(NamedTuple):
    """A part of the memory of root number `root`."""

    root: int
    offset: int  # in bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


class Root:
    """The owner of a piece of memory.

    role: "made" by a call; "input"; "tensor" from outside, read where it lies; "constant".
    """

    __slots__ = ("array", "nbytes", "role", "source", "start")

    def __init__(self, array: Array, role: str, source: Any = None) -> None:
        self.array, self.role, self.source = array, role, source
        self.start, self.nbytes = _address(array), _span(array)


class Call(NamedTuple):
    """One NumPy call: arguments with values in the place of arrays, and what it writes."""

    kind: str  # ufunc, function, kernel, copy, fill, get, set, array, draw, spawn, guard
    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    writes: tuple[Value, ...]
    label: str
    share: tuple[int, int] | None  # of a batch: which time that one is split, and which share; None outside
    function: Any = None


class Recorder:
    """Collects calls. `refused`: why the record is of no use, with the user's line; "" while it is."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.roots: list[Root] = []
        self.label = ""
        self.share: tuple[int, int] | None = None
        self.splits: list[int] = []  # the numbers of calls at which the shares of a batch begin
        self.refused = ""
        self.names: dict[Value, str] = {}
        self._by_owner: dict[int, int] = {}

    def refuse(self, why: str) -> None:
        """Note why no program can be made; the first reason stays."""
        self.refused = self.refused or f"{why} at {call_site(2)}"

    # --- memory ---

    def add(self, array: Array, role: str, source: Any = None) -> Any:
        """Register the memory of a plain array; returns the array as one that records."""
        owner = backends.owner(array)
        if id(owner) not in self._by_owner:
            self._by_owner[id(owner)] = len(self.roots)
            self.roots.append(Root(array if role == "input" else owner, role, source))
        return array.view(Traced)

    def value(self, x: Array) -> Value:
        """The value of an array; one of unknown memory is a constant."""
        array = plain(x)
        owner = backends.owner(array)
        if id(owner) not in self._by_owner:
            if type(x) is Traced:
                self.refuse("a NumPy call that a program cannot follow")
            self.add(array, "constant")
        root = self._by_owner[id(owner)]
        offset = _address(array) - self.roots[root].start if array.size else 0
        return Value(root, offset, array.shape, array.strides, array.dtype)

    def known(self, array: Array) -> bool:
        """Whether the memory of an array is registered."""
        return id(backends.owner(plain(array))) in self._by_owner

    def encoded(self, x: Any) -> Any:
        """`x` with values in the place of arrays."""
        if isinstance(x, np.ndarray):
            value = self.value(x)
            if value not in self.names:
                self._name(x, value)
            return value
        if type(x) in (tuple, list):
            return type(x)(map(self.encoded, x))
        return {key: self.encoded(v) for key, v in x.items()} if type(x) is dict else x

    def _name(self, x: Array, value: Value) -> None:
        """Name a value as the kernel does that computes with it."""
        frame = sys._getframe(2)
        while frame is not None and "/program/" in frame.f_code.co_filename.replace("\\", "/"):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is not None:
            found = next((name for name, local in frame.f_locals.items() if local is x), None)
            if found is not None:
                self.names[value] = found

    # --- calls ---

    def made(self, kind: str, name: str, args: Any, options: Any, result: Any, function: Any = None) -> Any:
        """Record a call that gave `result`, unless that is a view; returns it as an array that records."""
        array = np.asarray(result)
        if self.known(array):
            return array.view(Traced)
        args, options = self.encoded(tuple(args)), self.encoded(options)
        out = self.add(array, "made")
        self.calls.append(Call(kind, name, args, options, (self.value(out),), self.label, self.share, function))
        return out

    def wrote(self, kind: str, name: str, args: Any, options: Any, *targets: Array, function: Any = None) -> None:
        """Record a call that wrote into `targets`."""
        args, options = self.encoded(tuple(args)), self.encoded(options)
        writes = tuple(map(self.value, targets))
        for value in writes:
            if self.roots[value.root].role in ("constant", "input"):
                self.refuse(f"a write into an {self.roots[value.root].role} (np.{name})".replace("an c", "a c"))
        self.calls.append(Call(kind, name, args, options, writes, self.label, self.share, function))

    def guard(self, x: Array, truth: bool) -> None:
        """Record that the step took the branch of `truth`."""
        self.calls.append(Call("guard", "guard", (self.value(x), truth), {}, (), self.label, self.share))

    def kernel(self, kernel: Callable[..., Any], args: Any, written: tuple[int, ...]) -> Any:
        """Run a kernel that is recorded as one call (see `one_call`): what it writes, and what it returns."""
        token = recording.set(None)
        try:
            result = kernel(*plain(args))
        finally:
            recording.reset(token)
        encoded, targets = self.encoded(tuple(args)), [self.value(args[i]) for i in written]
        several = result if type(result) is tuple else (result,)
        fresh = [None if r is None or self.known(r) else self.value(self.add(r, "made")) for r in several]
        writes = (*targets, *(value for value in fresh if value is not None))
        options, name = {"results": fresh}, kernel.__name__
        self.calls.append(Call("kernel", name, encoded, options, writes, self.label, self.share, kernel))
        several = tuple(None if r is None else r.view(Traced) for r in several)
        return several if type(result) is tuple else several[0]


def values(x: Any) -> Iterator[Value]:
    """The values in nested arguments."""
    if type(x) is Value:
        yield x
    elif type(x) in (tuple, list):
        for part in x:
            yield from values(part)
    elif type(x) is dict:
        yield from values(list(x.values()))


def whole(root: int, array: Array) -> Value:
    """The value of all memory of a root."""
    return Value(root, 0, array.shape, array.strides, array.dtype)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _span(array: Array) -> int:
    if not array.size:
        return 0
    return int(sum((n - 1) * abs(step) for n, step in zip(array.shape, array.strides, strict=True)) + array.itemsize)
