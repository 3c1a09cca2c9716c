"""Dropout of elements, of channels, and for SELU."""

from __future__ import annotations

from typing import Any

from tinyattn import random
from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.choices import where
from tinyattn.ops.promotion import floating, opmath
from tinyattn.ops.synonyms import bound


@operation(
    traits="maps drops",
    promote=lambda x, keep: (*floating(x), keep),
    definition=lambda xp, x, keep, *, scale: x * keep * scale,
    x=lambda xp, g, keep, scale: g * keep * scale,
)
def _dropout(xp: Any, x: Any, keep: Any, *, scale: float) -> Any:
    return x * keep * scale


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: random.Generator | None = None,
) -> Tensor:
    """Zero each element with probability p and scale the others by 1 / (1 - p); return the input if not training.

    inplace: write into `input`. generator: draws the mask, the default generator if None. Raises ValueError for a p
    outside 0 to 1. Srivastava et al. 2014, "Dropout". As torch.nn.functional.dropout.

    Example:
        >>> F.dropout(ta.ones(4), 0.5, generator=ta.Generator().manual_seed(0))
        tensor([2., 2., 2., 0.])
    """
    return _dropped("dropout", input, input.shape, p, training, inplace, generator)


def _keep(name: str, input: Tensor, shape: Any, p: float, generator: Any = None) -> Tensor:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p={p}; a probability lies between 0 and 1")
    return creation.as_tensor(random.generator_for(input.device, generator).keep(shape, p))


def _dropped(
    name: str, input: Tensor, shape: Any, p: float, training: bool, inplace: bool, generator: Any = None
) -> Tensor:
    if p == 0 or (not training and 0 < p <= 1):
        return input
    keep = _keep(name, input, shape, p, generator)
    out: Tensor = _dropout(input, keep, scale=0.0 if p == 1 else 1 / (1 - p))
    return input.copy_(out) if inplace else out


def _of_channels(n: int, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    lead = 1 if n != 2 and input.ndim == n + 1 else 2  # dropout2d: the first two axes always
    shape = (*input.shape[:lead], *(1 for _ in input.shape[lead:]))
    return _dropped(f"dropout{n}d", input, shape, p, training, inplace)


@bound(_of_channels, 1)
def dropout1d() -> None:
    """Drop whole channels of (batch, channels, length) or (channels, length); else as `dropout`.

    As torch.nn.functional.dropout1d (Tompson et al. 2015).

    >>> len(F.dropout1d(ta.ones(1, 1, 9)).unique())
    1
    """


@bound(_of_channels, 2)
def dropout2d() -> None:
    """Drop whole channels of (batch, channels, ...); else as `dropout`. As torch.nn.functional.dropout2d.

    >>> len(F.dropout2d(ta.ones(1, 1, 3, 3)).unique())
    1
    """


@bound(_of_channels, 3)
def dropout3d() -> None:
    """Drop whole channels of (batch, channels, d, h, w) or (channels, d, h, w); else as `dropout`.

    As torch.nn.functional.dropout3d.

    >>> len(F.dropout3d(ta.ones(1, 1, 3, 3, 3)).unique())
    1
    """


@opmath
def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Replace elements, each with probability p, by the lower limit of SELU, and keep mean 0 and variance 1.

    As torch.nn.functional.alpha_dropout (Klambauer et al. 2017).

    >>> F.alpha_dropout(ta.ones(2), training=False).tolist()
    [1.0, 1.0]
    """
    keep = _keep("alpha_dropout", input, input.shape, p)
    if p == 0 or not training:
        return input
    limit = 1.7580993408473766  # of SELU: its alpha times its scale
    scale = 0.0 if p == 1 else ((limit * limit * p + 1) * (1 - p)) ** -0.5
    out = where(keep, input, -limit) * scale + limit * scale * p
    return input.copy_(out) if inplace else out
