"""Parameters computed from others at each access, as torch.nn.utils.parametrize and parametrizations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tinyattn.grad_mode import no_grad
from tinyattn.nn.containers import ModuleDict, ModuleList
from tinyattn.nn.module import Module, Parameter
from tinyattn.nn.utils import spectral
from tinyattn.nn.utils.orthogonal import MAPS, Orthogonal
from tinyattn.nn.utils.vectors import length
from tinyattn.tensors import Tensor

__all__ = [
    "ParametrizationList", "cached", "is_parametrized", "orthogonal", "register_parametrization",
    "remove_parametrizations", "spectral_norm", "weight_norm",
]  # fmt: skip


class ParametrizationList(ModuleList):
    """The modules that compute one tensor, in order, and what the first one gets: `original`, or original0, 1 ...

    As torch.nn.utils.parametrize.ParametrizationList.
    """

    def __init__(self, modules: list[Module], original: Tensor, unsafe: bool = False) -> None:
        super().__init__(modules)
        with no_grad():
            found: Any = original
            for module in reversed(modules):
                with contextlib.suppress(NotImplementedError):  # of a map that cannot be inverted
                    found = module.right_inverse(found) if hasattr(module, "right_inverse") else found
        self.is_tensor = isinstance(found, Tensor)
        for name, each in zip(self._names(1 if self.is_tensor else len(found)), self._listed(found), strict=True):
            if isinstance(original, Parameter) and self.is_tensor:
                original.data = each.detach()
                self.register_parameter(name, original)  # an optimizer may hold it
            elif isinstance(original, Parameter):
                self.register_parameter(name, Parameter(each.detach()))
            else:
                self.register_buffer(name, each)

    @staticmethod
    def _names(count: int) -> list[str]:
        return ["original"] if count == 1 else [f"original{i}" for i in range(count)]

    def _listed(self, found: Any) -> list[Any]:
        return [found] if self.is_tensor else list(found)

    def right_inverse(self, value: Tensor) -> None:
        """Write into the originals what gives `value`."""
        with no_grad():
            found: Any = value
            for module in reversed(list(self)):
                found = module.right_inverse(found)
            listed = self._listed(found)
            for name, each in zip(self._names(len(listed)), listed, strict=True):
                getattr(self, name).copy_(each)

    def forward(self) -> Tensor:
        """Return the computed tensor."""
        count = 1 if self.is_tensor else len(self._parameters) + len(self._buffers)
        found: Any = [getattr(self, name) for name in self._names(count)]
        for module in self:
            found = module(*found) if isinstance(found, list) else module(found)
        return found


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Compute a parameter or buffer of `module` by `parametrization(original)` whenever it is read.

    The original is `module.parametrizations.NAME.original`; a parametrization with `right_inverse` gets it from the
    present value. Several of one tensor follow one another. Returns the module. Raises ValueError for a name that is
    neither. As torch.nn.utils.parametrize.register_parametrization.

    >>> class Symmetric(nn.Module):
    ...     def forward(self, x):
    ...         return x.triu() + x.triu(1).T
    >>> layer = nn.utils.parametrize.register_parametrization(nn.Linear(2, 2), "weight", Symmetric())
    >>> bool((layer.weight == layer.weight.T).all()), list(layer.state_dict())
    (True, ['bias', 'parametrizations.weight.original'])
    """
    if is_parametrized(module, tensor_name):
        module.parametrizations[tensor_name].append(parametrization)
        return module
    if tensor_name not in {**module._parameters, **module._buffers}:
        raise ValueError(
            f"register_parametrization: {type(module).__name__} has no parameter or buffer {tensor_name!r}; "
            f"it has {[*module._parameters, *module._buffers]}"
        )
    found = ParametrizationList([parametrization], getattr(module, tensor_name), unsafe)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        kind = type(module)
        module.__class__ = type(f"Parametrized{kind.__name__}", (kind,), {"__module__": kind.__module__})
        module.parametrizations = ModuleDict()
    module.parametrizations[tensor_name] = found
    setattr(type(module), tensor_name, _computed(tensor_name))
    return module


