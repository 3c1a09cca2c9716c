"""The default recipe of examples/mnist.py, the same for every library: data, order, learning rates, the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

BATCH, PEAK, WARMUP, SHIFT, CHECKS = 128, 2e-3, 200, 2, 4  # CHECKS: test passes an epoch


def seconds_to_goals(
    step: Callable[[Any, Any, float], Any],
    classify: Callable[[Any], Any],
    options: dict[str, Any],
    wait: Callable[[], None] = lambda: None,
) -> list[float]:
    """Train until the last goal; the seconds of training at which each was reached, -1 if never, and the best accuracy.

    step(images, labels, lr) trains on a batch; classify(images) gives the classes of some; wait() until all steps are
    done that were begun.
    """
    from tinyattn import data  # NumPy alone: the same pipeline feeds every library

    digits = data.load_mnist(download=False)
    per_epoch = math.ceil(len(digits.train_images) / BATCH)
    steps, every = options["epochs"] * per_epoch, max(1, per_epoch // CHECKS)
    goals, best, spent = options["goals"], 0.0, 0.0
    reached: dict[float, float] = {}
    batches = _batches(digits.train_images, digits.train_labels, options["seed"])
    for number in range(steps):
        checked = (number + 1) % every == 0 or number + 1 == steps
        start = time.perf_counter()
        step(*next(batches), learning_rate(number, steps))
        if checked:
            wait()
        spent += time.perf_counter() - start
        if not checked:
            continue
        parts = [classify(part) for part in np.array_split(digits.test_images, 20)]  # not on the clock
        best = max(best, float((np.concatenate(parts) == digits.test_labels).mean()))
        reached = {goal: reached.get(goal, spent) for goal in goals if best >= goal}
        if len(reached) == len(goals):
            break
    return [*(reached.get(goal, -1.0) for goal in goals), best]


def learning_rate(number: int, steps: int) -> float:
    """Up in a straight line, down along a cosine: as the example's schedule."""
    if number < WARMUP:
        return PEAK * (1 / WARMUP + (1 - 1 / WARMUP) * number / WARMUP)
    return PEAK * (1 + math.cos(math.pi * (number - WARMUP) / (steps - WARMUP))) / 2


def _batches(images: Any, labels: Any, seed: int) -> Iterator[tuple[Any, Any]]:
    from tinyattn import data
    from tinyattn.random import Generator

    loader = data.DataLoader((images, labels), BATCH, shuffle=True, generator=Generator().manual_seed(seed))
    shifts = Generator().manual_seed(seed + 1)
    while True:
        for pictures, classes in loader:
            yield data.random_shift(pictures.numpy(), SHIFT, shifts), classes.numpy()
