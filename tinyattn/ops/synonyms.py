"""NumPy's names of arguments, which PyTorch takes too: axis for dim, keepdims for keepdim."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
_SYNONYMS = {"axis": "dim", "keepdims": "keepdim"}


def numpy_names(function: Function) -> Function:
    """Make `function` take `axis` and `keepdims` for its `dim` and `keepdim`, and refuse `out` in a sentence."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        for name, ours in _SYNONYMS.items() if options else ():
            if name in options:
                options[ours] = options.pop(name)
        if "out" in options and options.pop("out") is not None:
            raise TypeError(f"{function.__name__}: out= is not supported; write x.copy_({function.__name__}(...))")
        return function(*args, **options)

    code: Any = call  # named as the function in tracebacks, and in pictures of failures
    code.__code__ = code.__code__.replace(co_name=function.__name__)
    return call  # type: ignore[return-value]
