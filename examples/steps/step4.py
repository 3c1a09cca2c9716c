"""Step 4: arrays instead of numbers, and broadcasting undone.

    python examples/steps/step4.py

The rules stay as they are. NumPy repeats a small array to fit a larger one; so one element of it has many effects, and
its gradient is their sum. One function does this for all rules.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from heapq import heappop, heappush

import numpy as np

numbers = itertools.count()


class Variable:
    def __init__(self, data: object) -> None:
        self.data = np.asarray(data, dtype=np.float64)
        self.edges: list = []  # an input, its rule, and what the rule needs besides g
        self.grad = np.zeros_like(self.data)  # the slope of the final result with respect to each element
        self.id = next(numbers)  # counts up: larger is newer

    def backward(self) -> None:
        waiting, slopes, heap = {self.id: self}, {self.id: np.ones_like(self.data)}, [-self.id]
        while heap:
            key = -heappop(heap)  # a heap gives the smallest number first, which is the newest here
            out, g = waiting.pop(key), slopes.pop(key)
            out.grad = out.grad + g
            for x, rule, saved in out.edges:
                if x.id not in waiting:
                    waiting[x.id], slopes[x.id] = x, np.zeros_like(x.data)
                    heappush(heap, -x.id)
                slopes[x.id] = slopes[x.id] + sum_to(rule(g, **saved), x.data.shape)


def sum_to(g: np.ndarray, shape: tuple) -> np.ndarray:
    ahead = g.ndim - len(shape)  # axes that broadcasting put in front
    repeated = [ahead + i for i, n in enumerate(shape) if n == 1]
    return g.sum((*range(ahead), *repeated), keepdims=True).reshape(shape) if g.shape != shape else g


def operation(forward: Callable, **rules: Callable) -> Callable[..., Variable]:
    names = list(inspect.signature(forward).parameters)

    def run(*inputs: object, **options: object) -> Variable:
        inputs = [x if isinstance(x, Variable) else Variable(x) for x in inputs]
        known = dict(zip(names, [x.data for x in inputs], strict=False)) | options
        out = Variable(forward(**known))
        known["out"] = out.data
        for x, rule in zip(inputs, rules.values(), strict=True):
            _, *needs = inspect.signature(rule).parameters  # the first is g
            out.edges.append((x, rule, {name: known[name] for name in needs}))
        return out

    return run


add = operation(lambda a, b: a + b, a=lambda g: g, b=lambda g: g)
sub = operation(lambda a, b: a - b, a=lambda g: g, b=lambda g: -g)
mul = operation(lambda a, b: a * b, a=lambda g, b: g * b, b=lambda g, a: g * a)
div = operation(lambda a, b: a / b, a=lambda g, b: g / b, b=lambda g, b, out: -g * out / b)
exp = operation(lambda x: np.exp(x), x=lambda g, out: g * out)
log = operation(lambda x: np.log(x), x=lambda g, x: g / x)
total = operation(lambda x, axis=None: x.sum(axis, keepdims=True), x=lambda g, x: np.broadcast_to(g, x.shape))
Variable.__add__, Variable.__sub__, Variable.__mul__, Variable.__truediv__ = add, sub, mul, div


def main() -> None:
    x = Variable([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    shift = Variable([10.0, 20.0, 30.0])  # added to both rows
    total((x + shift) * x).backward()
    print("gradient of x", x.grad.tolist(), "of shift", shift.grad.tolist())  # 2 x + shift; the sum of each column


if __name__ == "__main__":
    main()
