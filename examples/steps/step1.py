"""Step 1: a number that remembers how it was computed. Only + and *.

    python examples/steps/step1.py

Every result keeps its inputs, and for each input the slope of the result there. The chain rule: along one path slopes
are multiplied, and the slopes of several paths are added.
"""

from __future__ import annotations


class Variable:
    def __init__(self, data: float, edges: tuple = ()) -> None:
        self.data = data
        self.edges = edges  # pairs of an input, and the slope of this variable with respect to it
        self.grad = 0.0  # the slope of the final result with respect to this variable

    def __add__(self, other: Variable) -> Variable:
        return Variable(self.data + other.data, ((self, 1.0), (other, 1.0)))

    def __mul__(self, other: Variable) -> Variable:
        return Variable(self.data * other.data, ((self, other.data), (other, self.data)))

    def backward(self, slope: float = 1.0) -> None:
        self.grad += slope
        for x, local in self.edges:
            x.backward(slope * local)  # one call for each path


def main() -> None:
    x, w, b = Variable(3.0), Variable(2.0), Variable(1.0)
    y = w * x + b
    loss = y * y  # (w x + b)^2 = 49
    loss.backward()
    print("loss", loss.data, "slopes of w, x, b:", w.grad, x.grad, b.grad)  # 2 y x, 2 y w, 2 y


if __name__ == "__main__":
    main()
