"""Complex numbers as pairs, and Fourier transforms: values and gradients as PyTorch's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from oracle import host, to_ours

import tinyattn as ta
from tinyattn.compat import complex_pairs
from tinyattn.compat.complex_pairs import FFT, Complex

ON_EVERY_DEVICE = True


class Ours:
    """The functions under test, under PyTorch's names."""

    zeros, cat, stack = complex_pairs.creating(ta.zeros), complex_pairs.joining(ta.cat), complex_pairs.joining(ta.stack)
    zeros, cat, stack = staticmethod(zeros), staticmethod(cat), staticmethod(stack)
    complex128 = np.dtype(np.complex128)
    complex, fft = staticmethod(complex_pairs.of), type("fft", (), {name: staticmethod(f) for name, f in FFT.items()})

    def __getattr__(self, name):
        return getattr(complex_pairs, name) if hasattr(complex_pairs, name) else getattr(ta, name)


def randn(*shape):
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape))


def rotary(t, x, angles):
    turns = t.polar(t.ones_like(angles), angles)
    assert turns.shape == angles.shape and turns.size(0) == 5 and turns.ndim == turns.dim() == 2 and len(turns) == 5
    seen = t.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return t.view_as_real(seen * turns[:4].view(1, 4, 1, -1)).flatten(3)


def indexed(t, x):
    c = t.view_as_complex(x)
    same = c.unsqueeze(0).squeeze(0).clone().contiguous().to("cpu")
    seen = c[..., None, 1:], c[:, 0], c[1], c.unsqueeze(-1), c.transpose(0, -1), c.permute(2, 0, 1), c.flatten(1), same
    return [t.view_as_real(z) for z in seen]


def modes_of_a_spectrum(t, x, weight):
    """A Fourier layer: some modes times complex weights, written into a spectrum of zeros."""
    spectrum, weights = t.fft.rfft(x), t.view_as_complex(weight)
    out = t.zeros(2, 4, 5, dtype=t.complex128)
    out[:, :, 1:4] = t.einsum("bix,iox->box", spectrum[..., :3], weights)
    out[..., 0], out[0, 1, 4] = out[..., 2], 3.0
    assert out.dtype == t.complex128 and t.is_complex(out) and not t.is_complex(x)
    three = t.einsum("bix,iox,bix->bo", [spectrum[..., :3], weights, spectrum[..., :3]])
    rest = t.cat([out, t.conj(out), t.zeros_like(out)], dim=1), t.stack((out, out), -1)
    return [t.fft.irfft(out, n=8), *map(t.view_as_real, (three, *rest)), t.cat([x, x]), t.einsum("bix->b", x)]


CASES = {
    "Fourier layer": (modes_of_a_spectrum, (randn(2, 3, 8), randn(3, 4, 3, 2))),
    "rotary": (rotary, (randn(2, 4, 3, 6), randn(5, 3))),
    "parts": (lambda t, x: (t.real(t.view_as_complex(x)), t.imag(t.view_as_complex(x)), t.real(x)), (randn(3, 2),)),
    "arithmetic": (
        lambda t, x, y: t.view_as_real(-(t.complex(x, y) * t.conj(t.complex(y, x)) - 2.0 * t.complex(x, y) + x) / t.complex(y, y + 3) / 2),
        (randn(2, 3), randn(3)),
    ),
    "absolute": (lambda t, x: t.view_as_complex(x).abs(), (randn(4, 2),)),
    "absolute at 0": (lambda t, x: t.absolute(t.view_as_complex(x * 0)) + abs(t.view_as_complex(x)), (randn(4, 2),)),
    "angle": (lambda t, x: (t.angle(t.view_as_complex(x)), t.angle(x), t.view_as_complex(x * 0).angle()), (randn(4, 2),)),
    "magnitude and phase": (
        lambda t, x: t.fft.ifft2(t.polar(t.absolute(t.fft.fft2(x)), t.angle(t.fft.fft2(x)))).real, (randn(2, 4, 5),),
    ),
    "shifted": (
        lambda t, x: [f(v, d) for f in (t.fft.fftshift, t.fft.ifftshift) for v in (x, t.view_as_complex(x)) for d in (None, 0, (-2, -1))],
        (randn(3, 4, 5, 2),),
    ),
    "index": (indexed, (randn(2, 3, 4, 2),)),
    "global filter": (
        lambda t, x, w: t.fft.irfft2(t.fft.rfft2(x, dim=(1, 2), norm="ortho") * t.view_as_complex(w), s=(4, 5), dim=(1, 2), norm="ortho"),
        (randn(2, 4, 5, 3), randn(4, 3, 3, 2)),
    ),
    "mixing": (lambda t, x: t.real(t.fft.fft(t.fft.fft(x, dim=2), dim=0)), (randn(4, 2, 5),)),
    "correlation": (
        lambda t, q, k: t.fft.irfft(t.fft.rfft(q, dim=-1) * t.conj(t.fft.rfft(k, dim=-1)), n=7, dim=-1),
        (randn(2, 3, 7), randn(2, 3, 7)),
    ),
}  # fmt: skip
for _name, _n, _norm, _size in itertools.product(
    ("fft", "ifft", "rfft", "irfft"), (None, 3, 8), (None, "ortho", "forward"), (6, 5)
):
    _real = _name == "rfft"
    CASES[f"{_name} {_n} {_norm} {_size}"] = (
        lambda t, x, name=_name, n=_n, norm=_norm, real=_real: getattr(t.fft, name)(
            x[..., 0] if real else t.view_as_complex(x), n, 0, norm
        ),
        (randn(_size, 3, 2),),
    )
