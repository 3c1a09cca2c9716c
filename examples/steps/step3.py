"""Step 3: an operation is a forward function and a rule for each input.

    python examples/steps/step3.py

A rule turns g, the slope of the final result at the output, into the slope at one input. The names of its parameters
say what else it needs: another input, or the output. Only that is kept.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from heapq import heappop, heappush

numbers = itertools.count()


class Variable:
    def __init__(self, data: float) -> None:
        self.data = data
        self.edges: list = []  # an input, its rule, and what the rule needs besides g
        self.grad = 0.0  # the slope of the final result with respect to this variable
        self.id = next(numbers)  # counts up: larger is newer

    def backward(self) -> None:
        waiting, slopes, heap = {self.id: self}, {self.id: 1.0}, [-self.id]
        while heap:
            key = -heappop(heap)  # a heap gives the smallest number first, which is the newest here
            out, g = waiting.pop(key), slopes.pop(key)
            out.grad += g
            for x, rule, saved in out.edges:
                if x.id not in waiting:
                    waiting[x.id], slopes[x.id] = x, 0.0
                    heappush(heap, -x.id)
                slopes[x.id] += rule(g, **saved)


def operation(forward: Callable, **rules: Callable) -> Callable[..., Variable]:
    def run(*inputs: Variable | float) -> Variable:
        inputs = [x if isinstance(x, Variable) else Variable(x) for x in inputs]
        known = dict(zip(inspect.signature(forward).parameters, [x.data for x in inputs], strict=True))
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
exp = operation(lambda x: math.exp(x), x=lambda g, out: g * out)
log = operation(lambda x: math.log(x), x=lambda g, x: g / x)
Variable.__add__, Variable.__sub__, Variable.__mul__, Variable.__truediv__ = add, sub, mul, div


def main() -> None:
    x = Variable(0.5)
    y = log(exp(x) + 1)  # its slope is 1 / (1 + exp(-x))
    y.backward()
    print("slope", x.grad, "formula", 1 / (1 + math.exp(-0.5)))


if __name__ == "__main__":
    main()
