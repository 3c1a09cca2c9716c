"""Derivatives of functions, as functions: vjp, jvp, jacobian, hessian, hvp. As torch.autograd.functional.

Each takes a function of tensors and its inputs, and answers in their form: one tensor for one tensor, a
tuple for a tuple, a tuple of tuples where both sides are tuples. Where an output does not depend on an
input there are zeros, or, with strict=True, a RuntimeError. With create_graph=True the results can be
differentiated again. They also work inside `no_grad()`, and never touch a `.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tinyattn.autograd.gradients import grad
from tinyattn.engine.variable import Tensor, Variable
from tinyattn.grad_mode import enable_grad
from tinyattn.ops.copies import alias
from tinyattn.ops.creation import eye, ones_like, zeros, zeros_like
from tinyattn.ops.joins import stack

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vjp"]

Tensors = Tensor | Sequence[Tensor]
Function = Callable[..., Tensors]


class _Tensors(NamedTuple):
    """One tensor or several, and which of the two it was."""

    all: tuple[Tensor, ...]
    single: bool

    def like(self, tensors: Sequence[Any]) -> Any:
        """`tensors` in this form."""
        return tensors[0] if self.single else tuple(tensors)


@enable_grad()
def vjp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), v' J): one walk back. As torch.autograd.functional.vjp.

    v: of the form of the output; may be left out for a single number.

    >>> ta.vjp(lambda x: x * x, ta.tensor([1.0, 2.0]), ta.tensor([1.0, 10.0]))[1]
    tensor([ 2., 40.])
    """
    xs, out = _call("vjp", func, inputs)
    found = _pull("vjp", out.all, xs.all, _direction("vjp", v, out, "output"), create_graph, strict)
    return out.like(_ready(out.all, create_graph)), xs.like(_ready(found, create_graph))