for _name in ("fft2", "ifft2", "fftn", "ifftn", "irfftn"):
    CASES[_name] = (lambda t, x, name=_name: getattr(t.fft, name)(t.view_as_complex(x)), (randn(2, 4, 3, 2),))


def outcome(t, function, arrays):
    """The parts of what `function` returns, and the gradients of its sum of sines."""
    out = function(t, *arrays)
    out = list(out) if isinstance(out, list | tuple) else [out]
    out = [
        t.view_as_real(z) if isinstance(z, Complex) or getattr(z, "dtype", None) == torch.complex128 else z for z in out
    ]
    sum(z.sin().sum() for z in out).backward()
    return [*out, *(x.grad for x in arrays if x.grad is not None)]


@pytest.mark.parametrize("case", CASES)
def test_complex_pairs_have_the_values_and_gradients_of_pytorch(case):
    function, arrays = CASES[case]
    theirs = outcome(torch, function, [x.clone().requires_grad_() for x in arrays])
    ours = outcome(Ours(), function, [to_ours(x).requires_grad_() for x in arrays])
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(host(a), b.detach().numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 4), (5, 6), (8, 7), (1, 2), (16, 14)])
def test_angles_of_transforms_have_the_sign_of_pytorchs_zeros(size):
    for x in (randn(2, *size), -randn(2, *size).abs()):
        for name in ("fft", "rfft", "fft2", "rfft2", "fftn"):
            ours, theirs = complex_pairs.angle(FFT[name](to_ours(x))), torch.angle(getattr(torch.fft, name)(x))
            np.testing.assert_allclose(host(ours), theirs.numpy(), rtol=1e-9, atol=1e-11)


def test_frequencies_of_fft_and_moments_of_complex_randn():
    for n, d in ((1, 1.0), (5, 1.0), (8, 0.5)):
        for name in ("fftfreq", "rfftfreq"):
            ours, theirs = FFT[name](n, d=d), getattr(torch.fft, name)(n, d=d)
            assert ours.dtype == ta.float32
            np.testing.assert_allclose(host(ours), theirs.numpy(), rtol=1e-6)
    numbers = complex_pairs.creating(ta.randn)(4000, dtype=np.dtype(np.complex64))
    assert numbers.dtype == np.complex64 and abs(numbers.abs().square().mean().item() - 1) < 0.1
    ones = complex_pairs.creating(ta.ones, False)(2, dtype=np.dtype(np.complex128))
    assert ones.real.tolist() == [1, 1] and ones.imag.tolist() == [0, 0] and ones.pairs.dtype == ta.float64


def test_complex_pairs_are_tensors_that_refuse_what_they_lack():
    turns = complex_pairs.polar(ta.ones(3), ta.arange(3.0))
    layer = ta.nn.Linear(1, 1)
    layer.register_buffer("turns", turns, persistent=False)
    assert (
        layer.turns is turns and isinstance(turns, ta.Tensor) and turns.is_complex() and not turns.is_floating_point()
    )
    assert turns.dtype == np.complex64 and turns.to(turns.dtype).shape == (3,) and "Complex(tensor" in repr(turns)
    with pytest.raises(AttributeError, match="complex numbers have no 'array' in tinyattn; they can be multiplied"):
        ta.exp(turns)
    with pytest.raises(RuntimeError, match=r"view_as_complex: shape \(3,\); expected a last axis of 2"):
        complex_pairs.view_as_complex(ta.ones(3))
    with pytest.raises(ValueError, match="norm='both'; expected 'backward', 'ortho' or 'forward'"):
        FFT["fft"](ta.ones(3), norm="both")
