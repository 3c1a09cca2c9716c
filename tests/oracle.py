"""One helper that holds an operation against PyTorch: value, shape, dtype, gradients of two orders."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from answers import answer, as_arrays, torch

import tinyattn as ta

TOLERANCE = {"float64": 1e-10, "float32": 2e-4}


def to_ours(x: Any) -> Any:
    """The same argument for tinyattn: torch tensors and dtypes exchanged, at any depth; leaves on the default device."""
    if isinstance(x, ta.Tensor):
        return x.detach().to(ta.get_default_device()).requires_grad_(x.requires_grad)
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


def to_torch(x: Any) -> Any:
    """The same argument for PyTorch: tinyattn's tensors and NumPy's dtypes exchanged, at any depth."""
    if isinstance(x, ta.Tensor):
        return torch.from_numpy(host(x).copy(order="K")).requires_grad_(x.requires_grad)
    if isinstance(x, np.dtype):
        return getattr(torch, x.name)
    if isinstance(x, list | tuple) and not isinstance(x, torch.Size):
        return type(x)(map(to_torch, x))
    if isinstance(x, dict):
        return {k: to_torch(v) for k, v in x.items()}
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


def assert_same(ours: Any, theirs: Any, what: str, tolerance: float | None = None) -> None:
    """Shape, dtype and values equal to those of an array or of a torch tensor."""
    expected = theirs if isinstance(theirs, np.ndarray) else theirs.detach().numpy(force=True)
    assert tuple(ours.shape) == expected.shape, f"{what}: shape {tuple(ours.shape)}, torch {expected.shape}"
    assert ours.dtype == expected.dtype, f"{what}: dtype {ours.dtype}, torch {expected.dtype}"
    tolerance = TOLERANCE.get(str(ours.dtype), 0.0) if tolerance is None else tolerance
    np.testing.assert_allclose(host(ours), expected, rtol=tolerance, atol=tolerance, err_msg=what)


def seeds_like(rng: np.random.RandomState, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What gradients of results like these are started with: random numbers, the same for every NumPy."""
    return [np.asarray(rng.standard_normal(a.shape)).astype(a.dtype) for a in arrays]


def pytorchs(function: Any, args: Any, kwargs: Any, orders: int) -> list[Any]:
    """PyTorch's side of `compare`: a result without tensors, or outputs and gradients of every order.

    Each is None, or its values and whether it requires a gradient.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        out = function(*args, **kwargs)
    found = tensors(out, torch.Tensor)
    if not found:
        return [out, []]
    x, rounds, rng = (
        [t for t in tensors([args, kwargs], torch.Tensor) if t.requires_grad],
        [found],
        np.random.RandomState(0),
    )
    for order in range(1, orders + 1):
        y = [t for t in found if t is not None and t.requires_grad]
        if not x or not y:
            break
        seeds = [
            torch.from_numpy(s).requires_grad_(order == 1) for s in seeds_like(rng, [t.detach().numpy() for t in y])
        ]
        found = torch.autograd.grad(y, x, seeds, create_graph=order < orders, allow_unused=True)
        x = x + seeds if order == 1 else x  # the seed is an input of the second order too
        rounds.append(found)
    return [None, [[None if t is None else [t, t.requires_grad] for t in r] for r in rounds]]


def compare(
    ours_fn: Any, torch_fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, orders: int = 2
) -> None:
    """Run both on the same arguments (of either library) and compare results and gradients up to `orders`.

    The gradients are those of a fixed random combination of all floating-point outputs.
    """
    our_args, our_kwargs = to_ours([args, kwargs or {}])
    plain, rounds = answer(lambda: pytorchs(torch_fn, *to_torch([args, kwargs or {}]), orders))
    ours = ours_fn(*our_args, **our_kwargs)
    if not rounds:
        assert as_arrays(ours) == plain
        return
    found, rng = tensors(ours, ta.Tensor), np.random.RandomState(0)
    assert len(found) == len(rounds[0]), f"{len(found)} outputs, torch {len(rounds[0])}"
    for i, (a, (values, requires_grad)) in enumerate(zip(found, rounds[0], strict=True)):
        assert_same(a, values, f"output {i}")
        assert a.requires_grad == requires_grad, f"output {i}: requires_grad {a.requires_grad}, torch {requires_grad}"
    x = [t for t in tensors([our_args, our_kwargs], ta.Tensor) if t.requires_grad]
    for order in range(1, len(rounds)):
        pairs = [(a, b[0]) for a, b in zip(found, rounds[order - 1], strict=True) if b is not None and b[1]]
        seeds = [ta.tensor(s, requires_grad=order == 1) for s in seeds_like(rng, [b for _, b in pairs])]
        known = [(a, s) for (a, _), s in zip(pairs, seeds, strict=True) if a is not None and a.requires_grad]
        y, starts = [a for a, _ in known], [s for _, s in known]
        found = ta.grad(y, x, starts, create_graph=order < orders, allow_unused=True) if known else [None] * len(x)
        for i, (t, a, b) in enumerate(zip(x, found, rounds[order], strict=True)):
            a = ta.zeros_like(t) if a is None else a  # nothing and zero are the same gradient
            assert_same(a, np.zeros(t.shape, t.dtype) if b is None else b[0], f"gradient {i} of order {order}")
        x = x + seeds if order == 1 else x
