"""DataParallel: the numbers of the plain module, the same bits on every run, and no thread left behind."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from answers import torch

import tinyattn as ta
from tinyattn import cores, nn
from tinyattn.cores import _container_limit as container_limit
from tinyattn.engine import threads as parallel
from tinyattn.engine.observer import Observer
from tinyattn.engine.variable import Storage

WORKERS = [1, 2, 3, 8]  # of a batch of 5
Pair = namedtuple("Pair", "first second")


def double(*size: int) -> ta.Tensor:
    return ta.randn(*size, dtype=ta.float64, requires_grad=True)


class Calls(nn.Module):
    """A module that is a function of itself and its arguments."""

    def __init__(self, function: Any, **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def tensors(out: Any) -> list[ta.Tensor]:
    if isinstance(out, dict):
        out = list(out.values())
    return [out] if isinstance(out, ta.Tensor) else [t for o in out or () for t in tensors(o)]


def loss_of(out: Any) -> ta.Tensor:
    """A number to which each output contributes in its own way."""
    weight = np.random.default_rng(0)
    return sum((t * weight.normal(size=t.shape)).tanh().sum() for t in tensors(out))


# --- the numbers of the plain module ---


def layer() -> nn.Module:
    return nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True).double()


def several(self: Any, x: Any) -> Any:
    h = x @ self.w
    return {"a": h, "more": (h.sum(1), [x, None], Pair(h, h * h)), "none": ()}


def lazily(self: Any, x: Any) -> Any:
    with lock:
        if not hasattr(self, "late"):
            self.late = ta.tensor(np.full((6, 6), 0.5), requires_grad=True)
    return x @ self.late


lock = threading.Lock()
CASES = {
    "a layer": lambda w: (layer(), (w.x,), {}),
    "one weight used twice": lambda w: (Calls(lambda s, x: (x @ s.w).tanh() @ s.w, w=w.p), (w.x,), {}),
    "keyword arguments": lambda w: (Calls(lambda s, x, scale, y: x * y * scale), (w.x,), {"scale": 3.0, "y": w.y}),
    "arguments in a nest": lambda w: (Calls(lambda s, d: d["x"] * d["pair"][1]), ({"x": w.x, "pair": [None, w.y]},), {}),
    "a defaultdict of arguments": lambda w: (
        Calls(lambda s, d: type(d)(None, d, out=d["x"] * 2)), (defaultdict(None, x=w.x),), {}),
    "a namedtuple of arguments": lambda w: (Calls(lambda s, p: p.first * p.second), (Pair(w.x, w.y),), {}),
    "an array": lambda w: (Calls(lambda s, a, x: x * a), (np.arange(5.0).reshape(5, 1, 1), w.x), {}),
    "tokens": lambda w: (nn.Embedding(4, 3).double(), (ta.tensor([[0, 1], [2, 3], [1, 1], [0, 3], [2, 2]]),), {}),
    "a 0-d tensor for all": lambda w: (Calls(lambda s, x, t: x * t), (w.x, w.t), {}),
    "nested outputs": lambda w: (Calls(several, w=w.p), (w.x,), {}),
    "an input that is the output": lambda w: (Calls(lambda s, x: x), (w.x,), {}),
    "a computed tensor is captured": lambda w: (Calls(lambda s, x: x @ w.computed), (w.x,), {}),
    "a leaf made inside": lambda w: (Calls(lazily), (w.x,), {}),
    "an input that was computed": lambda w: (layer(), (w.x * 2,), {}),
    "rows in one": lambda w: (nn.DataParallel(layer(), 2), (w.x,), {}),
    "rows without gradient": lambda w: (layer(), (w.x.detach(),), {}),
}  # fmt: skip


class World:
    """Leaves, and what is made of them."""

    def __init__(self) -> None:
        ta.manual_seed(0)
        self.x, self.y, self.t = double(5, 3, 6), double(5, 3, 6), ta.tensor(0.7, dtype=ta.float64, requires_grad=True)
        self.p, self.v = nn.Parameter(double(6, 6)), double(6, 6)
        self.computed = self.v * 2

    def run(self, case: str, workers: int | None) -> tuple[Any, list[ta.Tensor]]:
        """The outputs, and all leaves."""
        module, args, kwargs = CASES[case](self)
        net = module if workers is None else nn.DataParallel(module, workers)
        out = net(*args, **kwargs)
        if hasattr(module, "late"):
            self.late = module.late
        leaves = [x for x in vars(self).values() if x.is_leaf]
        return out, leaves + [p for p in module.parameters() if p is not self.p]


def same(ours: Any, plain: Any) -> None:
    for a, b in zip(ours, plain, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a.array, b.array, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("case", CASES)
def test_data_parallel_equals_plain_module(case, workers):
    results = []
    for n in (None, workers):
        out, leaves = World().run(case, n)
        loss_of(out).backward()
        results.append((out, leaves))
    (plain, plain_leaves), (ours, leaves) = results
    same(tensors(ours), tensors(plain))
    same([leaf.grad for leaf in leaves], [leaf.grad for leaf in plain_leaves])
    assert any(leaf.grad is not None for leaf in leaves)


@pytest.mark.parametrize("case", CASES)
def test_data_parallel_second_derivatives_equal_plain_module(case):
    results = []
    for n in (None, 2):
        out, leaves = World().run(case, n)
        first = ta.grad(loss_of(out), leaves, create_graph=True, allow_unused=True)
        loss = sum((g * g).sum() for g in first if g is not None)
        results.append((first, ta.grad(loss, leaves, allow_unused=True)))
    for plain, ours in zip(*results, strict=True):
        same(ours, plain)


def test_data_parallel_keeps_output_structure():
    out, _ = World().run("nested outputs", 2)
    assert list(out) == ["a", "more", "none"]
    assert out["more"][1][1] is None and out["none"] == ()
    assert type(out["more"][2]) is Pair and type(out["more"][1]) is list


@pytest.mark.parametrize(
    ("rows", "workers", "shares"),
    [(5, 2, [2, 3]), (5, 3, [1, 2, 2]), (2, 9, [1, 1]), (4, 2, [2, 2]), (1, 4, [1]), (0, 2, [0])],
)
def test_data_parallel_shares_differ_by_one_row(rows, workers, shares):
    seen: list[list[float]] = []
    net = nn.DataParallel(Calls(lambda s, x: seen.append(x.tolist()) or x + 0), workers)
    x = ta.arange(rows).float()
    assert net(x).tolist() == x.tolist()
    assert [len(rows) for rows in sorted(seen)] == shares


def test_data_parallel_shares_are_views():
    x = ta.arange(6).float()
    net = nn.DataParallel(Calls(lambda s, x: x.mul_(2)), 2)
    assert net(x).tolist() == x.tolist() == [0, 2, 4, 6, 8, 10]


def kept(s: Any, x: Any) -> Any:
    h = (x @ s.w).tanh()
    s.seen.append(h)
    return h @ s.w


def test_data_parallel_tracks_tensors_stored_by_the_module():
    results = []
    for n in (None, 2):
        world = World()
        module = Calls(kept, w=world.p, seen=[])
        out = module(world.x) if n is None else nn.DataParallel(module, n)(world.x)
        (loss_of(out) + sum((h * h).sum() for h in module.seen)).backward()
        results.append([world.x.grad, world.p.grad])
    same(*results)


def test_data_parallel_gradients_of_inner_tensors():
    world = World()
    module = Calls(kept, w=world.p, seen=[])
    out = nn.DataParallel(module, 2)(world.x)
    expected = (ta.ones_like(out) @ world.p.detach().T).array
    for h in module.seen:
        h.retain_grad()
    order = np.argsort([h.array[0, 0, 0] != (world.x[0] @ world.p).tanh().array[0, 0] for h in module.seen])
    found = ta.grad(out.sum(), [module.seen[i] for i in order], retain_graph=True)
    np.testing.assert_allclose(np.concatenate([g.array for g in found]), expected)
    for times in (1, 2):
        np.testing.assert_allclose(np.concatenate([module.seen[i].grad.array for i in order]), expected * times)
        out.sum().backward(retain_graph=True)


# --- threads ---


def together(parties: int) -> Any:
    """Returns only if so many threads are in it at the same time."""
    barrier = threading.Barrier(parties)

    def meet(*_: Any) -> None:
        barrier.wait(20)

    return meet


@pytest.mark.parametrize(("name", "momentum"), [("BatchNorm1d", 0.1), ("BatchNorm1d", None), ("InstanceNorm1d", 0.1)])
def test_data_parallel_moves_running_statistics_by_the_first_share(name, momentum):
    for _ in range(20):
        ta.manual_seed(0)
        x = ta.randn(12, 3, 5)
        plain, shared = (getattr(nn, name)(3, momentum=momentum, track_running_stats=True) for _ in range(2))
        for _ in range(2):
            plain(x[:4])
            nn.DataParallel(shared, workers=3)(x)
        assert shared.running_mean.tolist() == plain.running_mean.tolist()
        assert shared.running_var.tolist() == plain.running_var.tolist()
        assert shared.num_batches_tracked.item() == plain.num_batches_tracked.item()
    plain.eval(), shared.eval()
    assert nn.DataParallel(shared, workers=3)(x).tolist() == plain(x).tolist()


def test_data_parallel_runs_concurrently():
    world, forward, backward = World(), together(3), together(3)

    def function(s: Any, x: Any) -> Any:
        forward()
        h = x @ s.w
        h.register_hook(backward)
        return h.tanh()

    nn.DataParallel(Calls(function, w=world.p), 3)(world.x).sum().backward()


def test_data_parallel_runs_module_hooks():
    world, inside, outside = World(), [], []
    module = nn.Linear(6, 2).double()
    net = nn.DataParallel(module, 2)
    module.register_full_backward_hook(lambda m, gi, go: inside.append((gi[0].shape, go[0].shape)))
    net.register_full_backward_hook(lambda m, gi, go: outside.append((gi[0].shape, go[0].shape)))
    module.weight.register_hook(lambda g: g * 0)
    net(world.x).sum().backward()
    assert sorted(inside) == [((2, 3, 6), (2, 3, 2)), ((3, 3, 6), (3, 3, 2))]
    assert outside == [((5, 3, 6), (5, 3, 2))]
    assert not module.weight.grad.array.any() and module.bias.grad.array.all()


def test_data_parallel_modes_reach_workers():
    seen = []
    net = nn.DataParallel(Calls(lambda s, x: seen.append((ta.is_grad_enabled(), s.training)) or x * 2), 2)
    x = double(4, 2)
    net(x)
    with ta.no_grad():
        assert net.eval()(x).node is None
    assert seen == [(True, True)] * 2 + [(False, False)] * 2
    assert not net.module.training


def test_data_parallel_frees_saved_tensors_unless_retained():
    world = World()
    module = Calls(kept, w=world.p, seen=[])
    out = nn.DataParallel(module, 2)(world.x)
    out.sum().backward(retain_graph=True)
    once = world.p.grad.array.copy()
    out.sum().backward()
    np.testing.assert_array_equal(world.p.grad.array, 2 * once)
    assert all(h.node.saved is None for h in module.seen)
    with pytest.raises(RuntimeError, match="backward a second time"):
        out.sum().backward()


def test_data_parallel_errors_name_the_callers_line():
    world = World()
    out = nn.DataParallel(nn.Linear(6, 2).double(), 2)(world.x)
    sites = {str(edge.site) for edge in (out.node, *out.node.edges) if edge.op}
    assert len(sites) == 1 and __file__ in sites.pop()
    assert out.node.edges[1].module == "module"


def test_two_models_in_two_threads():
    def train(seed: int, found: dict[int, bytes]) -> None:
        rng = np.random.default_rng(seed)
        module = nn.Linear(6, 6).double()
        module.load_state_dict({"weight": ta.tensor(rng.normal(size=(6, 6))), "bias": ta.zeros(6)})
        net, x = nn.DataParallel(module, 2), ta.tensor(rng.normal(size=(40, 6)))
        for _ in range(20):
            net(x).tanh().sum().backward()
        found[seed] = module.weight.grad.array.tobytes()

    alone: dict[int, bytes] = {}
    side: dict[int, bytes] = {}
    for seed in (1, 2, 3):
        train(seed, alone)
    threads = [threading.Thread(target=train, args=(seed, side)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone == side


def test_two_threads_agree_on_the_counter_of_writes(monkeypatch):
    start = Storage.__init__
    monkeypatch.setattr(Storage, "__init__", lambda self: time.sleep(0.05) or start(self))
    x, found = ta.ones(2), []
    threads = [threading.Thread(target=lambda: found.append(x.storage)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1] is x.storage


def test_graphs_are_freed_without_the_garbage_collector():
    world = World()
    module = Calls(kept, w=world.p, seen=[])
    gc.collect()
    gc.disable()
    try:
        out = nn.DataParallel(module, 3)(world.x)
        nodes = [weakref.ref(h.node) for h in (out, *module.seen)]
        out.sum().backward()
        del out
        module.seen.clear()
        deadline = time.monotonic() + 5  # a worker may hold the last of it for a moment
        while any(node() for node in nodes) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert not any(node() for node in nodes)
    finally:
        gc.enable()


# --- bits ---


def dropping(workers: int = 2) -> tuple[nn.DataParallel, ta.Tensor]:
    ta.manual_seed(3)
    module = nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, dropout=0.4, batch_first=True), nn.Dropout(0.3))
    return nn.DataParallel(module, workers), ta.randn(7, 3, 6, requires_grad=True)


def bits(net: nn.Module, x: ta.Tensor, **how: Any) -> list[bytes]:
    """Of two steps: outputs, gradients, and where the process-wide stream then stands."""
    outs = [net(x), net(x)]
    sum(loss_of(out) for out in outs).backward(**how)
    grads = [x.grad, *(p.grad for p in net.parameters())]
    return [*(t.array.tobytes() for t in (*outs, *grads)), str(ta.default_generator.get_state()).encode()]


@pytest.mark.parametrize("workers", [2, 3])
def test_data_parallel_bits_depend_on_seed_not_timing(workers):
    expected = bits(*dropping(workers))
    for seed in range(4):
        net, x = dropping(workers)
        chance = random.Random(seed)
        for part in net.modules():
            part.register_forward_pre_hook(lambda *_, chance=chance: time.sleep(chance.random() / 100))
        assert bits(net, x) == expected


def test_data_parallel_observed_or_nested_bits_are_equal():
    expected = bits(*dropping())
    threads = set()
    net, x = dropping()
    net.module.register_forward_hook(lambda *_: threads.add(threading.get_ident()))
    with Observer():
        assert bits(net, x) == expected
    assert threads == {threading.get_ident()}
    with Observer():
        net, x = dropping()
        watched = bits(nn.DataParallel(net, 3), x)
    net, x = dropping()
    net.module.register_forward_hook(lambda *_: threads.add(threading.get_ident()))
    assert bits(nn.DataParallel(net, 3), x) == watched != expected
    assert 1 < len(threads) <= 3


def test_data_parallel_backward_and_grad_bits_are_equal():
    results = []
    for how in ("grad", "create_graph", "backward"):
        world = World()
        module = Calls(lambda s, x: (x @ s.w).tanh() @ s.w, w=world.p)
        loss, leaves = loss_of(nn.DataParallel(module, 3)(world.x)), [world.x, world.p]
        if how == "backward":
            loss.backward()
            found = [leaf.grad for leaf in leaves]
        else:
            found = ta.grad(loss, leaves, create_graph=how == "create_graph")
        results.append([g.array.tobytes() for g in found])
    assert results[0] == results[1] == results[2]


def test_data_parallel_workers_draw_different_random_numbers():
    ta.manual_seed(0)
    net = nn.DataParallel(Calls(lambda s, x: ta.rand(len(x))), 2)
    x = ta.zeros(4, 1)
    drawn = np.concatenate([net(x).array, net(x).array])
    assert len(set(drawn.tolist())) == 8
    ta.manual_seed(0)
    np.testing.assert_array_equal(np.concatenate([net(x).array, net(x).array]), drawn)


def test_default_generator_given_explicitly_draws_from_the_worker():
    drawn = []
    for given in (None, ta.default_generator):
        ta.manual_seed(0)
        net = nn.DataParallel(Calls(lambda s, x, given=given: ta.rand(len(x), generator=given)), 2)
        drawn.append(net(ta.zeros(4)).tolist())
    assert drawn[0] == drawn[1]


def test_data_parallel_without_draws_keeps_generator_state():
    net, x = dropping()
    before = ta.default_generator.get_state()
    net.eval()(x)
    assert ta.default_generator.get_state() == before
    net.train()(x)
    assert ta.default_generator.get_state() != before


def test_manual_seed_in_a_worker_stays_there():
    ta.manual_seed(5)
    net = nn.DataParallel(Calls(lambda s, x: ta.manual_seed(1) and ta.rand(len(x))), 2)
    out = net(ta.zeros(4))
    assert out[:2].tolist() == out[2:].tolist() == ta.rand(2, generator=ta.Generator().manual_seed(1)).tolist()
    assert ta.initial_seed() == 5


def test_data_parallel_splits_generator_arguments():
    drawn = []
    for late in (0, 1):  # the worker that comes last
        net = nn.DataParallel(
            Calls(lambda s, x, g, late=late: time.sleep((x.array[0] == late) * 0.05) or ta.rand(1, generator=g)), 2
        )
        drawn.append(net(ta.arange(2), ta.Generator().manual_seed(1)).tolist())
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 2


def test_data_parallel_checkpoint_redraws_the_same_numbers():
    plain = bits(*dropping())
    net, x = dropping()
    inner = net.module
    assert bits(nn.DataParallel(Calls(lambda s, x: ta.checkpoint(s.inner, x), inner=inner), 2), x)[:-1] == plain[:-1]


def test_data_parallel_is_visible_to_debugging_tools():
    world = World()
    net = nn.DataParallel(Calls(lambda s, x: (s.fc(x) * 0).log(), fc=nn.Linear(6, 2).double()), 2)
    with pytest.raises(ta.debug.anomaly.AnomalyError, match="log"), ta.detect_anomaly():
        net(world.x)
    net = nn.DataParallel(nn.Linear(6, 2).double(), 2)
    assert ta.explain(net.module.weight, lambda: net(world.x).sum()).verdict == "healthy"
    assert ta.explain(net.module.weight, net(world.x).sum()).verdict == "healthy"


# --- errors, Ctrl-C, other processes ---


def test_data_parallel_raises_the_first_shares_error():
    running, lock = [0], threading.Lock()

    def function(s: Any, x: Any) -> Any:
        with lock:
            running[0] += 1
        time.sleep(0.02 * (8 - x[0, 0].item()))  # the later, the sooner it fails
        with lock:
            running[0] -= 1
        if x.array[0, 0] > 0:
            raise ValueError(f"from row {x.array[0, 0]:.0f}")
        return x

    net = nn.DataParallel(Calls(function), 4)
    x = ta.arange(8).float().reshape(8, 1)
    threads = set()
    for _ in range(2):  # and what failed can be used again
        threads.add(threading.active_count())
        with pytest.raises(ValueError, match="from row 2") as caught:
            net(x)
        assert running == [0]
        assert caught.value.__notes__ == ["DataParallel: in worker 1 of 4, which has rows 2 to 3"]
        assert "function" in [entry.name for entry in caught.traceback]
    assert threading.active_count() in threads


def test_data_parallel_error_keeps_nothing_alive():
    kept = []

    def function(s: Any, x: Any) -> Any:
        big = ta.zeros(3)
        kept.append(weakref.ref(big))
        raise ValueError("big was here")

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            nn.DataParallel(Calls(function), 2)(ta.zeros(4))
        deadline = time.monotonic() + 5
        while any(ref() is not None for ref in kept) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert not any(ref() is not None for ref in kept)
    finally:
        gc.enable()


def test_data_parallel_backward_error_reaches_the_caller():
    def function(s: Any, x: Any) -> Any:
        h = x * 2
        h.register_hook(lambda g: 1 / 0 if len(g) == 3 else None)
        return h * h

    with pytest.raises(ZeroDivisionError):
        nn.DataParallel(Calls(function), 2)(double(5, 2)).sum().backward()


def interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, though what a shell starts in the background ignores it; whether one came."""
    arrived = threading.Event()

    def handler(*_: object) -> None:
        arrived.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    yield arrived
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_data_parallel_waits_for_workers_on_ctrl_c():
    ended = []

    def function(s: Any, x: Any) -> Any:
        if x.array[0]:
            interrupt()
            time.sleep(0.2)
            ended.append(True)
        return x

    net = nn.DataParallel(Calls(function), 2)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            net(ta.arange(2).float())
        assert ended.pop()


