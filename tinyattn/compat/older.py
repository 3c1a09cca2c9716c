"""Older names and orders of arguments: torch.qr, and p.data.add_(-lr, p.grad), as before PyTorch 1.5."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tinyattn as ta
from tinyattn import nn

FACTORS = {"add": "alpha", "sub": "alpha", "addcmul": "value", "addcdiv": "value"}  # which came before the tensors


def with_factor_first(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Let a function also take its factor as the second argument, before a further tensor."""
    count, option = 3 if FACTORS[name] == "alpha" else 4, FACTORS[name]

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if len(args) == count:
            args, options = (args[0], *args[2:]), {option: args[1], **options}
        return function(*args, **options)

    return call


FUNCTIONS = {name: with_factor_first(getattr(ta, name), name) for name in FACTORS}


PRODUCTS = "addmm", "addmv", "addr", "addbmm", "baddbmm"


def with_beta_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a sum with a product also take beta before its first tensor, and then alpha before the next."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        tensors = [x for x in args if ta.is_tensor(x)]
        factors = dict(zip(("beta", "alpha"), (x for x in args if not ta.is_tensor(x)), strict=False))
        return function(*tensors, **factors, **options)

    return call


FUNCTIONS.update({name: with_beta_first(getattr(ta, name)) for name in PRODUCTS})


def extend() -> None:
    """Let the methods of tensors take that order too."""
    for name in FACTORS:
        for method in (name, f"{name}_"):
            setattr(ta.Tensor, method, with_factor_first(getattr(ta.Tensor, method), name))
    for name in PRODUCTS:
        for method in (name, f"{name}_"):
            setattr(ta.Tensor, method, with_beta_first(getattr(ta.Tensor, method)))
    tensor: Any = ta.Tensor
    split = tensor.split  # a method whose argument has another name than that of torch.split
    tensor.split = lambda self, split_size, dim=0: split(self, split_size, dim)


def qr(input: Any, some: bool = True) -> Any:
    """Compute torch.linalg.qr. As torch.qr, its older name."""
    return ta.linalg.qr(input, "reduced" if some else "complete")


class _AnyTensor(type):
    """The class of Variable, of which any tensor is an instance."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return ta.is_tensor(instance)


class Variable(metaclass=_AnyTensor):
    """A tensor in a graph, as before PyTorch 0.4. As torch.autograd.Variable."""

    def __new__(cls, data: Any = None, requires_grad: bool = False, volatile: bool = False) -> Any:
        """Return a leaf that shares the memory of `data`, but not its graph. Raises TypeError for anything else, and
        ValueError for one that is both volatile (today's torch.no_grad) and requires a gradient."""
        data = ta.tensor([]) if data is None else data
        if not ta.is_tensor(data):
            raise TypeError(f"Variable: got {type(data).__name__}; expected a tensor (torch.as_tensor makes one)")
        if requires_grad and volatile:
            raise ValueError("Variable: volatile=True and requires_grad=True exclude each other; leave one out")
        return data.detach().requires_grad_(requires_grad)


def upsample_bilinear(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
    """Resize images, bilinear with aligned corners. As F.upsample_bilinear, an older name of F.interpolate."""
    return nn.functional.interpolate(input, size, scale_factor, "bilinear", True)
