"""Step 2: every variable is visited once.

    python examples/steps/step2.py

Step 1 walks every path, and x + x doubles their number: forty doublings have 2^40 paths. But a path can wait for the
others at the variable where they meet. A variable is always newer than its inputs. So the newest one that waits has
received all its slopes, and can hand on their sum.
"""

from __future__ import annotations

import itertools
from heapq import heappop, heappush

numbers = itertools.count()


class Variable:
    def __init__(self, data: float, edges: tuple = ()) -> None:
        self.data = data
        self.edges = edges  # pairs of an input, and the slope of this variable with respect to it
        self.grad = 0.0  # the slope of the final result with respect to this variable
        self.id = next(numbers)  # counts up: larger is newer

    def __add__(self, other: Variable) -> Variable:
        return Variable(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other: Variable) -> Variable:
        return Variable(self.data * other.data, ((self, other.data), (other, self.data)))

    def backward(self) -> None:
        waiting, slopes, heap = {self.id: self}, {self.id: 1.0}, [-self.id]
        while heap:
            key = -heappop(heap)  # a heap gives the smallest number first, which is the newest here
            out, g = waiting.pop(key), slopes.pop(key)
            out.grad += g
            for x, local in out.edges:
                if x.id not in waiting:
                    waiting[x.id], slopes[x.id] = x, 0.0
                    heappush(heap, -x.id)
                slopes[x.id] += g * local


def main() -> None:
    x = Variable(1.0)
    y = x
    for _ in range(40):
        y = y + y
    y.backward()
    print("slope of 2^40 x:", x.grad, "which is", 2.0**40)


if __name__ == "__main__":
    main()
