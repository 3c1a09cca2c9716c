"""Copying a saved state into the tensors of a module, once all of it has been validated."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tinyattn.engine.hooks import RemovableHandle
from tinyattn.grad_mode import no_grad
from tinyattn.nn.parameter import convert
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


def load(
    state_dict: Mapping[str, Any], own: Mapping[str, Tensor], strict: bool, module: str, assign: bool = False
) -> LoadResult:
    """Copy the values of `state_dict` into the tensors `own` of a `module` of that class name.

    assign: with their dtypes and devices.

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
            if assign:
                convert(own[name], value.device, value.dtype)
            own[name].copy_(value)
    return LoadResult(missing, unexpected)


def nearest(name: str, names: Iterable[str], whose: str = "here") -> str:
    """The name most alike, as the end of a message; "" if none is."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" (nearest {whose}: {near[0]!r})" if near else ""


class Loadable:
    """The part of Module that loads a state."""

    named_modules: Callable[..., Iterator[tuple[str, Any]]]
    _state: Callable[..., Iterator[tuple[str, Tensor]]]
    _load_pre_hooks: dict[int, Callable[..., Any]]
    _load_post_hooks: dict[int, Callable[..., Any]]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> LoadResult:
        """Copy values into parameters and buffers by name: Tensors, arrays, or PyTorch's tensors.

        strict: require exactly the names of this module. assign: take the given dtypes and devices too. Raises
        RuntimeError for wrong names or shapes, and then changes nothing (with post-hooks, wrong names are found when
        all else is loaded); TypeError if state_dict is not a mapping.
        """
        modules = dict(self.named_modules())
        if isinstance(state_dict, Mapping):
            state_dict = dict(state_dict)  # hooks may change it
            for path, module in modules.items():
                for hook in tuple(module._load_pre_hooks.values()):
                    hook(state_dict, f"{path}." if path else "", {}, strict, [], [], [])
        after = [(module, hook) for module in modules.values() for hook in module._load_post_hooks.values()]
        result = load(state_dict, dict(self._state()), strict and not after, type(self).__name__, assign)
        for module, hook in after:
            hook(module, result)
        if strict and any(result):
            raise RuntimeError(f"the state does not fit {type(self).__name__}: {result!r}")
        return result

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)`
        before a state is loaded; it may change state_dict, whose names of this module begin with `prefix`."""
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def _register_load_state_dict_pre_hook(self, hook: Callable[..., Any], with_module: bool = False) -> Any:
        """As `register_load_state_dict_pre_hook`, by default without the module; models of PyTorch use it."""
        called = functools.partial(hook, self) if with_module else hook
        return RemovableHandle(self._load_pre_hooks, called)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, result)` when a state is loaded; it may take names out of the lists of `result`."""
        return RemovableHandle(self._load_post_hooks, hook)
