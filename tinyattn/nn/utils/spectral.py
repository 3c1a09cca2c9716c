"""A weight divided by its largest singular value, found by power iteration. Miyato et al. 2018."""

from __future__ import annotations

from typing import Any

from tinyattn.grad_mode import no_grad
from tinyattn.nn.module import Module, Parameter
from tinyattn.ops import creation
from tinyattn.ops.mathematics import dot, mv
from tinyattn.ops.norms import normalize
from tinyattn.tensors import Tensor


def outputs(module: Module) -> int:
    """The axis of a layer's weight that counts its outputs."""
    return 1 if type(module).__name__.startswith("ConvTranspose") else 0


def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """Return the weight as (shape[dim], all other elements)."""
    return weight.movedim(dim, 0).flatten(1)


def start(matrix: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return random unit vectors u (rows,) and v (columns,)."""
    u, v = (
        normalize(creation.empty_like(matrix[:, 0] if i == 0 else matrix[0]).normal_(), dim=0, eps=eps) for i in (0, 1)
    )
    return u, v


def iterated(
    matrix: Tensor, u: Tensor, v: Tensor, times: int, eps: float, v_first: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the singular vectors after so many power iterations."""
    with no_grad():
        for _ in range(times):
            if v_first:
                v = normalize(mv(matrix.T, u), dim=0, eps=eps)
            u = normalize(mv(matrix, v), dim=0, eps=eps)
            if not v_first:
                v = normalize(mv(matrix.T, u), dim=0, eps=eps)
    return u, v


def largest(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return the largest singular value, (), for its vectors."""
    return dot(u, mv(matrix, v))


class _SpectralNorm:
    """The forward pre-hook that computes `name` from `name`_orig."""

    def __init__(self, name: str, times: int, eps: float, dim: int) -> None:
        self.name, self.times, self.eps, self.dim = name, times, eps, dim

    def quotient(self, module: Any, times: int) -> Tensor:
        """Return the divided weight, after so many iterations."""
        weight, u, v = (getattr(module, f"{self.name}_{part}") for part in ("orig", "u", "v"))
        matrix = as_matrix(weight, self.dim)
        new_u, new_v = iterated(matrix.detach(), u, v, times, self.eps, v_first=True)
        if times:
            u.copy_(new_u)
            v.copy_(new_v)
        return weight / largest(matrix, new_u, new_v)

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.quotient(module, self.times if module.training else 0))


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Replace a parameter by `name`_orig; before each forward, the module divides it by its largest singular value.

    n_power_iterations: before each forward in training. dim: the axis of the outputs, 1 for transposed convolutions.
    Returns the module. As torch.nn.utils.spectral_norm.

    >>> list(nn.utils.spectral_norm(nn.Linear(2, 3)).state_dict())
    ['bias', 'weight_orig', 'weight_u', 'weight_v']
    """
    dim = outputs(module) if dim is None else dim
    weight = getattr(module, name)
    u, v = start(as_matrix(weight.detach(), dim), eps)
    delattr(module, name)
    module.register_parameter(f"{name}_orig", weight)
    setattr(module, name, weight.detach())
    module.register_buffer(f"{name}_u", u)
    module.register_buffer(f"{name}_v", v)
    module.register_forward_pre_hook(_SpectralNorm(name, n_power_iterations, eps, dim))
    return module


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Make the parameter that `spectral_norm` replaced a parameter again; returns the module. ValueError without one.

    As torch.nn.utils.remove_spectral_norm.

    >>> list(nn.utils.remove_spectral_norm(nn.utils.spectral_norm(nn.Linear(2, 3))).state_dict())
    ['bias', 'weight']
    """
    for key, (hook, _) in module._forward_pre_hooks.items():
        if isinstance(hook, _SpectralNorm) and hook.name == name:
            weight = hook.quotient(module, 0).detach()
            del module._forward_pre_hooks[key]
            for each in (name, f"{name}_orig", f"{name}_u", f"{name}_v"):
                delattr(module, each)
            module.register_parameter(name, Parameter(weight))
            return module
    raise ValueError(f"remove_spectral_norm: {type(module).__name__} has no normalised {name!r}")
