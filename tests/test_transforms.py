"""vjp, jvp, jacobian, hessian and hvp, held against torch.autograd.functional in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import assert_same, tensors, to_ours

import tinyattn as ta
from tinyattn.autograd import transforms

ON_EVERY_DEVICE = True

theirs = torch.autograd.functional

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]], dtype=torch.float64)
Y = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
S = torch.tensor(0.8, dtype=torch.float64)

# name: (a function that both engines understand, inputs)
FUNCTIONS: dict[str, Any] = {
    "one to one": (lambda x: x.sin() * x, X),
    "0-d to 0-d": (lambda s: (s * s).exp(), S),
    "one to a number": (lambda x: (x**3).sum(), X),
    "one to a number of shape (1,)": (lambda x: (x**3).sum().reshape(1), X),
    "a tuple of one": (lambda x: x.exp(), (X,)),
    "broadcast": (lambda x, y: x * y.exp() + y, (X, Y)),
    "to a tuple": (lambda x: (x.tanh(), x.sum(), x @ x.T), X),
    "tuple to tuple": (lambda x, y: (x @ y, y.sum(), x.sum(0) * y), (X, Y)),
    "tuple to a number": (lambda x, y, s: (x.sin() * y * s).sum(), (X, Y, S)),
    "an unused input": (lambda x, y: x * 2, (X, Y)),
    "an output that is an input": (lambda x, y: (x, y), (X, Y)),
    "a constant output": (lambda x: (x * x, x.detach() + 1), X),
    "an attention": (lambda x, y: (x @ x.T).softmax(-1) @ (x * y), (X, Y)),
}
NUMBERS = [name for name, (f, x) in FUNCTIONS.items() if name.endswith("a number") or "(1,)" in name or "0-d" in name]


def twins(name: str, grad: bool = False) -> tuple[Any, Any, Any]:
    """The function, torch's inputs and ours."""
    func, inputs = FUNCTIONS[name]
    copy = type(inputs)(x.clone() for x in inputs) if isinstance(inputs, tuple | list) else inputs.clone()
    for x in tensors(copy, torch.Tensor):
        x.requires_grad_(grad)
    return func, copy, to_ours(copy)


def like(value: Any, seed: int = 0) -> Any:
    """Random tensors of torch in the form of `value`."""
    generator = torch.Generator().manual_seed(seed)
    fill = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in tensors(value, torch.Tensor)]
    return tuple(fill) if isinstance(value, tuple | list) else fill[0]


def same(ours: Any, torchs: Any, requires_grad: bool | None = False) -> None:
    """The same tuples of tuples of the same tensors."""
    assert type(ours) is tuple if isinstance(torchs, tuple) else isinstance(ours, ta.Tensor)
    if isinstance(torchs, tuple):
        assert len(ours) == len(torchs)
        for a, b in zip(ours, torchs, strict=True):
            same(a, b, requires_grad)
        return
    assert_same(ours, torchs, "result")
    assert requires_grad is None or ours.requires_grad == requires_grad


