"""Methods of Tensor that are no functions of `ta`: other dtypes and devices, facts about memory, writes in place.

`tensors.py` makes methods of everything in ALL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn import backends, ops
from tinyattn.engine.operation import Operation
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.grad_mode import is_grad_enabled, set_grad_enabled
from tinyattn.ops import creation, legacy, rearranging
from tinyattn.ops import dims as _dims
from tinyattn.ops.copies import cast, clone, move
from tinyattn.ops.inplace import _set_node, written
from tinyattn.ops.synonyms import named

# --- shapes ---


def repeat(self: Tensor, *sizes: Any) -> Tensor:
    """Return the tensor repeated along each axis (a number for each, more for new leading axes).

    Raises RuntimeError for fewer numbers than axes. As torch.Tensor.repeat.

    >>> ta.tensor([1, 2]).repeat(2, 2).tolist()
    [[1, 2, 1, 2], [1, 2, 1, 2]]
    """
    times = _dims.sizes(sizes)
    if len(times) < self.ndim:
        raise RuntimeError(f"repeat: {times} for shape {tuple(self.shape)}; expected a number for each axis at least")
    return rearranging.tile(self, times)


def expand_as(self: Tensor, other: Tensor) -> Tensor:
    """Return the tensor expanded to the shape of another, a view. As torch.Tensor.expand_as."""
    return ops.broadcast_to(self, other.shape)


def view_as(self: Tensor, other: Tensor) -> Tensor:
    """Return the elements in the shape of another tensor."""
    return ops.reshape(self, other.shape)


reshape_as = view_as


def reversed_axes(self: Tensor) -> Tensor:
    """The axes in reverse order, a view. As torch.Tensor.T.

    >>> ta.ones(2, 3, 4).T.shape
    (4, 3, 2)
    """
    return ops.permute(self, tuple(reversed(range(self.ndim))))


def transposed_matrices(self: Tensor) -> Tensor:
    """Matrices transposed, a view: (..., n, m) -> (..., m, n); a 0-d tensor as it is. As torch.Tensor.mT.

    >>> ta.ones(2, 3, 4).mT.shape
    (2, 4, 3)
    """
    return ops.transpose(self, -2, -1) if self.ndim else self


def where(self: Tensor, condition: Any, other: Any) -> Tensor:
    """Return this tensor where `condition` holds, `other` elsewhere; all broadcast. As torch.Tensor.where.

    >>> x = ta.tensor([1.0, -2.0])
    >>> x.where(x > 0, 0.0)
    tensor([1., 0.])
    """
    return ops.where(condition, self, other)


# --- new tensors, with this one's dtype and device unless said ---


def new_tensor(self: Tensor, data: Any, **options: Any) -> Tensor:
    """Return a tensor that copies `data`. As torch.Tensor.new_tensor.

    >>> ta.ones(1, dtype=ta.float64).new_tensor([1, 2]).dtype
    dtype('float64')
    """
    return creation.tensor(data, **creation.like(self, options))


def new_full(self: Tensor, size: Any, fill_value: Any, **options: Any) -> Tensor:
    """Return a tensor of shape `size` filled with one number."""
    return creation.full(size, fill_value, **creation.like(self, options))


def new_zeros(self: Tensor, *size: Any, **options: Any) -> Tensor:
    """Return zeros of shape `size`: one tuple or separate integers. As torch.Tensor.new_zeros.

    >>> ta.tensor([1, 2]).new_zeros(2, 2).tolist()
    [[0, 0], [0, 0]]
    """
    return creation.zeros(*size, **creation.like(self, options))


def new_ones(self: Tensor, *size: Any, **options: Any) -> Tensor:
    """Return ones of shape `size`: one tuple or separate integers."""
    return creation.ones(*size, **creation.like(self, options))


new_empty = new_zeros


def new(self: Tensor, *data: Any) -> Tensor:
    """Return zeros of a shape given in integers, or `data` as a tensor. As the older torch.Tensor.new."""
    return legacy.construct("Tensor", self.dtype, *data).to(self.device)


# --- dtypes and devices ---


def to(
    self: Tensor, *target: Any, dtype: Any = None, device: Any = None, copy: Any = False, non_blocking: Any = None,
    memory_format: Any = None,
) -> Tensor:  # fmt: skip
    """Return this tensor in another dtype or on another device: to(float64), to("cuda"), to("cuda:1", int64), to(x).

    copy: a new one always. non_blocking and memory_format have no effect. Gradients find their way back. Raises
    ImportError or RuntimeError where no GPU can be used. As torch.Tensor.to.

    >>> ta.tensor([1, 2]).to(ta.float32)
    tensor([1., 2.])
    """
    for t in target:
        if isinstance(t, Variable):
            dtype, device = t.dtype, backends.device_of(t.array)
        elif backends.is_device(t):
            device = t
        elif t is not None:
            dtype = t
    moved = self if device is None else move(self, device)
    out = moved if dtype is None else cast(moved, dtype)
    return clone(out) if copy and out is self else out


def cpu(self: Tensor) -> Tensor:
    """Return this tensor in the memory of the CPU; from a GPU, a copy, which waits for it. As torch.Tensor.cpu."""
    return to(self, "cpu")


def cuda(self: Tensor, device: Any = None, non_blocking: bool = False) -> Tensor:
    """Return this tensor in the memory of a GPU, the current one unless said. As torch.Tensor.cuda."""
    return to(self, backends.device("cuda" if device is None else device))


def type_as(self: Tensor, other: Tensor) -> Tensor:
    """Return this tensor in the dtype of another."""
    return cast(self, other.dtype)


def _cast_to(name: str, dtype: str) -> Callable[[Tensor], Tensor]:
    """The method that returns a tensor in this dtype, as `to(dtype)` does."""

    @named(name, f"Return this tensor in {dtype}, itself if it is. As torch.Tensor.{name}.")
    def method(self: Tensor, memory_format: Any = None) -> Tensor:
        return cast(self, dtype)

    return method


CASTS = {
    "half": "float16", "float": "float32", "double": "float64", "byte": "uint8", "char": "int8", "short": "int16",
    "int": "int32", "long": "int64", "bool": "bool",
}  # fmt: skip


def type(self: Tensor, dtype: Any = None) -> Any:
    """Return the tensor in another dtype (also "torch.FloatTensor"); without one, the name of its type.

    >>> ta.ones(2).type(), ta.ones(2).type(ta.int64)
    ('torch.FloatTensor', tensor([1, 1]))
    """
    prefix = "torch.cuda." if self.is_cuda else "torch."
    if dtype is None:
        return prefix + next(name for name, kind in legacy.TENSOR_TYPES.items() if kind == self.dtype)
    name = dtype.rpartition(".")[2] if isinstance(dtype, str) else getattr(dtype, "__name__", None)
    return cast(self, legacy.TENSOR_TYPES.get(name, dtype))  # type: ignore[arg-type]


# --- facts ---


def size(self: Tensor, dim: int | None = None) -> Any:
    """Return the shape, or the size of one axis. As torch.Tensor.size."""
    return self.shape if dim is None else self.shape[_dims.one(dim, self.ndim)]


def element_size(self: Tensor) -> int:
    """Return how many bytes an element takes."""
    return int(self.dtype.itemsize)


def nelement(self: Tensor) -> int:
    """Return the number of elements."""
    return int(self.array.size)


def dim(self: Tensor) -> int:
    """Return the number of axes."""
    return int(self.ndim)


ndimension = dim


def is_cuda(self: Tensor) -> bool:
    """Whether the memory is that of a GPU."""
    return bool(self.device.type == "cuda")


def stride(self: Tensor, dim: int | None = None) -> Any:
    """Return how many elements apart neighbours lie in memory, along each axis or along `dim`. As torch.Tensor.stride.

    >>> ta.ones(2, 3).stride(), ta.ones(2, 3).T.stride()
    ((3, 1), (1, 3))
    """
    steps = tuple(n // self.dtype.itemsize for n in self.array.strides)
    return steps if dim is None else steps[_dims.one(dim, self.ndim)]


def data_ptr(self: Tensor) -> int:
    """Return the address of the first element."""
    return int(self.array.data.ptr if self.is_cuda else self.array.ctypes.data)


def contiguous(self: Tensor, memory_format: Any = None) -> Tensor:
    """Return the same elements, in row order in memory; memory_format is without effect."""
    return self if self.array.flags.c_contiguous else _contiguous(self)


# `clone` keeps the order in memory, as in PyTorch
_contiguous = Operation(lambda xp, x: x.copy(), name="contiguous", traits="moves", x=lambda xp, g: g)


def is_contiguous(self: Tensor, memory_format: Any = None) -> bool:
    """Return whether the elements lie in row order in memory."""
    return bool(self.array.flags.c_contiguous)


def split_with_sizes(self: Tensor, split_sizes: Any, dim: int = 0) -> Any:
    """Return the parts of these sizes along `dim`, views. As torch.Tensor.split_with_sizes.

    >>> [part.tolist() for part in ta.arange(3).split_with_sizes([1, 2])]
    [[0], [1, 2]]
    """
    return ops.split(self, split_sizes, dim)


def sum_to_size(self: Tensor, *size: Any) -> Tensor:
    """Return the sum over the axes that broadcasting `size` to this shape adds or stretches.

    >>> ta.ones(2, 3).sum_to_size(2, 1).tolist()
    [[3.0], [3.0]]
    """
    return ops.sum_to(self, _dims.sizes(size))


def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """Return the tensor itself: memory is neither pinned nor shared between processes here."""
    return self


share_memory_ = pin_memory


def as_subclass(self: Tensor, cls: Any) -> Any:
    """Return the tensor as one of a class derived from Tensor; results of operations are Tensors again."""
    out = cls.__new__(cls)
    out._share(self)
    return out


def _itself(self: Tensor) -> Tensor:
    """Return the tensor."""
    return self


def get_device(self: Tensor) -> int:
    """Return the number of the GPU, or -1."""
    return self.device.index or 0 if self.is_cuda else -1


# --- in place ---


IN_PLACE = """
abs cos erf exp expm1 log log1p neg reciprocal rsqrt sign sin sqrt square tanh relu sigmoid log2 log10 tan sinh cosh
asin acos atan floor ceil trunc round frac fmod nan_to_num logical_xor atan2 arcsin arccos arctan acosh asinh atanh
arccosh arcsinh arctanh hypot fix clamp_min clamp_max lerp addcmul addcdiv addmm baddbmm addmv scatter_reduce scatter
scatter_add index_add index_copy index_fill masked_scatter bitwise_not logical_not logical_and logical_or eq ne lt le gt
ge tril triu cumsum cumprod copysign deg2rad heaviside rad2deg sgn sinc xlogy absolute arctan2 clip divide erfinv exp2
greater greater_equal index_put less less_equal logit multiply negative not_equal put subtract true_divide
""".split()


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """Draw 1 with probability p, else 0, in place; returns the tensor."""
    return self._write("bernoulli_", ..., ops.bernoulli(self.detach(), p, generator=generator))


def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Draw from the exponential distribution with rate `lambd`, in place; returns the tensor."""
    if not lambd > 0:
        raise RuntimeError(f"exponential_: lambd={lambd}; expected a rate above 0")
    u = creation.rand_like(self, generator=generator)
    return self._write("exponential_", ..., -ops.log1p(-u) / lambd)


