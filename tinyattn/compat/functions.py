"""Functions and methods of PyTorch's tensors that few models use, each by its formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import tinyattn as ta
from tinyattn.autograd import Function
from tinyattn.backends.cpu.error_function import COEFFICIENTS
from tinyattn.nn import functional as F
from tinyattn.ops import methods
from tinyattn.ops.dims import one, sizes
from tinyattn.ops.inplace import written
from tinyattn.random import generator_for

# --- the gamma function and its derivatives ---

BERNOULLI = 1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510  # B2, B4 ...


class _Gamma(Function):
    """Derivative n + 1 of the logarithm of the gamma function, n >= -1.

    Stirling's series above 10, and recurrence below; up to n = 1 reflection at 1/2 for what is negative.
    """

    @staticmethod
    def forward(ctx: Any, input: Any, n: int) -> Any:
        ctx.save_for_backward(input)
        ctx.n, x = n, input.double().masked_fill(input.isinf(), 1.0)
        negative = x < 0 if n < 2 else x.isinf()
        y = ta.where(negative, 1 - x, x)
        least = y.nan_to_num().amin().item() if x.numel() else 0.0
        if least < -1000:
            raise RuntimeError(f"polygamma: n={n} of {least}; expected at least -1000")
        steps = [(y + k).masked_fill(y + k >= 10, 1.0 if n < 0 else math.inf) for k in range(math.ceil(10 - least))]
        out = _gamma(y + (10 - y).ceil().clamp(min=0), steps, n)
        if n < 2:
            out = ta.where(negative, _reflected(out, ta.where(negative, x - x.round(), 0.5) * math.pi, n), out)
        if n == 0:  # at 0 a pole of which the side is known, by its sign
            out = ta.where(x == 0, -1 / x, out).masked_fill((x < 0) & (x == x.floor()), math.nan)
        out = out.masked_fill(input.isinf(), math.inf if n < 1 else 0.0)
        return (out if n < 0 else out.masked_fill(input == -math.inf, math.nan)).to(input.dtype)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * _Gamma.apply(ctx.saved_tensors[0], ctx.n + 1), None


def _gamma(z: Any, steps: Any, n: int) -> Any:
    """The series at z, and what each of `steps`, which lie below it, adds."""
    terms = list(enumerate(BERNOULLI, 1))
    if n == -1:
        rest = sum(b / (2 * j * (2 * j - 1)) * z ** (1 - 2 * j) for j, b in terms)
        return (z - 0.5) * z.log() - z + 0.5 * math.log(2 * math.pi) + rest - sum(x.abs().log() for x in steps)
    if n == 0:
        return z.log() - 0.5 / z - sum(b / (2 * j) * z ** (-2 * j) for j, b in terms) - sum(1 / x for x in steps)
    rest = sum(b / math.factorial(2 * j) * math.perm(n + 2 * j - 1, 2 * j - 1) * z ** (-n - 2 * j) for j, b in terms)
    return -((-1) ** n) * math.factorial(n) * (z**-n / n + z ** (-n - 1) / 2 + rest + sum(x ** (-n - 1) for x in steps))


def _reflected(out: Any, angle: Any, n: int) -> Any:
    """The function of x from that of 1 - x; angle: pi times what x is off an integer."""
    if n == -1:
        return (math.pi / angle.sin().abs()).log() - out
    return out - math.pi / angle.tan() if n == 0 else (math.pi / angle.sin()).square() - out


def _floating(x: Any) -> Any:
    return x if x.is_floating_point() else x.to(ta.get_default_dtype())


def lgamma(input: Any) -> Any:
    """Return the logarithm of the absolute value of the gamma function. As torch.lgamma."""
    return _Gamma.apply(_floating(input), -1)


def digamma(input: Any) -> Any:
    """Return the derivative of `lgamma`. As torch.digamma."""
    return _Gamma.apply(_floating(input), 0)


def polygamma(n: int, input: Any) -> Any:
    """Return derivative n of `digamma`. As torch.polygamma."""
    if n < 0:
        raise RuntimeError(f"polygamma: n={n}; expected an integer of at least 0")
    return _Gamma.apply(_floating(input), n)


class _Erfc(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        size, far = x.double().abs().clamp(max=30.0), 0.0  # beyond it is 0
        for coefficient in reversed(COEFFICIENTS["float64"][1]):
            far = far * ((size - 3) / (size + 3)) + coefficient
        return ta.where(x < 1, 1 - x.double().erf(), (-size * size).exp() * far).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return g * (-x * x).exp() * (-2 / math.sqrt(math.pi))


def erfc(input: Any) -> Any:
    """Return 1 - erf(input), also where that is small. As torch.erfc."""
    return _Erfc.apply(_floating(input))


# --- formulas ---


def renorm(input: Any, p: float, dim: int, maxnorm: float) -> Any:
    """Return the input with its slices along `dim` scaled down to a norm of at most `maxnorm`. As torch.renorm."""
    dim = one(dim, input.ndim)
    norms = ta.linalg.vector_norm(input, p, tuple(d for d in range(input.ndim) if d != dim), True)
    return input * ta.where(norms > maxnorm, maxnorm / (norms + 1e-7), 1.0)


def pdist(input: Any, p: float = 2.0) -> Any:
    """Return the distances of all pairs of rows, of (n, m): n (n - 1) / 2. As torch.nn.functional.pdist."""
    first, second = ta.triu_indices(len(input), len(input), 1, device=input.device)
    return ta.linalg.vector_norm(input[first] - input[second], p, -1)


def index_reduce(input: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True) -> Any:
    """Return `scatter_reduce` of whole slices, "prod", "mean", "amax" or "amin". As torch.index_reduce."""
    dim = one(dim, input.ndim)
    index = index.reshape([-1 if d == dim else 1 for d in range(source.ndim)]).expand(source.shape)
    return ta.scatter_reduce(input, dim, index, source, reduce, include_self=include_self)


def scatter(input: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: Any = None) -> Any:
    """As ta.scatter, and with reduce="multiply" the product of `scatter_reduce`. As torch.scatter."""
    if reduce != "multiply":
        return ta.scatter(input, dim, index, src, value=value, reduce=reduce)
    src = value if src is None else src
    src = src if ta.is_tensor(src) else input.new_full(index.shape, src)
    return ta.scatter_reduce(input, dim, index, src, "prod")


def drawn(draw: str, parameter: Any, generator: Any = None) -> Any:
    """Draw by this method of the CPU's random stream, in the dtype and on the device of the parameter."""
    stream = generator_for("cpu", generator).random
    return ta.as_tensor(getattr(stream, draw)(parameter.detach().cpu().numpy())).to(parameter)


