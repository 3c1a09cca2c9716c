"""Layers that are one function of `nn.functional`: its further arguments are those of the constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from tinyattn.nn.module import Module


class Applied(Module):
    """Base of these layers: class ELU(Applied, function=F.elu). The arguments are kept as attributes.

    inputs: how many arguments of the function are those of `forward`; `training` is that of the module. example:
    arguments of a constructor call, for the docstring. hidden: attributes that the repr leaves out.
    """

    hidden: ClassVar[tuple[str, ...]] = ()
    _function: ClassVar[Callable[..., Any]]
    _names: ClassVar[list[str]]
    _signature: ClassVar[inspect.Signature]
    __signature__: ClassVar[inspect.Signature | None]

    def __init_subclass__(cls, function: Any = None, inputs: int = 1, example: tuple[Any, ...] = ()) -> None:
        super().__init_subclass__()
        if function is None:  # a subclass of a layer, perhaps with arguments of its own
            if "__init__" in vars(cls):
                cls.__signature__ = None
            return
        cls._function = staticmethod(function)
        parameters = list(inspect.signature(function).parameters.values())[inputs:]
        parameters = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        cls._names = [p.name for p in parameters if p.name not in ("size_average", "reduce")]
        cls._signature = cls.__signature__ = inspect.Signature([p for p in parameters if p.name != "training"])
        if cls.__doc__ is None:
            summary = (inspect.getdoc(function) or "").split("\n\n")[0]
            cls.__doc__ = f"""{summary}

    As torch.nn.{cls.__name__}; the arguments are those of `F.{function.__name__}`, also as attributes.

    >>> nn.{cls.__name__}({", ".join(map(repr, example))})
    {cls(*example)!r}
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        try:
            given = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        given.apply_defaults()
        for name, value in given.arguments.items():
            if name.endswith("weight"):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self._function(*inputs, **named, **{name: getattr(self, name) for name in self._names})

    def extra_repr(self) -> str:
        shown = {name: getattr(self, name) for name in self._names if name not in (*self.hidden, "training")}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items() if name != "inplace" or value)
