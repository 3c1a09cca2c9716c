"""Lists of modules. As torch.nn.Sequential and torch.nn.ModuleList."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from tinyattn.nn.module import Module

__all__ = ["ModuleList", "Sequential"]


class _Row(Module):
    """A list of modules, named "0", "1", ..."""

    _modules: dict[str, Module]  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)._from_items(list(self._modules.items())[index])
        return self._modules[self._name(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(self._name(index), module)

    def __delitem__(self, index: int | slice) -> None:
        rest = list(self)
        if isinstance(index, int):
            self._name(index)
        del rest[index]
        self._number(rest)

    @classmethod
    def _from_items(cls, items: list[tuple[str, Module]]) -> Self:
        return cls(*[[module for _, module in items]])

    def _name(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for a {type(self).__name__} of {len(self)} modules")
        return list(self._modules)[index]

    def _number(self, modules: Iterable[Module]) -> None:
        modules = list(modules)
        self._modules.clear()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        for module in tuple(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Insert a module before position `index`."""
        row = list(self)
        row.insert(index, module)
        self._number(row)
        return self


class Sequential(_Row):
    """Run modules one after another, each on the output of the one before. As torch.nn.Sequential.

    modules: first, second, ..., or one dict {"name": first, ...}. Raises TypeError for what is not a Module.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> net(ta.ones(5, 3)).shape
        (5, 2)
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        named = len(modules) == 1 and isinstance(modules[0], Mapping)
        for name, module in modules[0].items() if named else enumerate(modules):
            self.add_module(str(name), module)

    @classmethod
    def _from_items(cls, items: list[tuple[str, Module]]) -> Self:
        return cls(dict(items))

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input


class ModuleList(_Row):
    """A list of modules, registered with their parameters; it has no forward. As torch.nn.ModuleList.

    Raises TypeError for what is not a Module, IndexError for an index out of range.

    Example:
        >>> layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        >>> len(list(layers.parameters()))
        6
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        self.extend(modules or ())

    def _repr_children(self) -> Iterable[str]:
        """Neighbours with equal text on one line: `(0-3): 4 x Linear(...)`."""
        start = 0
        for text, alike in itertools.groupby(map(repr, self)):
            count = len(list(alike))
            yield f"({start}): {text}" if count == 1 else f"({start}-{start + count - 1}): {count} x {text}"
            start += count
