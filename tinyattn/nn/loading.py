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
from tinyattn.ops.methods import to
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
                convert(own[name], functools.partial(to, dtype=value.dtype, device=value.device))
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
        missing: list[str] = []
        unexpected: list[str] = []
        modules, done = dict(self.named_modules()), set()
        if isinstance(state_dict, Mapping):
            versions = getattr(state_dict, "_metadata", {})
            state_dict = dict(state_dict)  # hooks may change it
            done = self._load_by_themselves(modules, state_dict, versions, strict, missing, unexpected)
        after = [(module, hook) for module in modules.values() for hook in module._load_post_hooks.values()]
        own = {name: x for name, x in self._state() if name.rpartition(".")[0] not in done}
        found = load(state_dict, own, strict and not after, type(self).__name__, assign)
        result = LoadResult(missing + found.missing_keys, unexpected + found.unexpected_keys)
        for module, hook in after:
            hook(module, result)
        if strict and any(result):
            raise RuntimeError(f"the state does not fit {type(self).__name__}: {result!r}")
        return result

    def _load_by_themselves(
        self, modules: dict[str, Any], state: dict[str, Any], versions: dict[str, Any], strict: bool,
        missing: list[str], unexpected: list[str],
    ) -> set[str]:  # fmt: skip
        """Run the hooks, and the modules that override `_load_from_state_dict`. Takes their names out of `state`, and
        returns their paths. Raises RuntimeError for what they report."""
        done, errors = set(), list[str]()
        for path, module in modules.items():
            prefix, local = f"{path}." if path else "", versions.get(path, {})
            if type(module)._load_from_state_dict is Loadable._load_from_state_dict:
                module._run_load_hooks(state, prefix, local, strict, [], [], [])
                continue
            module._load_from_state_dict(state, prefix, local, strict, missing, unexpected, errors)
            done.add(path)
            for name in [n for n in state if n.startswith(prefix)]:
                if name[len(prefix) :].partition(".")[0] not in module._modules:
                    del state[name]
        if strict and not any(module._load_post_hooks for module in modules.values()):
            errors += [f"{n!r} is missing" for n in missing] + [f"{n!r} is unexpected" for n in unexpected]
        if errors:
            raise RuntimeError("the state does not fit " + type(self).__name__ + ":\n  " + "\n  ".join(errors))
        return done

    def _run_load_hooks(self, *args: Any) -> None:
        for hook in tuple(self._load_pre_hooks.values()):
            hook(*args)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Copy the values of this module's own tensors, without those below it; a subclass may override it.

        What does not fit is appended to the three lists. As torch.nn.Module._load_from_state_dict.
        """
        self._run_load_hooks(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        own = {prefix + name: x for name, x in self._state() if "." not in name}
        names = [n for n in state_dict if n.startswith(prefix)]
        below = [n for n in names if n[len(prefix) :].partition(".")[0] in self.__dict__["_modules"]]
        mine = {n: state_dict[n] for n in names if n in own}
        missing_keys += [n for n in own if n not in mine]
        if strict:
            unexpected_keys += [n for n in names if n not in own and n not in below]
        try:
            load(mine, own, False, type(self).__name__)
        except RuntimeError as error:
            error_msgs.append(str(error))

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
