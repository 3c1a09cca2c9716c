"""torch.func against PyTorch's: derivatives as functions, nested, over batches, and what has an outer graph."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from oracle import host

import tinyattn as ta
from tinyattn.compat.func import AUTOGRAD, CHECKING, FUNC, gradients
from tinyattn.compat.parts import functional_call, tree_flatten

X, W, Y = (np.random.default_rng(0).normal(size=size) for size in ((4, 3), (3, 2), (4, 3)))


def energy(x, w):
    return ((x @ w).sin() * (x @ w)).sum()


def vector(x, w):
    return (x @ w).sin() * x[..., :2]


def fitted(p, x):
    return ((x @ p["w"]) ** 2).sum() + (p["b"][0] * x.sum()).cos()


CASES = {
    "grad": lambda f, x, w, y: f.grad(energy)(x, w),
    "grad of several": lambda f, x, w, y: f.grad(energy, (0, 1))(x, w),
    "grad of a dict": lambda f, x, w, y: f.grad(fitted)({"w": w, "b": (y[0, 0],)}, x)["b"][0],
    "grad with aux": lambda f, x, w, y: f.grad(lambda x: ((x * y).sum(), {"x": x * 2}), has_aux=True)(x),
    "grad of what has no gradient": lambda f, x, w, y: f.grad(lambda x: (y * y).sum())(x),
    "grad_and_value": lambda f, x, w, y: f.grad_and_value(energy, 1)(x, w),
    "grad_and_value with aux": lambda f, x, w, y: f.grad_and_value(lambda x: ((x**3).sum(), x + 1), has_aux=True)(x),
    "grad of grad": lambda f, x, w, y: f.grad(lambda x: f.grad(energy)(x, w).cos().sum())(x),
    "grad of grad by a closure": lambda f, x, w, y: f.grad(lambda w: (f.grad(energy)(x, w) * y).sum())(w),
    "three times": lambda f, x, w, y: f.grad(f.grad(f.grad(lambda t: t.sin() * t)))(x[0, 0]),
    "vmap": lambda f, x, w, y: f.vmap(vector, in_dims=(0, None))(x, w),
    "vmap of axes": lambda f, x, w, y: f.vmap(lambda a, b: (a * b).cumsum(0), in_dims=(1, -1), out_dims=1)(x, y),
    "vmap of structures": lambda f, x, w, y: f.vmap(
        lambda p, b: {"s": p["a"] + p["b"][0], "t": (b, b.sum())}, in_dims=({"a": 0, "b": [0]}, 0)
    )({"a": x, "b": [y]}, y)["t"],
    "vmap of out_dims": lambda f, x, w, y: f.vmap(lambda a: (a, a * 2), out_dims=(0, 1))(x),
    "vmap of vmap": lambda f, x, w, y: f.vmap(f.vmap(lambda a, b: a * b, (0, None)), (0, 0))(x, y[:, 0]),
    "gradients for each sample": lambda f, x, w, y: f.vmap(f.grad(fitted), in_dims=(None, 0))({"w": w, "b": y[0]}, x),
    "vjp": lambda f, x, w, y: f.vjp(vector, x, w)[1](y[:, :2]),
    "vjp of one": lambda f, x, w, y: f.vjp(lambda x: x.sin(), x)[1](y),
    "vjp of two outputs": lambda f, x, w, y: f.vjp(lambda x: (x.sin(), x.sum()), x)[1]((y, y.sum())),
    "vjp with aux": lambda f, x, w, y: f.vjp(lambda x: (x.sin(), x * 2), x, has_aux=True)[2],
    "jvp": lambda f, x, w, y: f.jvp(vector, (x, w), (y, w * 2)),
    "jvp of a constant": lambda f, x, w, y: f.jvp(lambda x: y * 2, (x,), (y,))[1],
    "jacrev": lambda f, x, w, y: f.jacrev(vector)(x, w),
    "jacrev of several": lambda f, x, w, y: f.jacrev(vector, argnums=(0, 1))(x, w),
    "jacfwd with aux": lambda f, x, w, y: f.jacfwd(lambda x: (x.exp(), x.sum()), has_aux=True)(x),
    "hessian": lambda f, x, w, y: f.hessian(energy)(x, w),
    "jacobians for each sample": lambda f, x, w, y: f.vmap(f.jacrev(vector), in_dims=(0, None))(x, w),
    "second derivatives for each sample": lambda f, x, w, y: f.vmap(f.hessian(lambda a: (a.sin() ** 2).prod()))(x),
}


OURS = types.SimpleNamespace(**FUNC)


@pytest.mark.parametrize("name", CASES)
def test_func_is_that_of_pytorch(name):
    ours = CASES[name](OURS, *map(ta.tensor, (X, W, Y)))
    theirs = CASES[name](torch.func, *map(torch.tensor, (X, W, Y)))
    ours, theirs = tree_flatten(ours)[0], tree_flatten(theirs)[0]
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.requires_grad == b.requires_grad
        np.testing.assert_allclose(host(a), b.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_func_under_backward_is_that_of_pytorch(name):
    """Results of inputs that require gradients are part of their graph."""

    def gradients(library, f):
        inputs = [library.tensor(x, requires_grad=True) for x in (X, W, Y)]
        found = [x for x in tree_flatten(CASES[name](f, *inputs))[0] if x.requires_grad]
        if found:
            sum((x.cos() * (i + 1)).sum() for i, x in enumerate(found)).backward()
        return len(found), [np.zeros(1) if x.grad is None else host(x.grad) for x in inputs]

    def host(x):
        return x.detach().cpu().numpy()

    (n, ours), (m, theirs) = gradients(ta, OURS), gradients(torch, torch.func)
    assert n == m
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_func_of_a_module_is_that_of_pytorch():
    """A derivative by coordinates, of a network whose parameters need gradients: how equations are fitted."""

    def step(library, f, call):
        net = library.nn.Sequential(library.nn.Linear(3, 5), library.nn.Tanh(), library.nn.Linear(5, 1)).double()
        for i, p in enumerate(net.parameters()):
            with library.no_grad():
                p.copy_(library.linspace(-1, 1 + i, p.numel(), dtype=p.dtype).reshape(p.shape))
        slope = f.vmap(f.grad(lambda x: net(x)[0]))(library.tensor(X))
        params = dict(net.named_parameters())
        each = f.vmap(f.grad(lambda p, x: call(net, p, (x,)).sum()), in_dims=(None, 0))(params, library.tensor(X))
        ((slope**2).sum() + sum(g.square().sum() for g in each.values())).backward()
        return [*(p.grad for p in net.parameters()), *each.values()]

    theirs = step(torch, torch.func, torch.func.functional_call)
    for a, b in zip(step(ta, OURS, functional_call), theirs, strict=True):
        assert (a is None) == (b is None)  # of the last bias, on which no slope depends
        if a is not None:
            np.testing.assert_allclose(host(a.detach()), b.detach().numpy(), rtol=1e-10)


def test_stacked_modules_run_as_one():
    models = [ta.nn.BatchNorm1d(3) for _ in range(2)]
    params, buffers = FUNC["stack_module_state"](models)
    out = FUNC["vmap"](lambda p, b, x: functional_call(models[0].eval(), (p, b), (x,)), (0, 0, None))(
        params, buffers, ta.tensor(X).float()
    )
    assert tuple(out.shape) == (2, 4, 3) and params["weight"].requires_grad and params["weight"].is_leaf
    np.testing.assert_array_equal(host(out[1].detach()), host(models[1].eval()(ta.tensor(X).float()).detach()))


def test_grad_of_a_batch_of_gradients_and_of_a_dict():
    def run(library, grad):
        x, y, unused = (library.tensor(X, requires_grad=True) for _ in range(3))
        found = grad(
            x.sin() * y, (x, y, unused), library.tensor(np.stack([X, Y])), is_grads_batched=True, allow_unused=True
        )
        found += grad((x * y, x), [x], [library.tensor(np.stack([X, Y]))] * 2, None, True, True, None, True)
        named = grad((x * y).sum(), {"x": x, "y": y}) if library is ta else {"x": y.detach(), "y": x.detach()}
        out = (x.exp() * 2).sum()
        grad(out, x, library.ones(2, dtype=library.float64), is_grads_batched=True)
        with pytest.raises(RuntimeError):  # the graph is freed, as after one backward pass
            grad(out, x)
        return [*found, named["x"], named["y"]]

    for a, b in zip(run(ta, gradients), run(torch, torch.autograd.grad), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.requires_grad == b.requires_grad
            np.testing.assert_allclose(host(a.detach()), b.detach().numpy(), rtol=1e-12)


def test_options_of_derivatives_that_change_no_value():
    x, options = ta.tensor(X), {"vectorize": True, "strategy": "forward-mode"}
    found = AUTOGRAD["jacobian"](lambda x: x.sin().sum(0), x, **options)
    true = torch.autograd.functional.jacobian(lambda x: x.sin().sum(0), torch.tensor(X), **options)
    np.testing.assert_allclose(host(found), true.detach().numpy(), rtol=1e-12)
    options = {"vectorize": True, "outer_jacobian_strategy": "forward-mode"}
    found = AUTOGRAD["hessian"](lambda x: (x**3).sum(), x, **options)
    true = torch.autograd.functional.hessian(lambda x: (x**3).sum(), torch.tensor(X), **options)
    np.testing.assert_allclose(host(found), true.detach().numpy(), rtol=1e-12)
    for a, b in zip(
        AUTOGRAD["vhp"](lambda x: (x**3).sum(), x, ta.tensor(Y)),
        torch.autograd.functional.vhp(lambda x: (x**3).sum(), torch.tensor(X), torch.tensor(Y)), strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(host(a), b.numpy(), rtol=1e-12)
    leaf = ta.tensor(X, requires_grad=True)
    for check in CHECKING.values():
        assert check(lambda x: x.sin(), (leaf,), check_batched_grad=True, check_undefined_grad=False, masked=False)
    with pytest.raises(TypeError, match="check_nothing"):
        CHECKING["gradcheck"](lambda x: x.sin(), (leaf,), check_nothing=True)


def test_func_refuses_in_a_sentence():
    x = ta.ones(2, 3)
    with pytest.raises(RuntimeError, match=r"grad: the function returned \(2, 3\); expected a tensor of shape \(\)"):
        FUNC["grad"](lambda x: x)(x)
    with pytest.raises(ValueError, match=r"vmap: axes of sizes \[2, 3\] to map over; expected one size"):
        FUNC["vmap"](lambda a, b: a)(x, ta.ones(3))
    with pytest.raises(ValueError, match="vmap: an axis of size 0"):
        FUNC["vmap"](lambda a: a)(x[:0])
