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


def upsample_bilinear(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
    """Resize images, bilinear with aligned corners. As F.upsample_bilinear, an older name of F.interpolate."""
    return nn.functional.interpolate(input, size, scale_factor, "bilinear", True)
