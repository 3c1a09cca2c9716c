"""Complex numbers as pairs of real ones, and Fourier transforms as products, for models written for PyTorch.

What rotary embeddings and Fourier mixing use of torch's complex tensors; all else of them raises an AttributeError.
Gradients are those of the real operations behind them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tinyattn as ta
from tinyattn.ops.dims import sizes


class Complex:
    """Complex numbers of a shape: `pairs` (*shape, 2) holds their real and imaginary parts."""

    __class__ = property(lambda self: ta.Tensor)  # isinstance as in PyTorch: a buffer may be one

    def __init__(self, pairs: ta.Tensor) -> None:
        self.pairs = pairs

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"complex numbers have no {name!r} in tinyattn; they can be multiplied, added, indexed, reshaped and "
            "transformed (torch.fft), and torch.view_as_real gives their parts"
        )

    real = property(lambda self: self.pairs[..., 0])
    imag = property(lambda self: self.pairs[..., 1])
    shape = property(lambda self: self.pairs.shape[:-1])
    ndim = property(lambda self: self.pairs.ndim - 1)
    device = property(lambda self: self.pairs.device)
    requires_grad = property(lambda self: self.pairs.requires_grad)
    dtype = property(lambda self: np.result_type(self.pairs.dtype, np.complex64))

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"Complex({self.pairs!r})"

    def is_floating_point(self) -> bool:
        """No: as in PyTorch, where only real numbers are."""
        return False

    def is_complex(self) -> bool:
        return True

    def __getitem__(self, index: Any) -> Complex:
        index = index if isinstance(index, tuple) else (index,)
        return Complex(self.pairs[(*index, slice(None))] if any(i is Ellipsis for i in index) else self.pairs[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        index = index if isinstance(index, tuple) else (index,)
        more = value if isinstance(value, Complex) else of(ta.as_tensor(value, device=self.device), 0.0)
        self.pairs[(*index, slice(None)) if any(i is Ellipsis for i in index) else index] = more.pairs

    def view(self, *shape: Any) -> Complex:
        return Complex(self.pairs.reshape(*sizes(shape), 2))

    reshape = view

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Complex:
        start, end = (d % self.ndim for d in (start_dim, end_dim))
        return Complex(self.pairs.flatten(start, end))

    def unsqueeze(self, dim: int) -> Complex:
        return Complex(self.pairs.unsqueeze(dim if dim >= 0 else dim - 1))

    def squeeze(self, dim: int) -> Complex:
        return Complex(self.pairs.squeeze(dim % self.ndim))

    def transpose(self, dim0: int, dim1: int) -> Complex:
        return Complex(self.pairs.transpose(dim0 % self.ndim, dim1 % self.ndim))

    def permute(self, *dims: Any) -> Complex:
        return Complex(self.pairs.permute(*(d % self.ndim for d in sizes(dims)), self.ndim))

    def to(self, *args: Any, **options: Any) -> Complex:
        """The numbers on another device; complex dtypes are without effect."""
        args = tuple(a for a in args if getattr(a, "kind", "") != "c" and type(a).__name__ != "Refused")
        return Complex(self.pairs.to(*args, **options)) if args or options else self

    detach, clone, contiguous = (
        lambda self, name=name: Complex(getattr(self.pairs, name)()) for name in ("detach", "clone", "contiguous")
    )

    def conj(self) -> Complex:
        return of(self.real, -self.imag)

    def abs(self) -> ta.Tensor:
        """The distances from 0, whose gradient at 0 is 0."""
        return ta.linalg.vector_norm(self.pairs, dim=-1)

    def angle(self) -> ta.Tensor:
        return ta.atan2(self.imag, self.real)

    def roll(self, shifts: int, dims: int) -> Complex:
        return Complex(self.pairs.roll(shifts, dims % self.ndim))

    __abs__ = abs

    def __mul__(self, other: Any) -> Complex:
        if not isinstance(other, Complex):
            return of(self.real * other, self.imag * other)
        return of(self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Complex:
        if not isinstance(other, Complex):
            return of(self.real / other, self.imag / other)
        return self * other.conj() / (other.real.square() + other.imag.square())

    def __add__(self, other: Any) -> Complex:
        more = other if isinstance(other, Complex) else of(ta.as_tensor(other), 0.0)
        return of(self.real + more.real, self.imag + more.imag)

    __radd__ = __add__

    def __neg__(self) -> Complex:
        return Complex(-self.pairs)

    def __sub__(self, other: Any) -> Complex:
        return self + -other


def of(real: Any, imag: Any) -> Complex:
    """The numbers of these parts, which are broadcast. As torch.complex."""
    return Complex(ta.stack(ta.broadcast_tensors(real, ta.as_tensor(imag, dtype=real.dtype)), -1))


def polar(abs: ta.Tensor, angle: ta.Tensor) -> Complex:
    """The numbers at these distances and angles. As torch.polar."""
    return of(abs * angle.cos(), abs * angle.sin())


def view_as_complex(input: ta.Tensor) -> Complex:
    """The numbers whose parts lie in the last axis. As torch.view_as_complex."""
    if not input.ndim or input.shape[-1] != 2:
        raise RuntimeError(f"view_as_complex: shape {tuple(input.shape)}; expected a last axis of 2, the parts")
    return Complex(input)


def view_as_real(input: Complex) -> ta.Tensor:
    """The parts, in a last axis of 2. As torch.view_as_real."""
    return input.pairs


def real(input: Any) -> Any:
    """The real parts; real numbers themselves. As torch.real."""
    return input.real if isinstance(input, Complex) else input


def imag(input: Complex) -> ta.Tensor:
    """The imaginary parts. As torch.imag."""
    return input.imag


def conj(input: Any) -> Any:
    """The conjugates; real numbers themselves. As torch.conj."""
    return input.conj() if isinstance(input, Complex) else input


def absolute(input: Any, **options: Any) -> ta.Tensor:
    """The distances from 0. As torch.abs."""
    return input.abs() if isinstance(input, Complex) else ta.abs(input, **options)


def creating(function: Callable[..., Any], also_imag: bool = True) -> Callable[..., Any]:
    """Let a function that makes tensors make complex numbers of a complex dtype, with imaginary parts like the real."""

    @functools.wraps(function)
    def make(*args: Any, dtype: Any = None, **options: Any) -> Any:
        if getattr(dtype, "kind", "") != "c":
            return function(*args, dtype=dtype, **options)
        real = function(*args, dtype=dtype.type(0).real.dtype, **options)
        numbers = of(real, function(*args, dtype=real.dtype, **options) if also_imag else 0.0)
        return numbers * 0.5**0.5 if function.__name__ == "randn" else numbers  # as PyTorch's: the variance is 1

    return make


def is_complex(input: Any) -> bool:
    """Whether the numbers are complex. As torch.is_complex."""
    return isinstance(input, Complex)


def zeros_like(input: Any, **options: Any) -> Any:
    """Zeros of the shape and dtype of `input`. As torch.zeros_like."""
    if isinstance(input, Complex):
        return Complex(ta.zeros_like(input.pairs, **options))
    return ta.zeros_like(input, **options)


def joining(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let ta.cat or ta.stack join complex numbers too."""

    @functools.wraps(function)
    def join(tensors: Any, *args: Any, **options: Any) -> Any:
        if not any(isinstance(t, Complex) for t in tensors):
            return function(tensors, *args, **options)
        parts = [(t.real, t.imag) if isinstance(t, Complex) else (t, ta.zeros_like(t)) for t in tensors]
        return of(*(function(part, *args, **options) for part in zip(*parts, strict=True)))

    return join


def einsum(equation: str, *operands: Any) -> Any:
    """Sums of products, of complex numbers too: those of their parts. As torch.einsum."""
    given = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else list(operands)
    for i, x in enumerate(given):
        if isinstance(x, Complex):
            re, im = (einsum(equation, *given[:i], part, *given[i + 1 :]) for part in (x.real, x.imag))
            if isinstance(re, Complex):  # of the operands after this one: re + i im
                return of(re.real - im.imag, re.imag + im.real)
            return of(re, im)
    return ta.einsum(equation, *given)


def angle(input: Any) -> ta.Tensor:
    """The angles from the positive real axis; pi of negative real numbers. As torch.angle."""
    if isinstance(input, Complex):
        return input.angle()
    return ta.where(input < 0, math.pi, input * 0)


# --- Fourier transforms, of some hundred elements along an axis: products with cosines and sines ---


def _waves(rows: int, columns: int, n: int, like: ta.Tensor) -> tuple[ta.Tensor, ta.Tensor]:
    """cos and sin of 2 pi i j / n, (rows, columns)."""
    steps = np.outer(np.arange(rows), np.arange(columns)) % n
    sines = np.where(2 * steps % n, np.sin(2 * math.pi / n * steps), 0.0)  # sin(pi) is not 0: its sign is an angle's
    cos, sin = (ta.tensor(x, dtype=like.dtype, device=like.device) for x in (np.cos(2 * math.pi / n * steps), sines))
    return cos, sin


