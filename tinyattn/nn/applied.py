"""Layers that are one function of `nn.functional`: its further arguments are those of the constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, ClassVar

from tinyattn.nn.module import Module


class Applied(Module):
    """Base of these layers: class ELU(Applied, function=F.elu). The constructor keeps its arguments as attributes.

    inputs: how many arguments of the function are those of `forward`; the others are attributes of the same names,
    `training` that of the module. example: arguments of a constructor call, for the docstring. hidden: attributes that
    the repr leaves out.
    """

    hidden: ClassVar[tuple[str, ...]] = ()
    _function: ClassVar[Callable[..., Any]]
    _names: ClassVar[list[str]]

    def __init_subclass__(cls, function: Any = None, inputs: int = 1, example: tuple[Any, ...] = ()) -> None:
        super().__init_subclass__()
        if function is None:  # a subclass of a layer
            return
        cls._function = staticmethod(function)
        parameters = list(inspect.signature(function).parameters.values())[inputs:]
        without = ("size_average", "reduce")  # which `reduction` replaced
        cls._names = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.name not in without]
        if cls.__doc__ is None:
            summary = (inspect.getdoc(function) or "").split("\n\n")[0]
            cls.__doc__ = f"""{summary}

    As torch.nn.{cls.__name__}; the arguments are those of `F.{function.__name__}`, also as attributes.

    >>> nn.{cls.__name__}({", ".join(map(repr, example))})
    {cls(*example)!r}
    """

    def __init__(self) -> None:
        self._set_up({})

    def _set_up(self, arguments: dict[str, Any]) -> None:
        """Begin as a module that has the arguments of a constructor, its `locals()`."""
        super().__init__()
        for name, value in arguments.items():
            if name.endswith("weight"):
                self.register_buffer(name, value)
            elif name != "self":
                setattr(self, name, value)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the function of the inputs, with the layer's attributes as its further arguments; shapes as there."""
        return self._function(*inputs, **named, **{name: getattr(self, name) for name in self._names})

    def extra_repr(self) -> str:
        shown = {name: getattr(self, name) for name in self._names if name not in (*self.hidden, "training")}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items() if name != "inplace" or value)


def own_constructors(*layers: Any) -> None:
    """Copy inherited constructors under the names of `layers`, which Python's messages about arguments then give."""
    for layer in layers:
        inherited, name = layer.__init__, f"{layer.__name__}.__init__"
        if inherited.__qualname__ != name:
            code, names = inherited.__code__, inherited.__globals__
            own = FunctionType(code, names, "__init__", inherited.__defaults__, inherited.__closure__)
            own.__qualname__, own.__module__ = name, layer.__module__
            own.__kwdefaults__, own.__annotations__ = inherited.__kwdefaults__, inherited.__annotations__
            layer.__init__ = own