def poisson(input: Any, generator: Any = None) -> Any:
    """Draw whole numbers from Poisson's distribution with these rates, in their dtype. As torch.poisson."""
    return drawn("poisson", input, generator)


# --- memory ---


def resize_(self: Any, *shape: Any, memory_format: Any = None) -> Any:
    """Give the tensor another shape: its elements in row order, then zeros. As Tensor.resize_."""
    if self.requires_grad:
        raise RuntimeError("resize_: a tensor that requires a gradient; use reshape or F.pad")
    count, flat = math.prod(sizes(shape)), self.detach().reshape(-1)
    flat = F.pad(flat, (0, count - self.numel())) if count > self.numel() else flat[:count]
    return set_(self, flat.reshape(sizes(shape)))


def set_(self: Any, source: Any) -> Any:
    """Make this tensor one with the memory of another. As Tensor.set_ of a tensor."""
    self.data = source
    return self


def map_(self: Any, tensor: Any, callable: Callable[..., Any]) -> Any:
    """Replace every element by a function of it and of that of another tensor, on the CPU. As Tensor.map_."""
    if self.is_cuda or self.requires_grad:
        raise TypeError("apply_ and map_ are of tensors on the CPU that require no gradient; write it in operations")
    others = np.broadcast_to(tensor.numpy(), self.shape).reshape(-1).tolist()
    found = [callable(a, b) for a, b in zip(self.reshape(-1).tolist(), others, strict=True)]
    return self._write("map_", ..., ta.tensor(found, dtype=self.dtype).reshape(self.shape))


def _no(*args: Any) -> bool:
    return False


# --- one function of many lists of tensors ---

OF_ONE = """
abs acos asin atan ceil cos cosh erf erfc exp expm1 floor frac lgamma log log10 log1p log2 neg reciprocal round rsqrt
sigmoid sign sin sinh sqrt tan tanh trunc
"""
OF_MORE = "add sub mul div addcmul addcdiv lerp pow clamp_max clamp_min maximum minimum"
LEAST = {"maximum": "clamp_min", "minimum": "clamp_max"}  # of a number


