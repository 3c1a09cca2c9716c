"""torch.nn.utils.prune: parameters of modules times masks of 0 and 1, which the pruning methods choose.

A pruned parameter `weight` becomes the parameter `weight_orig` and the buffer `weight_mask`; before each call, a hook
of the module sets `weight` to their product.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

import tinyattn as ta
from tinyattn import nn


class BasePruningMethod:
    """Choose what to prune; a subclass defines compute_mask. As torch.nn.utils.prune.BasePruningMethod.

    PRUNING_TYPE: of a parameter pruned before, compute_mask gets the elements left ("unstructured"), the slices of
    axis self.dim that have any left ("structured"), or all ("global").
    """

    PRUNING_TYPE, dim, _tensor_name = "unstructured", 0, ""

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """Return the mask for the scores `t`, 0 where default_mask is."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_mask(t, default_mask)")

    def __call__(self, module: Any, inputs: Any) -> None:
        """Set the parameter; the hook before each call of the module."""
        name = self._tensor_name
        setattr(module, name, getattr(module, f"{name}_mask") * getattr(module, f"{name}_orig"))

    def narrowed(self, t: Any, mask: Any) -> Any:
        """Return the mask for the scores `t` of a parameter with this mask."""
        if self.PRUNING_TYPE == "global" or bool((mask == 1).all()):
            return self.compute_mask(t, mask)
        others = [d for d in range(t.ndim) if d != self.dim % t.ndim]
        part: Any = (slice(None),) * (self.dim % t.ndim) + (mask.sum(others) != 0,) if others else mask != 0
        left, new = mask == 1 if self.PRUNING_TYPE == "unstructured" else part, mask.clone()
        new[left] = self.compute_mask(t[left], mask[left])
        return new

    @classmethod
    def apply(cls, module: Any, name: str, *args: Any, importance_scores: Any = None, **kwargs: Any) -> Any:
        """Prune parameter `name` of a module by cls(*args, **kwargs), which is returned, and by the scores, instead of
        its values."""
        method = cls(*args, **kwargs)
        method._tensor_name = name
        values = getattr(module, name)
        scores = values if importance_scores is None else importance_scores
        if scores.shape != values.shape:
            raise ValueError(f"{cls.__name__}: importance_scores {tuple(scores.shape)}; expected {tuple(values.shape)}")
        first = not hasattr(module, f"{name}_mask")
        mask = ta.ones_like(values.detach()) if first else getattr(module, f"{name}_mask").clone()
        mask = method.narrowed(scores.detach(), mask).to(values.dtype)
        if first:
            module.register_parameter(f"{name}_orig", module._parameters.pop(name))
            module.register_forward_pre_hook(method)
        module.register_buffer(f"{name}_mask", mask)
        method(module, ())
        return method


class _Share(BasePruningMethod):
    """Prune a share of the elements, a float from 0 to 1, or a number of them."""

    def __init__(self, amount: Any) -> None:
        if not isinstance(amount, numbers.Real):
            raise TypeError(f"{type(self).__name__}: amount={amount!r}; expected a number")
        self.counted = isinstance(amount, numbers.Integral)
        if not 0 <= float(amount) <= (math.inf if self.counted else 1):
            raise ValueError(f"{type(self).__name__}: amount={amount}; expected a float from 0 to 1, or a count")
        self.amount: Any = amount

    def score(self, t: Any) -> Any:
        """The scores of the elements, of which the lowest are pruned."""
        return ta.rand_like(t)

    def count(self, size: int) -> int:
        """The number to prune, of `size`."""
        if self.counted and int(self.amount) > size:
            raise ValueError(f"{type(self).__name__}: amount={self.amount}; the tensor has only {size} to prune")
        return int(self.amount) if self.counted else round(float(self.amount) * size)

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        mask = default_mask.clone()
        mask.view(-1)[self.score(t).reshape(-1).topk(self.count(t.numel()), largest=False).indices] = 0
        return mask


class RandomUnstructured(_Share):
    """Prune random elements. As torch.nn.utils.prune.RandomUnstructured."""


