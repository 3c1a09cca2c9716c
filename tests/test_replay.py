"""compile(): captured once, replayed bit for bit; captured anew, or not at all, where it must be."""

from __future__ import annotations

import itertools
import logging
import threading
import time

import numpy as np
import pytest
from gpus import counting, memory_limited, only_where_counted
from oracle import host

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, nn, optim

pytestmark = pytest.mark.usefixtures("gpu")


class Training:
    """A small model with dropout and shifts, its optimizer, and what one step does."""

    def __init__(self, make=lambda p: optim.AdamW(p, 1e-2), clip=False):
        ta.manual_seed(0)
        self.model = models.AttentionClassifier(8, 4, 1, 2, 8, 16, dropout=0.2).to("cuda")
        self.optimizer = make(self.model.parameters())
        rng = np.random.default_rng(0)
        self.images = ta.tensor(rng.integers(0, 255, (40, 8, 8)).astype(np.uint8), device="cuda")
        self.labels = ta.tensor(rng.integers(0, 10, 40), device="cuda")
        self.clip, self.runs = clip, 0

    def step(self, images, labels):
        self.runs += 1
        scores = self.model(data.random_shift(images, 1))
        loss = F.cross_entropy(scores, labels, label_smoothing=0.1)
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        self.optimizer.step()
        return {"loss": loss, "hits": (scores.argmax(1) == labels).sum()}

    def loader(self, batch=8):
        return data.DataLoader((self.images, self.labels), batch, shuffle=True, generator=ta.Generator().manual_seed(1))

    def values(self):
        tensors = [*self.model.parameters(), *(v for s in self.optimizer.state.values() for v in s.values())]
        return [host(t) for t in tensors]


class OwnUpdate(optim.AdamW):
    """A subclass with another update() is not fused: each parameter counts its own steps."""

    def update(self, param, grad, state, group):
        super().update(param, grad * 2, state, group)


OPTIMIZERS = {
    "adamw": {}, "sgd": {"make": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True)}, "clipped": {"clip": True},
    "own update": {"make": lambda p: OwnUpdate(p, 1e-2)},
    "amsgrad": {"make": lambda p: optim.Adam(p, 1e-2, amsgrad=True, weight_decay=0.1)},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compile_replay_equals_eager_bit_for_bit(name):
    results = []
    for how in (lambda f: f, ta.compile):
        training = Training(**OPTIMIZERS[name])
        step = how(training.step)
        schedule = optim.CosineAnnealingLR(training.optimizer, 12)
        seen = []
        for _ in range(2):
            for images, labels in training.loader():
                found = step(images, labels)
                seen.append(found)
                schedule.step()
        results.append(([[t.item() for t in found.values()] for found in seen], training.values(), training.runs))
    (eager, a, runs), (replayed, b, captured_runs) = results
    assert eager == replayed and (runs, captured_runs) == (10, 3)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@only_where_counted
def test_compile_replay_is_one_launch_without_copies():
    training = Training()
    step, kept, costs = ta.compile(training.step), [], []
    for images, labels in [*training.loader(), *training.loader()]:
        with counting() as cost:
            kept.append(step(images, labels))
        costs.append(cost)
    assert costs[2]["malloc in capture"] == 0
    for cost in costs[3:]:
        assert cost["graph launch"] == 1 and cost["launch"] <= 4  # two arguments copied in, two results copied out
        assert not cost["upload"] + cost["download"] + cost["synchronise"]
    losses = [found["loss"].item() for found in kept]
    assert len(set(losses)) == len(losses)  # each call's result is its own


@only_where_counted
def test_compile_captures_checkpoint_with_dropout():
    layer, x = nn.Linear(4, 4).to("cuda"), ta.ones(2, 4, device="cuda")

    @ta.compile
    def step(x):
        layer.zero_grad()
        loss = ta.checkpoint(lambda x: F.dropout(layer(x)), x).sum()
        loss.backward()
        return loss

    for _ in range(4):
        with counting() as cost:
            step(x)
    assert cost["graph launch"] == 1 and not cost["download"] + cost["synchronise"]