def _foreach(name: str) -> Callable[..., Any]:
    """A method of each tensor of a list; other arguments are lists too, or the same for all. As torch._foreach_*."""

    def of_one(x: Any, *others: Any, **options: Any) -> Any:
        if name.rstrip("_") in ("addcmul", "addcdiv") and others[2:]:  # the factor comes last
            others, options = others[:2], {"value": others[-1]}
        number = name.rstrip("_") in LEAST and not ta.is_tensor(others[0])
        method = LEAST[name.rstrip("_")] + "_" * (name[-1] == "_") if number else name
        return getattr(x, method)(*others, **options)

    def each(self: Any, *others: Any, **options: Any) -> Any:
        lists = [x if isinstance(x, list | tuple) else [x] * len(self) for x in others]
        found = [of_one(*row, **options) for row in zip(self, *lists, strict=True)]
        return None if name[-1] == "_" else tuple(found)

    return ta.no_grad()(each) if name[-1] == "_" else each


FOREACH = [name + end for name in f"{OF_ONE} {OF_MORE}".split() for end in ("", "_")] + ["zero_", "copy_", "clone"]


BOTH: dict[str, Any] = {  # functions, and methods of tensors
    "adjoint": methods.transposed_matrices, "digamma": digamma, "erfc": erfc, "index_reduce": index_reduce,
    "is_nonzero": lambda input: bool(input.item()), "is_same_size": lambda input, other: input.shape == other.shape,
    "is_signed": lambda input: input.dtype.kind in "fi", "lgamma": lgamma, "renorm": renorm, "scatter": scatter,
    "float_power": lambda input, exponent: ta.pow(*(x.double() if ta.is_tensor(x) else x for x in (input, exponent))),
    "msort": lambda input: input.sort(0).values, "vdot": lambda input, other: ta.dot(input, other),
    **dict.fromkeys("positive resolve_conj resolve_neg conj_physical".split(), ta.ops.alias),  # of real numbers
    **dict.fromkeys("is_conj is_neg is_inference".split(), _no),
}  # fmt: skip
FUNCTIONS: dict[str, Any] = {
    **BOTH, "polygamma": polygamma, "poisson": poisson, "pdist": pdist,
    "rsub": lambda input, other, *, alpha=1: other - alpha * input, "get_device": methods.get_device,
    "constant_pad_nd": lambda input, pad, value=0: F.pad(input, pad, value=value),
    "typename": lambda obj: obj.type() if ta.is_tensor(obj) else f"{type(obj).__module__}.{type(obj).__qualname__}",
    **{name: getattr(ta.Tensor, name) for name in ("fill_", "zero_")},
    **{f"_foreach_{name}": _foreach(name) for name in FOREACH},
    "_foreach_norm": lambda self, ord=2, dtype=None: tuple(ta.linalg.vector_norm(x, ord, dtype=dtype) for x in self),
}  # fmt: skip
FUNCTIONS["frombuffer"] = lambda buffer, *, dtype, count=-1, offset=0, requires_grad=False: ta.from_numpy(
    np.frombuffer(buffer, dtype, count, offset)
).requires_grad_(requires_grad)
SPECIAL = {"digamma": digamma, "psi": digamma, "gammaln": lgamma, "polygamma": polygamma, "erfc": erfc}
METHODS: dict[str, Any] = {
    **BOTH, **{name: getattr(ta, name) for name in ("addbmm", "addr", "dist")}, "ger": ta.outer, "prelu": F.prelu,
    "hardshrink": F.hardshrink, "polygamma": lambda self, n: polygamma(n, self), "map_": map_, "set_": set_,
    "apply_": lambda self, callable: map_(self, self, lambda x, _: callable(x)), "to_dense": ta.ops.alias,
    "resize_": resize_, "resize_as_": lambda self, other: resize_(self, *other.shape), "is_pinned": _no,
    "is_shared": _no, "swapaxes_": methods.transpose_, "swapdims_": methods.transpose_, "volatile": False,
    "record_stream": lambda self, stream: None, "name": None, "output_nr": 0, "is_xpu": False,
    "retains_grad": property(lambda self: not self.is_leaf and self.node.tensor is not None),
}  # fmt: skip
IN_PLACE = "addbmm addr digamma erfc index_reduce lgamma renorm scatter".split()
METHODS |= {f"{name}_": written(f"{name}_", METHODS[name]) for name in IN_PLACE}


def _without_lists(method: Callable[..., Any]) -> Callable[..., Any]:
    """An operator that leaves lists, tuples and strings to Python, which repeats or extends them by a tensor."""
    return lambda self, other: NotImplemented if isinstance(other, list | tuple | str | range) else method(self, other)


OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
OF_PYTHON = [f"__{side}{name}__" for side in ("", "r", "i") for name in OPERATORS]
METHODS |= {name: _without_lists(getattr(ta.Tensor, name)) for name in OF_PYTHON if hasattr(ta.Tensor, name)}
