"""checkpoint: the same bits as the plain run, in less memory, or a clear error."""

from __future__ import annotations

import gc
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import nn, ops
from tinyattn.autograd.recompute import checkpoint
from tinyattn.debug.differences import gradcheck, gradgradcheck
from tinyattn.engine.node import Node, Saved
from tinyattn.engine.observer import Observer


def plain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


@pytest.fixture
def world() -> Any:
    ta.manual_seed(0)

    class World:
        x = ta.randn(4, 6, dtype=ta.float64, requires_grad=True)
        y = ta.randn(4, 6, dtype=ta.float64, requires_grad=True)
        w = ta.randn(6, 6, dtype=ta.float64, requires_grad=True)
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.3).double()

        def leaves(self) -> list[ta.Tensor]:
            return [self.x, self.y, self.w, *self.layer.parameters()]

    return World()


def captured(w: Any, run: Any) -> Any:
    h = w.x * 3  # captured though not a leaf, and used outside too
    return run(lambda x: (x @ w.w).tanh() * h + x, w.x) * h


def residual(w: Any, run: Any) -> Any:
    h = w.x + 0
    for _ in range(3):
        h = h + run(lambda a: F.scaled_dot_product_attention(a, a, a), h)
    return h


def several(w: Any, run: Any) -> Any:
    a, (b, index) = run(lambda x, y: (x * y, (x.max(1).values, x.argmax(1))), w.x, y=w.y)
    return (a * b.reshape(-1, 1)).exp() + index.reshape(-1, 1)


def only_one_of_several(w: Any, run: Any) -> Any:
    return run(lambda x, y: (x.exp() * y, x.sin() * w.w[0]), w.x, w.y)[0]


def in_place(w: Any, run: Any) -> Any:
    def function(x: Any) -> Any:
        h = x * 2
        h += x.exp()
        buffer = ta.zeros(4, 6, dtype=ta.float64)
        buffer[1:] = h[1:] * x[1:]
        return buffer * buffer

    return run(function, w.x)


def nested(w: Any, run: Any) -> Any:
    inner = lambda x: run(lambda z: F.dropout(z @ w.w, 0.5).tanh(), x).exp()  # noqa: E731
    return run(lambda x: inner(inner(x).sin()) * x, w.x)


def frozen_inside(w: Any, run: Any) -> Any:
    def function(x: Any) -> Any:
        with ta.no_grad():
            scale = x.abs().amax()
        return (x / scale).exp() * x.detach()

    return run(function, w.x)


def first_principles(w: Any, run: Any) -> Any:
    with ta.definitions():
        return run(lambda x: F.gelu(x @ w.w).softmax(-1), w.x)


# Each is a function of a world and of a way to run a part: plainly, or checkpointed.
CASES: dict[str, Callable[[Any, Any], Any]] = {
    "one input": lambda w, run: run(lambda x: x.exp().sin(), w.x),
    "one input twice": lambda w, run: run(lambda a, b: a.exp() * b, w.x, w.x),
    "captured tensors": captured,
    "a residual stream": residual,
    "a module with dropout": lambda w, run: run(w.layer, run(w.layer, w.x.reshape(1, 4, 6))),
    "dropout from a generator among the arguments": lambda w, run: run(
        lambda x, generator: F.dropout(x, 0.5, generator=generator).exp(), w.x, generator=ta.Generator().manual_seed(5)
    ),
    "several outputs": several,
    "one of several outputs": only_one_of_several,
    "changes in place inside": in_place,
    "checkpoints inside checkpoints": nested,
    "parts without gradient": frozen_inside,
    "definitions": first_principles,
    "nothing to save": lambda w, run: run(lambda x, y: x + y, w.x, w.y) * w.x,
    "the argument itself": lambda w, run: run(lambda x: x, w.x) * w.x,
    "a captured tensor alone": lambda w, run: run(lambda: w.w.exp()) * 2,
    "softmax and loss": lambda w, run: run(lambda x: F.cross_entropy(x, ta.tensor([0, 1, 2, 5])), w.x),
    "layer norm": lambda w, run: run(lambda x: F.layer_norm(x, (6,), w.w[0], w.w[1]), w.x),
    "concatenation": lambda w, run: run(lambda x, y: ta.einsum("ij,kj->ik", ta.cat([x, y]), w.w), w.x, w.y),
}


def gradients(case: str, world: Any, run: Any, order: int) -> list[Any]:
    """Loss, gradients up to `order`, and where they leave the random numbers."""
    ta.manual_seed(7)
    leaves = world.leaves()
    out = CASES[case](world, run)
    found = [out]
    for _ in range(order):
        loss = sum((t * t).sum() for t in found[-len(leaves) :] if t is not None and t.requires_grad)
        found += ta.grad(loss, leaves, create_graph=order > 1, allow_unused=True)
    return [None if g is None else g.array for g in found] + [ta.rand(2).array]


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_the_plain_run(case: str, world: Any) -> None:
    for a, b in zip(gradients(case, world, plain, 1), gradients(case, world, checkpoint, 1), strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b)


