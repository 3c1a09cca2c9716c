"""Variable: an array, and the node that computed it. A Tensor is a Variable with methods."""

from __future__ import annotations

import math
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from tinyattn import backends
from tinyattn.engine.modes import Site
from tinyattn.locks import fork_safe

# What operations take and return, in their signatures. The class Tensor itself is defined on top of them
# (tensors.py), so that they cannot import it.
Tensor: TypeAlias = Any

_shape = tuple.__new__  # half the time of Size(...)
_new_storage = fork_safe(threading.Lock())


class Size(tuple[int, ...]):
    """A shape: a tuple of integers, whose slices, sums and multiples are shapes too. As torch.Size.

    >>> ta.ones(2, 3, 4).shape[1:].numel()
    12
    """

    __slots__ = ()

    def numel(self) -> int:
        """Return the number of elements of a tensor of this shape."""
        return math.prod(self)

    if not TYPE_CHECKING:  # a tuple's own have more exact types

        def __getitem__(self, index: Any) -> Any:
            found = tuple.__getitem__(self, index)
            return Size(found) if isinstance(index, slice) else found

        def __add__(self, other: Any) -> Any:
            return Size((*self, *other)) if isinstance(other, tuple) else NotImplemented

        def __radd__(self, other: Any) -> Any:
            return Size((*other, *self)) if isinstance(other, tuple) else NotImplemented

        def __mul__(self, times: Any) -> Any:
            return Size(tuple(self) * times)

        __rmul__ = __mul__


class Storage:
    """The version counter of one piece of memory. A variable and its views share one."""

    version = 0  # how many in-place writes there have been
    last_recorded = 0  # the version after the last write that was itself recorded for gradients
    writer: tuple[str, Site] | None = None  # the last write: its name and its line

    def last_write(self) -> str:
        """Return what wrote here last, and where, for messages: "mul_ at train.py:12"."""
        return "{} at {}".format(*self.writer or ("an in-place write", "an unknown place"))


class Variable:
    """An array that can remember how it was computed.

    array: of NumPy or CuPy.
    node: the recorded operation that gave it (an engine Node); None if it requires no gradient.
    grad: its gradient, a Variable of its shape, dtype and device, once `backward` has filled it.
    """

    __slots__ = ("__weakref__", "_base", "_grad", "_node", "_storage", "_version", "array")

    array: Any
    _node: Any
    _grad: Any
    _storage: Storage | None  # None until it is needed: most results are never saved nor written to
    _version: int  # of the storage, when the history of this variable was last up to date
    _base: Variable | None  # of a view: the variable that owns the memory

    @classmethod
    def _from(cls, array: Any, node: Any = None, storage: Storage | None = None) -> Any:
        """Wrap an array without checks or a copy, in the class of results (see `use`)."""
        self = cls.__new__(_result_class)
        self.array, self._node, self._grad, self._storage, self._base = array, node, None, storage, None  # as `_set`
        self._version = 0 if storage is None else storage.version
        return self

    def _set(self, array: Any, storage: Storage | None = None, node: Any = None) -> None:
        """Become a variable of `array` without a gradient, and not a view."""
        self.array, self._node, self._grad, self._storage, self._base = array, node, None, storage, None
        self._version = 0 if storage is None else storage.version

    @property
    def node(self) -> Any:
        """See the class. A recorded write into the memory of both gives a base a new node, and its views follow."""
        base = self._base
        if base is not None and self._version < self.storage.last_recorded <= base._version:
            _recording.view_again(self)
        return self._node

    @node.setter
    def node(self, node: Any) -> None:
        self._node = node

    @property
    def grad(self) -> Any:
        """The gradient, a tensor of the same shape, dtype and device, or None."""
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is self:
            raise RuntimeError("grad: a tensor cannot be its own gradient; assign a copy, x.grad = x.detach().clone()")
        if value is not None:
            check_gradient(value, self, "grad")
        self._grad = value

    @property
    def storage(self) -> Storage:
        """The version counter of this memory."""
        if self._storage is None:
            with _new_storage:  # two threads may need that of one parameter
                self._storage = self._storage or Storage()
        return self._storage

    @property
    def shape(self) -> Size:
        """The sizes of the axes."""
        return _shape(Size, self.array.shape)

    @property
    def dtype(self) -> Any:
        """The type of the elements, a NumPy dtype."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim


def check_gradient(g: Any, like: Variable, *place: Any) -> None:
    """Raise TypeError unless `g` is a tensor, RuntimeError unless it has the shape, dtype and device of `like`.

    place: what the message begins with; turned into text only there.
    """
    if not isinstance(g, Variable):
        text = f"expected a tensor or None as the gradient, got {type(g).__name__}"
        raise TypeError(f"{' '.join(map(str, place))}: {text}")
    a, b = g.array, like.array
    if a.shape == b.shape and a.dtype == b.dtype and not backends.in_use():
        return
    found, expected = ((tuple(x.shape), x.dtype, backends.device_of(x)) for x in (a, b))
    for what, x, y in zip(("shape", "dtype", "device"), found, expected, strict=True):
        if x != y:
            text = f"the gradient has {what} {x}; expected {y}, as the tensor has"
            raise RuntimeError(f"{' '.join(map(str, place))}: {text}")


# --- the two things that the engine cannot know by itself: tensors.py calls `use` once ---

_result_class: type[Variable] = Variable
_recording: Any = None


def use(*, recording: ModuleType, result: type[Variable]) -> None:
    """Register what is built on the engine.

    recording: the namespace that rules and definitions get as `xp` when they run on Variables (`tinyattn.ops`).
    result: the class of what operations return (`Tensor`).
    """
    global _recording, _result_class
    _recording, _result_class = recording, result


def recording_namespace() -> Any:
    """The array library of Variables: `tinyattn.ops`, whose functions record themselves."""
    return _recording