@pytest.mark.parametrize("grad", [False, True], ids=["plain inputs", "inputs with a graph"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobian(name: str, grad: bool) -> None:
    func, x, ours = twins(name, grad)
    same(transforms.jacobian(func, ours), theirs.jacobian(func, x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vjp(name: str) -> None:
    func, x, ours = twins(name)
    out = func(*x) if isinstance(x, tuple | list) else func(x)
    v = like(out)
    same(transforms.vjp(func, ours, to_ours(v)), theirs.vjp(func, x, v))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jvp(name: str) -> None:
    func, x, ours = twins(name)
    v = like(x)
    same(transforms.jvp(func, ours, to_ours(v)), theirs.jvp(func, x, v))


@pytest.mark.parametrize("name", NUMBERS)
def test_hessian(name: str) -> None:
    func, x, ours = twins(name)
    same(transforms.hessian(func, ours), theirs.hessian(func, x))


@pytest.mark.parametrize("name", NUMBERS)
def test_hvp(name: str) -> None:
    func, x, ours = twins(name)
    v = like(x)
    same(transforms.hvp(func, ours, to_ours(v)), theirs.hvp(func, x, v))


@pytest.mark.parametrize("name", ["0-d to 0-d", "one to a number of shape (1,)"])
def test_the_direction_may_be_left_out_for_a_number(name: str) -> None:
    func, x, ours = twins(name)
    same(transforms.vjp(func, ours), theirs.vjp(func, x))
    if x.numel() == 1:
        same(transforms.jvp(func, ours), theirs.jvp(func, x))
        same(transforms.hvp(func, ours), theirs.hvp(func, x))


CREATE_GRAPH = {
    "jacobian": lambda library, f, x, v: library.jacobian(f, x, create_graph=True),
    "hessian": lambda library, f, x, v: library.hessian(f, x, create_graph=True),
    "vjp": lambda library, f, x, v: library.vjp(f, x, create_graph=True),
    "jvp": lambda library, f, x, v: library.jvp(f, x, v, create_graph=True),
    "hvp": lambda library, f, x, v: library.hvp(f, x, v, create_graph=True),
}


@pytest.mark.parametrize("transform", CREATE_GRAPH)
@pytest.mark.parametrize("name", ["one to a number", "tuple to a number"])
def test_create_graph_differentiates_the_result_again(transform: str, name: str) -> None:
    func, x, ours = twins(name, grad=True)
    v = like(x)
    call = CREATE_GRAPH[transform]
    result, expected = call(transforms, func, ours, to_ours(v)), call(theirs, func, x, v)
    same(result, expected, None)
    loss = sum((t * t).sum() for t in tensors(result, ta.Tensor))
    expected_loss = sum((t * t).sum() for t in tensors(expected, torch.Tensor))
    again = ta.grad(loss, tensors(ours, ta.Tensor))
    same(again, torch.autograd.grad(expected_loss, tensors(x, torch.Tensor)))


def test_the_hessian_of_a_hessian() -> None:
    def trace(library: Any) -> Any:
        return lambda x: library.hessian(lambda z: (z**4).sum(), x, create_graph=True).sum()

    x = ta.tensor([1.0, 2.0], dtype=ta.float64)
    assert np.allclose(transforms.hessian(trace(transforms), x).cpu().numpy(), np.diag([24.0, 24.0]))


def test_they_work_under_no_grad_and_leave_grad_alone() -> None:
    x = ta.tensor([1.0, 2.0], requires_grad=True)
    with ta.no_grad():
        assert transforms.jacobian(lambda z: z * z, x).tolist() == [[2, 0], [0, 4]]
        assert transforms.hvp(lambda z: (z * z).sum(), x, ta.ones(2))[1].tolist() == [2, 2]
        assert transforms.hessian(lambda z: (z * z).sum(), x).tolist() == [[2, 0], [0, 2]]
        assert transforms.jvp(lambda z: z * z, x, ta.ones(2))[1].tolist() == [2, 4]
        assert not ta.is_grad_enabled()
    assert x.grad is None


def test_float32_stays_float32() -> None:
    x = ta.tensor([1.0, 2.0])
    for found in (
        transforms.jacobian(ta.exp, x),
        transforms.jvp(ta.exp, x, ta.ones(2))[1],
        transforms.hessian(lambda z: z.exp().sum(), x),
    ):
        assert found.dtype == ta.float32


def test_a_list_of_inputs_is_as_good_as_a_tuple() -> None:
    x, y = ta.ones(2), ta.ones(2)
    rows = transforms.jacobian(lambda a, b: a * b, [x, y])
    assert [row.tolist() for row in rows] == [[[1, 0], [0, 1]]] * 2


def test_nothing_in_nothing_out() -> None:
    assert transforms.jacobian(lambda x: x * 2, ta.zeros(0, 2)).shape == (0, 2, 0, 2)
    assert transforms.jacobian(lambda x: x.sum(0), ta.zeros(0, 2)).shape == (2, 0, 2)


WRONG = {
    "not a tensor": (TypeError, "inputs must be a tensor", lambda t: t.jacobian(ta.exp, 3.0)),
    "an output that is none": (TypeError, "output must be a tensor", lambda t: t.vjp(lambda x: 1.0, ta.ones(2))),
    "no direction": (RuntimeError, r"v can be left out only", lambda t: t.vjp(ta.exp, ta.ones(2))),
    "no direction forward": (RuntimeError, r"v can be left out only", lambda t: t.jvp(ta.sum, ta.ones(2))),
    "a wrong direction": (RuntimeError, r"expected that of the output, \[\(2,\)\]", lambda t: t.vjp(ta.exp, ta.ones(2), ta.ones(3))),
    "not a number": (RuntimeError, "single number", lambda t: t.hessian(ta.exp, ta.ones(2))),
    "not a number either": (RuntimeError, "single number", lambda t: t.hvp(ta.exp, ta.ones(2), ta.ones(2))),
    "integers": (RuntimeError, "int64 cannot require", lambda t: t.jacobian(ta.sum, ta.tensor([1, 2]))),
    "strict vjp": (RuntimeError, "strict", lambda t: t.vjp(lambda x, y: x.sum(), (ta.ones(2), ta.ones(2)), strict=True)),
    "strict jacobian": (RuntimeError, "strict", lambda t: t.jacobian(lambda x: x.detach(), ta.ones(2), strict=True)),
    "strict hessian": (RuntimeError, "strict", lambda t: t.hessian(lambda x: x.sum(), ta.ones(2), strict=True)),
    "strict hvp": (RuntimeError, "strict", lambda t: t.hvp(lambda x: x.sum(), ta.ones(2), ta.ones(2), strict=True)),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(case: str) -> None:
    kind, message, call = WRONG[case]
    with pytest.raises(kind, match=message):
        call(transforms)
