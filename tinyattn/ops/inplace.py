"""In-place writes, and the guard that keeps them from corrupting gradients.

Every write goes through `in_place` or `write`. It is refused if it would corrupt a gradient; otherwise it
increments the storage's version, which saved arrays check before use. These are methods of Tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.dtypes import as_number
from tinyattn.engine import modes
from tinyattn.engine.node import Node
from tinyattn.engine.operation import catch_up
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.grad_mode import enable_grad, is_grad_enabled
from tinyattn.ops import choices, creation, elementwise
from tinyattn.ops.copies import cast
from tinyattn.ops.indexing import getitem, setitem, write_index
from tinyattn.ops.promotion import RANK
from tinyattn.ops.shape import reshape
from tinyattn.ops.synonyms import named


@backends.keeps_gpu
def in_place(self: Tensor, name: str, op: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    """Write `op(self, ...)` into this tensor's memory.

    If that must be recorded, the operation runs on a copy, so that what it saves is the old
    value, and this tensor goes on as its output.
    """
    inputs = (self, *args, *options.values())
    tracked = is_grad_enabled() and any(isinstance(x, Variable) and x.node is not None for x in inputs)
    self._may_change(name, tracked)
    library = backends.of(self.array)  # makes its GPU the current one
    result = op(Variable._from(self.array.copy(), self.node) if tracked else self, *args, **options)
    if result.shape != self.shape:
        raise RuntimeError(
            f"{name}: the result has shape {tuple(result.shape)} and does not fit into {tuple(self.shape)}"
        )
    if RANK[result.dtype.kind] > RANK[self.dtype.kind]:
        raise TypeError(f"{name}: the result is {result.dtype} and cannot be stored in {self.dtype}")
    result = cast(result, self.dtype)
    if tracked and result.node is None:  # a comparison: what was here has no gradient from now on
        result = setitem(Variable._from(self.array.copy(), self.node), result, index=...)
    library.assign(self.array, result.array, ...)
    self._wrote(name, result.node if tracked else None)
    return self


@backends.keeps_gpu
def write(self: Tensor, name: str, index: Any, value: Any) -> Tensor:
    """Write `value` into the elements that `index` names, as the operation `name`."""
    if isinstance(value, bool | int | float | np.number | np.bool_):
        value = as_number(value, self.dtype, name)
    elif isinstance(value, list | tuple):
        value = creation.as_tensor(value, self.dtype)
    value = creation.as_tensor(value, device=self.device)
    library = backends.of(self.array)  # makes its GPU the current one
    if value.ndim and value.array.size == 1:  # one number fits everywhere, even into one element
        value = value.reshape(())
    elif value.ndim > 1 and value.shape[0] == 1:  # NumPy, unlike CuPy, lets a value have more axes of size 1
        extra = max(value.ndim - self.array[index].ndim, 0)
        value = value.reshape(value.shape[extra:]) if value.shape[:extra] == (1,) * extra else value
    if self.node is not None or value.node is not None:
        return self._inplace(name, setitem, cast(value, self.dtype), index=index)
    self._may_change(name, False)
    library.assign(self.array, value.array, index)
    self._wrote(name)
    return self


def is_expanded(array: Any) -> bool:
    """Whether several elements of an array are one number in memory: it was expanded, or is of windows that overlap."""
    reach = 0
    for step, n in () if array.flags.c_contiguous else sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if n > 1 and step < reach + array.itemsize:
            return bool(array.size) and (step == 0 or np.unique(_addresses(array)).size < array.size)
        reach += step * (n - 1)
    return False


def may_change(self: Tensor, name: str, tracked: bool) -> None:
    """Refuse what would write to several elements at once, or make recorded gradients wrong."""
    for observer in modes.observers.get():
        observer.before_write(self)
    if is_expanded(self.array):
        raise RuntimeError(
            f"{name}: several elements of this tensor of shape {tuple(self.shape)} are one and the same number in "
            "memory (it was expanded, or its windows overlap), so they cannot be changed one by one; clone() it first."
        )
    if not getattr(self.array.flags, "writeable", True):  # CuPy has no read-only arrays
        raise RuntimeError(f"{name}: this tensor's memory is read-only, as the array it was made from; clone() it.")
    base = self._base
    if not tracked and (base is None or base.node is None or self.node is not None or not is_grad_enabled()):
        return
    catch_up(self, name)
    if self.node is not None and self.node.op is None:
        raise RuntimeError(
            f"{name}: a leaf that requires a gradient cannot be changed in place. Do it under no_grad(), "
            "as an optimizer does, or use the out-of-place form."
        )
    if base is not None and base.node is not None and (base.node.op is None or self.node is None):
        raise RuntimeError(
            f"{name}: this is a view of a leaf that requires a gradient, or was taken under no_grad(), and cannot be "
            "changed in place while recording. Do it under no_grad(), or clone() the view first."
        )


def wrote(self: Tensor, name: str, node: Node | None = None, site: modes.Site | None = None) -> None:
    """Note that `name` wrote to this memory, at `site` if that is known, and `node` if it was recorded."""
    storage = self.storage
    storage.version += 1
    storage.writer = (name, site or modes.call_site())
    if node is not None:
        storage.last_recorded = storage.version
        if self._base is not None:
            _rebase(self, self._base, node)
        _set_node(self, node)
        self._version = storage.version


def _set_node(x: Tensor, node: Node) -> None:
    if x._node is not None:  # what `retain_grad` keeps is the gradient of the new values
        node.tensor, x._node.tensor = x._node.tensor, None
    x.node = node


def _rebase(view: Tensor, base: Tensor, node: Node) -> None:
    """Record that `base` consists of its old values and, in the part that `view` shows, those that `node` gave."""
    base._version = base.storage.version
    written = Variable._from(view.array, node)
    with enable_grad():
        flat = setitem(reshape(base, -1), reshape(written, -1), positions(view, base).array)
        _set_node(base, reshape(flat, base.shape).node)


def view_again(view: Tensor) -> None:
    """Give a view the history that its base has now, after a recorded write into the memory of both."""
    base, view._version = view._base, view.storage.version
    if base.node is not None and view.dtype.kind == "f":
        with enable_grad():
            shown = getitem(reshape(base, -1), positions(view, base))
            _set_node(view, reshape(shown, view.shape).node)


def positions(view: Tensor, base: Tensor) -> Tensor:
    """The number in `base`, counted in row order, of each element of `view`, also in row order: a list."""
    known, wanted = _addresses(base.array).reshape(-1), _addresses(view.array).reshape(-1)
    order = np.argsort(known, kind="stable")
    return creation.tensor(order[np.searchsorted(known, wanted, sorter=order)], device=base.device)


def _addresses(array: Any) -> Any:
    """Where each element lies in memory."""
    start = array.data.ptr if hasattr(array.data, "ptr") else array.ctypes.data
    steps = [np.arange(n) * step for n, step in zip(array.shape, array.strides, strict=True)]
    return functools.reduce(np.add.outer, steps, np.asarray(start))


def written(name: str, op: Callable[..., Tensor], example: str = "", found: str = "") -> Callable[..., Tensor]:
    """The method `name` that writes `op(self, ...)` into the tensor; an example of it, and what that prints."""
    doc = f"""Write {name[:-1]}(self, ...) into this tensor's memory; returns the tensor. As torch.Tensor.{name}.

    Raises what {name[:-1]} raises, and TypeError if this tensor's dtype cannot hold the result.
    """

    @named(name, f"{doc}\n    >>> {example}\n    {found}\n    " if example else doc)
    def method(self: Tensor, *args: Any, **options: Any) -> Tensor:
        return self._inplace(name, op, *args, **options)

    method.__wrapped__ = op  # type: ignore[attr-defined]  # whose signature it has
    return method


add_ = written("add_", elementwise.add, "ta.ones(2).add_(ta.tensor([1.0, 2.0]), alpha=10)", "tensor([11., 21.])")
sub_ = written("sub_", elementwise.sub, "ta.ones(2).sub_(3)", "tensor([-2., -2.])")
mul_ = written("mul_", elementwise.mul, "ta.ones(2).mul_(3)", "tensor([3., 3.])")
div_ = written("div_", elementwise.div, "ta.ones(2).div_(4)", "tensor([0.25, 0.25])")
pow_ = written("pow_", elementwise.pow, "ta.tensor([2.0, 3.0]).pow_(2)", "tensor([4., 9.])")
floor_divide_ = written(
    "floor_divide_", elementwise.floor_divide, "ta.tensor([7, -7]).floor_divide_(4)", "tensor([ 1, -2])"
)
remainder_ = written("remainder_", elementwise.remainder, "ta.tensor([7, -7]).remainder_(4)", "tensor([3, 1])")
bitwise_and_ = written("bitwise_and_", choices.bitwise_and, "ta.tensor([7, -7]).bitwise_and_(4)", "tensor([4, 0])")
bitwise_or_ = written("bitwise_or_", choices.bitwise_or, "ta.tensor([7, -7]).bitwise_or_(4)", "tensor([ 7, -3])")
bitwise_xor_ = written("bitwise_xor_", choices.bitwise_xor, "ta.tensor([7, -7]).bitwise_xor_(4)", "tensor([ 3, -3])")
bitwise_left_shift_ = written("bitwise_left_shift_", choices.bitwise_left_shift)
bitwise_right_shift_ = written("bitwise_right_shift_", choices.bitwise_right_shift)
clamp_ = written("clamp_", choices.clamp, "ta.tensor([-2.0, 0.5]).clamp_(min=0)", "tensor([0. , 0.5])")
masked_fill_ = written(
    "masked_fill_", choices.masked_fill, "ta.zeros(2).masked_fill_(ta.tensor([True, False]), -1)", "tensor([-1.,  0.])"
)


def copy_(self: Tensor, source: Any) -> Tensor:
    """Write the elements of `source`, broadcast and cast; returns the tensor. As torch.Tensor.copy_.

    >>> ta.zeros(2).copy_(ta.tensor([3, 4]))
    tensor([3., 4.])
    """
    return self._write("copy_", ..., source)


def fill_(self: Tensor, value: Any) -> Tensor:
    """Write one number everywhere; returns the tensor. As torch.Tensor.fill_.

    >>> ta.zeros(2).fill_(7)
    tensor([7., 7.])
    """
    return self._write("fill_", ..., value)


def zero_(self: Tensor) -> Tensor:
    """Write zeros; returns the tensor. As torch.Tensor.zero_.

    >>> ta.ones(2).zero_()
    tensor([0., 0.])
    """
    return self._write("zero_", ..., 0)


def _random(self: Tensor, name: str) -> Tensor:
    """The tensor, if it can hold fractions."""
    if self.dtype.kind != "f":
        raise TypeError(
            f"{name}: a tensor of {self.dtype} cannot hold fractions; use ta.randint, or cast it (x.float())"
        )
    return self


def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Draw from the normal distribution, in place; returns the tensor. As torch.Tensor.normal_.

    Raises RuntimeError for a deviation below 0.

    >>> ta.zeros(2, 3).normal_(std=0.02).shape
    (2, 3)
    """
    if std < 0:
        raise RuntimeError(f"normal_: std={std}; expected at least 0")
    return self._write("normal_", ..., creation.randn_like(_random(self, "normal_"), generator=generator) * std + mean)


def uniform_(self: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Any = None) -> Tensor:
    """Draw uniform numbers in [low, high), in place; returns the tensor. As torch.Tensor.uniform_.

    Raises RuntimeError if low is above high.

    >>> bool((ta.zeros(9).uniform_(2, 3) >= 2).all())
    True
    """
    if low > high:
        raise RuntimeError(f"uniform_: from {low} to {high}; expected the lower number first")
    return self._write(
        "uniform_", ..., creation.rand_like(_random(self, "uniform_"), generator=generator) * (high - low) + low
    )


def write_item(self: Tensor, index: Any, value: Any) -> None:
    """self[index] = value"""
    self._write("__setitem__", write_index(index, self.array), value)
