"""Constructors whose arguments are keywords of the class: class StepLR(Schedule, step_size=..., gamma=0.1)."""

from __future__ import annotations

import inspect
from inspect import Parameter
from typing import Any, ClassVar


class Declared:
    """Base of such classes. A keyword is an argument with its default, ... is one without; a `maximize` and what
    follows it are given by name only. A subclass without keywords may have a constructor of its own.

    first_argument: the name of the one before them. last_arguments: those behind them.
    """

    first_argument: ClassVar[str]
    last_arguments: ClassVar[tuple[Parameter, ...]]
    _signature: ClassVar[inspect.Signature]
    __signature__: ClassVar[inspect.Signature | None]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__()
        if not options:
            if "__init__" in vars(cls):
                cls.__signature__ = None
            return
        kind: Any = Parameter.POSITIONAL_OR_KEYWORD
        listed = [Parameter(cls.first_argument, kind)]
        for name, default in options.items():
            kind = Parameter.KEYWORD_ONLY if name == "maximize" else kind
            listed.append(Parameter(name, kind, default=Parameter.empty if default is ... else default))
        cls._signature = cls.__signature__ = inspect.Signature([*listed, *cls.last_arguments])

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name, with defaults. Raises TypeError with the name of the class."""
        try:
            given = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        given.apply_defaults()
        return given.arguments
