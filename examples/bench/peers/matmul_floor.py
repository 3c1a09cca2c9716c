"""The floor: only the step's matrix products, in NumPy, into arrays that are there already.

On two cores each of two threads takes the products of half the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bench.problem import Problem


def train(problem: Problem, options: dict[str, Any]) -> Callable[[], Any]:
    """All products of a training step. options: threads."""
    threads, batch = options["threads"], problem.images.shape[1]
    shares = [_products(problem, len(rows)) for rows in np.array_split(np.arange(batch), threads)]
    if threads == 1:
        return lambda: _run(shares[0])
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        for _ in pool.map(_run, shares):
            pass

    return run


def _products(problem: Problem, batch: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each product its factors and the array for the result; equal shapes share one array, as a floor may."""
    random, arrays = np.random.default_rng(0), {}

    def array(role: str, shape: tuple[int, ...]) -> np.ndarray:
        if (role, shape) not in arrays:
            arrays[role, shape] = random.random(shape, dtype=np.float32)
        return arrays[role, shape]

    return [(array("left", a), array("right", b), array("result", (*a[:-1], b[-1]))) for a, b in problem.matmuls(batch)]


def _run(products: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    for a, b, out in products:
        np.matmul(a, b, out=out)
