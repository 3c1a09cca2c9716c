"""Hooks of modules' states and of optimizers, which programs written for PyTorch register."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping
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


def _extra(module: Any, prefix: str = "") -> dict[str, Any]:
    """The modules that have a state beside their tensors, by its name."""
    modules = module.named_modules(remove_duplicate=False)
    places = {f"{prefix}{path}." if path else prefix: each for path, each in modules}
    base: Any = nn.Module
    return {f"{path}_extra_state": each for path, each in places.items()
            if type(each).get_extra_state is not base.get_extra_state
            or type(each).set_extra_state is not base.set_extra_state}  # fmt: skip


def _no_extra_state(self: Any, *state: Any) -> Any:
    """Raise RuntimeError: a subclass that has a state beside its tensors defines both. As in torch.nn.Module."""
    raise RuntimeError(f"{type(self).__name__} has one of get_extra_state and set_extra_state; define both, or none")


def _with_extra_state(load: Callable[..., Any]) -> Callable[..., Any]:
    """Module.load_state_dict that gives modules their states beside tensors, once the tensors are loaded."""

    @functools.wraps(load)
    def call(self: Any, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        modules = _extra(self)
        if not modules or not isinstance(state_dict, Mapping):
            return load(self, state_dict, strict, assign)
        missing = [name for name in modules if name not in state_dict]
        if missing and strict:
            raise RuntimeError(f"the state does not fit {type(self).__name__}: {missing[0]!r} is missing")
        result = load(self, {k: v for k, v in state_dict.items() if k not in modules}, strict, assign)
        for name, module in modules.items():
            if name in state_dict:
                module.set_extra_state(state_dict[name])
        result.missing_keys.extend(missing)
        return result

    return call


def _after_own(found: Any, name: str, value: Any) -> None:
    """Add a value to a state in the place that PyTorch gives it: after the tensors of the module itself."""
    prefix = name.removesuffix("_extra_state")
    names = list(found)
    own = [i for i, n in enumerate(names) if n.startswith(prefix) and "." not in n[len(prefix) :]]
    below = [i for i, n in enumerate(names) if n.startswith(prefix)]
    place = own[-1] + 1 if own else below[0] if below else len(names)
    later = {n: found.pop(n) for n in names[place:]}
    found[name] = value
    found.update(later)


def _with_state_hooks(state_dict: Callable[..., Any]) -> Callable[..., Any]:
    """Module.state_dict between its hooks, those of children first."""

    @functools.wraps(state_dict)
    def call(self: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        modules = self.named_modules(remove_duplicate=False)
        places = [(f"{prefix}{path}." if path else prefix, module) for path, module in modules]
        if destination is None:
            destination = collections.OrderedDict()
            destination._metadata = collections.OrderedDict()
        versions: Any = getattr(destination, "_metadata", {})
        for path, module in places:
            versions[path[:-1]] = {"version": module._version}
            for hook in _hooks(module, "_state_dict_pre"):
                hook(module, path, keep_vars)
        found = state_dict(self, destination, prefix, keep_vars)
        for name, module in _extra(self, prefix).items():
            _after_own(found, name, module.get_extra_state())
        for path, module in reversed(places):
            for hook in _hooks(module, "_state_dict_post"):
                changed = hook(module, found, path, versions[path[:-1]])
                found = found if changed is None else changed
        return found

    return call


def extend() -> None:
    """Give modules and optimizers the methods that register these hooks, and the hooks their effect."""
    module: Any = nn.Module
    module.get_extra_state = module.set_extra_state = _no_extra_state
    module._version, nn.normalization._NormBase._version = 1, 2  # type: ignore[attr-defined]  # of their states
    module.state_dict = _with_state_hooks(module.state_dict)
    module.load_state_dict = _with_extra_state(module.load_state_dict)
    module.register_state_dict_pre_hook = _registering("_state_dict_pre")
    module._register_state_dict_hook = module.register_state_dict_post_hook = _registering("_state_dict_post")
    base: Any = optim.Optimizer
    base.register_step_pre_hook, base.register_step_post_hook = map(_registering_step, ("_step_pre", "_step_post"))
