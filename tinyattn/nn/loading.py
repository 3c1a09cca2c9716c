"""Copying a saved state into the tensors of a module, once all of it has been validated."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tinyattn.engine.modes import no_grad
from tinyattn.ops.creation import as_tensor
from tinyattn.tensors import Tensor


class LoadResult(NamedTuple):
    """The result of `load_state_dict`: names that the state lacks, and names that the module lacks."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not any(self):
            return "<All keys matched successfully>"
        return f"LoadResult(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def load(state_dict: Mapping[str, Any], own: Mapping[str, Tensor], strict: bool, module: str) -> LoadResult:
    """Copy the values of `state_dict` into the tensors `own` of a `module` of that class name.

    Raises RuntimeError, with all problems at once, before anything is changed.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"load_state_dict got a {type(state_dict).__name__}; expected a mapping from names")
    missing = [name for name in own if name not in state_dict]
    unexpected = [name for name in state_dict if name not in own]
    problems: list[str] = []
    if strict:
        problems += [f"{n!r} is missing{nearest(n, unexpected, 'given')}" for n in missing]
        problems += [f"{n!r} is unexpected{nearest(n, missing or own)}" for n in unexpected]
    values: dict[str, Tensor] = {}
    for name in (name for name in own if name in state_dict):
        try:
            value = values[name] = as_tensor(state_dict[name])
        except (TypeError, ValueError, RuntimeError) as why:
            problems.append(f"{name!r} is a {type(state_dict[name]).__name__}, not a tensor ({why})")
            continue
        if value.shape != own[name].shape:
            problems.append(f"{name!r} has shape {tuple(value.shape)}, but here it is {tuple(own[name].shape)}")
    if problems:
        listed = "\n  ".join(problems)
        raise RuntimeError(f"the state does not fit {module}, nothing was loaded:\n  {listed}")
    with no_grad():
        for name, value in values.items():
            own[name].copy_(value)
    return LoadResult(missing, unexpected)


def nearest(name: str, names: Iterable[str], whose: str = "here") -> str:
    """The name most alike, as the end of a message; "" if none is."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" (nearest {whose}: {near[0]!r})" if near else ""
