"""All parameters as one vector, and a weight as length times direction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinyattn.nn.module import Module, Parameter
from tinyattn.ops.joins import cat
from tinyattn.ops.norms import vector_norm
from tinyattn.tensors import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Return the elements of all parameters, one after another: (count,). As torch.nn.utils.parameters_to_vector.

    >>> nn.utils.parameters_to_vector(nn.Linear(2, 3).parameters()).shape
    (9,)
    """
    return cat([parameter.reshape(-1) for parameter in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the elements of `vec` into the parameters, in order. Raises ValueError unless there are as many.

    As torch.nn.utils.vector_to_parameters.

    >>> layer = nn.Linear(2, 1)
    >>> nn.utils.vector_to_parameters(ta.tensor([1.0, 2.0, 3.0]), layer.parameters())
    >>> layer.bias.item()
    3.0
    """
    parameters = list(parameters)
    sizes = [parameter.numel() for parameter in parameters]
    if vec.shape != (sum(sizes),):
        raise ValueError(f"vector_to_parameters: shape {tuple(vec.shape)}; expected ({sum(sizes)},)")
    for parameter, part in zip(parameters, vec.detach().split(sizes), strict=True):
        parameter.detach().copy_(part.view_as(parameter))


def length(weight: Tensor, dim: int | None) -> Tensor:
    """Return the norm over all axes but `dim`, which are kept; over all axes, (), if it is None."""
    if dim is None:
        return vector_norm(weight)
    return vector_norm(weight, 2, [d for d in range(weight.ndim) if d != dim % weight.ndim], True)


class _WeightNorm:
    """The forward pre-hook that computes `name` from its length and its direction."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name, self.dim = name, dim

    def product(self, module: Module) -> Tensor:
        g, v = (getattr(module, f"{self.name}_{part}") for part in "gv")
        return v * (g / length(v, self.dim))

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.product(module))


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Replace a parameter by its length `name`_g and direction `name`_v; the module computes it before each forward.

    dim: the axis whose slices have a length each; None: one length. Returns the module. As
    torch.nn.utils.weight_norm. Salimans and Kingma 2016, "Weight normalization".

    >>> layer = nn.utils.weight_norm(nn.Linear(2, 3))
    >>> sorted(name for name, _ in layer.named_parameters())
    ['bias', 'weight_g', 'weight_v']
    """
    hook, weight = _WeightNorm(name, dim), getattr(module, name)
    if any(isinstance(h, _WeightNorm) and h.name == name for h, _ in module._forward_pre_hooks.values()):
        raise RuntimeError(f"weight_norm: {name!r} of {type(module).__name__} is normalised already")
    delattr(module, name)
    module.register_parameter(f"{name}_g", Parameter(length(weight.detach(), dim)))
    module.register_parameter(f"{name}_v", Parameter(weight.detach()))
    setattr(module, name, hook.product(module))
    module.register_forward_pre_hook(hook)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make the parameter that `weight_norm` replaced a parameter again; returns the module. ValueError without one.

    As torch.nn.utils.remove_weight_norm.

    >>> layer = nn.utils.remove_weight_norm(nn.utils.weight_norm(nn.Linear(2, 3)))
    >>> sorted(name for name, _ in layer.named_parameters())
    ['bias', 'weight']
    """
    for key, (hook, _) in module._forward_pre_hooks.items():
        if isinstance(hook, _WeightNorm) and hook.name == name:
            weight = hook.product(module).detach()
            del module._forward_pre_hooks[key]
            for each in (name, f"{name}_g", f"{name}_v"):
                delattr(module, each)
            module.register_parameter(name, Parameter(weight))
            return module
    raise ValueError(f"remove_weight_norm: {type(module).__name__} has no normalised {name!r}")
