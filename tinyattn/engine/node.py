"""Node: one recorded operation, and the values that its rules need."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from tinyattn.engine.modes import Site
from tinyattn.engine.opmath import widened
from tinyattn.engine.variable import Variable


class Saved:
    """An array kept for the backward pass, with the version that its memory had when it was saved."""

    __slots__ = ("array", "node", "storage", "version")

    def __init__(self, variable: Variable) -> None:
        self.array, self.node = variable.array, variable._node if variable._base is None else variable.node
        self.storage = storage = variable._storage or variable.storage
        self.version = storage.version

    def read(self, name: str, owner: Node, create_graph: bool) -> Any:
        """The array; with `create_graph`, which records the rules, as a Variable with its history.

        Raises RuntimeError if an in-place write has changed it since, with the lines of both; and for an extra, which
        has no history, if its gradient is needed.
        """
        if self.storage.version != self.version:
            raise RuntimeError(
                f"{owner} saved '{name}' (shape {tuple(self.array.shape)}) for its gradient, and "
                f"{self.storage.last_write()} changed it in place before backward. Use the out-of-place form there, "
                "or clone() the tensor before changing it."
            )
        if not create_graph:
            return self.array
        if name in owner.op.extras and self.array.dtype.kind == "f":
            text = "which has no gradient for second derivatives; give the operation a `backward` and a `definition`."
            raise RuntimeError(f"{owner}: its rule uses the extra '{name}', {text}")
        # An output was saved before it had a node, which is the owner; to keep that here would make a cycle.
        return Variable._from(self.array, owner if name == "out" else self.node, self.storage)


def save(value: Any) -> Any:
    """`value` as a node keeps it: arrays as Saved, several inputs (of cat) as a list of these; all else as it is."""
    if isinstance(value, Variable):
        return Saved(value)
    return [*map(save, value)] if type(value) is tuple else value


_ids = itertools.count(1)
_NOTHING: dict[str, Any] = {}  # the options of leaves, and what they save, and operations whose rules need nothing


class Node:
    """One recorded operation, or a leaf (`op` is None).

    Its edges lead to the nodes of its inputs, never to Variables: an array is freed by reference counting as
    soon as neither the program nor a node holds it.
    """

    __slots__ = (
        "__weakref__", "after", "dtype", "edges", "half", "hooks", "id", "modules", "op", "options", "saved", "shape",
        "site", "tensor",
    )  # fmt: skip
    any_after: ClassVar[bool] = False  # whether a leaf has ever had a hook `after`

    def __init__(
        self, op: Any, edges: tuple[Node | None, ...], array: Any, options: dict[str, Any] | None = None
    ) -> None:
        self.id = next(_ids)  # ids count up: a consumer is always newer than what it consumes
        self.op = op  # an engine Operation
        self.edges = edges  # one for each input; None where no gradient is required
        self.shape = array.shape  # of the output
        self.dtype = array.dtype
        self.half = False  # whether an input is float16: rules read it as float32, see opmath
        self.options = options or _NOTHING  # for as long as the node lives; only `saved` is freed
        self.saved: dict[str, Any] | None = _NOTHING  # by the names that rules use; None once they are freed
        self.hooks: dict[int, Callable[[Any], Any]] | None = None
        self.after: dict[int, Callable[[Any], Any]] | None = None  # hooks of a leaf whose .grad has been added to
        self.tensor: Callable[[], Any] | None = None  # a weak reference: the Variable whose .grad is to be filled
        self.site: Site | None = None  # the line of the program that ran it
        self.modules: tuple[Any, ...] = ()  # those whose forward was running, outermost first

    def read(self, names: Sequence[str], create_graph: bool) -> list[Any]:
        """The values of these names for a rule: options, saved values, and `needed`."""
        found: list[Any] = []
        options, saved = self.options, self.saved
        for name in names:
            if name in options:
                found.append(options[name])
            elif name == "needed":
                found.append(tuple(edge is not None for edge in self.edges))
            elif saved is None:
                raise RuntimeError(
                    f"backward a second time through {self}: what it had saved was freed by the first "
                    "walk. Run the forward again for every backward (build the loss inside the loop), "
                    "or pass retain_graph=True to the first backward."
                )
            else:
                value = saved[name]
                if type(value) is Saved:
                    current = value.storage.version == value.version and not create_graph
                    value = value.array if current else value.read(name, self, create_graph)
                elif type(value) is list:
                    value = tuple(x.read(name, self, create_graph) if type(x) is Saved else x for x in value)
                found.append(value)
        return widened(found) if self.half else found

    def free(self) -> bool:
        """Drop all saved values if there is an array among them, and return whether there was (shapes cost nothing)."""
        for value in (self.saved or _NOTHING).values():
            if type(value) in (Saved, list):
                self.saved = None
                return True
        return False

    @property
    def module(self) -> str:
        """The path of the module whose forward ran it, "blocks.0.attention"; "" outside of modules."""
        if not self.modules:
            return ""
        names = {id(module): name for name, module in self.modules[0].named_modules()}
        last = self.modules[-1]
        return names.get(id(last)) or type(last).__name__

    def __str__(self) -> str:
        inside = f" in {self.module}" if self.modules else ""
        return f"{self.op.name if self.op else 'leaf'}{inside} (made at {self.site})"