@only_where_counted
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compile_capture_allocates_in_its_own_pool_if_at_all(name):
    import cupy

    training = Training(**OPTIMIZERS[name])
    step, pool, kept = ta.compile(training.step), cupy.get_default_memory_pool(), []
    for turn in range(5):
        before = pool.used_bytes()
        with counting() as cost:
            kept.append(step(training.images[:8], training.labels[:8]))
        outside = pool.used_bytes() - before  # two results of a number each, and the labels and images of this call
        if turn >= 2:
            # the run before has left the memory of a step; CuPy splits its blocks, so another order may need one more
            assert cost["malloc in capture"] <= 2 * (turn == 2) and cost["malloc"] <= 2 + cost["malloc in capture"]
            assert outside <= 4 * 512


def test_compile_captures_each_batch_size():
    results = []
    for how in (lambda f: f, ta.compile):
        training = Training()
        step = how(training.step)
        for _ in range(4):
            for images, labels in training.loader(batch=16):  # 16, 16, 8
                step(images, labels)
        results.append(training.values())
    assert training.runs == 3 + 3
    for x, y in zip(*results, strict=True):
        np.testing.assert_array_equal(x, y)


def test_compile_replay_never_overwrites_other_tensors():
    training = Training()
    step = ta.compile(training.step)
    batch = training.images[:8], training.labels[:8]
    for _ in range(3):
        step(*batch)
    mine = [ta.full((n,), 7.0, device="cuda") for n in (1, 10, 64, 128, 512, 1024, 4096) for _ in range(20)]
    step(*batch)
    assert all((t == 7).all() for t in mine)


def test_compile_replay_fills_gradients():
    training = Training()
    step = ta.compile(training.step)
    for images, labels in training.loader():
        step(images, labels)
    grads = [host(p.grad) for p in training.model.parameters()]
    assert all(np.isfinite(g).all() and g.any() for g in grads)


def test_compile_reads_unmoved_arguments_in_place():
    table, out = ta.arange(1000, device="cuda").float(), []
    row = ta.zeros((), device="cuda")

    @ta.compile
    def total(table, row):
        return table.sum() + row

    for i in range(5):
        row = ta.full((), float(i), device="cuda")
        out.append(total(table, row).item())
    assert out == [499500.0 + i for i in range(5)]
    other = table * 2  # elsewhere: captured again
    assert [total(other, row).item() for _ in range(4)] == [999004.0] * 4


@pytest.mark.parametrize("change", ["weight_decay", "betas", "eps"])
def test_compile_recaptures_after_an_optimizer_option_changes(change):
    results = []
    for how in (lambda f: f, ta.compile):
        training = Training()
        step = how(training.step)
        for i in range(8):
            if i == 4:
                training.optimizer.param_groups[0][change] = {"weight_decay": 0.5, "betas": (0.5, 0.6), "eps": 1e-2}[
                    change
                ]
            step(training.images[:8], training.labels[:8])
        results.append(training.values())
    for x, y in zip(*results, strict=True):
        np.testing.assert_array_equal(x, y)


def test_compile_captures_each_argument_and_mode():
    x = ta.arange(4, device="cuda").float()
    seen = []

    @ta.compile
    def scaled(x, factor, *, name):
        seen.append((factor, name, ta.is_grad_enabled()))
        return [x * factor, name]

    for _ in range(2):
        for factor, name in ((2, "a"), (3, "a"), (2, "b")):
            for _ in range(4):
                out, label = scaled(x, factor, name=name)
                assert out.tolist() == [0.0, factor, 2.0 * factor, 3.0 * factor] and label == name
    assert len(seen) == 3 * 3
    with ta.no_grad():
        scaled(x, 2, name="a")
    assert len(seen) == 10
    with pytest.raises(TypeError, match="has no hash, so a graph cannot be chosen by it"):
        scaled(x, np.ones(2), name="a")


# --- what cannot be captured ---

