"""The same numbers again: copies, other dtypes, other devices."""

from __future__ import annotations

import copy
from typing import Any

from tinyattn import backends
from tinyattn.dtypes import as_dtype
from tinyattn.engine.operation import Operation, operation
from tinyattn.engine.variable import Storage, Tensor, Variable

_clone = Operation(lambda xp, x: xp.clone(x), name="clone", traits="moves", x=lambda xp, g: g)


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """Return a copy; gradients pass. memory_format: without effect. As torch.clone.

    >>> x = ta.ones(2)
    >>> ta.clone(x).array is x.array
    False
    """
    return _clone(input)


def unshared(out: Tensor, input: Tensor) -> Tensor:
    """Return `out`, or a copy of it if it lies in the input's memory: the result of an operation that gives no view."""
    return out.clone() if out.storage is input.storage else out


def alike(self: Tensor) -> Tensor:
    """Return a leaf on the same memory: what copy.copy(tensor) calls."""
    twin = rebuilt(type(self), self.array, self.requires_grad, self.storage)
    if hasattr(self, "__dict__"):  # the attributes of a Parameter
        twin.__dict__.update(self.__dict__)
    return twin


def pickled(self: Tensor) -> Any:
    """Return what makes a leaf again: what pickle calls. Raises RuntimeError for a tensor that is not a leaf."""
    if not self.is_leaf:
        raise RuntimeError(f"only leaves can be pickled, and this tensor was computed by {self.node}")
    return rebuilt, (type(self), self.array, self.requires_grad), getattr(self, "__dict__", None) or None


def rebuilt(kind: Any, array: Any, requires_grad: bool, storage: Storage | None = None) -> Tensor:
    """Return a leaf of this class on an array, with a version counter of its own unless one is given."""
    twin = kind.__new__(kind)
    twin._set(array, storage)
    return twin.requires_grad_(requires_grad)


@backends.keeps_gpu
def deepcopy(self: Tensor, memo: dict[Any, Any]) -> Tensor:
    """Return a leaf like this one; those that share memory, such as a tensor and its view, share the copy too.

    memo: of copy.deepcopy. Raises RuntimeError for a tensor that is not a leaf. As torch.Tensor.__deepcopy__.
    """
    if not self.is_leaf:
        raise RuntimeError(f"only leaves can be deep-copied, and this tensor was computed by {self.node}")
    kind: Any = type(self)
    twin: Tensor = kind.__new__(kind)
    memo[id(self)] = twin
    library, owner = backends.of(self.array), backends.owner(self.array)  # `of` makes its GPU the current one
    key = "tensor memory", id(owner)
    if key not in memo:
        memo[key] = owner, owner.copy(order="K"), Storage()  # `owner` stays, so that its id does too
    _, copied, storage = memo[key]
    twin._set(library.view_like(self.array, owner, copied), storage)
    twin.requires_grad_(self.requires_grad)
    twin.grad = copy.deepcopy(self.grad, memo)
    if hasattr(self, "__dict__"):  # the attributes of a Parameter
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
    return twin


@operation(traits="moves", view=True, x=lambda xp, g: g)
def alias(xp: Any, x: Any) -> Any:
    """Return the same array under a node of its own."""
    return x


_cast = Operation(lambda xp, x, *, dtype: xp.cast(x, dtype), name="cast", view=True, traits="moves", x=lambda xp, g: g)
_to_integers = Operation(lambda xp, x, *, dtype: xp.cast(x, dtype), name="cast")  # no rule: rounding has no slope

_move = Operation(  # the gradient goes back to where the input is
    lambda xp, x, *, device, source: backends.move(x, device),
    name="to",
    traits="moves",
    x=lambda xp, g, source: move(g, source) if isinstance(g, Variable) else backends.move(g, source),
)


def cast(input: Tensor, dtype: Any) -> Tensor:
    """Return `input` in another dtype, or itself if it has that dtype. Integers pass no gradient."""
    dtype = as_dtype(dtype)
    if input.dtype == dtype:
        return input
    return (_cast if dtype.kind == "f" else _to_integers)(input, dtype=dtype)


def move(input: Tensor, device: Any) -> Tensor:
    """Return `input` on another device, or itself if it is there."""
    device = backends.full_name(device)
    source = backends.device_of(input.array)
    return input if source == device else _move(input, device=device, source=source)
