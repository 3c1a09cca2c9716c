"""Validation of what users hand to an optimizer: options, parameters, names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from tinyattn.tensors import Tensor


def check_number(options: Mapping[str, Any], name: str, *, least: float = 0.0) -> None:
    """Raise unless options[name] is a finite number of at least `least`: TypeError for no number, else ValueError."""
    _check_in_range(options[name], name, least, math.inf)


def check_kind(value: Any, name: str, like: Any) -> None:
    """Raise unless an option has the kind of its default: a finite number, or a sequence of as many, for these."""
    if isinstance(like, tuple | list):
        if not isinstance(value, tuple | list) or len(value) != len(like):
            raise TypeError(f"{name} must be {len(like)} numbers such as {like}, but got {value!r}.")
        for i, (one, default) in enumerate(zip(value, like, strict=True)):
            check_kind(one, f"{name}[{i}]", default)
    elif isinstance(like, Real) and not isinstance(like, bool):
        _check_in_range(value, name, -math.inf, math.inf)


def check_betas(options: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError unless options["betas"] is a pair of numbers in [0, 1)."""
    betas = options["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas must be a pair of numbers such as (0.9, 0.999), but got {betas!r}.")
    for i, beta in enumerate(betas):
        _check_in_range(beta, f"betas[{i}]", 0.0, 1.0)


def _check_in_range(value: Any, name: str, least: float, below: float) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, but got {described(value)}.")
    if not (least <= float(value) < below and math.isfinite(value)):  # NaN fails every comparison
        finite = "a finite number" + f" of at least {least:g}" * math.isfinite(least)
        limits = finite if below == math.inf else f"in [{least:g}, {below:g})"
        raise ValueError(f"{name} must be {limits}, but got {value}.")


def check_parameter(tensor: Any, what: str) -> None:
    """Raise TypeError or ValueError unless `tensor`, named `what` in the message, can be optimized."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"an optimizer can only change tensors, but {what} is {described(tensor)}.")
    if not tensor.is_leaf:
        raise ValueError(
            f"can't optimize a non-leaf Tensor: {what} (shape {tuple(tensor.shape)}) is the result "
            "of an operation; pass what it was computed from, or its detach().requires_grad_()."
        )
    if tensor.dtype.kind != "f":
        raise ValueError(
            f"can't optimize {what}: its dtype is {tensor.dtype}, and only floating-point tensors have gradients."
        )


def ordered(params: Any) -> list[Any]:
    """`params` as a list; raises TypeError for a set, or for what is no iterable of tensors."""
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise TypeError(
            f"an optimizer takes a list of tensors, but was given {described(params)}; "
            "write [tensor], or model.parameters() for those of a module."
        )
    if isinstance(params, set | frozenset):
        raise TypeError("the order of a set differs from run to run, and parameters need a fixed one; pass a list.")
    return list(params)


def named_tensors(params: Any) -> tuple[list[str] | None, list[Any]]:
    """The names (or None) and the tensors of the "params" of a group."""
    items = [params] if isinstance(params, Tensor) else ordered(params)
    pairs = [item for item in items if isinstance(item, tuple) and len(item) == 2]
    if not pairs:
        return None, items
    if len(pairs) != len(items):
        raise ValueError(
            "some parameters were given as (name, tensor) and some without a name; name all of a group or none."
        )
    return [name for name, _ in pairs], [tensor for _, tensor in pairs]


def check_without_effect(name: str, options: Mapping[str, Any], own: Iterable[str]) -> None:
    """Raise unless options are those by which PyTorch chooses an implementation: TypeError, or ValueError.

    own: the options of this optimizer, for the message.
    """
    for option in options:
        if option not in ("foreach", "fused", "capturable", "differentiable"):
            raise TypeError(f"{name} has no option {option!r}; it has {', '.join(own)}.")
    if options.get("differentiable"):
        raise ValueError(f"{name}: differentiable=True is not supported; a step is not recorded for gradients.")


def plain(value: Any) -> Any:
    """A NumPy scalar or a tensor of one as a Python number: it would widen arrays, and JSON has no form for it."""
    if isinstance(value, Tensor) and value.ndim == 0:
        return value.item()
    foreign = isinstance(value, Real) and type(value).__module__ != "builtins"
    return float(value) if foreign else value


def described(value: Any) -> str:
    """A value in a few words, for a message."""
    if isinstance(value, Tensor):
        return f"a single Tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {[*value]}"
    return f"{value!r} ({type(value).__name__})"
