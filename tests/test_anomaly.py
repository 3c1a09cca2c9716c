"""Anomaly detection names what made the first NaN or infinity, and is not there when nobody asks."""

from __future__ import annotations

import inspect
import threading

import numpy as np
import pytest
from answers import torch

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import nn
from tinyattn.debug import anomaly
from tinyattn.debug.anomaly import AnomalyError, detect_anomaly
from tinyattn.engine.modes import observers

INF = np.inf
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


def leaf(*values, dtype=ta.float32):
    return ta.tensor(list(values), dtype=dtype, requires_grad=True)


class Layer(nn.Module):
    """A module around one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Model(nn.Module):
    """A module with another inside."""

    def __init__(self, function):
        super().__init__()
        self.encoder = nn.Sequential(nn.Identity(), Layer(function))

    def forward(self, x):
        return self.encoder(x)


# What made it: an operation on a leaf, its name, and where it happened.
FORWARD = {
    "log of a negative": (lambda x: x.log(), "log", "1 NaN and 1 infinity in 3 elements"),
    "log of zero": (lambda x: x.abs().log(), "log", "1 infinity in 3"),
    "overflow": (lambda x: (x * 1000).exp(), "exp", "1 infinity in 3"),
    "square root": (lambda x: (x - 1).sqrt(), "sqrt", "2 NaN in 3"),
    "0 / 0": (lambda x: x / x, "div", "1 NaN in 3"),
    "1 / 0": (lambda x: 1 / x, "div", "1 infinity in 3"),
    "a power": (lambda x: x**0.5, "pow", "1 NaN in 3"),
    "a cast": (lambda x: (x.double() * 1e300).float(), "cast", "2 infinities in 3"),
    "a sum": (lambda x: (x.abs() * 1.5e38).sum(), "sum", "1 infinity in 1"),
    "a masked row": (lambda x: F.softmax(x.masked_fill(x == x, -INF), 0), "softmax", "3 NaN in 3"),
    "inf - inf": (lambda x: x * INF - INF, "mul", "1 NaN and 2 infinities in 3"),
    "the mean of nothing": (lambda x: x[:0].mean(), "mean", "1 NaN in 1"),
    "inside a definition": (lambda x: definition_of(lambda: F.log_softmax(x * INF, 0)), "mul", "1 NaN"),
    "not even recorded": (lambda x: x.detach().log(), "log", "1 NaN"),
}  # fmt: skip


def definition_of(function):
    with ta.definitions():
        return function()


@pytest.mark.parametrize("name", FORWARD)
def test_anomaly_in_forward_names_operation_and_ranges(name):
    function, operation, found = FORWARD[name]
    x = leaf(-1.0, 0.0, 2.0)
    with detect_anomaly(), pytest.raises(AnomalyError) as error:
        Model(function)(x)
    message, line = str(error.value), f"{__file__}:{function.__code__.co_firstlineno}"
    assert isinstance(error.value, RuntimeError)
    assert (error.value.operation, error.value.module) == (operation, "encoder.1")
    if name != "inside a definition":
        assert error.value.site == line
    assert message.startswith(f"forward: {operation} in encoder.1 (made at {error.value.site}) made {found}"), message
    assert "float" in message and "\n    out: " in message


# What made it: a rule, of which operation, for which input.
BACKWARD = {
    "a root at 0": (lambda x: (x * 0).abs().sqrt(), "sqrt", "x", "infinit"),
    "0 x infinity behind where": (lambda x: ta.where(x > 0, (x * x * (x > 0).float()).sqrt(), x * 0.0), "sqrt", "x", "NaN"),
    "a slope too steep": (lambda x: (x * 1e-30).square().sum() * 1e38 * leaf(1e30), "mul", "a", "infinit"),
    "a broadcast sum": (lambda x: (x.sum() * 1e-6 + ta.zeros(100)) * leaf(*[3e37] * 100), "add", "a", "infinit"),
    "a cast down": (lambda x: x.to(ta.float16).to(ta.float32) * leaf(1e6), "cast", "x", "infinit"),
    "a divisor": (lambda x: ta.tensor([1.0, 1.0, 1.0]) / (x.abs() * 1e-30 + 1e-25), "div", "b", "infinit"),
}  # fmt: skip


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", BACKWARD)
def test_anomaly_in_backward_names_rule_and_input(name, create_graph):
    function, operation, wanted, kind = BACKWARD[name]
    x = leaf(-1.0, 0.5, 2.0)
    with detect_anomaly():
        loss = Model(function)(x).sum()
        with pytest.raises(AnomalyError) as error:
            ta.grad(loss, x, create_graph=create_graph)
    message = str(error.value)
    assert (error.value.operation, error.value.module) == (operation, "encoder.1"), message
    line = f"{__file__}:{function.__code__.co_firstlineno}"
    assert message.startswith(f"backward: the rule of {operation} in encoder.1 (made at {line}) made "), message
    assert kind in message and f"for its input '{wanted}' out of a finite gradient" in message
    assert "\n    gradient: " in message and f"\n    gradient of {wanted}: " in message


GIVEN = {
    "a seed": lambda x: (x * 2).backward(ta.tensor([INF, 1.0, 1.0])),
    "a hook": lambda x: hooked(x * 2, lambda g: g * np.nan).exp().sum().backward(),
    "a sum of gradients": lambda x: grown(x * 1).backward(),
    "a sum of gradients at a leaf": lambda x: grown(x).backward(),
}


def hooked(y, hook):
    y.register_hook(hook)
    return y


def grown(y):
    return (y * leaf(3e38)).sum() * 0.9 + (y * leaf(3e38)).sum() * 0.9


@pytest.mark.parametrize("name", GIVEN)
def test_anomaly_names_a_gradient_no_rule_made(name):
    with detect_anomaly(), pytest.raises(AnomalyError, match="no rule made it"):
        GIVEN[name](leaf(0.1, 0.1, 0.1))


# --- what is meant is no anomaly ---

MEANT = {
    "a mask added": lambda x: F.softmax(x + ta.tensor([0.0, -INF, 0.0]), 0),
    "a mask filled in": lambda x: F.softmax(x.masked_fill(x > 1, -INF), 0),
    "a mask by where": lambda x: F.log_softmax(ta.where(x > 1, -INF, x), 0)[:2],
    "padding": lambda x: F.softmax(F.pad(x, (1, 1), value=-INF), 0),
    "a maximum from -inf": lambda x: x.maximum(ta.tensor(-INF)),
    "a clamp": lambda x: x.clamp(-INF, INF) + x.clamp(max=INF),
    "an assignment": lambda x: F.softmax(assigned(x * 1), 0),
    "-inf in a buffer": lambda x: F.softmax(ta.full((3, 3), -INF).triu(1)[:2] + x, 1),
    "attention, added": lambda x: attention(x, ta.tensor([[0.0, 0.0, -INF], [-INF] * 3, [0.0] * 3])),
    "attention, boolean": lambda x: attention(x, ta.tensor([[True, False, True], [False] * 3, [True] * 3])),
    "data with holes, cleaned": lambda x: cleaned(ta.tensor([np.nan, 1.0, 2.0])) * x,
    "comparisons": lambda x: (ta.tensor([np.nan, INF, 1.0]) > 0).float() * x,
    "isfinite": lambda x: ta.isfinite(ta.tensor([np.nan, INF, 1.0])).float() * x,
    "a definition": lambda x: definition_of(lambda: F.softmax(x.masked_fill(x > 1, -INF), 0)),
    "integers": lambda x: x * ta.tensor([1, 2, 3]) + ta.tensor([True, False, True]).float(),
    "nothing at all": lambda x: x[:0] * 2,
}


def assigned(y):
    y[0] = -INF
    return y


def attention(x, mask):
    y = x.reshape(1, 3, 1)
    return F.scaled_dot_product_attention(y, y, y, mask)


def cleaned(data):
    return ta.where(data.reshape(3).isfinite(), data, 0.0)


@pytest.mark.parametrize("name", MEANT)
def test_anomaly_allows_infinities_of_the_program(name):
    x = leaf(-1.0, 0.5, 2.0)
    with detect_anomaly():
        MEANT[name](x).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_anomaly_when_an_infinity_becomes_nan():
    with detect_anomaly(), pytest.raises(AnomalyError, match=r"softmax .* made 2 NaN .* of which 'x' held infinities"):
        F.softmax(leaf(1.0, 2.0) + ta.tensor([-INF, -INF]), 0)


def test_anomaly_reports_where_nan_enters_the_graph():
    w = leaf(1.0, 2.0)
    with detect_anomaly():
        data = ta.tensor([[1.0, np.nan]]).reshape(2) * 2  # nothing depends on it yet
        with pytest.raises(AnomalyError, match=r"NaN comes into the graph with the input 'b' of mul"):
            w * data
    with ta.no_grad():
        w[0] = np.nan
    with detect_anomaly(), pytest.raises(AnomalyError, match=r"with the input 'x' of exp .*\n    x: .* 1 NaN in 2"):
        w.exp()


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_anomalies_in_backward_are_pytorchs():
    for function in (
        lambda x: (x * 0).sqrt().sum(),
        lambda x: (x * 0).pow(0.5).sum(),
        lambda x: (x - x).abs().sum().sqrt() * 0,
    ):
        outcomes = []
        for lib, detect in ((ta, detect_anomaly), (torch, torch.autograd.detect_anomaly)):
            x = lib.tensor([1.0, 2.0], requires_grad=True)
            try:
                with detect():
                    function(x).backward()
                outcomes.append("nothing")
            except RuntimeError:
                outcomes.append("anomaly")
        assert outcomes[0] == "anomaly" and outcomes[1] in ("anomaly", "nothing")  # torch looks for NaN alone


# --- the switch ---


def test_detect_anomaly_costs_nothing_when_off(monkeypatch):
    calls = []
    for name, value in inspect.getmembers(detect_anomaly, inspect.isfunction):
        if name not in ("__init__", "__enter__", "__exit__"):
            monkeypatch.setattr(
                detect_anomaly, name, lambda *a, name=name, value=value: calls.append(name) or value(*a)
            )
    monkeypatch.setattr(
        anomaly, "checksum", lambda a, original=anomaly.checksum: calls.append("checksum") or original(a)
    )

    def step():
        x = leaf(1.0, 2.0)
        (x.exp() * x).sum().backward()

    step()
    assert observers.get() == () and calls == []
    with detect_anomaly():
        step()
    assert {"before_forward", "after_forward", "before_backward", "after_backward", "freed", "checksum"} <= set(calls)
    calls.clear()
    step()
    assert observers.get() == () and calls == []


@ta.operation(x=lambda F, g: 1 / 0)
def broken(F, x):
    """An operation whose rule raises."""
    return x + 0


def test_detect_anomaly_can_be_entered_after_an_error():
    watch = detect_anomaly()
    for _ in range(2):
        with pytest.raises(AnomalyError), watch:
            leaf(-1.0).log()
        with pytest.raises(ZeroDivisionError), watch:
            broken(leaf(1.0)).backward(create_graph=True)
        assert observers.get() == ()
    (leaf(-1.0).log() * 2).backward()


def test_detect_anomaly_without_check_nan_checks_writes():
    with detect_anomaly(check_nan=False):
        x = leaf(0.0, 4.0)
        y = x.sqrt()
        (y / y).sum().backward()
        assert np.isnan(x.grad.numpy()[0])
        z = x * x
        x.array[1] = 5
        with pytest.raises(AnomalyError, match="behind the engine's back"):
            z.sum().backward()


def test_anomaly_checksums_die_with_saved_arrays():
    with detect_anomaly() as watch:
        x = leaf(1.0, 2.0)
        loss = (x * x).exp().sum()
        assert len(watch._sums) == 3
        loss.backward(retain_graph=True)
        assert len(watch._sums) == 3
        loss.backward()
        assert len(watch._sums) <= 1  # sum keeps nothing but a shape
        del loss
        (x * x).exp()
        assert len(watch._sums) == 0  # a graph that is dropped takes them with it


def test_detect_anomaly_accepts_a_forward_outside():
    x = leaf(1.0, 2.0)
    z = x * x
    x.array[0] = 3
    with detect_anomaly():
        z.sum().backward()


def test_detect_anomaly_accepts_right_second_derivatives():
    x = leaf(0.3, 0.7, dtype=ta.float64)
    with detect_anomaly():
        y = F.layer_norm(F.softmax(x, 0) * x.exp(), (2,))
        (g,) = ta.grad((y * leaf(1.0, 2.0)).sum(), x, create_graph=True)
        (h,) = ta.grad((g * g).sum(), x)
    assert np.isfinite(h.numpy()).all()


def test_detect_anomaly_is_local_to_its_thread():
    errors, ready, done = [], threading.Event(), threading.Event()

    def quiet():
        ready.wait(5)
        try:
            leaf(-1.0).log()
        except AnomalyError as error:
            errors.append(error)
        done.set()

    thread = threading.Thread(target=quiet)
    thread.start()
    with detect_anomaly():
        ready.set()
        assert done.wait(5)
    thread.join()
    assert errors == []


def test_detect_anomaly_nests_with_other_observers():
    with detect_anomaly(check_nan=False), detect_anomaly(), pytest.raises(AnomalyError):
        leaf(-1.0).log()
    assert observers.get() == ()
