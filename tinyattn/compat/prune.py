"""torch.nn.utils.prune: a parameter becomes `name_orig` times a mask `name_mask`, multiplied before each forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tinyattn as ta


class _Masking:
    """The hook that multiplies; it is what `remove` and `is_pruned` look for."""

    def __init__(self, name: str) -> None:
        self._tensor_name = name

    def __call__(self, module: Any, inputs: Any = None) -> None:
        name = self._tensor_name
        vars(module)[name] = module._parameters[f"{name}_orig"] * module._buffers[f"{name}_mask"]


def _hooks(module: Any) -> dict[str, int]:
    hooks = module._forward_pre_hooks.items()
    return {hook._tensor_name: key for key, (hook, *_) in hooks if isinstance(hook, _Masking)}


def _mask(module: Any, name: str) -> Any:
    return module._buffers.get(f"{name}_mask", ta.ones_like(getattr(module, name), requires_grad=False))


def custom_from_mask(module: Any, name: str, mask: Any) -> Any:
    """Prune where `mask` is 0, beside what is pruned already. As torch.nn.utils.prune.custom_from_mask."""
    mask = _mask(module, name) * mask
    if name not in _hooks(module):
        module.register_parameter(f"{name}_orig", module._parameters.pop(name))
        module.register_forward_pre_hook(_Masking(name))
    module.register_buffer(f"{name}_mask", mask)
    _Masking(name)(module)
    return module


def _without_lowest(scores: Any, kept: Any, amount: Any) -> Any:
    """The mask `kept`, but 0 at the lowest scores among those that it keeps: `amount`, a number or a share."""
    size = int((kept != 0).sum())
    if not (0 <= amount <= 1 if isinstance(amount, float) else 0 <= amount <= size):
        raise ValueError(f"amount={amount!r}; expected a share from 0.0 to 1.0, or a number from 0 to {size}")
    order = scores.detach().masked_fill(kept == 0, ta.inf).reshape(-1).argsort(stable=True)
    lowest = order[: round(amount * size) if isinstance(amount, float) else amount]
    return kept.reshape(-1).index_fill(0, lowest, 0).reshape(kept.shape)


def _scored(name: str, score: Callable[..., Any]) -> Callable[..., Any]:
    def prune(module: Any, name: str, amount: Any, importance_scores: Any = None) -> Any:
        scores = score(getattr(module, name) if importance_scores is None else importance_scores)
        return custom_from_mask(module, name, _without_lowest(scores, _mask(module, name), amount))

    prune.__name__, prune.__doc__ = name, f"As torch.nn.utils.prune.{name}: amount is a number, or a share (a float)."
    return prune


l1_unstructured = _scored("l1_unstructured", ta.abs)
random_unstructured = _scored("random_unstructured", ta.rand_like)


def is_pruned(module: Any) -> bool:
    """Return whether a parameter here or below has a mask. As torch.nn.utils.prune.is_pruned."""
    return any(_hooks(m) for m in module.modules())


def remove(module: Any, name: str) -> Any:
    """Make the masked values the parameter again. As torch.nn.utils.prune.remove."""
    if name not in _hooks(module):
        raise ValueError(f"remove: parameter {name!r} of {type(module).__name__} is not pruned")
    del module._forward_pre_hooks[_hooks(module)[name]], vars(module)[name]
    weight, mask = module._parameters.pop(f"{name}_orig"), module._buffers.pop(f"{name}_mask")
    with ta.no_grad():
        weight.mul_(mask)
    module.register_parameter(name, weight)
    return module