@pytest.mark.parametrize("busy", [True, False], ids=["at work", "waiting"])
def test_data_parallel_second_ctrl_c_does_not_wait(busy: bool, interruptible: threading.Event):
    there, release, ended = threading.Event(), threading.Event(), threading.Event()

    def function(s: Any, x: Any) -> Any:
        if x.array[0]:  # the share of another thread
            there.wait(20)
            time.sleep(0.1)
            interrupt()
            interruptible.wait(20)
            time.sleep(0.5)  # both at once would be one
            interrupt()
            release.wait(20)
            ended.set()
        else:
            there.set()
            time.sleep(20 * busy)
        return x

    with pytest.raises(KeyboardInterrupt):
        nn.DataParallel(Calls(function), 2)(ta.arange(2).float())
    assert not ended.is_set()
    assert nn.DataParallel(nn.Identity(), 2)(ta.arange(2).float()).tolist() == [0, 1]  # on another thread
    release.set()
    assert ended.wait(20)


def test_data_parallel_in_forked_processes():
    code = """
import os
import tinyattn as ta
net = ta.nn.DataParallel(ta.nn.Linear(2, 2), 3)
x = ta.ones(6, 2)
out = net(x)
child = os.fork()
same = net(x).tolist() == out.tolist()
if not child:
    os._exit(0 if same else 1)
assert same and os.waitpid(child, 0)[1] == 0
print("done")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_data_parallel_copies_and_pickles():
    net = nn.DataParallel(nn.Linear(3, 2), 2)
    x = ta.randn(4, 3)
    out = net(x).tolist()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin(x).tolist() == out and twin.workers == 2


def test_data_parallel_state_dict_crosses_over():
    module, theirs = nn.Linear(3, 2), torch.nn.DataParallel(torch.nn.Linear(3, 2))
    net = nn.DataParallel(module, 2)
    assert list(net.state_dict()) == list(theirs.state_dict()) == ["module.weight", "module.bias"]
    theirs.load_state_dict({name: torch.from_numpy(value.numpy()) for name, value in net.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(net(x).data, theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-6)
    net.module.load_state_dict(module.state_dict())
    assert repr(net).startswith("DataParallel(\n  workers=2\n  (module): Linear(")


IDENTITY = nn.Identity()
ERRORS = {
    "no module": (lambda: nn.DataParallel(len), TypeError, "expected a Module to run, got builtin_function_or_method"),
    "no worker": (lambda: nn.DataParallel(IDENTITY, 0), ValueError, "workers=0; expected at least 1"),
    "half a worker": (lambda: nn.DataParallel(IDENTITY, 1.5), TypeError, "integer"),
    "no tensor": (lambda: nn.DataParallel(IDENTITY, 2)(3), TypeError, "got no Tensor or array to split along dim 0"),
    "only a number": (lambda: nn.DataParallel(IDENTITY, 2)(ta.tensor(3.0)), TypeError, "got no Tensor or array"),
    "two batches": (
        lambda: nn.DataParallel(Calls(lambda s, x, mask: x), 2)(ta.zeros(4, 2), mask=ta.zeros(3, 3)),
        ValueError, r"got shapes \(4, 2\) and \(3, 3\) with different sizes of dim 0",
    ),
    "a number": (
        lambda: nn.DataParallel(Calls(lambda s, x: x.mean()), 2)(ta.zeros(4, 2)),
        ValueError, r"returned shape \(\) for 2 rows",
    ),
    "batch in dim 1": (
        lambda: nn.DataParallel(Calls(lambda s, x: x.T), 2)(ta.zeros(6, 2)), ValueError, r"returned shape \(2, 3\) for 3 rows",
    ),
    "a string": (lambda: nn.DataParallel(Calls(lambda s, x: "x"), 2)(ta.zeros(4)), TypeError, "returned a str; expected a Tensor"),
    "different types": (
        lambda: nn.DataParallel(Calls(lambda s, x: x if x.array[0] else None), 2)(ta.arange(2)),
        TypeError, "one worker returned a NoneType, another a Tensor",
    ),
    "different lengths": (
        lambda: nn.DataParallel(Calls(lambda s, x: [x] * (1 + x.array[0])), 2)(ta.arange(2)),
        TypeError, "one worker returned a list 1, another a list 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_data_parallel_wrong_use_raises_clear_errors(case):
    call, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        call()


# --- BLAS, and how many workers ---


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


def test_matrix_products_have_one_thread_each():
    cores._blas.cache_clear()  # another test may have loaded one more
    seen = []
    net = nn.DataParallel(Calls(lambda s, x: seen.append(blas_threads()) or x), 2)
    with threadpoolctl.threadpool_limits(2, "blas"):
        outside = blas_threads()
        net(ta.zeros(4))
        assert blas_threads() == outside
        other = cores.OneBlasThread()  # another call, still running
        other.begin()
        net(ta.zeros(4))
        assert blas_threads() == {1}
        other.end()
        assert blas_threads() == outside
    assert seen == [{1}] * 4


def test_a_missing_threadpoolctl_is_said_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    cores._blas.cache_clear()
    net = nn.DataParallel(nn.Identity(), 2)
    try:
        with pytest.warns(UserWarning, match=r'pip install "tinyattn\[train\]"'):
            net(ta.zeros(4))
        net(ta.zeros(4))
        cores._blas.cache_clear()
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        net(ta.zeros(4))
    finally:
        cores._blas.cache_clear()


def test_available_workers_are_the_default():
    assert nn.available_workers() == nn.DataParallel(nn.Identity()).workers >= 1
    if hasattr(os, "sched_setaffinity"):
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, [min(before)])
        try:
            assert nn.available_workers() == 1
        finally:
            os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        (["0::/"], {"cpu.max": "150000 100000\n"}, 1.5),
        (["0::/"], {"cpu.max": "max 100000\n"}, np.inf),
        (["0::/a/b"], {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "900000 100000"}, 3),
        (["0::/seen/from/outside"], {"cpu.max": "200000 100000"}, 2),
        (["1:name=systemd:/", "0::/"], {"unified/cpu.max": "50000 100000"}, 0.5),
        (["3:cpu,cpuacct:/x"], {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 4),
        (["3:cpuacct,cpu:/x"], {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 2.5),
        (["3:cpu:/"], {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, np.inf),
        (["3:memory:/"], {"memory/cpu.max": "100000 100000"}, np.inf),
        (["0::/"], {}, np.inf),
    ],
)  # fmt: skip
def test_the_limit_of_a_container(tmp_path, lines, files, cores):
    (tmp_path / "cgroup").write_text("\n".join(lines) + "\n")
    for name, text in files.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert container_limit(tmp_path / "cgroup", tmp_path / "sys") == cores
    assert container_limit(tmp_path / "absent", tmp_path / "sys") == np.inf


def test_a_step_of_nothing_costs_little():
    def once() -> float:
        start = time.perf_counter()
        parallel.side_by_side([int, int])
        return time.perf_counter() - start

    once()
    assert min(once() for _ in range(300)) < 1e-3


# --- what waits while the branches are walked ---


class Add(nn.Module):
    """x + b, whose gradients are the incoming one itself."""

    def __init__(self, b):
        super().__init__()
        self.b, self.kept = nn.Parameter(b), []

    def forward(self, x):
        out = x + self.b
        out.retain_grad()
        self.kept.append(out)
        return out


def test_data_parallel_backward_never_shares_the_seed():
    module = Add(ta.zeros(2, 3))
    x, seed = ta.ones(4, 3, requires_grad=True), ta.tensor(np.arange(12.0).reshape(4, 3), dtype=ta.float32)
    nn.DataParallel(module, 2)(x).backward(seed)
    assert seed.tolist() == np.arange(12.0).reshape(4, 3).tolist()
    assert module.b.grad.tolist() == (seed.array[:2] + seed.array[2:]).tolist()
    for gradient in (module.b.grad, x.grad, *(out.grad for out in module.kept)):
        assert not np.shares_memory(gradient.array, seed.array)


@pytest.mark.parametrize("order", range(12))
def test_data_parallel_backward_keeps_node_order(order):
    x, module = ta.ones(4, 3, dtype=ta.float64, requires_grad=True), nn.Linear(3, 3).double()

    def outputs(model):
        chain = [x * 1.5]
        for _ in range(8):
            chain.append(chain[-1] * 1.5)
        chain.append(model(x))
        return [chain[i] for i in np.random.default_rng(order).permutation(len(chain))]

    gradients = []
    for model in (module, nn.DataParallel(module, 3)):
        several = outputs(model)
        gradients.append(ta.grad(several, x, [ta.ones_like(y) for y in several])[0].array)
    np.testing.assert_allclose(*gradients, rtol=1e-12)
