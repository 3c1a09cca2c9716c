"""Gradient clipping, parameters as vectors, weight normalisation and packed sequences, as in torch.nn.utils."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tinyattn import backends
from tinyattn.engine.opmath import rounded
from tinyattn.nn.utils import parametrize, rnn
from tinyattn.nn.utils.spectral import remove_spectral_norm, spectral_norm
from tinyattn.nn.utils.vectors import parameters_to_vector, remove_weight_norm, vector_to_parameters, weight_norm
from tinyattn.tensors import Tensor

parametrizations = parametrize  # in PyTorch, the parametrizations that it brings

__all__ = [
    "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm", "parameters_to_vector",
    "parametrizations", "parametrize", "remove_spectral_norm", "remove_weight_norm", "rnn", "spectral_norm",
    "vector_to_parameters", "weight_norm",
]  # fmt: skip


@backends.keeps_gpu
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients, in place, so that their common norm is at most `max_norm`.

    norm_type: p of the norm of all gradients as one vector; inf for the largest absolute value.
    Returns the norm before scaling, a tensor (); 0 if no parameter has a gradient.
    An infinite norm makes finite gradients 0 and infinite ones NaN; a NaN norm makes all of them NaN.
    Raises ValueError for a negative max_norm; with error_if_nonfinite, RuntimeError for a norm that is not finite,
    and then changes nothing.
    Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks".
    As torch.nn.utils.clip_grad_norm_.

    >>> w = ta.tensor([0.0, 0.0], requires_grad=True)
    >>> w.grad = ta.tensor([3.0, 4.0])
    >>> nn.utils.clip_grad_norm_([w], max_norm=1.0).item()
    5.0
    >>> w.grad
    tensor([0.6, 0.8])
    """
    if not max_norm >= 0.0:
        raise ValueError(f"max_norm must be a number of at least 0, but got {max_norm}.")
    grads = _gradients(parameters)
    arrays = [grad.array for grad in grads]
    norm = _norm(arrays, norm_type, error_if_nonfinite)
    _scale(grads, norm, max_norm, "clip_grad_norm_")
    return Tensor._from(rounded(norm, arrays))


@backends.keeps_gpu
def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: Any = None
) -> Tensor:
    """Return the norm of all tensors as one vector, a tensor (), without a graph. As torch.nn.utils.get_total_norm.

    The arguments are those of `clip_grad_norm_`; foreach has no effect.

    >>> nn.utils.get_total_norm([ta.tensor([3.0]), ta.tensor([4.0])]).item()
    5.0
    """
    arrays = [tensor.array for tensor in ([tensors] if isinstance(tensors, Tensor) else tensors)]
    return Tensor._from(rounded(_norm(arrays, norm_type, error_if_nonfinite), arrays))


@backends.keeps_gpu
def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor, foreach: Any = None
) -> None:
    """Scale all gradients, in place, as if `total_norm`, a tensor (), were their norm; foreach has no effect.

    As torch.nn.utils.clip_grads_with_norm_.

    >>> w = ta.tensor([0.0], requires_grad=True)
    >>> w.grad = ta.tensor([3.0])
    >>> nn.utils.clip_grads_with_norm_([w], max_norm=1.0, total_norm=ta.tensor(2.0))
    >>> w.grad
    tensor([1.5])
    """
    if grads := _gradients(parameters):
        _scale(grads, total_norm.detach().to(grads[0].device).array, max_norm, "clip_grads_with_norm_")


def _norm(arrays: list[Any], norm_type: float, error_if_nonfinite: bool) -> Any:
    norm = backends.of(*arrays).total_norm(arrays, float(norm_type))
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(
            f"the gradients have a norm (norm_type={norm_type}) of {float(norm)}, so they cannot "
            "be clipped; find the overflow, or pass error_if_nonfinite=False to scale them anyway."
        )
    return norm


def _scale(grads: list[Tensor], norm: Any, max_norm: float, writer: str) -> None:
    arrays = [grad.array for grad in grads]
    backends.of(*arrays).clip_to_norm(arrays, norm, max_norm)
    for grad in grads:
        grad._wrote(writer)


@backends.keeps_gpu
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clip every element of the gradients, in place, to -clip_value ... clip_value.

    Raises ValueError for a negative clip_value. As torch.nn.utils.clip_grad_value_.

    >>> w = ta.tensor([0.0, 0.0], requires_grad=True)
    >>> w.grad = ta.tensor([-3.0, 0.5])
    >>> nn.utils.clip_grad_value_([w], 1.0)
    >>> w.grad.tolist()
    [-1.0, 0.5]
    """
    if not clip_value >= 0.0:
        raise ValueError(f"clip_value must be a number of at least 0, but got {clip_value}.")
    grads = _gradients(parameters)
    arrays = [grad.array for grad in grads]
    backends.of(*arrays).clip_to_value(arrays, clip_value)
    for grad in grads:
        grad._wrote("clip_grad_value_")


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The gradients of one tensor or several, without None."""
    tensors = [parameters] if isinstance(parameters, Tensor) else parameters
    return [tensor.grad for tensor in tensors if tensor.grad is not None]
