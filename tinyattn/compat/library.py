"""torch.library: functions registered as operations, which `torch.ops` then has, with a backward of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tinyattn as ta
from tinyattn.autograd import Function
from tinyattn.compat import parts


class CustomOp:
    """An operation made of a function; as what torch.library.custom_op returns."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function
        self.run: Callable[..., Any] = function

    def __call__(self, *args: Any) -> Any:
        return self.run(*args)

    def register_autograd(self, backward: Callable[..., Any], /, *, setup_context: Any = None, lib: Any = None) -> None:
        """Give the operation its backward(ctx, *gradients); setup_context(ctx, inputs, output) saves for it."""
        rules = {"forward": self.function, "backward": backward, "setup_context": setup_context or _nothing_saved}
        kind: Any = type(self.name, (Function,), {name: staticmethod(rule) for name, rule in rules.items()})
        self.run = kind.apply

    def register_fake(self, function: Any = None, /, **options: Any) -> Any:
        """Accept a function that gives shapes, which nothing here needs."""
        return function if function is not None else lambda function: function


def _nothing_saved(ctx: Any, inputs: Any, output: Any) -> None:
    pass


class Operations:
    """torch.ops, and each of its namespaces: what `custom_op` registered."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._name == "torch.ops":
            found: Any = Operations(f"torch.ops.{name}")
            setattr(self, name, found)
            return found
        raise AttributeError(f"{self._name}.{name} is not registered; torch.library.custom_op registers operations")


OPS = Operations("torch.ops")


def custom_op(name: str, fn: Any = None, /, **options: Any) -> Any:
    """Register a function as the operation "namespace::name"; without `fn`, return the decorator that does so.

    Example:
        >>> from tinyattn.compat.library import OPS, custom_op
        >>> doubled = custom_op("mine::doubled", lambda x: 2 * x, mutates_args=())
        >>> doubled(3), OPS.mine.doubled(4)
        (6, 8)
    """
    if fn is None:
        return lambda function: custom_op(name, function, **options)
    namespace, _, last = name.partition("::")
    made = CustomOp(last, fn)
    setattr(getattr(OPS, namespace), last, made)
    return made


def _of(op: Any) -> CustomOp:
    if isinstance(op, CustomOp):
        return op
    namespace, _, last = op.partition("::")
    found: CustomOp = getattr(getattr(OPS, namespace), last)
    return found


def register_autograd(op: Any, backward: Callable[..., Any], /, *, setup_context: Any = None, lib: Any = None) -> None:
    """Give an operation, or the one of this name, its backward. As torch.library.register_autograd."""
    _of(op).register_autograd(backward, setup_context=setup_context)


def register_fake(op: Any, func: Any = None, /, **options: Any) -> Any:
    """Accept a function that gives shapes, which nothing here needs. As torch.library.register_fake."""
    return _of(op).register_fake(func)


def associative_scan(combine_fn: Any, xs: Any, dim: int, reverse: bool = False, combine_mode: str = "pointwise") -> Any:
    """Return all prefixes of tensors along `dim`, combined by combine_fn(before, next), one position after another.

    xs: a tensor, or nested ones of one length along `dim`. As torch._higher_order_ops.associative_scan.
    """
    leaves, tree = parts.tree_flatten(xs)
    steps = [list(step) for step in zip(*(leaf.split(1, dim) for leaf in leaves), strict=True)]
    steps = steps[::-1] if reverse else steps
    for i in range(1, len(steps)):
        steps[i] = parts.tree_flatten(
            combine_fn(parts.tree_unflatten(steps[i - 1], tree), parts.tree_unflatten(steps[i], tree))
        )[0]
    prefixes = zip(*(steps[::-1] if reverse else steps), strict=True)
    return parts.tree_unflatten([ta.cat(prefix, dim) for prefix in prefixes], tree)