@pytest.mark.parametrize("case", CASES)
def test_second_derivatives_are_those_of_the_plain_run(case: str, world: Any) -> None:
    if "dropout" in case:
        world.layer.eval()
    for a, b in zip(gradients(case, world, plain, 2), gradients(case, world, checkpoint, 2), strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b)


def test_backward_fills_grad_as_the_plain_run_does(world: Any) -> None:
    found = []
    for run in (plain, checkpoint):
        ta.manual_seed(1)
        world.layer.zero_grad()
        run(world.layer, world.x.reshape(1, 4, 6)).sum().backward()
        found.append([p.grad.numpy().copy() for p in world.layer.parameters()])
    assert all(map(np.array_equal, *found))


# --- memory ---


def deep(run: Any, blocks: list[Any], x: Any) -> Any:
    for block in blocks:
        x = run(block, x)
    return x.sum()


def test_memory_is_that_of_the_inputs_and_one_block() -> None:
    blocks = [nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 32)) for _ in range(16)]
    x = ta.randn(512, 32)
    after_forward, peak = {}, {}
    for run in (plain, checkpoint):
        gc.collect()
        tracemalloc.start()
        loss = deep(run, blocks, x)
        after_forward[run] = tracemalloc.get_traced_memory()[0]
        loss.backward()
        peak[run] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        for block in blocks:
            block.zero_grad()
    rows = 512 * 4  # bytes of a column
    assert after_forward[plain] > 16 * 2 * 256 * rows  # what GELU and the second Linear save
    assert after_forward[checkpoint] < 16 * 32 * rows * 1.2  # the inputs of the blocks
    assert peak[checkpoint] < 0.4 * peak[plain]


def test_under_no_grad_it_is_the_plain_call(world: Any) -> None:
    with ta.no_grad():
        out = checkpoint(lambda x: x.exp() * world.w[0], world.x)
    assert not out.requires_grad
    assert np.array_equal(out.numpy(), (world.x.exp() * world.w[0]).numpy())


def test_what_needs_no_gradient_runs_once() -> None:
    calls = []
    out = checkpoint(lambda x: calls.append(1) or x.exp(), ta.ones(2))
    (out * ta.ones(2, requires_grad=True)).sum().backward()
    assert len(calls) == 1


def test_the_function_runs_twice_and_not_more(world: Any) -> None:
    calls = []
    out = checkpoint(lambda x: calls.append(1) or x.exp().sin().cos(), world.x)
    assert len(calls) == 1
    out.sum().backward(retain_graph=True)
    out.sum().backward()
    assert len(calls) == 2


def test_nothing_lives_longer_than_the_graph(world: Any) -> None:
    gc.disable()
    try:
        x = ta.ones(3, requires_grad=True)
        loss = checkpoint(lambda z: z.exp().sin(), x * 2).sum()
        node = weakref.ref(loss.node)
        loss.backward()
        del loss
        assert node() is None  # without the help of the cyclic collector
    finally:
        gc.enable()


def test_the_graph_keeps_nobody_who_watched(world: Any) -> None:
    with Watch() as watch:
        loss = checkpoint(lambda z: z.exp().sin(), world.x).sum()
    ref = weakref.ref(watch)
    del watch
    assert ref() is None
    loss.backward()


def test_gradcheck_proves_it(world: Any) -> None:
    w = world.w
    assert gradcheck(lambda x, w: checkpoint(lambda z: (z @ w).tanh() * z, x), (world.x, w))
    assert gradgradcheck(lambda x, w: checkpoint(lambda z: (z @ w).tanh() * z, x), (world.x, w))


# --- hooks, modes, observers ---


def test_hooks_inside_are_called_once(world: Any) -> None:
    calls: list[str] = []

    def function(x: Any) -> Any:
        x.register_hook(lambda g: calls.append("argument"))
        world.w.register_hook(lambda g: calls.append("captured"))
        h = x.exp()
        h.register_hook(lambda g: calls.append("inside") or g * 2)
        h.retain_grad()
        kept.append(h)
        return (h @ world.w).sin()

    kept: list[Any] = []
    checkpoint(function, world.x).sum().backward()
    assert sorted(calls) == ["argument", "captured", "inside"]
    assert kept[0].grad is not None
    twice = world.x.grad.numpy()
    assert np.allclose(twice, 2 * ta.grad((world.x.exp() @ world.w).sin().sum(), world.x)[0].numpy())


def test_the_callers_modes_hold_in_the_second_run(world: Any) -> None:
    seen = []
    with ta.definitions():
        out = checkpoint(lambda x: seen.append(ta.is_grad_enabled()) or F.gelu(x), world.x)
    assert out.node.op is ops.mul  # not gelu's kernel
    with ta.no_grad():
        out.backward(ta.ones_like(out))
    assert seen == [True, True]