def random_(self: Tensor, low: int | None = None, high: int | None = None, *, generator: Any = None) -> Tensor:
    """Draw integers from `low` to `high` - 1, in place; random_(high) starts at 0. Returns the tensor.

    high: by default, what the dtype holds: of floats, all integers that it has exactly. As torch.Tensor.random_.

    >>> bool((ta.zeros(9).random_(2, 4) >= 2).all())
    True
    """
    if high is None:
        bits = 1 + np.finfo(self.dtype).nmant if self.dtype.kind == "f" else 8 * self.dtype.itemsize
        last = 2**bits if self.dtype.kind == "f" else 1 if self.dtype.kind == "b" else int(np.iinfo(self.dtype).max)
        low, high = 0, last + (self.dtype != np.int64) if low is None else low
    drawn = creation.randint(low or 0, high, self.shape, generator=generator, device=self.device)
    return self._write("random_", ..., drawn)


def detach_(self: Tensor) -> Tensor:
    """Cut the tensor off from its history: it becomes a leaf. Returns the tensor; a view raises RuntimeError."""
    if self._base is not None and self.node is not None:
        raise RuntimeError("detach_: a view cannot be cut off in place; use detach")
    self.node = None
    return self


def fill_diagonal_(self: Tensor, fill_value: float, wrap: bool = False) -> Tensor:
    """Write one number into the diagonal of a matrix; returns the tensor. wrap: of a tall one, begin anew below it.

    >>> ta.zeros(2, 2).fill_diagonal_(5).tolist()
    [[5.0, 0.0], [0.0, 5.0]]
    """
    if wrap and self.ndim == 2:
        places = creation.arange(0, nelement(self), self.shape[1] + 1, device=self.device).array
        return self._write("fill_diagonal_", (places // self.shape[1], places % self.shape[1]), fill_value)
    i = creation.arange(min(self.shape), device=self.device).array
    return self._write("fill_diagonal_", (i,) * self.ndim, fill_value)


def _reshaped(op: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The method that gives the tensor itself the shape of `op(self, ...)`, a view."""

    @named(name, f"Give this tensor the shape of {name[:-1]}(self, ...); returns it. As torch.Tensor.{name}.")
    def method(self: Tensor, *args: Any) -> Tensor:
        self._may_change(name, is_grad_enabled() and self.node is not None)
        leaf = self.node is not None and self.node.op is None  # under no_grad()
        with set_grad_enabled(not leaf):
            view = op(self, *args)
        self.array = view.array
        if leaf:
            self.node.shape = view.array.shape
        elif view.node is not None:
            _set_node(self, view.node)
        return self

    return method


squeeze_, unsqueeze_ = _reshaped(ops.squeeze, "squeeze_"), _reshaped(ops.unsqueeze, "unsqueeze_")
transpose_, t_ = _reshaped(ops.transpose, "transpose_"), _reshaped(ops.t, "t_")

METHODS = """
where to cpu cuda type_as size dim repeat expand_as view_as reshape_as new new_tensor new_full new_zeros new_ones
new_empty type element_size nelement ndimension stride data_ptr get_device contiguous is_contiguous bernoulli_
exponential_ random_ detach_ split_with_sizes sum_to_size pin_memory share_memory_ fill_diagonal_
squeeze_ unsqueeze_ transpose_ t_ as_subclass
""".split()
ALL = (
    {name: globals()[name] for name in METHODS}
    | {f"{name}_": written(f"{name}_", getattr(ops, name)) for name in IN_PLACE}
    | {"unfold": rearranging.unfold, "as_strided": ops.as_strided}
    | {"inverse": ops.inverse, "matrix_exp": ops.matrix_exp}
)
ALL |= {"itemsize": property(element_size), "nbytes": property(lambda x: x.array.nbytes, doc="Bytes of all elements.")}
ALL |= {"real": property(_itself), "conj": _itself, "mH": property(transposed_matrices)}  # of real numbers
ALL |= {"T": property(reversed_axes), "H": property(reversed_axes), "mT": property(transposed_matrices)}
OTHER_KINDS = "is_sparse is_quantized is_nested is_meta is_mps is_xla is_mkldnn".split()  # of tensors, in PyTorch
ALL |= dict.fromkeys(OTHER_KINDS, False) | {"layout": None, "is_cuda": property(is_cuda)}
ALL |= {"is_cpu": property(lambda self: not self.is_cuda, doc="Whether the memory is that of the CPU.")}
ALL |= {name: _cast_to(name, dtype) for name, dtype in CASTS.items()}
