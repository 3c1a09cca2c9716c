"""Node: one recorded operation, and the values its rules need."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyattn.engine.modes import Site

if TYPE_CHECKING:
    from tinyattn.engine.operation import Operation
    from tinyattn.tensors import Tensor


class Storage:
    """Counts the writes to one piece of memory. A tensor and its views share one."""

    __slots__ = ("tracked", "version", "writer")

    def __init__(self) -> None:
        self.version = 0
        self.tracked = 0  # the last version whose write was itself recorded for gradients
        self.writer: tuple[str, Site] | None = None


class Saved(NamedTuple):
    """An array kept for the walk backward, and the version it had when it was saved."""

    array: Any
    node: Node | None
    storage: Storage
    version: int


def _save(value: Any) -> Any:
    if not isinstance(value, _tensor.Tensor):
        return value
    storage = value._storage or value.storage
    return tuple.__new__(Saved, (value.array, value.node, storage, storage.version))  # half the time of Saved(...)


_ids = itertools.count(1)
_NO_OPTIONS: dict[str, Any] = {}


class Node:
    """One recorded operation, or a leaf (`op` is None). Its edges go to nodes, never to tensors, so
    arrays are freed by reference counting as soon as nothing saved them."""

    __slots__ = (
        "__weakref__", "dtype", "edges", "hooks", "id", "modules", "op", "options", "saved", "shape", "site", "tensor",
    )  # fmt: skip

    def __init__(
        self, op: Operation | None, edges: tuple[Node | None, ...], array: Any, options: dict[str, Any] | None = None
    ) -> None:
        self.id = next(_ids)  # ids count up: a consumer is always newer than what it consumes
        self.op = op
        self.edges = edges
        self.shape = array.shape
        self.dtype = array.dtype
        self.options: dict[str, Any] = options or _NO_OPTIONS
        self.saved: dict[str, Any] | None = {}
        self.hooks: dict[int, Callable[[Tensor], Tensor | None]] | None = None
        self.tensor: Callable[[], Tensor | None] | None = None  # weak: whose .grad to fill
        self.site: Site | None = None
        self.modules: tuple[Any, ...] = ()  # those whose forward made it, outermost first

    def values(self, names: Sequence[str], recording: bool) -> list[Any]:
        """What the rules know by these names: saved inputs or `out`, options, or `needed`."""
        saved, found = self.saved or {}, []
        for name in names:
            value = saved.get(name)
            if type(value) is Saved and not recording:
                array, _, storage, version = value
                if storage.version == version:  # nearly always
                    found.append(array)
                    continue
            found.append(self.value(name, recording))
        return found

    def value(self, name: str, recording: bool) -> Any:
        """One of them."""
        if name == "needed":
            return tuple(edge is not None for edge in self.edges)
        if name in self.options:
            return self.options[name]
        if self.saved is None:
            raise RuntimeError(
                f"backward a second time through {self}: what it had saved was freed by the first "
                "walk. Run the forward again for every backward (build the loss inside the loop), "
                "or pass retain_graph=True to the first backward."
            )
        value = self.saved[name]
        if type(value) is tuple:
            return tuple(self._unpack(name, v, recording) for v in value)
        return self._unpack(name, value, recording)

    def _unpack(self, name: str, value: Any, recording: bool) -> Any:
        if type(value) is not Saved:
            return value
        array, node, storage, version = value
        if storage.version != version:
            what, where = storage.writer or ("an in-place write", "an unknown place")
            raise RuntimeError(
                f"{self} saved '{name}' (shape {tuple(array.shape)}) for its gradient, and {what} "
                f"at {where} changed it in place before backward. Use the out-of-place form there, "
                "or clone() the tensor before changing it."
            )
        if not recording:
            return array
        return _tensor.Tensor._from(array, self if name == "out" else node, storage)

    def free(self) -> bool:
        """Drop the saved arrays; False if there are none (shapes stay, they cost nothing)."""
        for value in (self.saved or {}).values():
            if type(value) is Saved or (type(value) is tuple and value and type(value[0]) is Saved):
                self.saved = None
                return True
        return False

    @property
    def module(self) -> str:
        """The path of the module that made it, "blocks.0.attention"; "" outside of modules."""
        if not self.modules:
            return ""
        names = {id(module): name for name, module in self.modules[0].named_modules()}
        last = self.modules[-1]
        return names.get(id(last)) or type(last).__name__

    def __str__(self) -> str:
        inside = f" in {self.module}" if self.modules else ""
        return f"{self.op.name if self.op else 'leaf'}{inside} (made at {self.site})"


_tensor: Any = None  # set by operation.py
