"""MyGrad: operations on scalars only; its nodes are Python objects around NumPy, as tinyattn's are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mygrad
import numpy as np


def chain(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """1,000 additions or products of 0-d tensors, forward and backward. options: operation."""
    add, y = options["operation"] == "add", mygrad.tensor(np.float32(1.0001))

    def run() -> tuple[Any, Any]:
        y.null_grad()
        z = y
        for _ in range(1000):
            z = z + y if add else z * y
        z.backward()
        return z.data, y.grad

    return run
