"""A compiled step beside the step itself, in eight calls, before the sixth of which something changes outside or inside."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

import tinyattn as ta
from tinyattn import nn, optim
from tinyattn.engine.hooks import RemovableHandle


def leaf(*values):
    return ta.tensor([*values], requires_grad=True)


def train(o, loss):
    o.zero_grad()
    loss.backward()
    o.step()
    return loss.detach()


def outside_gradient():
    a, b = leaf(1.0, 2.0), leaf(3.0)
    o = optim.SGD([a, b], lr=0.1)
    return lambda x: train(o, (a * x).sum()), lambda: setattr(b, "grad", ta.ones(1)), lambda: [a, b]


def gradient_read_outside():
    a = leaf(1.0, 2.0)
    o = optim.SGD([a], lr=0.1)

    def step(x):
        o.zero_grad()
        (a * a * x).sum().backward()
        return a.grad

    return step, o.step, lambda: [a]


def parameter_of_two_optimizers():
    a, b = leaf(1.0, 2.0), leaf(3.0)
    o, other = optim.SGD([a, b], lr=0.1), optim.SGD([b], lr=0.5)

    def step(x):
        o.zero_grad()
        loss = (b * x).sum()
        (a * x).sum().backward()
        o.step()
        loss.backward()
        other.step()

    return step, lambda: None, lambda: [a, b]


def data_replaced():
    a = ta.tensor([1.0])

    def step(x):
        a.data = a * 0.5 + x
        return a * 1

    return step, lambda: None, lambda: [a]


def group_added():
    a, b = leaf(1.0, 2.0), leaf(3.0, 1.0)
    o = optim.SGD([a], lr=0.1)
    return (
        lambda x: train(o, (a * b * x).sum()),
        lambda: (o.add_param_group({"params": [b]}), setattr(b, "grad", None)),
        lambda: [a, b],
    )


def hook_added():
    a = leaf(1.0, 2.0)
    o = optim.SGD([a], lr=0.1)
    return lambda x: train(o, (a * x).sum()), lambda: a.register_hook(lambda g: g * 0), lambda: [a]


def hook_after_accumulation():
    a = leaf(1.0, 2.0)
    o = optim.SGD([a], lr=0.1)
    return (
        lambda x: train(o, (a * x).sum()),
        lambda: a.register_post_accumulate_grad_hook(lambda p: p.grad.zero_()),
        lambda: [a],
    )


def silent_module():
    ta.manual_seed(0)
    m = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.9)).eval()
    return ta.no_grad()(lambda x: m(x)), lambda: m[1].train() and None, list


def hook_of_identity():
    ta.manual_seed(0)
    m = nn.Sequential(nn.Linear(2, 2), nn.Identity()).eval()
    return ta.no_grad()(lambda x: m(x)), lambda: m[1].register_forward_hook(lambda *args: args[2] * 7), list


def method_of_a_module():
    class Scaled(nn.Module):
        k, many = 2.0, (1.0,)

        def forward(self, x):
            return x * self.k * self.many[0]

    m = Scaled()
    m.many = [1.0]
    return m.forward, lambda: (setattr(m, "k", 50.0), m.many.__setitem__(0, 3.0)), list


def rebound(value, other):
    def make():
        box, held = value(), SimpleNamespace(k=2.0)

        def change():
            nonlocal box
            box = other()
            held.k = 9.0

        return lambda x: x * box * held.k, change, list

    return make


def optimizer_rebound():
    a = leaf(1.0, 2.0)
    o = optim.SGD([a], lr=0.5)

    def change():
        nonlocal o
        o = optim.SGD([a], lr=0.001)

    return lambda x: train(o, (a * x).sum()), change, lambda: [a]


def rate_set_inside():
    a = leaf(1.0, 2.0)
    o = optim.SGD([a], lr=1.0)

    def step(x):
        o.param_groups[0]["lr"] *= 0.5
        return train(o, (a * x).sum())

    return step, lambda: None, lambda: [a]


def number_read_by_a_helper():
    t = ta.tensor([2.0])

    def helper():
        return t.item()

    def step(x):
        return x * helper()

    return step, lambda: t.fill_(9.0), list


def number_in_the_result():
    a = leaf(1.0)
    o = optim.SGD([a], lr=0.5)

    def step(x):
        train(o, (a * x).sum())
        return x * 2, o.param_groups[0]["lr"]

    return step, lambda: o.param_groups[0].update(lr=0.25), lambda: [a]


def two_zeros():
    return lambda x: (x + -0.0, x + 0.0), lambda: ta.full((2,), -0.0), list


def argument_is_written():
    buffer = ta.ones(2)

    def step(x):
        buffer.add_(1)
        return x * buffer

    return step, lambda: buffer, lambda: [buffer]


def tensor_kept_in_a_dict():
    state = {"h": ta.zeros(2)}

    def step(x):
        state["h"] = state["h"] * 0.5 + x
        return state["h"] * 1

    return step, lambda: None, lambda: [state["h"]]


def attribute_of_the_compiled():
    m = nn.Linear(2, 2)
    m._function, m._last = (lambda x: x * 0), 1
    return m, lambda: None, list


def dict_of_a_module_grows():
    m = nn.Linear(2, 2)
    m.factors = {"a": 2.0}  # the last of the dicts that are compared
    m.forward = lambda x: nn.Linear.forward(m, x) * math.prod(m.factors.values())
    return lambda x: m(x).detach(), lambda: m.factors.update(b=3.0), list


def setting_of_a_module():
    m = nn.Linear(2, 2)
    m.config = SimpleNamespace(scales={"out": [2.0]})
    m.forward = lambda x: nn.Linear.forward(m, x) * m.config.scales["out"][0]
    return lambda x: m(x).detach(), lambda: m.config.scales.update(out=[5.0]), list


def item_of_a_setting():
    m = nn.Linear(2, 2)
    m.config = {"scales": ([2.0],)}
    m.forward = lambda x: nn.Linear.forward(m, x) * m.config["scales"][0][0]
    return lambda x: m(x).detach(), lambda: m.config["scales"][0].append(m.config["scales"][0].pop() + 3), list


CASES = [
    outside_gradient, gradient_read_outside, parameter_of_two_optimizers, data_replaced, group_added, hook_added,
    hook_after_accumulation, silent_module, hook_of_identity, method_of_a_module, optimizer_rebound, rate_set_inside,
    number_read_by_a_helper, number_in_the_result, two_zeros, argument_is_written, tensor_kept_in_a_dict,
    attribute_of_the_compiled, dict_of_a_module_grows, setting_of_a_module, item_of_a_setting, rebound(lambda: 2.0, lambda: 5.0),
    rebound(lambda: ta.ones(1), lambda: ta.full((1,), 4.0)),
]  # fmt: skip


def bits(x):
    if isinstance(x, ta.Tensor):
        return x.numpy().tobytes(), None if x.grad is None else x.grad.numpy().tobytes()
    return [bits(part) for part in x] if isinstance(x, tuple | list) else x


def trajectory(make, compiled):
    """The bits of the results and of the tensors that the step changes, after each call."""
    ta.manual_seed(0)
    step, change, watched = make()
    call = ta.compile(step) if compiled else step
    found = []
    for i in range(8):
        x = ta.tensor([1.0 + i, 2.0])
        changed = change() if i == 5 else None
        if isinstance(changed, ta.Tensor):
            x = changed  # of the step's own tensors, one becomes an argument
        elif isinstance(changed, RemovableHandle):
            make.handle = changed  # the hook lives as long as this
        result = call(x)
        found.append((bits(result), bits(watched())))
        if make is gradient_read_outside:
            change()
    return found


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_compiled_step_follows_what_changes_around_it(make):
    assert trajectory(make, True) == trajectory(make, False)


def test_results_that_share_memory_and_unknown_objects_run_by_themselves():
    both = ta.compile(lambda x: (y := x * 2, y[:1]))
    thing = ta.compile(lambda x: SimpleNamespace(y=x * 2))
    for i in range(5):
        y, view = both(ta.ones(2))
        y.add_(10)
        assert view.tolist() == [12.0]
        assert thing(ta.full((2,), float(i))).y.tolist() == [2.0 * i] * 2
    assert "share memory" in both.why_not and "SimpleNamespace" in thing.why_not


def test_result_with_a_graph_beside_a_backward_pass_keeps_it():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)

    @ta.compile
    def step(x):
        a.grad = None
        (a * x).sum().backward()
        return (b * x).sum()

    for i in range(6):
        step(ta.ones(2) * i).backward()
    assert b.grad.tolist() == [15.0, 15.0] and "requires a gradient" in step.why_not


@pytest.mark.parametrize("change", [lambda x: x.unsqueeze_(0), lambda x: setattr(x, "data", ta.zeros(5))])
def test_an_argument_that_the_step_reshapes_or_replaces_stays_so(change):
    @ta.compile
    def step(x):
        change(x)
        return x * 2

    for _ in range(4):
        x, expected = ta.ones(3), ta.ones(3)
        change(expected)
        assert step(x).shape == x.shape == expected.shape
