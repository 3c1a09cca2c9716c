"""Sample calls of every differentiable operation: one table, read by several test files.

A row is compared with PyTorch (test_ops.py), its rule with the derivative of its forward (test_properties.py), and
everything that it saves is written to between forward and backward (test_inplace.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from answers import torch

import tinyattn as ta
from tinyattn.backends.windows import Windows


class Case:
    """One call of an operation, on inputs of the given shapes with values from `low` to `high`.

    call(op, *inputs) calls the operation. torch(*inputs) is the same call in PyTorch; None: not compared.
    """

    def __init__(
        self, call: Any, *shapes: tuple[int, ...], low: float = -2, high: float = 2, torch: Any = None
    ) -> None:
        self.call, self.shapes, self.low, self.high, self.torch = call, shapes, low, high, torch


def torch_function(name: str) -> Any:
    """The function of this name in torch or torch.nn.functional, else None."""
    return getattr(torch, name, None) or getattr(torch.nn.functional, name, None)


def unary(name: str, low: float = -2, high: float = 2) -> list[Case]:
    return [Case(lambda op, x: op(x), (2, 3), low=low, high=high, torch=torch_function(name))]


def binary(name: str, low: float = -2, high: float = 2) -> list[Case]:
    return [
        Case(lambda op, a, b: op(a, b), (2, 3), (2, 3), low=low, high=high, torch=torch_function(name)),
        Case(lambda op, a, b: op(a, b), (2, 1), (3,), low=low, high=high, torch=torch_function(name)),
        Case(lambda op, a: op(a, 1.5), (2, 3), low=low, high=high),
        Case(lambda op, a: op(1.5, a), (2, 3), low=low, high=high),
    ]


def reduction(low: float = -2, high: float = 2, **options: Any) -> list[Case]:
    return [
        Case(lambda op, x: op(x, dim=(1,), keepdim=False, **options), (2, 3, 2), low=low, high=high),
        Case(lambda op, x: op(x, dim=(0, 2), keepdim=True, **options), (2, 3, 2), low=low, high=high),
    ]


MASK = ta.tensor([[True, False, True], [False, False, True]])
INDEX = ta.tensor([[0, 2, 2], [1, 1, 0]])
KEEP = ta.tensor([[1.5, 0.0, 1.5], [1.5, 1.5, 0.0]], dtype=ta.float64)
ALIVE = ta.tensor([[[True], [True]], [[True], [False]], [[True], [False]]])  # the second sequence has one step


def statistics(x: Any) -> tuple[Any, Any]:
    """The mean and 1 / standard deviation of each channel."""
    dim, x = (0, *range(2, x.ndim)), ta.as_tensor(x).detach()
    return x.mean(dim), (x.var(dim, correction=0) + 1e-3).rsqrt()


TABLE: dict[str, list[Case]] = {
    **{name: unary(name) for name in "relu sigmoid silu logsigmoid neg exp expm1 square sin cos tanh erf abs sign clone alias".split()},
    **{name: unary(name, low=0.5) for name in "log log1p sqrt rsqrt reciprocal log2 log10".split()},
    **{name: unary(name) for name in "sinh cosh atan asinh floor ceil trunc round".split()},
    **{name: unary(name, low=-0.9, high=0.9) for name in "asin acos tan atanh erfinv".split()},
    "expm1_below": [Case(lambda op, x: op(x), (2, 3))],
    "acosh": unary("acosh", low=1.5, high=3),
    "hypot": binary("hypot", low=0.5),
    "xlogy": binary("xlogy", low=0.5),
    "logaddexp": binary("logaddexp"),
    "logaddexp2": binary("logaddexp2"),
    "logit": unary("logit", low=0.1, high=0.9),
    "atan2": [Case(lambda op, a, b: op(a, b), (2, 3), (3,), low=0.5)],
    "fmod": [Case(lambda op, a, b: op(a, b), (2, 3), (3,), low=1.3, high=1.9)],
    "vector_norm": [Case(lambda op, x, p=p: op(x, p=p, dim=(1,), keepdim=False), (2, 3), low=0.5) for p in (2.0, 3.0)],
    "contiguous": [Case(lambda op, x: op(x), (2, 3))],
    "unfold": [Case(lambda op, x: op(x, dim=1, size=2, step=1), (2, 4, 2))],
    "as_strided": [Case(lambda op, x: op(x, ta.tensor([1, 2, 3, 3, 4, 5]), size=(2, 3), stride=(2, 1), offset=1), (3, 4))],
    "diagonal": [Case(lambda op, x: op(x, offset=1), (2, 2, 3))],
    **{name: binary(name) for name in "add sub mul maximum minimum".split()},
    **{name: binary(name, low=0.5) for name in "div pow remainder".split()},
    "rounded_div": [Case(lambda op, a, b: op(a, b, mode="floor"), (2, 3), (3,), low=0.5)],
    "softplus": [Case(lambda op, x: op(x, beta=1.5, threshold=2.0), (2, 3))],
    "gelu": [Case(lambda op, x, how=how: op(x, approximate=how), (2, 3)) for how in ("none", "tanh")],
    "clamp": [
        Case(lambda op, x: op(x, -1.0, 0.5), (2, 3)),
        Case(lambda op, x, low, high: op(x, low, high), (2, 3), (3,), (2, 1)),
        Case(lambda op, x, high: op(x, None, high), (2, 3), (3,)),
    ],
    "where": [Case(lambda op, a, b: op(MASK, a, b), (2, 3), (3,))],
    "masked_fill": [Case(lambda op, x, value: op(x, MASK, value), (2, 3), ())],
    "cast": [Case(lambda op, x: op(x, dtype=ta.float64), (2, 3))],
    "to": [Case(lambda op, x: op(x, device="cpu", source="cpu"), (2, 3))],  # between devices: test_devices.py
    "getitem": [
        Case(lambda op, x: op(x, index=(slice(None), 1)), (3, 3)),
        Case(lambda op, x: op(x, index=(np.array([0, 0, 2]),)), (3, 2)),
        Case(lambda op, x: op(x, index=(MASK.array,)), (2, 3)),
    ],
    "place": [Case(lambda op, x: op(x, index=(np.array([0, 0, 2]),), shape=(4, 2)), (3, 2))],
    "setitem": [
        Case(lambda op, x, value: op(x, value, index=(slice(None), np.array([0, 2]))), (2, 3), (2,)),
        Case(lambda op, x, value: op(x, value, index=(slice(None), np.array([0, 2, -1]))), (2, 3), (3,)),
        Case(lambda op, x, value: op(x, value, index=np.array([1, 1])), (2, 3), ()),
    ],
    "gather": [Case(lambda op, x: op(x, INDEX, dim=1), (2, 3))],
    "scatter": [Case(lambda op, x: op(x, INDEX, dim=1, shape=(2, 4)), (2, 3))],
    "dropout": [Case(lambda op, x: op(x, KEEP, scale=1.5), (2, 3))],
    "attention": [
        Case(lambda op, q, k, v: op(q, k, v, None, MASK, None, scale=0.7), (2, 2, 4), (2, 3, 4), (2, 3, 2)),
        Case(lambda op, q, k, v, m: op(q, k, v, m, None, KEEP, scale=0.7), (2, 2, 4), (3, 4), (2, 1, 3, 2), (3,)),
    ],
    "recurrent": [
        Case(lambda op, x, w, b, h: op(x, w, b, h, None, None, kind="tanh", reverse=False), (3, 2, 2), (2, 2), (2,), (2, 2)),
        Case(lambda op, x, w, h: op(x, w, None, h, None, ALIVE, kind="relu", reverse=True), (3, 2, 2), (2, 2), (2, 2)),
        Case(lambda op, x, w, b, h: op(x, w, b, h, None, ALIVE, kind="gru", reverse=False), (3, 2, 6), (6, 2), (6,), (2, 2)),
        Case(lambda op, x, w, b, h: op(x, w, b, h, None, None, kind="gru", reverse=True), (3, 2, 6), (6, 2), (6,), (2, 2)),
        Case(lambda op, x, w, h, c: op(x, w, None, h, c, None, kind="lstm", reverse=False), (3, 2, 8), (8, 2), (2, 2), (2, 2)),
        Case(lambda op, x, w, h, c: op(x, w, None, h, c, ALIVE, kind="lstm", reverse=True), (3, 2, 8), (8, 2), (2, 2), (2, 2)),
    ],
    "packed_attention": [Case(lambda op, qkv: op(qkv, heads=2, scale=0.7), (2, 3, 12))],
    "tiled_attention": [
        Case(lambda op, q, k, v: op(q, k, v, None, MASK, causal=False, scale=0.7), (2, 2, 4), (2, 3, 4), (2, 3, 2)),
        Case(lambda op, q, k, v: op(q, k, v, None, None, causal=True, scale=0.7), (3, 4), (2, 3, 4), (3, 2)),
    ],
    "layer_norm": [
        Case(lambda op, x, w, b: op(x, w, b, shape=(4,), eps=1e-5), (3, 4), (4,), (4,)),
        Case(lambda op, x, w: op(x, w, None, shape=(2, 3), eps=1e-5), (2, 2, 3), (2, 3)),
        Case(lambda op, x: op(x, None, None, shape=(4,), eps=1e-5), (3, 4)),
    ],
    "linear_gelu": [
        Case(lambda op, x, w, b: op(x, w, b, approximate="tanh"), (2, 2, 3), (4, 3), (4,)),
        Case(lambda op, x, w: op(x, w, None, approximate="none"), (2, 3), (4, 3)),
    ],
    "linear": [
        Case(lambda op, x, w, b: op(x, w, b), (2, 3, 4), (5, 4), (5,)),
        Case(lambda op, x, w: op(x, w, None), (3, 4), (5, 4)),
    ],
    "windows": [Case(lambda op, x: op(x, how=Windows((2, 2), (2, 1), (0, 1))), (1, 2, 4, 3))],
    "overlap_add": [Case(lambda op, g: op(g, size=(3, 4), how=Windows((2, 2), (1, 2))), (1, 2, 2, 2, 2, 2))],
    "convolve": [
        Case(lambda op, x, w, b: op(x, w, b, how=Windows((2, 2), padding=(0, 1))), (2, 2, 3, 3), (2, 2, 2, 2), (2,)),
        Case(lambda op, x, w: op(x, w, None, how=Windows((2, 1), (2, 1), groups=2)), (1, 2, 4, 3), (4, 1, 2, 1)),
    ],
    "convolve_input": [
        Case(lambda op, g, w: op(g, w, size=(3, 3), how=Windows((2, 2))), (2, 2, 2, 2), (2, 3, 2, 2)),
        Case(lambda op, g, w: op(g, w, size=(4, 3), how=Windows((2, 1), (2, 1))), (1, 2, 2, 3), (2, 1, 2, 1)),
    ],
    "convolve_weight": [
        Case(lambda op, g, x: op(g, x, how=Windows((2, 2))), (2, 2, 2, 2), (2, 3, 3, 3)),
        Case(lambda op, g, x: op(g, x, how=Windows((2, 1), (2, 1))), (1, 2, 2, 3), (1, 2, 4, 3)),
    ],
    "max_pool": [
        Case(lambda op, x: op(x, how=Windows((2, 2), (1, 2), (0, 1)), places=(2, 2))[0], (1, 2, 3, 3)),
    ],
    "batch_norm": [
        Case(lambda op, x, w, b: op(x, w, b, *statistics(x), eps=1e-3), (3, 2, 2), (2,), (2,)),
        Case(lambda op, x: op(x, None, None, *statistics(x), eps=1e-3), (4, 2)),
    ],
    "embedding": [Case(lambda op, w, p=p: op(w, INDEX, padding_idx=p), (4, 2)) for p in (None, 3)],
    "embedding_gradient": [Case(lambda op, g, p=p: op(g, INDEX, rows=4, padding_idx=p), (2, 3, 2)) for p in (None, 2)],
    "cross_entropy": [Case(lambda op, x: op(x, ta.tensor([2, 0])), (2, 3))],
    "nll": [Case(lambda op, x: op(x, ta.tensor([2, 0])), (2, 3))],
    "leaky_relu": [Case(lambda op, x: op(x, negative_slope=0.1), (2, 3))],
    "hardtanh": [Case(lambda op, x: op(x, low=-0.5, high=0.6), (2, 3))],
    "hardswish": [Case(lambda op, x: op(x), (2, 3))],
    "huber": [Case(lambda op, x: op(x, delta=0.4), (2, 3))],
    "binary_cross_entropy": [
        Case(lambda op, x, t: op(x, t), (2, 3), (2, 3), low=0.1, high=0.9),
    ],
    "matmul": [
        Case(lambda op, a, b: op(a, b), (2, 3), (3, 4)),
        Case(lambda op, a, b: op(a, b), (2, 1, 2, 3), (4, 3, 2)),
    ],
    "einsum": [
        Case(lambda op, a, b: op(a, b, equation="bij,bjk->ki"), (2, 3, 4), (2, 4, 2)),
        Case(lambda op, a, b, c: op(a, b, c, equation="ij,jk,l->i"), (2, 3), (3, 2), (4,)),
    ],
    **{name: reduction() for name in "sum mean amax amin logsumexp".split()},
    **{name: reduction(correction=1) for name in ("var", "std")},
    "prod": [Case(lambda op, x: op(x, dim=(1,), keepdim=False), (2, 3))],
    "median": [Case(lambda op, x: op(x), shape, torch=lambda x: x.median()) for shape in ((5,), (2, 3))],
    "pick": [Case(lambda op, x, b=b: op(x, dim=1, keepdim=False, largest=b)[0], (2, 3)) for b in (True, False)],
    "cumprod": [Case(lambda op, x: op(x, dim=1), (2, 3), low=0.5)],
    "cumsum": [Case(lambda op, x: op(x, dim=1), (2, 3))],
    "reshape": [Case(lambda op, x: op(x, shape=(3, 2)), (2, 3))],
    "permute": [Case(lambda op, x: op(x, dims=(2, 0, 1)), (2, 3, 4))],
    "flip": [Case(lambda op, x: op(x, dims=(0, 1)), (2, 3))],
    "roll": [Case(lambda op, x: op(x, shifts=(1, -2), dims=(0, 1)), (2, 3))],
    "broadcast_to": [Case(lambda op, x: op(x, shape=(4, 2, 3)), (2, 1))],
    "tril": [Case(lambda op, x: op(x, diagonal=1), (3, 4))],
    "triu": [Case(lambda op, x: op(x, diagonal=-1), (3, 4))],
    "pad": [Case(lambda op, x: op(x, pad=((1, 0), (0, 2)), value=7.0), (2, 3))],
    "cat": [Case(lambda op, *xs: op(*xs, dim=1), (2, 3), (2, 1), (2, 2))],
    "stack": [Case(lambda op, *xs: op(*xs, dim=1), (2, 3), (2, 3))],
    "softmax": [Case(lambda op, x: op(x, dim=1), (2, 3)), Case(lambda op, x: op(x, dim=0), (2, 3))],
    "log_softmax": [Case(lambda op, x: op(x, dim=1), (2, 3))],
}  # fmt: skip
