"""torch.add(a, b, out=c): the functions of torch that write their result into a given tensor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tinyattn as ta
from tinyattn.compat import older

NAMES = """
add addbmm addcdiv addcmul addmm addmv addr all amax amin aminmax any arange baddbmm bitwise_and bitwise_left_shift
bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm bucketize cat ceil clamp clip column_stack concat concatenate
copysign cos cosh cross cummax cummin cumprod cumsum deg2rad diag div divide dot dstack empty empty_like eq erf erfinv
exp exp2 expm1 eye fix floor floor_divide fmax fmin fmod frac full gather ge greater greater_equal gt heaviside histc
hstack hypot index_select inner inverse isneginf isposinf kron kthvalue le lerp less less_equal linspace log log10 log1p
log2 logaddexp logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor logit logspace logsumexp lt
masked_select matmul max maximum mean median min minimum mm mode mul multinomial multiply mv nan_to_num nanmean
nanmedian nanquantile ne neg negative nonzero normal not_equal ones ones_like outer pow prod quantile rand rand_like
randint randn randn_like randperm reciprocal remainder round row_stack rsqrt searchsorted sgn sigmoid sign signbit sin
sinc sinh sort sqrt square stack std std_mean sub subtract sum take_along_dim tan tanh topk tril triu trunc var var_mean
vstack where xlogy zeros zeros_like
""".split()  # fmt: skip


def with_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with `out`: a tensor, or a tuple of tensors for several results, which take its shape and values.

    Raises RuntimeError if something would need a gradient, which `out` cannot have.
    """

    @functools.wraps(function)
    def call(*args: Any, out: Any = None, **options: Any) -> Any:
        if out is None:
            return function(*args, **options)
        given = [*args, *options.values()]
        given += [x for several in given if isinstance(several, list | tuple) for x in several]  # those of cat
        if ta.is_grad_enabled() and any(ta.is_tensor(x) and x.requires_grad for x in given):
            raise RuntimeError(
                f"{function.__name__}: out= does not support gradients, but an input requires one; leave out= out, "
                "or call it under no_grad()"
            )
        result = function(*args, **options)
        several = isinstance(result, tuple)
        for target, value in zip(out if several else (out,), result if several else (result,), strict=True):
            if target.shape != value.shape:
                target.data = ta.empty(value.shape, dtype=target.dtype, device=target.device)
            with ta.no_grad():
                target.copy_(value)
        return out

    call.__module__ = "torch"  # where it is found, also by pickle
    return call


FUNCTIONS = {name: with_out(older.FUNCTIONS.get(name) or getattr(ta, name)) for name in NAMES}
