"""Guards: whether a recorded call, a program or a CUDA graph, still does what the function would do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

from tinyattn import random
from tinyattn.engine.hooks import of_every_module
from tinyattn.program.arguments import held, named
from tinyattn.tensors import Tensor


class Guards:
    """What must not have changed since the recording, compared by identity.

    tensors: with the arrays that the recording reads or writes where they lie. modules: those that ran. leaves: what
    gets a gradient. called: the function, and what it names.
    """

    def __init__(
        self, tensors: Iterable[tuple[Tensor, Any]], modules: Iterable[Any], leaves: Iterable[Tensor],
        optimizers: Iterable[Any], called: tuple[Any, list[Any]] | None,
    ) -> None:  # fmt: skip
        pairs, modules = list(tensors), list(modules)
        self.tensors, self._arrays = [t for t, _ in pairs], [array for _, array in pairs]
        self._constant = [t._node is None for t in self.tensors]
        self._nodes = [leaf._node for leaf in leaves if leaf._node is not None]
        self._hooks = [*map(_hooks, self._nodes)]
        self._parameters = [(optimizer, _parameters(optimizer)) for optimizer in optimizers]
        self._generator, self._called = random.current_generator(), called
        inside = [*_settings(x for module in modules for x in vars(module).values())]
        dicts = [x for x in (*map(vars, modules), *inside, *of_every_module.values()) if type(x) is dict]
        self._dicts, self._empty = [d for d in dicts if d], [d for d in dicts if not d]
        self._sizes, self._contents = [*map(len, self._dicts)], [*_contents(self._dicts)]
        self._lists = [(x, tuple(x)) for x in inside if type(x) is list]

    def hold(self) -> bool:
        """Whether nothing has changed; in loops of C, because every call of a program waits for it."""
        return (
            all(map(is_, map(_ARRAY, self.tensors), self._arrays))
            and [t._node is None for t in self.tensors] == self._constant
            and [*map(len, self._dicts)] == self._sizes
            and all(map(is_, _contents(self._dicts), self._contents))
            and all(same(x, now) for x, now in self._lists)
            and not any(self._empty)
            and [*map(_hooks, self._nodes)] == self._hooks
            and all(same(_parameters(optimizer), parameters) for optimizer, parameters in self._parameters)
            and random.current_generator() is self._generator
            and (self._called is None or same(named(self._called[0]), self._called[1]))
        )


_ARRAY = attrgetter("array")


def _hooks(node: Any) -> list[Any]:
    return [*(node.hooks or {}).values(), *(node.after or {}).values()]


def _contents(dicts: Iterable[dict[Any, Any]]) -> Iterable[Any]:
    return chain.from_iterable(map(dict.values, dicts))


def _settings(values: Iterable[Any], depth: int = 3) -> Iterable[Any]:
    """The dicts and lists among the attributes of modules, those of plain objects such as a configuration, and those
    in these. What has a state of its own (a generator, an optimizer, a schedule) is left out: it changes each time."""
    for x in values:
        if type(x) in (dict, list):
            yield x
        below = [] if hasattr(type(x), "state_dict") or isinstance(x, random.Generator) else held(x)
        yield from _settings(below, depth - 1) if depth and below else ()
        if below and hasattr(x, "__dict__"):
            yield vars(x)


def _parameters(optimizer: Any) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether these are the same objects."""
    return len(a) == len(b) and all(map(is_, a, b))
