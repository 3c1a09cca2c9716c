"""Tensor: an array, and the node that says where it came from."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyattn import autograd, backends, ops
from tinyattn.dtypes import bool_, get_default_dtype, int64
from tinyattn.engine import variable
from tinyattn.engine.hooks import RemovableHandle
from tinyattn.engine.modes import observers
from tinyattn.engine.node import Node
from tinyattn.engine.walk import after_accumulation
from tinyattn.ops import copies, inplace, interop, legacy, methods
from tinyattn.ops.creation import as_tensor


def _comparison(op: Callable[..., Tensor]) -> Any:
    """`op` as a method: comparing with a non-number (None, a list) returns NotImplemented instead of raising."""

    def compare(self: Tensor, other: Any) -> Any:
        try:
            return NotImplemented if isinstance(other, list | tuple) else op(self, other)
        except TypeError:
            return NotImplemented

    return compare


def _reflected(op: Callable[..., Any]) -> Callable[[Tensor, Any], Tensor]:
    return lambda self, other: op(other, self)


class Tensor(variable.Variable):
    """An n-dimensional array that can remember how it was computed, with PyTorch's methods.

    Made by `tensor()`, which copies, or `from_numpy()`, which does not. Tensor(data) has the default dtype, but
    Tensor(tensor) is an alias of a tensor; Tensor(2, 3) has a shape and zeros, as torch.Tensor.

    >>> Tensor([1, 2]).dtype
    dtype('float32')
    """

    __slots__ = ("__dict__",)  # users may add attributes, as to torch.Tensor
    __array_priority__ = 1000

    if TYPE_CHECKING:  # the methods in the tables below, which a type checker does not see

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, *data: Any) -> None:
        self._share(legacy.construct("Tensor", get_default_dtype(), *data))

    def _share(self, source: Tensor) -> None:
        """Become another name of `source`: a write to either is one to both."""
        self._set(source.array, source.storage, source.node)
        self._version, self._base = source._version, source._base

    @property
    def data(self) -> Tensor:
        """The same memory without the history, or another tensor's once set. As torch.Tensor.data; writes count."""
        return Tensor._from(self.array, None, self.storage)

    @data.setter
    def data(self, source: Any) -> None:
        source = as_tensor(source)
        if self.requires_grad and source.dtype.kind != "f":
            raise RuntimeError(f"data: {source.dtype} cannot require a gradient, as this tensor does; cast it first")
        self.array, self._storage, self._base = source.array, source.storage, None
        self._version = source.storage.version
        if self.node is not None and self.node.op is None:  # gradients are like the new array
            self.node.shape, self.node.dtype = source.shape, source.dtype

    @property
    def device(self) -> backends.device:
        """Where the memory is: device("cpu"), device("cuda:0"), which are strings too."""
        return backends.device_of(self.array)

    @property
    def is_leaf(self) -> bool:
        """Whether it was given, not computed (or needs no gradient)."""
        return self.node is None or self.node.op is None

    @property
    def grad_fn(self) -> Node | None:
        """The recorded operation that computed it, or None of a leaf."""
        return None if self.is_leaf else self.node

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow here. May be set on leaves."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for a gradient in `.grad` (or no longer); returns the tensor. Leaves only.

        Raises RuntimeError for integers, which have no derivative, and for computed tensors.
        """
        if not self.is_leaf:
            if requires_grad:
                return self
            raise RuntimeError(f"requires_grad_(False): only on leaves; {self.node} computed this one, use detach()")
        if not requires_grad:
            if self.node is not None and (self.node.hooks or self.node.after):
                self.kept_hooks = self.node.hooks, self.node.after  # for when it requires a gradient again
            self.node = None
        elif self.node is None:
            if self.dtype.kind != "f":
                raise RuntimeError(
                    f"a tensor of {self.dtype} cannot require a gradient: only floating-point numbers can (x.float())"
                )
            self.node = Node(None, (), self.array)
            self.node.tensor = weakref.ref(self)
            self.node.hooks, self.node.after = self.__dict__.pop("kept_hooks", (None, None))
        return self

    def retain_grad(self) -> None:
        """Keep the gradient of a computed tensor in its `.grad` too."""
        if self.node is None:
            raise RuntimeError("retain_grad: this tensor requires no gradient, so none will come")
        self.node.tensor = weakref.ref(self)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call `hook(gradient)` when the gradient here is complete; a tensor that it returns replaces it.

        The gradient may share memory with others: the hook must not write into it. Returns a handle to remove the hook.
        As torch.Tensor.register_hook.
        """
        if self.node is None:
            raise RuntimeError("register_hook: this tensor requires no gradient, so none will come")
        self.node.hooks = self.node.hooks or {}
        return RemovableHandle(self.node.hooks, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call `hook(tensor)` as soon as backward has added to the `.grad` of this leaf. As torch.Tensor's.

        >>> x = ta.ones(2, requires_grad=True)
        >>> with x.register_post_accumulate_grad_hook(lambda x: print(x.grad)):
        ...     x.sum().backward()
        tensor([1., 1.])
        """
        return after_accumulation(self.node, hook)

    def backward(
        self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False, inputs: Any = None
    ) -> None:
        """Add the gradient of this tensor to the `.grad` of every leaf it depends on, or of `inputs` only.

        gradient: of this tensor's shape; may be left out for a single number (else RuntimeError). retain_graph: keep
        what was saved, for another backward. create_graph: record the gradients too. As torch.Tensor.backward.

        >>> x = ta.tensor([1.0, 2.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        tensor([2., 4.])
        """
        autograd.backward(self, [gradient], retain_graph, create_graph, inputs)

    def detach(self) -> Tensor:
        """The same memory without the history: gradients stop here."""
        out = Tensor._from(self.array, None, self.storage)
        for observer in observers.get():
            observer.detached(self, out)
        return out

    # --- out of tensors ---

    def item(self) -> Any:
        """The only element, as a Python number. On a GPU, waits for it."""
        if self.numel() != 1:
            raise RuntimeError(f"item: a tensor of shape {tuple(self.shape)} is not a single number")
        return self._on_host().item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers. On a GPU, waits for them."""
        return self._on_host().tolist()

    _on_host = interop.on_host
    numpy = interop.to_numpy
    __array__ = interop.as_numpy
    __array_ufunc__ = interop.numpy_function
    __dlpack__ = interop.dlpack
    __dlpack_device__ = interop.dlpack_device

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iub":
            raise TypeError(f"only integer tensors can be an index, this one has dtype {self.dtype}")
        return int(self.item())

    def __bool__(self) -> bool:
        if self.numel() != 1:
            raise RuntimeError(f"shape {tuple(self.shape)} is neither true nor false; reduce it with .any() or .all()")
        return bool(self._on_host())

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("a 0-d tensor cannot be iterated over; use item()")
        return iter(ops.unbind(self))

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        body = np.array2string(self._on_host(), separator=", ", prefix="tensor(", precision=4, suppress_small=False)
        usual = self.dtype in (get_default_dtype(), int64, bool_)
        parts = [body] if usual else [body, f"dtype={self.dtype}"]
        if self.device != "cpu":
            parts.append(f"device={str(self.device)!r}")
        if self.node is not None:
            parts.append("requires_grad=True" if self.node.op is None else f"grad_fn=<{self.node.op.name}>")
        return f"tensor({', '.join(parts)})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else format(str(self), spec)

    __copy__ = copies.alike
    __deepcopy__ = copies.deepcopy
    __reduce__ = copies.pickled

    # --- operators; the methods with names are in the tables below the class ---

    __add__ = ops.add
    __radd__ = ops.add
    __sub__ = ops.sub
    __mul__ = __rmul__ = lambda self, other: ops.mul(self, other)  # a function is bound faster than an Operation
    __truediv__ = ops.div
    __pow__ = ops.pow
    __floordiv__ = ops.floor_divide
    __mod__ = ops.remainder
    __matmul__ = ops.matmul
    __neg__ = ops.neg
    __pos__ = methods._itself
    __abs__ = ops.abs
    __invert__ = ops.bitwise_not
    __and__ = __rand__ = ops.bitwise_and
    __or__ = __ror__ = ops.bitwise_or
    __xor__ = __rxor__ = ops.bitwise_xor
    __lshift__ = ops.bitwise_left_shift
    __rshift__ = ops.bitwise_right_shift
    __lt__ = _comparison(ops.lt)
    __le__ = _comparison(ops.le)
    __gt__ = _comparison(ops.gt)
    __ge__ = _comparison(ops.ge)
    __eq__ = _comparison(ops.eq)
    __ne__ = _comparison(ops.ne)
    __getitem__ = ops.getitem
    __setitem__ = inplace.write_item
    __iadd__ = inplace.add_
    __isub__ = inplace.sub_
    __imul__ = inplace.mul_
    __itruediv__ = inplace.div_
    __ipow__ = inplace.pow_
    __ifloordiv__ = inplace.floor_divide_
    __imod__ = inplace.remainder_
    __iand__ = inplace.bitwise_and_
    __ior__ = inplace.bitwise_or_
    __ixor__ = inplace.bitwise_xor_
    __ilshift__ = inplace.bitwise_left_shift_
    __irshift__ = inplace.bitwise_right_shift_

    __rsub__ = _reflected(ops.sub)
    __rtruediv__ = _reflected(ops.div)
    __rpow__ = _reflected(ops.pow)
    __rmatmul__ = _reflected(ops.matmul)
    __rfloordiv__ = _reflected(ops.floor_divide)
    __rmod__ = _reflected(ops.remainder)
    __rlshift__ = _reflected(ops.bitwise_left_shift)
    __rrshift__ = _reflected(ops.bitwise_right_shift)

    # --- writes in place; the methods with names are in the table below ---

    _inplace = inplace.in_place
    _write = inplace.write
    _may_change = inplace.may_change
    _wrote = inplace.wrote


# --- methods: functions whose first argument is the tensor ---

METHODS = """
abs exp expm1 log log1p sqrt rsqrt reciprocal square sin cos tanh erf neg sign sigmoid relu isfinite add sub mul div
floor_divide remainder pow maximum minimum clamp masked_fill eq ne lt le gt ge clone logical_and logical_or logical_not
bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift bitwise_right_shift sum mean var std prod cumsum amax
amin max min argmax argmin logsumexp softmax log_softmax reshape view flatten transpose permute expand broadcast_to
squeeze unsqueeze movedim flip roll tril triu split chunk unbind index_select gather matmul mm bmm outer swapaxes
swapdims moveaxis is_complex is_floating_point log2 log10 tan sinh cosh asin acos atan atan2 arcsin arccos arctan floor
ceil trunc fix round frac fmod isnan isinf isclose allclose equal nan_to_num logical_xor clamp_min clamp_max lerp
addcmul addcdiv addmm baddbmm mv addmv dot any all count_nonzero cumprod norm argsort sort topk median unique bincount
multinomial bernoulli numel scatter scatter_add index_add index_copy index_fill masked_select masked_scatter nonzero
argwhere take take_along_dim tile repeat_interleave diag diagonal diag_embed trace narrow select unflatten tensor_split
fliplr flipud absolute aminmax arctan2 clip cross diff divide erfinv exp2 greater greater_equal histc index_put inner
isin less less_equal logaddexp logit multiply nanmean nansum negative not_equal put ravel subtract t true_divide acosh
asinh atanh arccosh arcsinh arctanh copysign cummax cummin deg2rad diagflat diagonal_scatter dsplit fmax fmin heaviside
hsplit hypot isneginf isposinf kron kthvalue logaddexp2 logcumsumexp mode nanmedian nanquantile quantile rad2deg rot90
select_scatter scatter_reduce sgn signbit sinc slice_scatter unique_consecutive vsplit xlogy corrcoef cov
""".split()  # names in `ops` that become methods; a new operation ends here
IN_PLACE = """
add_ sub_ mul_ div_ floor_divide_ remainder_ pow_ bitwise_and_ bitwise_or_ bitwise_xor_ clamp_ masked_fill_ copy_ fill_
bitwise_left_shift_ bitwise_right_shift_ zero_ normal_ uniform_
""".split()

_functions = {name: getattr(ops, name) for name in METHODS} | {name: getattr(inplace, name) for name in IN_PLACE}
for _name, _method in (_functions | methods.ALL).items():
    setattr(Tensor, _name, _method)


variable.use(recording=ops, result=Tensor)  # from here on, operations return Tensors and record themselves as ops