def _computed(name: str) -> property:
    def read(self: Any) -> Any:
        return self.parametrizations[name]()

    return property(read, lambda self, value: self.parametrizations[name].right_inverse(value))


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Return whether `module`, or this tensor of it, is parametrized. As torch.nn.utils.parametrize.is_parametrized."""
    held = module._modules.get("parametrizations")
    return isinstance(held, ModuleDict) and (tensor_name is None or tensor_name in held)


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make a computed tensor a parameter (or buffer) again, of its present value. Returns the module.

    leave_parametrized: False restores the original instead. Raises ValueError if it is not parametrized.
    As torch.nn.utils.parametrize.remove_parametrizations.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"remove_parametrizations: {tensor_name!r} of {type(module).__name__} is not parametrized")
    held = module.parametrizations[tensor_name]
    if not (leave_parametrized or held.is_tensor):
        raise ValueError(f"remove_parametrizations: {tensor_name!r} has several originals; use leave_parametrized=True")
    value = (held() if leave_parametrized else held.original).detach()
    del module.parametrizations[tensor_name]
    if len(module.parametrizations):
        delattr(type(module), tensor_name)
    else:  # the class may be that of copies, too
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
    if held._parameters:
        module.register_parameter(tensor_name, Parameter(value))
    else:
        module.register_buffer(tensor_name, value)
    return module


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """Compute at each access all the same. As torch.nn.utils.parametrize.cached, without its cache."""
    yield


class _WeightNorm(Module):
    """A weight as its length, over all axes but `dim`, times its direction."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / length(v, self.dim))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return length(weight, self.dim), weight


class _SpectralNorm(Module):
    """A weight divided by its largest singular value, which power iterations follow in training."""

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        self.n_power_iterations, self.dim, self.eps = n_power_iterations, dim, eps
        if weight.ndim > 1:
            matrix = spectral.as_matrix(weight.detach(), dim)
            u, v = spectral.start(matrix, eps)
            u, v = spectral.iterated(matrix, u, v, 15, eps)
            self.register_buffer("_u", u)
            self.register_buffer("_v", v)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return spectral.normalize(weight, dim=0, eps=self.eps)
        matrix = spectral.as_matrix(weight, self.dim)
        if self.training:
            self._u, self._v = spectral.iterated(matrix.detach(), self._u, self._v, self.n_power_iterations, self.eps)
        return weight / spectral.largest(matrix, self._u, self._v)

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def weight_norm(module: Module, name: str = "weight", dim: int = 0) -> Module:
    """Compute a weight from its length (original0) and direction (original1). Returns the module.

    dim: the axis whose slices have a length each; None or -1: one length.
    As torch.nn.utils.parametrizations.weight_norm (Salimans and Kingma 2016, "Weight normalization").

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    >>> [tuple(p.shape) for p in layer.parameters()]
    [(3,), (3, 1), (3, 2)]
    """
    return register_parametrization(module, name, _WeightNorm(None if dim == -1 else dim))


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divide a weight by its largest singular value whenever it is read. Returns the module.

    n_power_iterations: at each access in training. dim: the axis of the outputs, 1 for transposed convolutions.
    As torch.nn.utils.parametrizations.spectral_norm (Miyato et al. 2018).

    >>> layer = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 3))
    >>> list(layer.state_dict())
    ['bias', 'parametrizations.weight.original', 'parametrizations.weight.0._u', 'parametrizations.weight.0._v']
    """
    dim = spectral.outputs(module) if dim is None else dim
    return register_parametrization(module, name, _SpectralNorm(getattr(module, name), n_power_iterations, dim, eps))


def orthogonal(
    module: Module, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> Module:
    """Make a weight (..., rows, columns) orthogonal whenever it is read: its shorter axis counts unit vectors at right
    angles. Returns the module.

    orthogonal_map: "matrix_exp" (for square weights by default), "cayley" or "householder" (for others by default).
    use_trivialization: map relative to the present weight, made orthogonal; else from 0, and only householder keeps
    the weight. Raises ValueError for another map, and for a weight of one axis.
    As torch.nn.utils.parametrizations.orthogonal (Lezcano and Martinez-Rubio 2019, "Cheap orthogonal constraints").

    >>> layer = nn.utils.parametrizations.orthogonal(nn.Linear(3, 2))
    >>> ta.allclose(layer.weight @ layer.weight.T, ta.eye(2), atol=1e-6)
    True
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        found = f"shape {tuple(weight.shape)}" if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"orthogonal: {name!r} is of {found}; expected the name of a tensor of at least two axes")
    if orthogonal_map is None:
        orthogonal_map = "matrix_exp" if weight.shape[-1] == weight.shape[-2] else "householder"
    if orthogonal_map not in MAPS:
        raise ValueError(f"orthogonal: orthogonal_map={orthogonal_map!r}; expected one of {', '.join(MAPS)}")
    return register_parametrization(module, name, Orthogonal(orthogonal_map, use_trivialization), unsafe=True)
