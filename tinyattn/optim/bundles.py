"""Many small parameters updated as one: a dozen array operations for all of them instead of for each.

An update that treats every element alike need not know where one parameter ends and the next begins. So what an
optimizer remembers about small parameters lies end to end in long arrays (`state[param]` holds views of them), and a
step copies values and gradients end to end too, updates them as if they were one, and copies the new values back.
The parameters themselves stay where they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby, pairwise
from operator import is_
from typing import Any

from tinyattn import backends
from tinyattn.backends import cpu
from tinyattn.dtypes import float32
from tinyattn.tensors import Tensor

SMALL = 1 << 12  # elements of a parameter; copying a larger one costs what it saves
FULL = 1 << 16  # elements of a bundle: what one update works on stays in the cache
FEW = 3  # parameters; so few are as quick one by one

_NOTHING: dict[str, Any] = {}
Remembered = Mapping[Tensor, Mapping[str, Any]]


class Bundles:
    """The parameters of a group: `bundles` of small ones, and the `rest`, to be updated one by one.

    state: what the optimizer remembers, under `names`. Bundles only move it together; it stays the truth. Where it or
    the array of a parameter has been replaced since, they do not `fit` any more, and new ones must be made.
    """

    def __init__(self, params: Sequence[Tensor], state: Remembered, names: Sequence[str]) -> None:
        small = [param for param in params if param in state and _suits(param, state[param], names)]
        shared = cpu.overlapping([param.array for param in small])
        alike = defaultdict(list)
        for i, param in enumerate(small):
            if i not in shared:  # else a write to one would undo that to the other
                alike[param.dtype].append(param)
        self.bundles: list[Bundle] = []
        for dtype, several in alike.items():
            most = min(FULL, sum(param.numel() for param in several))
            scratch = cpu.zeros((2, most), dtype)  # for one bundle after the other
            for some in _portions(several):
                if len(some) > FEW:
                    self.bundles.append(Bundle(some, [state[param] for param in some], names, scratch))
        bundled = {param for bundle in self.bundles for param in bundle.params}
        self.rest = [param for param in params if param not in bundled]
        self._sources = _sources(params, state, names)

    def fit(self, params: Sequence[Tensor], state: Remembered, names: Sequence[str]) -> bool:
        """Whether these bundles are still made of what is there now."""
        sources = _sources(params, state, names)
        return len(sources) == len(self._sources) and all(map(is_, sources, self._sources))


class Bundle:
    """Small parameters of one dtype, with the same kinds of state; scratch: rows for their values and gradients."""

    def __init__(
        self, params: Sequence[Tensor], states: Sequence[Mapping[str, Any]], names: Sequence[str], scratch: Any
    ) -> None:
        self.params = params
        shapes = [param.shape for param in params]
        self.starts = [0, *accumulate(map(math.prod, shapes))]
        self.values, self.grads = scratch[:, : self.starts[-1]]
        self.rooms = _rooms(self.values, shapes)
        self.steps = backends.of(scratch).zeros((len(params),), float32)
        self.state: dict[str, Any] = {}
        for name in names:
            array = self.steps
            if name != "step":
                array = self.state[name] = backends.of(scratch).zeros(self.values.shape, scratch.dtype)
            rooms = _rooms(array, [state[name].shape for state in states])
            for state, room in zip(states, rooms, strict=True):
                room[...] = state[name].array
                state[name].array = room

    def runs(self) -> Iterator[tuple[int, int]]:
        """Where neighbours begin and end that have gradients and have seen as many steps."""
        counts = zip(self.params, self.steps.tolist(), strict=True)
        keys = [None if param.grad is None else count for param, count in counts]
        first = 0
        for key, run in groupby(keys):
            last = first + len([*run])
            if key is not None:
                yield first, last
            first = last

    def update(self, first: int, last: int, update: Callable[[Tensor, Any, dict[str, Any]], None]) -> None:
        """Update the parameters from `first` to before `last`, as one."""
        part = slice(self.starts[first], self.starts[last])
        arrays = [param.array for param in self.params[first:last]]
        slopes = [param.grad.array for param in self.params[first:last] if param.grad is not None]
        library = backends.of(*arrays)
        values, grads = library.end_to_end(arrays, self.values[part]), library.end_to_end(slopes, self.grads[part])
        state = {name: Tensor._from(array[part]) for name, array in self.state.items()}
        update(Tensor._from(values), grads, {"step": Tensor._from(self.steps[first, ...]), **state})
        self.steps[first:last] = self.steps[first]
        for array, room in zip(arrays, self.rooms[first:last], strict=True):
            array[...] = room


def _suits(param: Tensor, state: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether a parameter is small, and has been updated before, so that its state is there."""
    array = param.array
    kinds = {(state[name].dtype, state[name].shape) for name in state if name != "step"}
    as_declared = {*state} == {*names} and kinds <= {(array.dtype, array.shape)}
    return param.device == "cpu" and as_declared and array.size <= SMALL and array.flags.c_contiguous


def _portions(params: Sequence[Tensor]) -> list[list[Tensor]]:
    """The parameters in lists of at most `FULL` elements."""
    portions: list[list[Tensor]] = [[]]
    size = 0
    for param in params:
        size += param.numel()
        if size > FULL:
            portions.append([])
            size = param.numel()
        portions[-1].append(param)
    return portions


def _rooms(array: Any, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """One stretch of a flat array after the other, as views of these shapes."""
    starts = accumulate(map(math.prod, shapes), initial=0)
    return [array[i:j].reshape(shape) for (i, j), shape in zip(pairwise(starts), shapes, strict=True)]


def _sources(params: Sequence[Tensor], state: Remembered, names: Sequence[str]) -> list[Any]:
    """Every object that bundles depend on; None for a state that is not there yet."""
    states = [state.get(param, _NOTHING) for param in params]
    kept = [own[name].array if name in own else None for own in states for name in names]
    return [*[param.array for param in params], *states, *kept]
