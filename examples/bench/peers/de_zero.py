"""DeZero: operations on scalars only; a teaching engine, from Koki Saitoh's book."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

np.int = int  # DeZero is of 2020 and asks for this name, which NumPy has dropped since

from dezero import Variable  # noqa: E402


def chain(problem: None, options: dict[str, Any]) -> Callable[[], Any]:
    """1,000 additions or products of 0-d variables, forward and backward. options: operation."""
    add, y = options["operation"] == "add", Variable(np.array(1.0001, np.float32))

    def run() -> tuple[Any, Any]:
        y.cleargrad()
        z = y
        for _ in range(1000):
            z = z + y if add else z * y
        z.backward()
        return z.data, y.grad.data

    return run
