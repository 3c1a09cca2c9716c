"""Names of functions that others make, and other names of arguments: NumPy's, and PyTorch's older ones."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from tinyattn.engine.operation import Operation

Function = TypeVar("Function", bound=Callable[..., Any])
_P = ParamSpec("_P")
_R = TypeVar("_R")
_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD
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


def named(name: str, doc: str) -> Callable[[Function], Function]:
    """Give a function that another one made its name and its docstring."""

    def decorate(function: Function) -> Function:
        function.__name__ = function.__qualname__ = name
        function.__doc__ = doc
        return function

    return decorate


def formula(name: str, words: str, call: str, found: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, named, with a docstring: what it returns in words, and an example, a call and the list it gives."""
    doc = f"""Return {words}. As torch.{name}.

    >>> ta.{name}({call}).tolist()
    {found}
    """
    return named(name, doc)(function)


def bound(function: Callable[Concatenate[Any, _P], _R], first: Any) -> Callable[[Callable[[], Any]], Callable[_P, _R]]:
    """Give `function`, with its first argument given, the name and the docstring of the decorated function."""

    def decorate(called: Callable[[], Any]) -> Callable[_P, _R]:
        @functools.wraps(called)
        def call(*args: _P.args, **options: _P.kwargs) -> _R:
            return function(first, *args, **options)

        call.__signature__ = inspect.signature(functools.partial(function, first))  # type: ignore[attr-defined]
        return call

    return decorate


def positional(op: Operation) -> Callable[..., Any]:
    """`op` with its options by position, behind its inputs: as rules call the function of this name."""
    count, names = len(op.inputs), list(op.options)

    @named(op.name, op.__doc__ or "")
    def call(*args: Any) -> Any:
        return op(*args[:count], **dict(zip(names, args[count:], strict=True)))

    return call


def reduction_of(size_average: Any, reduce: Any, reduction: str) -> str:
    """The reduction that PyTorch's older arguments name, with a warning; `reduction` if both are None."""
    if isinstance(size_average, str):  # by position: F.mse_loss(x, y, "sum")
        return size_average
    if size_average is None and reduce is None:
        return reduction
    found = "none" if reduce is False else "sum" if size_average is False else "mean"
    warnings.warn(f"size_average and reduce are deprecated; write reduction={found!r}", UserWarning, stacklevel=3)
    return found


def older_reduction(follower: str = "reduction") -> Callable[[Function], Function]:
    """Give a loss the arguments size_average, before the one named `follower`, and reduce, before `reduction`.

    If they are given, they are turned into `reduction`.
    """

    def decorate(function: Function) -> Function:
        parameters = list(inspect.signature(function).parameters.values())
        for name, before in (("size_average", follower), ("reduce", "reduction")):
            at = [p.name for p in parameters].index(before)
            parameters.insert(at, inspect.Parameter(name, _EITHER, default=None, annotation="Any"))
        signature = inspect.signature(function).replace(parameters=parameters)
        few = list(signature.parameters).index("size_average")

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if len(args) > few or "size_average" in options or "reduce" in options:
                given = signature.bind(*args, **options)
                given.apply_defaults()
                args, options = (), given.arguments
                older = options.pop("size_average"), options.pop("reduce")
                options["reduction"] = reduction_of(*older, options["reduction"])
            return function(*args, **options)

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate
