"""Hooks that every module calls, before its own, as in torch.nn.modules.module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyattn.engine.hooks import RemovableHandle, of_every_module

__all__ = [
    "register_module_backward_hook", "register_module_forward_hook", "register_module_forward_pre_hook",
    "register_module_full_backward_hook", "register_module_full_backward_pre_hook",
]  # fmt: skip


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook(module, args)` before the forward of every module; a result other than None replaces args.

    As torch.nn.modules.module.register_module_forward_pre_hook.
    """
    return RemovableHandle(of_every_module["_forward_pre_hooks"], (hook, False))


def register_module_forward_hook(hook: Callable[..., Any], *, with_kwargs: bool = False) -> RemovableHandle:
    """Call `hook(module, args, output)` after the forward of every module; a result other than None replaces output.

    with_kwargs: `hook(module, args, kwargs, output)`. As torch.nn.modules.module.register_module_forward_hook.

    >>> names = []
    >>> with nn.every_module.register_module_forward_hook(lambda m, args, out: names.append(type(m).__name__)):
    ...     out = nn.Sequential(nn.Linear(2, 2), nn.ReLU())(ta.ones(1, 2))
    >>> names
    ['Linear', 'ReLU', 'Sequential']
    """
    return RemovableHandle(of_every_module["_forward_hooks"], (hook, with_kwargs))


def register_module_full_backward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook(module, grad_output)` of every module, as `Module.register_full_backward_pre_hook` does of one.

    As torch.nn.modules.module.register_module_full_backward_pre_hook.
    """
    return RemovableHandle(of_every_module["_backward_pre_hooks"], hook)


def register_module_full_backward_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook(module, grad_input, grad_output)` of every module, as `Module.register_full_backward_hook` of one.

    As torch.nn.modules.module.register_module_full_backward_hook.
    """
    return RemovableHandle(of_every_module["_backward_hooks"], hook)


register_module_backward_hook = register_module_full_backward_hook  # its older name
