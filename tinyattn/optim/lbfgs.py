"""L-BFGS: a quasi-Newton method that knows the curvature from its last steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from tinyattn.grad_mode import enable_grad, no_grad
from tinyattn.nn.utils.vectors import parameters_to_vector, vector_to_parameters
from tinyattn.ops import creation
from tinyattn.optim.optimizer import Group, Optimizer, Params
from tinyattn.tensors import Tensor


class _Point(NamedTuple):
    """A place on the line that is searched: its distance, loss, gradient, and the slope along the line."""

    t: float
    loss: float
    grad: Tensor
    slope: float


class LBFGS(Optimizer):
    """Minimise by quasi-Newton steps; each may evaluate the loss several times. As torch.optim.LBFGS.

    params: tensors of any shapes, in one group; they are updated together, as one vector. lr: length of a step, or the
    first one that the line search tries. max_iter: steps in one call of `step`. max_eval: evaluations of the loss in
    one call, by default max_iter * 5 // 4. `step` ends early if no element of the gradient exceeds tolerance_grad, or
    if the loss or all parameters change by less than tolerance_change. history_size: pairs of steps and changes of the
    gradient that estimate the curvature. line_search_fn: None or "strong_wolfe".
    Raises ValueError for more than one parameter group or another line search, TypeError for `step` without a closure.
    Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization"; Nocedal and Wright 2006,
    "Numerical optimization", algorithms 3.5 and 3.6 (line search) and 7.4 (direction).

    >>> w = ta.tensor([3.0, -1.0], requires_grad=True)
    >>> optimizer = ta.optim.LBFGS([w], line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = ((w - 1) ** 2).sum()
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item()
    8.0
    >>> w.tolist()
    [1.0, 1.0]
    """

    def __init__(
        self, params: Params, lr: float = 1, max_iter: int = 20, max_eval: int | None = None,
        tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "max_iter": max_iter, "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                   "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
                   "history_size": history_size, "line_search_fn": line_search_fn}  # fmt: skip
        super().__init__(params, options)
        if len(self.param_groups) != 1:
            raise ValueError(f"LBFGS: {len(self.param_groups)} parameter groups; it updates all parameters together")
        if line_search_fn not in (None, "strong_wolfe"):
            raise ValueError(f"LBFGS: line_search_fn={line_search_fn!r}; expected None or 'strong_wolfe'")

    @no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take up to max_iter steps; return the loss before the first. closure: computes gradients and loss."""
        if closure is None:
            raise TypeError("LBFGS.step: it evaluates the loss several times, so it needs a closure that returns it")
        options = self.param_groups[0]
        state: dict[str, Any] = self.state[options["params"][0]]
        evaluate = enable_grad()(closure)
        first = evaluate()
        loss, grad, count = float(first), self._gradient(), 1
        state["func_evals"] = state.get("func_evals", 0) + 1
        for left in reversed(range(options["max_iter"] if _size(grad) > options["tolerance_grad"] else 0)):
            state["n_iter"] = state.get("n_iter", 0) + 1
            direction = self._direction(state, grad, options)
            state["prev_flat_grad"], state["prev_loss"], before = grad, loss, loss
            t = options["lr"] * (min(1.0, 1.0 / float(grad.abs().sum())) if state["n_iter"] == 1 else 1.0)
            slope = float(grad.dot(direction))
            state["d"], state["t"] = direction, t
            if slope > -options["tolerance_change"]:
                break
            start, evaluations = parameters_to_vector(options["params"]), 0
            if options["line_search_fn"]:
                at, first_point = self._along(evaluate, start, direction), _Point(0.0, loss, grad, slope)
                point, evaluations = _strong_wolfe(at, first_point, t, direction, options["max_eval"] - count)
                t, loss, grad = point.t, point.loss, point.grad
                self._move(start, direction, t)
            else:
                self._move(start, direction, t)
                if left:  # what the last step gives is evaluated by the next call
                    loss, grad, evaluations = float(evaluate()), self._gradient(), 1
            state["t"] = t
            count += evaluations
            state["func_evals"] += evaluations
            if count >= options["max_eval"] or _size(grad) <= options["tolerance_grad"]:
                break
            if _size(direction * t) <= options["tolerance_change"] or abs(loss - before) < options["tolerance_change"]:
                break
        return first

    def _gradient(self) -> Tensor:
        parts = [creation.zeros_like(p) if p.grad is None else p.grad for p in self.param_groups[0]["params"]]
        return parameters_to_vector(parts)

    def _move(self, start: Tensor, direction: Tensor, t: float) -> None:
        self._record_writes()
        vector_to_parameters(start + direction * t, self.param_groups[0]["params"])

    def _along(self, evaluate: Callable[[], Any], start: Tensor, direction: Tensor) -> Callable[[float], _Point]:
        def at(t: float) -> _Point:
            self._move(start, direction, t)
            loss, grad = float(evaluate()), self._gradient()
            return _Point(t, loss, grad, float(grad.dot(direction)))

        return at

    def _direction(self, state: dict[str, Any], grad: Tensor, options: Group) -> Tensor:
        """-H grad, with H the inverse Hessian as the remembered steps show it (algorithm 7.4)."""
        if state["n_iter"] == 1:
            state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1.0)
            return -grad
        change, moved = grad - state["prev_flat_grad"], state["d"] * state["t"]
        curvature = float(change.dot(moved))
        changes, steps, ro = state["old_dirs"], state["old_stps"], state["ro"]
        if curvature > 1e-10:
            for values, value in ((changes, change), (steps, moved), (ro, 1.0 / curvature)):
                del values[: len(values) + 1 - options["history_size"]]
                values.append(value)
            state["H_diag"] = curvature / float(change.dot(change))
        direction, shares = -grad, [0.0] * len(steps)
        for i in reversed(range(len(steps))):
            shares[i] = float(steps[i].dot(direction)) * ro[i]
            direction = direction - changes[i] * shares[i]
        direction = direction * state["H_diag"]
        for i in range(len(steps)):
            direction = direction + steps[i] * (shares[i] - float(changes[i].dot(direction)) * ro[i])
        return direction


