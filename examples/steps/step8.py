"""Step 8: attention. A row of tokens learns where to look.

    python examples/steps/step8.py

Every token compares its query with all keys, and takes the mean of the values, weighted by how well they fit. Heads
do this side by side, each with its share of the features.
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
reshape = operation(lambda x, shape=(): x.reshape(shape), x=lambda g, x: g.reshape(x.shape))
swap = operation(lambda x, axes=(): x.swapaxes(*axes), x=lambda g, axes: g.swapaxes(*axes))


def log_softmax(x: Variable) -> Variable:
    shifted = x - x.data.max(-1, keepdims=True)
    return shifted - log(total(exp(shifted), axis=-1))


def cross_entropy(scores: Variable, labels: np.ndarray) -> Variable:
    """The mean of -log p of the right classes: scores (rows, classes), labels (rows,)."""
    right = np.eye(scores.data.shape[-1])[labels]  # a 1 in the column of the right class
    return total(log_softmax(scores) * right) / -len(labels)


def attention(q: Variable, k: Variable, v: Variable, mask: object = 0.0) -> Variable:
    """softmax(q k' / sqrt(d) + mask) v: (..., queries, d), (..., keys, d), (..., keys, e) -> (..., queries, e)."""
    scores = q @ swap(k, axes=(-2, -1)) / np.sqrt(q.data.shape[-1])  # (..., queries, keys)
    return exp(log_softmax(scores + mask)) @ v


def heads(x: Variable, count: int) -> Variable:
    """(batch, tokens, dim) -> (batch, heads, tokens, dim / heads)"""
    batch, tokens, _ = x.data.shape
    return swap(reshape(x, shape=(batch, tokens, count, -1)), axes=(1, 2))


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
    x = rng.normal(size=(200, 6, 4))  # 200 rows of 6 tokens: three numbers, and a mark
    marked = rng.integers(0, 6, 200)
    x[:, :, 3] = np.eye(6)[marked]
    labels = (x[np.arange(200), marked, 0] > 0).astype(int)  # the sign of one number of the marked token
    q, k, v, out = (Variable(rng.normal(size=shape) / 2) for shape in [(1, 2, 1, 4), (4, 8), (4, 8), (8, 2)])
    adam = Adam([q, k, v, out], lr=0.03)
    for step in range(101):
        keys, values = heads(Variable(x) @ k, 2), heads(Variable(x) @ v, 2)  # (200, 2, 6, 4)
        found = attention(q, keys, values)  # (200, 2, 1, 4): one learned query in each head
        scores = reshape(found, shape=(200, 8)) @ out
        loss = cross_entropy(scores, labels)
        loss.backward()
        adam.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.data.item():.4f}, right {(scores.data.argmax(1) == labels).mean():.0%}")


if __name__ == "__main__":
    main()
