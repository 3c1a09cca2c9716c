"""One helper that holds an operation against PyTorch: value, shape, dtype, gradients of two orders."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

import tinyattn as ta

TOLERANCE = {"float64": 1e-10, "float32": 2e-4}


def to_ours(x: Any) -> Any:
    """The same argument for tinyattn: torch tensors and dtypes exchanged, at any depth."""
    if isinstance(x, torch.Tensor):
        array = x.detach().numpy(force=True)
        ours = ta.from_numpy(array.copy(order="K") if array.ndim else array.copy())
        return ours.to(ta.get_default_device()).requires_grad_(x.requires_grad)
    if isinstance(x, torch.dtype):
        return torch.empty(0, dtype=x).numpy().dtype
    if isinstance(x, torch.device):
        return str(x)
    if isinstance(x, list | tuple):
        return type(x)(map(to_ours, x)) if not isinstance(x, torch.Size) else tuple(x)
    if isinstance(x, dict):
        return {k: to_ours(v) for k, v in x.items()}
    return x


def host(x: ta.Tensor) -> np.ndarray:
    """The values, wherever they are."""
    return x.detach().cpu().numpy()


def tensors(x: Any, kind: type) -> list[Any]:
    """All tensors of `kind` in an argument or result, in order."""
    if isinstance(x, kind):
        return [x]
    if isinstance(x, list | tuple):
        return [t for item in x for t in tensors(item, kind)]
    if isinstance(x, dict):
        return [t for item in x.values() for t in tensors(item, kind)]
    return []


def assert_same(ours: Any, theirs: torch.Tensor, what: str, tolerance: float | None = None) -> None:
    """Shape, dtype and values equal."""
    assert tuple(ours.shape) == tuple(theirs.shape), f"{what}: shape {tuple(ours.shape)}, torch {tuple(theirs.shape)}"
    expected = theirs.detach().numpy(force=True)
    assert ours.dtype == expected.dtype, f"{what}: dtype {ours.dtype}, torch {expected.dtype}"
    tolerance = TOLERANCE.get(str(ours.dtype), 0.0) if tolerance is None else tolerance
    np.testing.assert_allclose(host(ours), expected, rtol=tolerance, atol=tolerance, err_msg=what)


def compare(
    ours_fn: Any, torch_fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, orders: int = 2
) -> None:
    """Run both on the same arguments (torch tensors) and compare results and gradients up to `orders`.

    The gradients are those of a fixed random combination of all floating-point outputs.
    """
    kwargs = kwargs or {}
    our_args, our_kwargs = to_ours(args), to_ours(kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        theirs = torch_fn(*args, **kwargs)
    ours = ours_fn(*our_args, **our_kwargs)
    their_out, our_out = tensors(theirs, torch.Tensor), tensors(ours, ta.Tensor)
    if not their_out:
        assert ours == theirs
        return
    assert len(our_out) == len(their_out), f"{len(our_out)} outputs, torch {len(their_out)}"
    for i, (a, b) in enumerate(zip(our_out, their_out, strict=True)):
        assert_same(a, b, f"output {i}")
        assert a.requires_grad == b.requires_grad, (
            f"output {i}: requires_grad {a.requires_grad}, torch {b.requires_grad}"
        )
    wanted = [i for i, t in enumerate(tensors([args, kwargs], torch.Tensor)) if t.requires_grad]
    x_theirs = [tensors([args, kwargs], torch.Tensor)[i] for i in wanted]
    x_ours = [tensors([our_args, our_kwargs], ta.Tensor)[i] for i in wanted]
    y_theirs = [t for t in their_out if t.requires_grad]
    y_ours = [t for t in our_out if t.requires_grad]
    generator = torch.Generator().manual_seed(0)
    for order in range(1, orders + 1):
        if not y_theirs or not x_theirs:
            return
        seeds = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in y_theirs]
        if order == 1:  # the seed is an input of the second order too
            seeds = [s.requires_grad_() for s in seeds]
        our_seeds = to_ours(seeds)
        more = order < orders
        g_theirs = torch.autograd.grad(y_theirs, x_theirs, seeds, create_graph=more, allow_unused=True)
        g_ours = ta.grad(y_ours, x_ours, our_seeds, create_graph=more, allow_unused=True)
        for i, (a, b) in enumerate(zip(g_ours, g_theirs, strict=True)):
            a = ta.zeros_like(x_ours[i]) if a is None else a  # nothing and zero are the same gradient
            b = torch.zeros_like(x_theirs[i]) if b is None else b
            assert_same(a, b, f"gradient {i} of order {order}")
        if order == 1:
            x_theirs, x_ours = x_theirs + seeds, x_ours + our_seeds
        pairs = [
            (a, b) for a, b in zip(g_ours, g_theirs, strict=True)
            if a is not None and b is not None and a.requires_grad and b.requires_grad
        ]  # fmt: skip
        y_ours, y_theirs = [a for a, _ in pairs], [b for _, b in pairs]
