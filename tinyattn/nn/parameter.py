"""Parameter: a tensor that a module trains. As torch.nn.Parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyattn.ops.creation import as_tensor
from tinyattn.tensors import Tensor


class Parameter(Tensor):
    """A tensor that a module trains: assigning it to an attribute of a Module registers it there.

    data: a Tensor or array, whose memory is shared, or nested numbers. requires_grad: False freezes it.
    A Parameter may have further attributes (`p.no_decay = True`), which copies and pickles keep.
    As torch.nn.Parameter.

    >>> layer = ta.nn.Module()
    >>> layer.scale = ta.nn.Parameter([1.0, 2.0])
    >>> [name for name, _ in layer.named_parameters()]
    ['scale']
    """

    def __init__(self, data: Any = (), requires_grad: bool = True) -> None:
        self._share(as_tensor(data).data)
        self.requires_grad_(requires_grad)

    def __deepcopy__(self, memo: dict[Any, Any]) -> Parameter:
        """Return a copy without the gradient, as in PyTorch."""
        twin: Any = super().__deepcopy__(memo)
        twin.grad = None
        return twin

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


def convert(tensor: Tensor, fn: Callable[[Tensor], Tensor]) -> None:
    """Replace the values of a leaf, and of its gradient, by those that `fn` gives: of another dtype or device."""
    moved = fn(tensor.detach()).array
    if moved is tensor.array:
        return
    requires_grad, grad = tensor.requires_grad, tensor.grad
    tensor._set(moved)
    tensor.requires_grad_(requires_grad)  # a new node: the old one has the old dtype
    tensor.grad = None if grad is None else fn(grad.detach())
