"""Step 7: Adam, and a network with a hidden layer.

    python examples/steps/step7.py

No straight line parts two rings. A layer of tanh between two linear ones bends the space until one does. Adam gives
every parameter its own step: a running mean of the gradient, over the root of a running mean of its square.
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
tanh = operation(lambda x: np.tanh(x), x=lambda g, out: g * (1 - out * out))
log = operation(lambda x: np.log(x), x=lambda g, x: g / x)
total = operation(lambda x, axis=None: x.sum(axis, keepdims=True), x=lambda g, x: np.broadcast_to(g, x.shape))
matmul = operation(lambda a, b: a @ b, a=lambda g, b: g @ b.swapaxes(-2, -1), b=lambda g, a: a.swapaxes(-2, -1) @ g)
Variable.__add__, Variable.__sub__, Variable.__mul__, Variable.__truediv__ = add, sub, mul, div
Variable.__matmul__ = matmul


def log_softmax(x: Variable) -> Variable:
    shifted = x - x.data.max(-1, keepdims=True)
    return shifted - log(total(exp(shifted), axis=-1))


def cross_entropy(scores: Variable, labels: np.ndarray) -> Variable:
    """The mean of -log p of the right classes: scores (rows, classes), labels (rows,)."""
    right = np.eye(scores.data.shape[-1])[labels]  # a 1 in the column of the right class
    return total(log_softmax(scores) * right) / -len(labels)


class Adam:
    def __init__(self, parameters: list[Variable], lr: float) -> None:
        self.parameters, self.lr, self.t = parameters, lr, 0
        self.m, self.v = ([np.zeros_like(p.data) for p in parameters] for _ in range(2))

    def step(self) -> None:
        self.t += 1
        for i, p in enumerate(self.parameters):
            self.m[i] = 0.9 * self.m[i] + 0.1 * p.grad
            self.v[i] = 0.999 * self.v[i] + 0.001 * p.grad**2
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)  # both started at 0
            p.data = p.data - self.lr * m / (np.sqrt(v) + 1e-8)
            p.grad = np.zeros_like(p.data)


def main() -> None:
    rng = np.random.default_rng(0)
    labels, angle = np.arange(100) % 2, rng.uniform(0, 2 * np.pi, 100)
    radius = 1 + labels + rng.normal(size=100) * 0.1  # two rings of points
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    w, b, out = Variable(rng.normal(size=(2, 16))), Variable(np.zeros(16)), Variable(rng.normal(size=(16, 2)) / 4)
    adam = Adam([w, b, out], lr=0.02)
    for step in range(101):
        scores = tanh(Variable(x) @ w + b) @ out  # (100, 2)
        loss = cross_entropy(scores, labels)
        loss.backward()
        adam.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.data.item():.4f}, right {(scores.data.argmax(1) == labels).mean():.0%}")


if __name__ == "__main__":
    main()
