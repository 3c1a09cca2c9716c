"""Lists and dicts of modules and of parameters. As torch.nn.Sequential, ModuleList, ModuleDict, ParameterList and
ParameterDict."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from tinyattn.nn.module import Module, Parameter
from tinyattn.tensors import Tensor

DTYPE_PREFIX = ""  # of dtypes in what a ParameterList prints


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

    def pop(self, index: int = -1) -> Module:
        """Remove the module at position `index`, and return it."""
        module: Module = self[index]
        del self[index]
        return module

    def __add__(self, other: Iterable[Module]) -> Self:
        return type(self)._from_items([(str(i), module) for i, module in enumerate((*self, *other))])

    def __iadd__(self, other: Iterable[Module]) -> Self:
        return self.extend(other)


class Sequential(_Row):
    """Run modules one after another, each on the output of the one before. As torch.nn.Sequential.

    modules: first, second, ..., or one dict {"name": first, ...}. Raises TypeError for what is not a Module.

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
        """Return the output of the last module; without modules, the input."""
        for module in self:
            input = module(input)
        return input


class ModuleList(_Row):
    """A list of modules, registered with their parameters; it has no forward. As torch.nn.ModuleList.

    Raises TypeError for what is not a Module, IndexError for an index out of range.

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


class _Named:
    """What the containers with names share with dict: `_parts` holds their parts."""

    _parts: dict[str, Any]

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __contains__(self, key: str) -> bool:
        return key in self._parts

    def __getitem__(self, key: str) -> Any:
        return self._parts[key]

    def __delitem__(self, key: str) -> None:
        del self._parts[key]

    def __setitem__(self, key: str, value: Any) -> None:
        raise NotImplementedError

    keys: Any = property(lambda self: self._parts.keys, doc="The names.")
    values: Any = property(lambda self: self._parts.values, doc="The parts.")
    items: Any = property(lambda self: self._parts.items, doc="The pairs of name and part.")
    get: Any = property(lambda self: self._parts.get, doc="The part of a name, else a default.")
    pop: Any = property(lambda self: self._parts.pop, doc="Remove the part of a name, and return it.")
    clear: Any = property(lambda self: self._parts.clear, doc="Remove all parts.")

    def update(self, parts: Any) -> None:
        """Add parts, from a mapping or from pairs of name and part."""
        for key, value in parts.items() if hasattr(parts, "items") else parts:
            self[key] = value


class ModuleDict(_Named, Module):
    """A dict of modules, registered with their parameters; it has no forward. As torch.nn.ModuleDict.

    Raises TypeError for what is not a Module, KeyError for a name with a dot or of an attribute.

    >>> heads = nn.ModuleDict({"small": nn.Linear(2, 1), "large": nn.Linear(2, 9)})
    >>> heads["large"](ta.ones(2)).shape
    (9,)
    """

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        self.update(modules or ())

    _parts = property(lambda self: self._modules)

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)


class ParameterDict(_Named, Module):
    """A dict of parameters; tensors become parameters. As torch.nn.ParameterDict.

    Raises TypeError for what is not a tensor, KeyError for a name with a dot or of an attribute.

    >>> list(nn.ParameterDict({"scale": ta.ones(2), "shift": ta.zeros(2)}).keys())
    ['scale', 'shift']
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self.update(parameters or ())

    _parts = property(lambda self: self._parameters)

    def __setitem__(self, key: str, value: Any) -> None:
        self.register_parameter(key, as_parameter(value))

    def extra_repr(self) -> str:
        return "\n".join(f"  ({name}): {_described(value, value.type())}" for name, value in self.items())


class ParameterList(Module):
    """A list of parameters, named "0", "1", ...; tensors become parameters. As torch.nn.ParameterList.

    It may hold modules too, as other lists. Raises TypeError for anything else, IndexError for an index out of range.

    >>> scales = nn.ParameterList([ta.ones(2), ta.ones(3)])
    >>> [tuple(p.shape) for p in scales]
    [(2,), (3,)]
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self.extend(values or ())

    def __len__(self) -> int:
        return len(self._parameters) + len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, str(i)) for i in range(len(self)))

    def __getitem__(self, index: int | slice) -> Any:
        found = list(self)[index]
        return type(self)(found) if isinstance(index, slice) else found

    def __setitem__(self, index: int, value: Any) -> None:
        add = self.add_module if isinstance(value, Module) else self.register_parameter
        add(str(range(len(self))[index]), as_parameter(value))

    def append(self, value: Any) -> Self:
        """Add a parameter, or a module, at the end."""
        (self.add_module if isinstance(value, Module) else self.register_parameter)(str(len(self)), as_parameter(value))
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add parameters at the end."""
        for value in tuple(values):
            self.append(value)
        return self

    __iadd__ = extend

    def extra_repr(self) -> str:
        return "\n".join(f"  ({i}): {_described(value)}" for i, value in enumerate(self))


def as_parameter(value: Any) -> Any:
    """A tensor as a parameter; all else as it is."""
    return Parameter(value) if isinstance(value, Tensor) and not isinstance(value, Parameter) else value


def _described(value: Any, kind: str = "") -> str:
    if isinstance(value, Module):
        return f"Object of type: {type(value).__name__}"
    kind = kind or f"{DTYPE_PREFIX}{value.dtype}"
    return f"Parameter containing: [{kind} of size {'x'.join(map(str, value.shape))}]"