@enable_grad()
def jvp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), J v): how the outputs change along `v`. As torch.autograd.functional.jvp.

    v: of the form of the inputs; may be left out for a single number. The engine only walks back, so this
    walks twice: u' J is linear in u, and its own gradient there, weighed with v, is J v.

    >>> ta.jvp(lambda x: x * x, ta.tensor([1.0, 2.0]), ta.tensor([1.0, 10.0]))[1]
    tensor([ 2., 40.])
    """
    xs, out = _call("jvp", func, inputs)
    direction = _direction("jvp", v, xs, "input")
    us = [zeros_like(y).requires_grad_() for y in out.all]
    pulled = _pull("jvp", out.all, xs.all, us, True, strict)
    found = _pull("jvp", pulled, us, direction, create_graph, strict)
    return out.like(_ready(out.all, create_graph)), out.like(_ready(found, create_graph))


@enable_grad()
def jacobian(func: Function, inputs: Tensors, create_graph: bool = False, strict: bool = False) -> Any:
    """d func(*inputs)[i] / d inputs[j], of shape (*output.shape, *input.shape): one walk for each number in
    the output. As torch.autograd.functional.jacobian.

    >>> ta.jacobian(lambda x: x * x, ta.tensor([1.0, 2.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    xs, out = _call("jacobian", func, inputs)
    blocks = []
    for y in out.all:
        basis = eye(y.numel(), dtype=y.dtype).reshape((y.numel(), *y.shape))
        rows = [_pull("jacobian", [y], xs.all, [u], create_graph, strict) for u in basis]
        columns = zip(*rows, strict=True) if rows else [()] * len(xs.all)
        whole = [_pile(column, y, x) for column, x in zip(columns, xs.all, strict=True)]
        blocks.append(xs.like(_ready(whole, create_graph)))
    return out.like(blocks)


def hessian(func: Function, inputs: Tensors, create_graph: bool = False, strict: bool = False) -> Any:
    """The second derivatives of a `func` that gives a single number: the Jacobian of its gradient, of shape
    (*input.shape, *input.shape). As torch.autograd.functional.hessian.

    >>> ta.hessian(lambda x: (x**3).sum(), ta.tensor([1.0, 2.0])).tolist()
    [[6.0, 0.0], [0.0, 12.0]]
    """
    given = _take("hessian", inputs, "inputs")

    def gradient(*xs: Tensor) -> Sequence[Tensor]:
        y = _number("hessian", _take("hessian", func(*xs), "output"))
        return _pull("hessian", [y], xs, [ones_like(y)], True, strict)

    rows = jacobian(gradient, given.all, create_graph, strict)
    return given.like([given.like(row) for row in rows])


@enable_grad()
def hvp(
    func: Function, inputs: Tensors, v: Tensors | None = None, create_graph: bool = False, strict: bool = False
) -> tuple[Any, Any]:
    """(func(*inputs), H v) for a `func` that gives a single number, without building its Hessian H.

    v: of the form of the inputs. H is symmetric, so H v is the gradient of <gradient, v>: two walks. As
    torch.autograd.functional.hvp (and vhp).

    >>> ta.hvp(lambda x: (x**3).sum(), ta.tensor([1.0, 2.0]), ta.tensor([1.0, 1.0]))[1]
    tensor([ 6., 12.])
    """
    xs, out = _call("hvp", func, inputs)
    y = _number("hvp", out)
    direction = _direction("hvp", v, xs, "input")
    slopes = _pull("hvp", [y], xs.all, [ones_like(y)], True, strict)
    found = _pull("hvp", slopes, xs.all, direction, create_graph, strict)
    return out.like(_ready(out.all, create_graph)), xs.like(_ready(found, create_graph))


def _call(name: str, func: Function, inputs: Tensors) -> tuple[_Tensors, _Tensors]:
    """The inputs, as tensors that require gradients and are none of the caller's, and func of them."""
    given = _take(name, inputs, "inputs")
    xs = [alias(x) if x.requires_grad else x.detach().requires_grad_() for x in given.all]
    return _Tensors(tuple(xs), given.single), _take(name, func(*xs), "output")


def _take(name: str, value: Any, what: str) -> _Tensors:
    several = tuple(value) if isinstance(value, tuple | list) else (value,)
    for i, x in enumerate(several):
        if not isinstance(x, Variable):
            raise TypeError(f"{name}: {what} must be a tensor or a tuple of them, got {type(x).__name__} at {i}")
    return _Tensors(several, not isinstance(value, tuple | list))


def _number(name: str, out: _Tensors) -> Tensor:
    if len(out.all) != 1 or out.all[0].numel() != 1:
        raise RuntimeError(f"{name}: func must give a single number, got shape {[tuple(y.shape) for y in out.all]}")
    return out.all[0]


def _direction(name: str, v: Tensors | None, side: _Tensors, what: str) -> Sequence[Tensor]:
    """`v`, checked against the tensors it belongs to."""
    shapes = [tuple(t.shape) for t in side.all]
    if v is None:
        if not side.single or side.all[0].numel() != 1:
            raise RuntimeError(f"{name}: v can be left out only for a single number, and the {what} has shape {shapes}")
        return [ones_like(side.all[0])]
    given = _take(name, v, "v").all
    if [tuple(t.shape) for t in given] != shapes:
        raise RuntimeError(
            f"{name}: v has shape {[tuple(t.shape) for t in given]}; expected that of the {what}, {shapes}"
        )
    return given


def _pull(
    name: str,
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    seeds: Sequence[Tensor],
    create_graph: bool,
    strict: bool,
) -> list[Tensor]:
    """Gradients of `outputs` weighed with `seeds`; zeros where there is no way from one to the other."""
    known = [i for i, y in enumerate(outputs) if y.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if known:
        ys, us = [outputs[i] for i in known], [seeds[i] for i in known]
        found = grad(ys, inputs, us, retain_graph=True, create_graph=create_graph, allow_unused=True)
    if strict and (len(known) < len(outputs) or any(g is None for g in found)):
        raise RuntimeError(f"{name}: an output does not depend on an input, and strict=True forbids that")
    return [zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def _pile(rows: Sequence[Tensor], y: Tensor, x: Tensor) -> Tensor:
    """Rows (of the shape of x), one for each number in y -> (*y.shape, *x.shape)"""
    if not rows:
        return zeros((*y.shape, *x.shape), dtype=x.dtype)
    return stack(rows).reshape((*y.shape, *x.shape))


def _ready(tensors: Sequence[Tensor], create_graph: bool) -> Sequence[Tensor]:
    return tensors if create_graph else [t.detach() for t in tensors]
