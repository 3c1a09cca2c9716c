"""Module: a tree of layers that finds its tensors by name. As torch.nn.Module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from tinyattn.engine.hooks import RemovableHandle, of_every_module
from tinyattn.engine.modes import module_stack
from tinyattn.nn.backward_hooks import BackwardHooks
from tinyattn.nn.loading import Loadable, nearest
from tinyattn.nn.moving import Movable
from tinyattn.nn.parameter import Parameter
from tinyattn.ops import creation
from tinyattn.tensors import Tensor

__all__ = ["Module", "Parameter", "RemovableHandle"]


class Module(Movable, Loadable):
    """Base of all layers and models. As torch.nn.Module.

    A subclass calls `super().__init__()`, assigns Parameters and Modules to attributes, and defines `forward`;
    calling the module runs it. All iteration is in the order of assignment.

    >>> class Scale(ta.nn.Module):
    ...     def __init__(self, size):
    ...         super().__init__()
    ...         self.factor = ta.nn.Parameter(ta.ones(size))
    ...
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> scale = Scale(2)
    >>> scale(ta.tensor([3.0, 4.0])).tolist()
    [3.0, 4.0]
    >>> scale.state_dict()
    {'factor': tensor([1., 1.])}
    """

    _shown = ""  # what `extra_repr` returns, a format: "{0.in_features}, bias={bias}"
    training: bool
    forward: Callable[..., Any]  # defined by a subclass

    def __init__(self) -> None:
        self.training = True
        self._parameters: dict[str, Parameter | None] = {}
        self._buffers: dict[str, Tensor | None] = {}
        self._modules: dict[str, Module | None] = {}
        self._non_persistent_buffers_set: set[str] = set()  # names of buffers that state_dict leaves out
        self._forward_pre_hooks: dict[int, tuple[Callable[..., Any], bool]] = {}
        self._forward_hooks: dict[int, tuple[Callable[..., Any], bool]] = {}
        self._backward_pre_hooks: dict[int, Callable[..., Any]] = {}
        self._backward_hooks: dict[int, Callable[..., Any]] = {}
        self._load_pre_hooks: dict[int, Callable[..., Any]] = {}
        self._load_post_hooks: dict[int, Callable[..., Any]] = {}

    # --- attributes: parameters, modules and buffers are kept in one registry each, by name ---

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter | Module):
            self._register("_parameters" if isinstance(value, Parameter) else "_modules", name, value)
            return
        for registry, kind in _KINDS.items():
            if name in self.__dict__.get(registry, ()):
                if value is not None and not isinstance(value, kind):
                    raise TypeError(
                        f"{type(self).__name__}.{name} is a {kind.__name__}, and a {type(value).__name__} "
                        f"cannot replace it; assign a {kind.__name__} or None, or write into it with "
                        "copy_() under no_grad()"
                    )
                self.__dict__[registry][name] = value
                return
        super().__setattr__(name, value)

    def _register(self, registry: str, name: str, value: Any) -> None:
        if registry not in self.__dict__:
            raise AttributeError(self._forgotten(f"assigning {name!r}"))
        for other in (self.__dict__, *(self.__dict__[r] for r in _KINDS if r != registry)):
            other.pop(name, None)
        self.__dict__[registry][name] = value  # a name assigned again keeps its place

    def __getattr__(self, name: str) -> Any:  # only when the ordinary look-up found nothing
        for registry in _KINDS:
            found = self.__dict__.get(registry, {})
            if name in found:
                return found[name]
        if "_modules" not in self.__dict__:
            raise AttributeError(self._forgotten(f"reading {name!r}"))
        if name == "forward":
            raise AttributeError(f"{type(self).__name__} has no forward(); define it to call the module")
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{nearest(name, dir(self))}")

    def __delattr__(self, name: str) -> None:
        for registry in _KINDS:
            if name in self.__dict__.get(registry, ()):
                del self.__dict__[registry][name]
                self._non_persistent_buffers_set.discard(name)
                return
        super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__()}.union(*(self.__dict__.get(registry, ()) for registry in _KINDS)))

    def _forgotten(self, doing: str) -> str:
        name = type(self).__name__
        return f"{name} was not initialised before {doing}; call super().__init__() first in {name}.__init__"

    def _add(self, registry: str, name: str, value: Any) -> None:
        """Register by name, with the checks that Python makes for an assignment."""
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(f"{name!r} cannot name a part of a module; give a non-empty string without a dot")
        known = any(name in self.__dict__.get(r, ()) for r in _KINDS)
        if hasattr(self, name) and not known:
            raise KeyError(f"{type(self).__name__} has an attribute {name!r} already; choose another name")
        kind = _KINDS[registry]
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name!r} is a {type(value).__name__}; expected a {kind.__name__} or None")
        self._register(registry, name, value)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under `name`; None reserves the name for an absent one.

        Raises KeyError for a name that is taken or has a dot, TypeError for anything but a Parameter.
        """
        self._add("_parameters", name, param)

    def _add_parameters(self, device: Any, dtype: Any, **shapes: Any) -> None:
        """Add parameters of these shapes by name, without values; None in place of a shape: an absent one."""
        for name, shape in shapes.items():
            unset = None if shape is None else Parameter(creation.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, unset)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is part of the state but not trained; persistent=False leaves it out of state_dict.

        Raises KeyError for a name that is taken or has a dot, TypeError for anything but a Tensor.
        """
        self._add("_buffers", name, tensor)
        (self._non_persistent_buffers_set.discard if persistent else self._non_persistent_buffers_set.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child under `name`.

        Raises KeyError for a name that is taken or has a dot, TypeError for anything but a Module.
        """
        self._add("_modules", name, module)

    register_module = add_module

    # --- one part, by its path ---

    def get_submodule(self, target: str) -> Module:
        """Return the module at a path such as "blocks.0.linear", "" for this one. Raises AttributeError if none is."""
        module = self
        for name in target.split(".") if target else ():
            if module._modules.get(name) is None:
                near = nearest(target, dict(self.named_modules()))
                raise AttributeError(f"{self._get_name()} has no module {target!r}{near}")
            module = module._modules[name]  # type: ignore[assignment]
        return module

    def set_submodule(self, target: str, module: Module) -> None:
        """Put a module in place of the one at a path such as "blocks.0.linear". Raises AttributeError if none is."""
        path, _, name = target.rpartition(".")
        self.get_submodule(target)
        self.get_submodule(path)._register("_modules", name, module)

    def _get_tensor(self, registry: str, target: str) -> Any:
        path, _, name = target.rpartition(".")
        found = self.get_submodule(path).__dict__[registry].get(name)
        if found is None:
            near = nearest(target, dict(self._named_tensors(registry, "", True, False)))
            raise AttributeError(f"{self._get_name()} has no {registry[1:-1]} {target!r}{near}")
        return found

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter at a path such as "linear.weight". Raises AttributeError if none is there."""
        return self._get_tensor("_parameters", target)

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer at a path such as "norm.running_mean". Raises AttributeError if none is there."""
        return self._get_tensor("_buffers", target)

    # --- iteration, in the order of assignment, without duplicates ---

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """Yield (path, module) of this module and all below it: ("", self), ("blocks.0", ...), ..."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self._modules.items():
            if child is not None:
                yield from child.named_modules(memo, _join(prefix, name), remove_duplicate)

    def _named_tensors(
        self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(None, prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, tensor in module.__dict__[registry].items():
                if tensor is None or id(tensor) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(tensor))
                yield _join(path, name), tensor

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield (path, parameter) of this module and, with recurse, of all below it."""
        return self._named_tensors("_parameters", prefix, recurse, remove_duplicate)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (path, buffer) of this module and, with recurse, of all below it."""
        return self._named_tensors("_buffers", prefix, recurse, remove_duplicate)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the modules directly below."""
        seen: set[Module] = set()
        for name, child in self._modules.items():
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield all parameters, each once, for an optimizer."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield all buffers, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def children(self) -> Iterator[Module]:
        """Yield the modules directly below, each once."""
        return (child for _, child in self.named_children())

    # --- state ---

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Parameters, then persistent buffers, of each module; a shared one under all its names."""
        for path, module in self.named_modules(remove_duplicate=False):
            for name, tensor in (module._parameters | module._buffers).items():
                if tensor is not None and name not in module._non_persistent_buffers_set:
                    yield prefix + _join(path, name), tensor

    def state_dict(self, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> dict[str, Tensor]:
        """Return name -> tensor, sharing memory with the module; detached unless keep_vars.

        destination: a dict to add to. prefix: put before every name, with its dot: "model.".
        """
        destination = {} if destination is None else destination
        destination.update((name, t if keep_vars else t.detach()) for name, t in self._state(prefix))
        return destination

    # --- all modules and tensors at once ---

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` on every module below, then on this one, for example to initialise them."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set the training mode (dropout drops) here and below."""
        if not isinstance(mode, bool):
            raise ValueError(f"train: mode={mode!r}; expected True or False")
        self.training = mode
        for child in self.children():  # a child may have a train() of its own
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Set the evaluation mode (dropout does nothing) here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set requires_grad of all parameters; False freezes them."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to None, or with set_to_none=False to zeros."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = None if set_to_none else parameter.grad.detach().zero_()

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.parameters(recurse=False)
        yield from self.buffers(recurse=False)

    # --- print ---

    def extra_repr(self) -> str:
        """Return the text between the brackets of the repr, such as the sizes of a layer; by default from `_shown`."""
        return self._shown.format(self, bias=self.__dict__.get("_parameters", {}).get("bias") is not None)

    def _repr_children(self) -> Iterable[str]:
        return (f"({name}): {child!r}" for name, child in self._modules.items())

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra, children = self.extra_repr(), list(self._repr_children())
        if not children and "\n" not in extra:
            return f"{self._get_name()}({extra})"
        lines = "\n".join([extra, *children] if extra else children)
        return f"{self._get_name()}(\n  " + lines.replace("\n", "\n  ") + "\n)"

    # --- running, between hooks ---

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward` between the forward pre-hooks and the forward hooks."""
        token = module_stack.set((*module_stack.get(), self))
        try:
            return self._run(args, kwargs)
        finally:
            module_stack.reset(token)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = self._forward_pre_hooks or self._forward_hooks or self._backward_hooks or self._backward_pre_hooks
        if not own and not any(of_every_module.values()):
            return self.forward(*args, **kwargs)
        for hook, with_kwargs in self._hooks("_forward_pre_hooks"):
            if with_kwargs:
                args, kwargs = hook(self, args, kwargs) or (args, kwargs)
            elif (changed := hook(self, args)) is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        around, before, after = None, self._hooks("_backward_pre_hooks"), self._hooks("_backward_hooks")
        if before or after:
            around = BackwardHooks(self, before, after)
            args = around.enter(args)
        output = self.forward(*args, **kwargs)
        for hook, with_kwargs in self._hooks("_forward_hooks"):
            changed = hook(self, args, kwargs, output) if with_kwargs else hook(self, args, output)
            output = output if changed is None else changed
        return around.leave(output) if around else output

    def _hooks(self, registry: str) -> tuple[Any, ...]:
        return (*of_every_module[registry].values(), *self.__dict__[registry].values())

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)` before each forward; a result other than None replaces args.

        with_kwargs: `hook(module, args, kwargs)`, returning None or (args, kwargs).
        prepend: before the hooks registered earlier.
        """
        return RemovableHandle(self._forward_pre_hooks, (hook, with_kwargs), prepend)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args, output)` after each forward; a result other than None replaces the output.

        with_kwargs: `hook(module, args, kwargs, output)`. prepend: before the hooks registered earlier.
        """
        return RemovableHandle(self._forward_hooks, (hook, with_kwargs), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call `hook(module, grad_output)` when the gradients of the output are complete.

        grad_output: a tuple with the gradient of each output tensor, None for one that has none; a result other
        than None replaces it. prepend: before the hooks registered earlier.
        """
        return RemovableHandle(self._backward_pre_hooks, hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` when the gradients of the inputs are complete.

        grad_input: a tuple with the gradient of each positional argument, None for one that requires none; a result
        other than None replaces it (None in a tuple: zeros). grad_output: as for the pre-hook.
        While there are hooks, input and output pass through views, so neither can be changed in place.
        """
        return RemovableHandle(self._backward_hooks, hook, prepend)

    register_backward_hook = register_full_backward_hook  # its older name


_KINDS: dict[str, type] = {"_parameters": Parameter, "_modules": Module, "_buffers": Tensor}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
