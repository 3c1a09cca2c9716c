"""Hooks of modules' states and of optimizers, which programs written for PyTorch register."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tinyattn import nn, optim
from tinyattn.nn.module import RemovableHandle


def _hooks(owner: Any, kind: str) -> tuple[Any, ...]:
    return tuple(vars(owner).get(kind, {}).values())


def _registering(kind: str) -> Callable[..., RemovableHandle]:
    return lambda self, hook, prepend=False: RemovableHandle(self.__dict__.setdefault(kind, {}), hook, prepend)


def _registering_step(kind: str) -> Callable[..., RemovableHandle]:
    """The method that registers a hook, and gives the class a step that runs it: not before, since that takes time."""

    def register(self: Any, hook: Any) -> RemovableHandle:
        step = type(self).step
        if not hasattr(step, "hooked"):

            @functools.wraps(step)
            def call(*args: Any, **options: Any) -> Any:
                self = args[0]  # hooks get it among the arguments too
                for each in _hooks(self, "_step_pre"):
                    args, options = each(self, args, options) or (args, options)
                result = step(*args, **options)
                for each in _hooks(self, "_step_post"):
                    each(self, args, options)
                return result

            call.hooked = True  # type: ignore[attr-defined]
            type(self).step = call
        return _registering(kind)(self, hook)

    return register


def _with_state_hooks(state_dict: Callable[..., Any]) -> Callable[..., Any]:
    """Module.state_dict between its hooks, those of children first."""

    @functools.wraps(state_dict)
    def call(self: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        modules = self.named_modules(remove_duplicate=False)
        places = [(f"{prefix}{path}." if path else prefix, module) for path, module in modules]
        for path, module in places:
            for hook in _hooks(module, "_state_dict_pre"):
                hook(module, path, keep_vars)
        found = state_dict(self, destination, prefix, keep_vars)
        for path, module in reversed(places):
            for hook in _hooks(module, "_state_dict_post"):
                changed = hook(module, found, path, {})
                found = found if changed is None else changed
        return found

    return call


def extend() -> None:
    """Give modules and optimizers the methods that register these hooks, and the hooks their effect."""
    module: Any = nn.Module
    module.state_dict = _with_state_hooks(module.state_dict)
    module.register_state_dict_pre_hook = _registering("_state_dict_pre")
    module._register_state_dict_hook = module.register_state_dict_post_hook = _registering("_state_dict_post")
    base: Any = optim.Optimizer
    base.register_step_pre_hook, base.register_step_post_hook = map(_registering_step, ("_step_pre", "_step_post"))
