"""float16 is computed in float32, and each result is rounded once. As PyTorch's opmath.

Only forwards that move, compare or change signs see float16 itself: its sums stop at 2048, squares overflow above 255.
The backward pass carries gradients of float16 tensors in float32 and rounds them where they leave the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinyattn import backends
from tinyattn.dtypes import float16, float32
from tinyattn.engine.variable import Variable, recording_namespace


def opmath_dtype(dtype: Any) -> Any:
    """Return the dtype in which `dtype` is computed: float32 for float16, itself otherwise."""
    return float32 if dtype == float16 else dtype


def widened(x: Any) -> Any:
    """Return float16 as float32 and all else as it is; of a tuple or list, each part. On Variables, a recorded cast."""
    if type(x) in (tuple, list):
        return type(x)(map(widened, x))
    return cast(x, float32) if getattr(x, "dtype", None) == float16 else x


def cast(x: Any, dtype: Any) -> Any:
    """Return an array, or a Variable (recorded), in another dtype."""
    return (recording_namespace() if isinstance(x, Variable) else backends.of(x)).cast(x, dtype)


def rounded(x: Any, inputs: Iterable[Any]) -> Any:
    """Return a float32 result in float16 if the first floating-point input that has axes, or else the first, was."""
    floating = [y for y in inputs if getattr(getattr(y, "dtype", None), "kind", None) == "f"]
    first = next((y for y in floating if y.ndim), next(iter(floating), None))
    return cast(x, float16) if x.dtype == float32 and first is not None and first.dtype == float16 else x