ACCUMULATING = nn.Linear(2, 2)


def _accumulate(x):
    layer = ACCUMULATING.to("cuda")
    layer(x).sum().backward()
    return x


REFUSED = {
    "item": (lambda x: x * x.sum().item(), r"a tensor of shape \(\) is read by the processor"),
    "bool": (lambda x: x if (x > 0).all() else -x, r"a tensor of shape \(\) is read by the processor"),
    "cpu": (lambda x: x.cpu().cuda(), r"a tensor of shape \(2, 2\) is read by the processor"),
    "a list": (lambda x: x[[1, 0]], r"an array of shape \(2,\) is copied from the processor"),
    "an array": (lambda x: x + ta.tensor(np.ones((2, 2)), device="cuda"), r"an array of shape \(2, 2\) is copied from the processor"),
    "a mask": (lambda x: x[x > 1], "a mask as an index makes a shape that only the GPU knows"),
    "nonzero": (lambda x: ta.where(x > 1)[0], "asks how many elements are true"),
    "synchronize": (lambda x: (x, ta.cuda.synchronize())[0], r"synchronize\(\) waits"),
    "gradients from before": (_accumulate, r"gradients are added to those from before: call zero_grad\(\) inside"),
    "an error": (lambda x: (x, 1 / 0 if ta.backends.gpu().capturing() else 0)[0], "division by zero"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_compile_falls_back_and_warns_once(name, caplog):
    function, why = REFUSED[name]
    x = ta.tensor([[1.0, 2.0], [3.0, 4.0]], device="cuda")
    compiled = ta.compile(function)
    expected = host(function(x))
    with caplog.at_level(logging.WARNING, "tinyattn"):
        for _ in range(6):
            np.testing.assert_array_equal(host(compiled(x)), expected)
    assert len(caplog.records) == 1
    caplog.records[0].getMessage()
    assert "runs without a CUDA graph, launch by launch, because it cannot be captured" in caplog.text
    import re

    assert re.search(why, caplog.text)


def test_compile_failure_changes_no_training_result(caplog):
    results = []
    for how in (lambda f: f, ta.compile):
        training = Training()

        def step(images, labels, training=training):
            found = training.step(images, labels)
            return found, found["loss"].item()  # after everything else

        step = how(step)
        for images, labels in training.loader():
            step(images, labels)
        results.append(training.values())
    assert "loss" not in caplog.text and len(caplog.records) == 1
    for x, y in zip(*results, strict=True):
        np.testing.assert_array_equal(x, y)


def test_compile_failure_leaves_no_gradient(caplog):
    results = []
    for how in (lambda f: f, ta.compile):
        training = Training()

        def step(images, labels, training=training):
            loss = F.cross_entropy(training.model(images), labels)
            loss.backward()
            found = loss.item()
            training.optimizer.step()
            training.optimizer.zero_grad()
            return found

        step = how(step)
        results.append(([step(images, labels) for images, labels in training.loader()], training.values()))
    assert results[0][0] == results[1][0] and len(caplog.records) == 1
    for x, y in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(x, y)


def test_compile_failure_steps_a_schedule_only_once(caplog):
    rates = []
    for how in (lambda f: f, ta.compile):
        training = Training()
        schedule = optim.StepLR(training.optimizer, 2)

        def step(images, labels, training=training, schedule=schedule):
            training.step(images, labels)
            schedule.step()

        step = how(step)
        for images, labels in training.loader():
            step(images, labels)
        rates.append((schedule.last_epoch, training.optimizer.param_groups[0]["lr"]))
    assert rates[0] == rates[1] and "belongs outside of the compiled step" in caplog.text


def gradients(model, x, y):
    """Those of a step that is not compiled itself, as PyTorch's users write it around a compiled model."""
    model.zero_grad()
    F.mse_loss(model(x), y).backward()
    return [host(p.grad) for p in model.parameters()]


def test_compile_of_a_model_keeps_the_gradients_of_its_result(caplog):
    layer = nn.Linear(3, 2).to("cuda")
    compiled = ta.compile(layer)
    compiled.zero_grad, compiled.parameters = layer.zero_grad, layer.parameters
    x, y = ta.ones(4, 3, device="cuda"), ta.zeros(4, 2, device="cuda")
    with caplog.at_level(logging.WARNING, "tinyattn"):
        for _ in range(4):
            for a, b in zip(gradients(compiled, x, y), gradients(layer, x, y), strict=True):
                np.testing.assert_array_equal(a, b)
    assert [r.message.partition("because ")[2] for r in caplog.records] == [
        "a result requires a gradient (use no_grad, or backward() inside)"
    ]


CHANGES = {  # what a function does to its argument
    "writes": lambda x: x.detach().mul_(2).sum(),
    "gives a gradient": lambda x: (x * x).sum().backward() or x.detach() + 1,
    "reshapes": lambda x: x.detach_().unsqueeze_(0) * 2,
    "replaces": lambda x: (setattr(x, "data", x.data + 1), x.detach() * 2)[1],
    "asks": lambda x: x.requires_grad_(not x.requires_grad).detach() * 2,
}


@pytest.mark.parametrize("name", CHANGES)
def test_compile_changes_arguments_themselves_and_no_copies(name, caplog):
    found = []
    for how in (lambda f: f, ta.compile):
        function = how(CHANGES[name])
        arguments = [ta.full((3,), i + 1.0, device="cuda", requires_grad=True) for i in range(4)]
        results = [host(function(x).detach()) for x in arguments]
        found.append([results, *((host(x), x.requires_grad, x.grad is not None and host(x.grad)) for x in arguments)])
    np.testing.assert_equal(*found)
    assert "an argument, or" in caplog.text


BETWEEN = {  # what a program may do to a model between two calls of a compiled function
    "eval": lambda model: model.eval(),
    "a setting": lambda model: setattr(model[1], "eps", 0.5),
    "a hook": lambda model: model.register_forward_hook(lambda module, inputs, out: out * 2),
    "a parameter's memory": lambda model: setattr(model[0].weight, "data", model[0].weight.data * 2),
    "a parameter": lambda model: setattr(model[0], "weight", nn.Parameter(model[0].weight.detach() * 2)),
    "a layer": lambda model: model.append(nn.ReLU()),
    "a name": lambda model: SCALE.__setitem__("now", 3.0),
}
SCALE = {}


@pytest.mark.parametrize("name", BETWEEN)
def test_compile_sees_what_changes_between_calls(name):
    found = []
    for how in (lambda f: f, ta.compile):
        ta.manual_seed(0)
        SCALE["now"] = 2.0
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to("cuda")
        forward = how(lambda x, model=model: model(x) * SCALE["now"])
        outs = []
        with ta.no_grad():
            for i in range(10):
                outs.append(host(forward(ta.tensor([[0.5, -1.0, i], [2.0, 0.25, 1.0]], device="cuda"))))
                if i == 4:
                    BETWEEN[name](model)
        found.append(outs)
    np.testing.assert_array_equal(*found)


def test_compile_gives_up_where_something_changes_all_the_time(caplog):
    layer = nn.Linear(2, 2).to("cuda")
    forward, x = ta.compile(lambda x: layer(x) * SCALE["now"]), ta.ones(1, 2, device="cuda")
    with caplog.at_level(logging.WARNING, "tinyattn"), ta.no_grad():
        for i in range(60):
            SCALE["now"] = float(i // 4)
            np.testing.assert_array_equal(host(forward(x)), host(layer(x) * SCALE["now"]))
    assert len(caplog.records) == 1 and "changes of what it names, or of modules" in caplog.text


def test_compile_replay_raises_for_a_bad_label():
    training = Training()
    step = ta.compile(training.step)
    good, bad = training.labels[:8], ta.full((8,), 12, device="cuda")
    for _ in range(4):
        step(training.images[:8].clone(), good.clone())
    before = [host(p) for p in training.model.parameters()]
    message = r"cross_entropy: class 12 at position \(0,\) is out of range; expected 0 to 9"
    with pytest.raises(IndexError, match=message):
        [step(training.images[:8].clone(), bad.clone()) for _ in range(3)]
    for p, was in zip(training.model.parameters(), before, strict=True):
        np.testing.assert_array_equal(host(p), was)
    step(training.images[:8].clone(), good.clone())
    assert not np.array_equal(host(training.model.head.weight), before[-2])


def test_compile_runs_plainly_on_cpu_and_under_observers():
    runs = itertools.count()

    @ta.compile(mode="reduce-overhead")
    def double(x):
        """Doubles."""
        next(runs)
        return x * 2

    assert double.__name__ == "double" and double.__doc__ == "Doubles."
    for _ in range(5):  # once by itself, recorded, and beside its program; then that runs alone
        assert double(ta.ones(2)).tolist() == [2.0, 2.0]
    with ta.detect_anomaly():
        for _ in range(5):
            double(ta.ones(2, device="cuda"))
    assert next(runs) == 3 + 5
    with pytest.raises(ValueError, match="mode='max-autotune'; expected 'reduce-overhead'"):
        ta.compile(double, mode="max-autotune")
    assert ta.compile(next, disable=True) is next is ta.compile(disable=True)(next)


def test_compile_of_methods_and_nested_functions():
    class Model(nn.Module):
        @ta.compile
        def forward(self, x):
            return inner(x) + 1

    @ta.compile
    def inner(x):
        return x * 2

    model, x = Model(), ta.ones(2, device="cuda")
    for _ in range(5):
        assert model(x).tolist() == [3.0, 3.0]


@only_where_counted
def test_compile_gives_the_memory_of_dropped_graphs_to_the_next():
    x, mallocs = ta.ones(300, 7, device="cuda"), []
    for _ in range(3):
        step = ta.compile(lambda x: (x * 2 + 1).exp())
        with counting() as cost:
            for _ in range(4):
                step(x)
        mallocs.append(cost["malloc"])
        reserved = ta.cuda.memory_reserved()
        del step
    assert mallocs[1:] == [0, 0] and ta.cuda.memory_reserved() == reserved
    ta.cuda.empty_cache()
    assert ta.cuda.memory_reserved() < reserved


def test_compile_on_two_threads_keeps_their_graphs_apart():
    inside, found = threading.Event(), {}

    def slow(x):
        if calls.append(0) or len(calls) == 3:  # while it is captured
            inside.set()
            time.sleep(0.05)
        return x + 1

    def other():
        inside.wait(10)
        found["other"] = ta.compile(lambda x: x * 5)(ta.full((3,), 2.0, device="cuda"))

    calls = []
    thread = threading.Thread(target=other)
    thread.start()
    step = ta.compile(slow)
    for i in range(4):
        found["slow"] = step(ta.full((3,), float(i), device="cuda"))
    thread.join()
    assert found["other"].tolist() == [10.0] * 3 and found["slow"].tolist() == [4.0] * 3


@only_where_counted
def test_compile_replays_on_two_streams_in_order():
    import cupy
    from fakecuda import hooks

    step, x = ta.compile(lambda x: x @ x), ta.ones(3, 3, device="cuda")
    streams = [cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)]
    for stream in (*streams, *streams):
        with stream:
            step(x)
    first, second = (stream.ptr for stream in streams)
    assert hooks.waited_for(second) == first  # cuBLAS has one workspace for both
    with streams[0]:
        step(x)
    assert hooks.waited_for(first) == second


@only_where_counted
def test_compile_takes_memory_that_the_default_pool_keeps(caplog):
    ta.cuda.empty_cache()
    with memory_limited(1_650_000):
        x = ta.zeros(100_000, device="cuda")  # 0.4 of 1.65 MB
        kept = [x + 1, x + 2, x + 3]
        del kept
        step = ta.compile(lambda x: x + 1)
        for _ in range(4):
            result = step(x)
    assert result.sum().item() == 100_000 and not caplog.records
