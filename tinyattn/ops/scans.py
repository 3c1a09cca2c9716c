"""Running results along an axis, by doubling: in the n-th step every element meets the one 2 ** n before it.

W. D. Hillis and G. L. Steele 1986, "Data parallel algorithms".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops import dims as _dims
from tinyattn.ops.choices import ge, le, logical_or, ne, where
from tinyattn.ops.copies import unshared
from tinyattn.ops.extremes import Extreme
from tinyattn.ops.indexing import gather
from tinyattn.ops.joins import cat, stack
from tinyattn.ops.mathematics import isnan
from tinyattn.ops.rearranging import narrow
from tinyattn.ops.reductions import logsumexp
from tinyattn.ops.shape import movedim
from tinyattn.ops.synonyms import numpy_names


def _scan(meet: Callable[..., Any], state: tuple[Tensor, ...], dim: int) -> tuple[Tensor, ...]:
    """`state` after each element met all before it: meet(*later, *earlier) returns the new later ones."""
    size, step = state[0].shape[dim], 1
    while step < size:
        later, earlier = ([narrow(x, dim, at, size - step) for x in state] for at in (step, 0))
        met = meet(*later, *earlier)
        state = tuple(cat([narrow(x, dim, 0, step), new], dim) for x, new in zip(state, met, strict=True))
        step *= 2
    return state


def positions(input: Tensor, dim: int) -> Tensor:
    """Return the place of every element along `dim`, in the input's shape."""
    size = input.shape[dim]
    return movedim(creation.arange(size, device=input.device).expand(*input.movedim(dim, -1).shape), -1, dim)


def _running(name: str, better: Any, words: str, found: list[int]) -> Callable[..., Extreme]:
    def meet(value: Tensor, index: Tensor, earlier: Tensor, its_index: Tensor) -> tuple[Tensor, Tensor]:
        own = logical_or(better(value, earlier), isnan(value))  # of equal elements the last one
        return where(own, value, earlier), where(own, index, its_index)

    def running(input: Tensor, dim: int) -> Extreme:
        dim = _dims.one(dim, input.ndim)
        if input.ndim == 0:
            return Extreme(input.clone(), creation.zeros((), dtype="int64", device=input.device))
        index = _scan(meet, (input.detach(), positions(input, dim)), dim)[1]
        return Extreme(gather(input, dim, index), index)

    running.__name__ = running.__qualname__ = name
    running.__doc__ = f"""Return (values, indices) of the {words} element so far along `dim`. As torch.{name}.

    >>> ta.{name}(ta.tensor([2, 1, 3]), 0).values.tolist()
    {found}
    """
    return numpy_names(running)


cummax = _running("cummax", ge, "largest", [2, 2, 3])
cummin = _running("cummin", le, "smallest", [2, 1, 1])


def repeats(input: Tensor, dim: int) -> Tensor:
    """Return, for each element, how many equal ones stand directly before it along `dim`."""
    place, size = positions(input, dim), input.shape[dim] - 1
    new = ne(narrow(input, dim, 1, size), narrow(input, dim, 0, size))
    begins = cat([creation.zeros_like(narrow(place, dim, 0, 1), dtype="bool"), new], dim)
    return place - cummax(where(begins, place, 0), dim).values


@numpy_names
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """Return log(cumsum(exp(input))) along `dim`, without overflow. As torch.logcumsumexp.

    >>> ta.logcumsumexp(ta.tensor([0.0, 1000.0]), 0).tolist()
    [0.0, 1000.0]
    """
    if not input.is_floating_point():  # logarithms rounded to integers would be wrong numbers
        raise NotImplementedError(f"logcumsumexp: expected a floating dtype, got {input.dtype}; convert with .float()")
    if input.ndim == 0:
        return input.clone()
    out = _scan(lambda x, earlier: (logsumexp(stack([x, earlier]), 0),), (input,), _dims.one(dim, input.ndim))[0]
    return unshared(out, input)
