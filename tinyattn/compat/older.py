"""The order of arguments before PyTorch 1.5, which older training loops use: p.data.add_(-lr, p.grad)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tinyattn as ta

FACTORS = {"add": "alpha", "sub": "alpha", "addcmul": "value", "addcdiv": "value"}  # which came before the tensors


def with_factor_first(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function, which also takes its factor as the second argument, before one tensor more than it has."""
    count, option = 3 if FACTORS[name] == "alpha" else 4, FACTORS[name]

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if len(args) == count:
            args, options = (args[0], *args[2:]), {option: args[1], **options}
        return function(*args, **options)

    return call


FUNCTIONS = {name: with_factor_first(getattr(ta, name), name) for name in FACTORS}


def extend() -> None:
    """Give the methods of tensors that order too."""
    for name in FACTORS:
        for method in (name, f"{name}_"):
            setattr(ta.Tensor, method, with_factor_first(getattr(ta.Tensor, method), name))