class Watch(Observer):
    """Which nodes hold arrays."""

    def __init__(self) -> None:
        self.holding: set[Node] = set()
        self.most = 0

    def after_forward(self, op: Any, inputs: Any, out: Any, node: Any) -> None:
        if node is not None and any(type(value) is Saved for value in node.saved.values()):
            self.holding.add(node)
        self.most = max(self.most, len(self.holding))

    def freed(self, node: Any) -> None:
        self.holding.discard(node)


def test_observers_see_what_is_held_and_let_go(world: Any) -> None:
    def function(x: Any) -> Any:
        return x.exp().sin().cos().tanh()

    with Watch() as watch:
        loss = checkpoint(function, checkpoint(function, world.x)).sum()
        assert not watch.holding
        loss.backward()
    assert not watch.holding
    assert watch.most == 4  # one of the two functions


# --- errors ---


def test_a_second_backward_says_so(world: Any) -> None:
    loss = checkpoint(lambda x: x.exp().sin(), world.x).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


def change_an_argument(w: Any) -> Any:
    h = w.x * 2
    out = checkpoint(lambda x: x.exp(), h)
    h.mul_(2)
    return out


def change_a_captured_tensor(w: Any) -> Any:
    out = checkpoint(lambda x: x @ w.w, w.x)
    with ta.no_grad():
        w.w.add_(1)
    return out


def step_too_early(w: Any) -> Any:
    out = checkpoint(w.layer, w.x.reshape(1, 4, 6))
    for p in w.layer.parameters():
        p.grad = ta.ones_like(p)
    ta.optim.SGD(w.layer.parameters(), lr=0.1).step()
    return out


def count(w: Any) -> Any:
    calls: list[int] = []
    return checkpoint(lambda x: calls.append(1) or (x.exp() if len(calls) == 1 else x.sin()), w.x)


def count_more(w: Any) -> Any:
    calls: list[int] = []

    def function(x: Any) -> Any:
        calls.append(1)
        for _ in calls:
            x = x.exp()
        return x

    return checkpoint(function, w.x)


def count_less(w: Any) -> Any:
    calls: list[int] = []
    return checkpoint(lambda x: x.exp() if calls else (calls.append(1) or x.exp().sin()), w.x)


def another_shape(w: Any) -> Any:
    sizes = [4, 2]
    return checkpoint(lambda x: x[: sizes.pop(0)].exp(), w.x).sum()


def freeze_meanwhile(w: Any) -> Any:
    out = checkpoint(lambda x: w.w.exp() * x.detach()[:1], w.x)
    w.w.requires_grad_(False)
    return out


def gradients_inside(w: Any) -> Any:
    return checkpoint(lambda x: ta.grad((x.exp()).sum(), x)[0] * x, w.x)


ERRORS = {
    change_an_argument: r"mul_ at .*test_checkpoint.py:\d+ changed a tensor of shape \(4, 6\).* gives to exp",
    change_a_captured_tensor: r"add_ at .*test_checkpoint.py:\d+ changed a tensor of shape \(6, 6\).* gives to matmul",
    step_too_early: r"step at .*test_checkpoint.py:\d+ changed a tensor",
    count: "came to sin instead of exp",
    count_more: "came to exp instead of its end",
    count_less: "ended before sin",
    another_shape: r"got shape \(2, 6\) instead of \(4, 6\)",
    freeze_meanwhile: "came to exp without inputs that require gradients",
    gradients_inside: "Compute that gradient outside",
}


@pytest.mark.parametrize("wrong", ERRORS, ids=lambda f: f.__name__)
def test_a_second_run_that_cannot_be_the_first_is_an_error(wrong: Any, world: Any) -> None:
    with pytest.raises(RuntimeError, match=ERRORS[wrong]):
        wrong(world).sum().backward()


def test_without_preserve_rng_state_the_masks_differ() -> None:
    x = ta.ones(1000, requires_grad=True)
    out = checkpoint(lambda z: F.dropout(z, 0.5) * z, x, preserve_rng_state=False)
    (g,) = ta.grad(out.sum(), x)
    assert not np.array_equal(out.numpy() > 0, g.numpy() == 4)


def test_a_checkpointed_data_parallel_runs_again_once():
    """Both branches of the walk miss what was dropped, at the same time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        layers = nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 16), nn.Dropout(0.5), nn.Linear(16, 16)
        net, x = nn.DataParallel(nn.Sequential(*layers), 2), ta.randn(64, 16)
        results = []
        for run in (lambda: net(x), *[lambda: checkpoint(net, x)] * 20):
            ta.manual_seed(1)
            net.zero_grad()
            run().square().mean().backward()
            results.append([p.grad.array.tobytes() for p in net.parameters()] + [ta.rand(1).item()])
        assert all(result == results[0] for result in results)
    finally:
        sys.setswitchinterval(before)