def _size(x: Tensor) -> float:
    return float(x.abs().max())


def _lowest(a: _Point, b: _Point, low: float | None = None, high: float | None = None) -> float:
    """Where the cubic through two points with these slopes is smallest, between low and high."""
    low, high = (min(a.t, b.t) if low is None else low), (max(a.t, b.t) if high is None else high)
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if square < 0:
        return (low + high) / 2
    left, right = (a, b) if a.t <= b.t else (b, a)
    root = math.sqrt(square)
    t = right.t - (right.t - left.t) * (right.slope + root - d1) / (right.slope - left.slope + 2 * root)
    return min(max(t, low), high)


def _strong_wolfe(
    at: Callable[[float], _Point], start: _Point, t: float, direction: Tensor, most: int, c1: float = 1e-4,
    c2: float = 0.9, smallest: float = 1e-9,
) -> tuple[_Point, int]:  # fmt: skip
    """Return a point with a lower loss and a flatter slope (the strong Wolfe conditions), and how many were tried."""

    def is_high(point: _Point) -> bool:
        return point.loss > start.loss + c1 * point.t * start.slope

    def is_flat(point: _Point) -> bool:
        return abs(point.slope) <= -c2 * start.slope

    length, before, new, tried = _size(direction), start, at(t), 1
    pair: list[_Point] = []
    while tried <= most:  # until two points have the wanted one between them: algorithm 3.5
        if is_high(new) or (tried > 2 and new.loss >= before.loss) or (not is_flat(new) and new.slope >= 0):
            pair = [before, new]
            break
        if is_flat(new):
            return new, tried
        t = _lowest(before, new, new.t + 0.01 * (new.t - before.t), new.t * 10)
        before, new, tried = new, at(t), tried + 1
    pair = sorted(pair or [start, new], key=lambda point: point.loss)  # the lower one first
    stuck = False
    while tried <= most and abs(pair[0].t - pair[1].t) * length >= smallest:  # algorithm 3.6
        t = _lowest(pair[0], pair[1])
        left, right = sorted(point.t for point in pair)
        if min(right - t, t - left) < 0.1 * (right - left):  # hardly any progress
            if stuck or t >= right or t <= left:
                t = right - 0.1 * (right - left) if abs(t - right) < abs(t - left) else left + 0.1 * (right - left)
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        new, tried = at(t), tried + 1
        if is_high(new) or new.loss >= pair[0].loss:
            pair = sorted([pair[0], new], key=lambda point: point.loss)
            continue
        if is_flat(new):
            return new, tried
        pair = [new, pair[0] if new.slope * (pair[1].t - pair[0].t) >= 0 else pair[1]]
    return pair[0], tried
