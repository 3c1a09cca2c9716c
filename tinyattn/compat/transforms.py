"""Transforms of torch.distributions: functions with an inverse, and the logarithm of their slope."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tinyattn as ta
from tinyattn.nn import functional as F

Formula = Callable[..., Any]


def below_one(y: Any) -> Any:
    """Keep probabilities off 0 and 1, by as little as their dtype allows."""
    return y.clamp(ta.finfo(y.dtype).tiny, 1 - ta.finfo(y.dtype).eps)


def summed(x: Any, axes: int) -> Any:
    """Sum over the last axes."""
    return x.sum(tuple(range(-axes, 0))) if axes > 0 else x


class Transform:
    """Base: a subclass defines `_call`, `_inverse` and `log_abs_det_jacobian`. As torch's; nothing is cached."""

    bijective, event_dim = True, 0

    def __init__(self, cache_size: int = 0) -> None:
        pass

    def __call__(self, x: Any) -> Any:
        return self._call(x)  # type: ignore[attr-defined]

    @property
    def inv(self) -> Any:
        """The inverse transform."""
        turned = lambda inverse, y, x: -self.log_abs_det_jacobian(x, y)  # type: ignore[attr-defined]  # noqa: E731
        return _transform("_Inverse", self._inverse, self._call, turned, self.event_dim)()  # type: ignore[attr-defined]


def _transform(name: str, call: Formula, inverse: Formula, slope: Formula, event_dim: int = 0) -> Any:
    own = {"_call": staticmethod(call), "_inverse": staticmethod(inverse), "log_abs_det_jacobian": slope}
    return type(name, (Transform,), {**own, "event_dim": event_dim})


ExpTransform = _transform("ExpTransform", ta.exp, ta.log, lambda self, x, y: x)
SigmoidTransform = _transform(
    "SigmoidTransform",
    lambda x: below_one(x.sigmoid()),
    lambda y: below_one(y).logit(),
    lambda self, x, y: -F.softplus(-x) - F.softplus(x),
)
TanhTransform = _transform(
    "TanhTransform", ta.tanh, ta.atanh, lambda self, x, y: 2 * (math.log(2) - x - F.softplus(-2 * x))
)


class AffineTransform(Transform):
    """loc + scale * x; event_dim: the last axes, over which the logarithms are summed."""

    def __init__(self, loc: Any, scale: Any, event_dim: int = 0, cache_size: int = 0) -> None:
        self.loc, self.scale, self.event_dim = loc, scale, event_dim

    def _call(self, x: Any) -> Any:
        return self.loc + self.scale * x

    def _inverse(self, y: Any) -> Any:
        return (y - self.loc) / self.scale

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        slope = ta.as_tensor(self.scale, dtype=x.dtype, device=x.device)
        return summed(slope.abs().log().expand(x.shape), self.event_dim)