def _scale(norm: str | None, n: int, inverse: bool) -> float:
    if norm not in (None, "backward", "ortho", "forward"):
        raise ValueError(f"norm={norm!r}; expected 'backward', 'ortho' or 'forward'")
    return n**-0.5 if norm == "ortho" else 1 / n if inverse == (norm != "forward") else 1.0


def _resized(x: ta.Tensor, n: int) -> ta.Tensor:
    """The last axis cut, or padded by zeros, to n elements."""
    return x[..., :n] if x.shape[-1] >= n else ta.nn.functional.pad(x, (0, n - x.shape[-1]))


def _along(input: Any, n: int | None, dim: int, norm: str | None, inverse: bool, kind: str) -> Any:
    """One transform along `dim`: kind "full", or "half" of real input (or, inverse, to real output)."""
    parts = [input.real, input.imag] if isinstance(input, Complex) else [ta.as_tensor(input), None]
    back = kind == "half" and inverse
    size = n if n is not None else 2 * (parts[0].shape[dim] - 1) if back else parts[0].shape[dim]
    seen = size // 2 + 1 if back else size
    re: Any = _resized(parts[0].transpose(dim, -1), seen)
    im: Any = None if parts[1] is None else _resized(parts[1].transpose(dim, -1), seen)
    cos, sin = _waves(seen, size // 2 + 1 if kind == "half" and not inverse else size, size, re)
    scale = _scale(norm, size, inverse)
    if back:  # all but the first, and the last of even sizes, stand for their conjugates too
        twice = [1.0 if k == 0 or 2 * k == size else 2.0 for k in range(seen)]
        weights = ta.tensor(twice, dtype=re.dtype, device=re.device) * scale
        out = (re * weights) @ cos
        return (out if im is None else out - (im * weights) @ sin).transpose(dim, -1)
    sin = sin if inverse else -sin
    out_re, out_im = re @ cos, re @ sin  # sums of zeros are 0, not -0, of which the angle of a negative number is -pi
    if im is not None:
        out_re, out_im = out_re - im @ sin, out_im + im @ cos
    return of((out_re * scale).transpose(dim, -1), (out_im * scale).transpose(dim, -1))


def _one(inverse: bool, kind: str) -> Callable[..., Any]:
    def transform(input: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Any:
        return _along(input, n, dim % input.ndim, norm, inverse, kind)

    return transform


def _several(inverse: bool, kind: str, usual: Sequence[int] | None) -> Callable[..., Any]:
    def transform(input: Any, s: Any = None, dim: Any = usual, norm: str | None = None) -> Any:
        dims = list(range(input.ndim)) if dim is None and s is None else dim
        dims = [d % input.ndim for d in (range(-len(s), 0) if dims is None else sizes((dims,)))]
        lengths = [None] * len(dims) if s is None else [None if n == -1 else n for n in s]
        order = list(zip(dims, lengths, strict=True))  # of "half", the last axis is the real one
        for i, (d, n) in enumerate(order if inverse else order[::-1]):
            half = kind == "half" and i == (len(order) - 1 if inverse else 0)
            input = _along(input, n, d, norm, inverse, "half" if half else "full")
        return input

    return transform


def _shift(back: bool) -> Callable[..., Any]:
    def shift(input: Any, dim: Any = None) -> Any:
        for d in range(input.ndim) if dim is None else sizes((dim,)):
            n = input.shape[d]
            input = input.roll((n + 1) // 2 if back else n // 2, d)
        return input

    return shift


def _frequencies(half: bool) -> Callable[..., Any]:
    def frequencies(n: int, d: float = 1.0, **options: Any) -> Any:
        k = ta.arange(n // 2 + 1, **options) if half else (ta.arange(n, **options) + n // 2) % n - n // 2
        return k * (1 / (n * d))

    return frequencies


FFT = {
    "fftfreq": _frequencies(False), "rfftfreq": _frequencies(True),
    "fftshift": _shift(False), "ifftshift": _shift(True),
    "fft": _one(False, "full"), "ifft": _one(True, "full"), "rfft": _one(False, "half"), "irfft": _one(True, "half"),
    "fft2": _several(False, "full", (-2, -1)), "ifft2": _several(True, "full", (-2, -1)),
    "rfft2": _several(False, "half", (-2, -1)), "irfft2": _several(True, "half", (-2, -1)),
    "fftn": _several(False, "full", None), "ifftn": _several(True, "full", None),
    "rfftn": _several(False, "half", None), "irfftn": _several(True, "half", None),
}  # fmt: skip