class L1Unstructured(_Share):
    """Prune the elements nearest to 0. As torch.nn.utils.prune.L1Unstructured."""

    def score(self, t: Any) -> Any:
        return t.abs()


class RandomStructured(_Share):
    """Prune random slices of an axis. As torch.nn.utils.prune.RandomStructured."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: Any, dim: int = -1) -> None:
        super().__init__(amount)
        self.dim = dim

    def norms(self, t: Any) -> Any:
        """The scores of the slices."""
        return ta.rand(t.shape[self.dim], dtype=t.dtype)

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        size, mask = t.shape[self.dim], default_mask.clone()
        left = self.norms(t).topk(size - self.count(size)).indices
        keep = ta.zeros(size, dtype=mask.dtype).index_fill(0, left, 1.0)
        return mask * keep.view([-1 if d == self.dim % t.ndim else 1 for d in range(t.ndim)])


class LnStructured(RandomStructured):
    """Prune the slices of an axis with the smallest norm of order n. As torch.nn.utils.prune.LnStructured."""

    def __init__(self, amount: Any, n: Any, dim: int = -1) -> None:
        super().__init__(amount, dim)
        self.n = n

    def norms(self, t: Any) -> Any:
        return ta.norm(t, p=self.n, dim=[d for d in range(t.ndim) if d != self.dim % t.ndim])


class CustomFromMask(BasePruningMethod):
    """Prune where a mask is 0. As torch.nn.utils.prune.CustomFromMask."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Any = None) -> None:
        self.mask = mask

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        return default_mask if self.mask is None else default_mask * self.mask.to(default_mask.dtype)


def _function(method: Any) -> Any:
    def prune(module: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        method.apply(module, name, *args, **kwargs)
        return module

    return prune


Identity = type("Identity", (CustomFromMask,), {})
identity, random_unstructured, l1_unstructured = map(_function, (Identity, RandomUnstructured, L1Unstructured))
random_structured, ln_structured = _function(RandomStructured), _function(LnStructured)
custom_from_mask = _function(CustomFromMask)


def global_unstructured(
    parameters: Iterable[tuple[Any, str]], pruning_method: Any, importance_scores: Any = None, **kwargs: Any
) -> None:
    """Prune parameters, pairs of a module and a name, as if they were one. As prune.global_unstructured."""
    pairs, given = list(parameters), importance_scores or {}
    tensors = [getattr(*pair).detach() for pair in pairs]
    scores = ta.cat([given.get(pair, x).reshape(-1) for pair, x in zip(pairs, tensors, strict=True)])
    masks = [getattr(m, f"{n}_mask", ta.ones_like(x)).reshape(-1) for (m, n), x in zip(pairs, tensors, strict=True)]
    method = pruning_method(**kwargs)
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(f"global_unstructured: got {pruning_method.__name__}; expected an unstructured method")
    parts = method.narrowed(scores, ta.cat(masks)).split([x.numel() for x in tensors])
    for (module, name), part, x in zip(pairs, parts, tensors, strict=True):
        custom_from_mask(module, name, mask=part.view_as(x))


def is_pruned(module: nn.Module) -> bool:
    """Whether a module, or one below it, has a pruned parameter. As torch.nn.utils.prune.is_pruned."""
    return any(isinstance(h, BasePruningMethod) for m in module.modules() for h, _ in m._forward_pre_hooks.values())


def remove(module: Any, name: str) -> Any:
    """Make the pruned values those of the parameter `name`, without a mask. As torch.nn.utils.prune.remove."""
    for key, (hook, _) in module._forward_pre_hooks.items():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            hook(module, ())
            values = module.__dict__.pop(name)
            parameter = module._parameters.pop(f"{name}_orig")
            parameter.data = values.detach()
            del module._buffers[f"{name}_mask"], module._forward_pre_hooks[key]
            module.register_parameter(name, parameter)
            return module
    raise ValueError(f"remove: parameter {name!r} of this {type(module).__name__} is not pruned")
