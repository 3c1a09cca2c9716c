"""State that can be saved again and again, and threads, forks and Ctrl-C in between."""

from __future__ import annotations

import copy
import dis
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import cores, optim
from tinyattn.data import DataLoader
from tinyattn.engine import threads
from tinyattn.engine.observer import Observer

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

# --- schedules and optimizers ---

SHARES = st.floats(1e-3, 1.0)
SETTINGS = st.one_of(
    st.tuples(st.just("LinearLR"), st.fixed_dictionaries({"start_factor": SHARES, "end_factor": st.just(0.0) | SHARES, "total_iters": st.integers(1, 40)})),
    st.tuples(st.just("CosineAnnealingLR"), st.fixed_dictionaries({"T_max": st.integers(1, 40), "eta_min": st.sampled_from([0.0, 1e-4, 0.5, -0.1])})),
    st.tuples(st.just("ConstantLR"), st.fixed_dictionaries({"factor": SHARES, "total_iters": st.integers(1, 40)})),
    st.tuples(st.just("StepLR"), st.fixed_dictionaries({"step_size": st.integers(1, 20), "gamma": st.sampled_from([0.0, 0.1, 0.5, 1.5, -0.5])})),
)  # fmt: skip


def closed_form(kind, epoch, base, o):
    if kind == "LinearLR":
        return base * (o["start_factor"] + (o["end_factor"] - o["start_factor"]) * min(epoch / o["total_iters"], 1))
    if kind == "CosineAnnealingLR":
        turn = epoch % (2 * o["T_max"]) / o["T_max"]  # of a whole period: a cosine of many has fewer digits
        return o["eta_min"] + (base - o["eta_min"]) * (1 + math.cos(math.pi * turn)) / 2
    if kind == "ConstantLR":
        return base * (o["factor"] if epoch < o["total_iters"] else 1.0)
    return base * o["gamma"] ** (epoch // o["step_size"])


def optimizer_of(lr, kind=optim.SGD, **options):
    return kind([ta.ones(1, requires_grad=True)], lr=lr, **options)


@settings(max_examples=150, deadline=None)
@given(setting=SETTINGS, base=st.sampled_from([1.0, 0.1, 2e-3, 0.3]))
def test_schedule_rates_equal_closed_form_and_load_again(setting, base):
    kind, options = setting
    optimizer = optimizer_of(base)
    schedule = getattr(optim, kind)(optimizer, **options)
    for epoch in range(90):
        (rate,) = schedule.get_last_lr()
        exact = closed_form(kind, epoch, base, options)
        span = base - min(0.0, options.get("eta_min", 0.0))  # a rate near 0 is a difference of numbers of this size
        np.testing.assert_allclose(rate, exact, rtol=1e-10, atol=1e-14 * span, err_msg=f"epoch {epoch}")
        assert rate >= min(0.0, options.get("eta_min", 0.0), options.get("gamma", 0.0))
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert optimizer.param_groups[0]["lr"] == rate
        schedule.step()


@settings(max_examples=60, deadline=None)
@given(setting=SETTINGS, base=st.sampled_from([1.0, 2e-3]))
def test_schedule_rates_equal_torch_for_any_setting(setting, base):
    torch = pytest.importorskip("torch")
    kind, options = setting
    optimizer, theirs = optimizer_of(base), torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=base)
    schedule = getattr(optim, kind)(optimizer, **options)
    oracle = getattr(torch.optim.lr_scheduler, kind)(theirs, **options)
    for epoch in range(60):
        np.testing.assert_allclose(
            schedule.get_last_lr(), oracle.get_last_lr(), rtol=1e-9, atol=1e-13 * base, err_msg=f"epoch {epoch}"
        )
        theirs.step()
        schedule.step()
        oracle.step()


def test_linear_schedule_ends_at_exactly_zero():
    optimizer = optimizer_of(0.1)
    schedule = optim.LinearLR(optimizer, end_factor=0, total_iters=4)
    for _ in range(4):
        schedule.step()
    assert schedule.get_last_lr() == [0.0]
    optimizer.load_state_dict(optimizer.state_dict())


def test_cosine_schedule_of_a_billion_epochs_has_no_quotient_by_zero():
    schedule = optim.CosineAnnealingLR(optimizer_of(1.0), T_max=10**9)
    schedule.last_epoch = 10**9 - 2
    for _ in range(4):
        schedule.step()
    assert math.isfinite(schedule.get_last_lr()[0])


@pytest.mark.parametrize("rate", [math.nan, math.inf])
def test_schedule_refuses_a_rate_that_is_not_finite(rate):
    optimizer = optimizer_of(0.5)
    schedule = optim.LambdaLR(optimizer, lambda epoch: rate if epoch == 2 else 1.0)
    schedule.step()
    with pytest.raises(ValueError, match=f"LambdaLR gives the learning rates .{rate}. at epoch 2"):
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


HELD = [
    (optim.SGD, {}, {"lr": -0.5}),
    (optim.SGD, {}, {"lr": np.float32(0.5)}),
    (optim.SGD, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.0}),
    (optim.SGD, {"momentum": 0.9}, {"momentum": 1.5, "dampening": -2.0, "weight_decay": -0.1}),
    (optim.Adam, {}, {"betas": [-0.5, 0.5], "eps": -1e-3}),
    (optim.AdamW, {"amsgrad": True}, {"lr": 3, "weight_decay": -0.1, "maximize": True, "note": "a user's own"}),
]


@pytest.mark.parametrize(("kind", "options", "held"), HELD)
def test_optimizer_loads_whatever_it_holds(kind, options, held):
    first, second = optimizer_of(0.1, kind, **options), optimizer_of(0.1, kind)
    for optimizer in (first, second):
        optimizer.param_groups[0]["params"][0].grad = ta.ones(1)
    first.step()
    first.state["count"] = {"calls": 3}  # keyed by a name, as torch allows
    first.param_groups[0].update(held)
    second.load_state_dict(first.state_dict())
    mine, loaded = (o.state_dict() for o in (first, second))
    assert loaded["param_groups"] == mine["param_groups"]
    assert loaded["state"]["count"] == {"calls": 3}
    assert repr(loaded["state"]) == repr(mine["state"])
    second.step()


@pytest.mark.parametrize("bad", [{"betas": 0.9}, {"betas": (0.9, "x")}, {"eps": None}, {"lr": "big"}])
def test_optimizer_refuses_loaded_options_of_another_kind(bad):
    optimizer = optimizer_of(0.1, optim.Adam)
    saved = optimizer.state_dict()
    saved["param_groups"][0].update(bad)
    with pytest.raises(TypeError, match="must be"):
        optimizer.load_state_dict(saved)


# --- loaders ---


def loader(shuffle=True):
    return DataLoader(np.arange(7), batch_size=2, shuffle=shuffle, generator=ta.Generator().manual_seed(5))


@settings(max_examples=150, deadline=None)
@given(actions=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["next", "next", "close"])), max_size=14))
def test_loader_state_continues_the_pass_of_the_last_batch(actions):
    """Any interleaving of three passes: the state is that of the one under way, or refused."""
    own, passes, last = loader(), {}, None
    for which, action in actions:
        if action == "close":
            passes.pop(which, None)
        else:
            one = passes.setdefault(which, iter(own))
            if next(one, None) is None:
                del passes[which]
            else:
                last = one
    if len(passes) > 1 or (passes and last not in passes.values()):
        with pytest.raises(RuntimeError, match="iterators are under way"):
            own.state_dict()
        return
    saved, other = own.state_dict(), loader()
    other.load_state_dict(saved)
    if passes:
        assert [b.tolist() for b in other] == [b.tolist() for b in last]
    elif saved["position"] == 0:
        assert [b.tolist() for b in other] == [b.tolist() for b in own]


def test_loader_copied_within_a_pass_is_in_none():
    own = loader()
    outer = iter(own)
    next(outer)
    twin = copy.deepcopy(own)
    next(iter(twin))
    assert twin.state_dict()["position"] == 1


# --- forks and Ctrl-C ---

FORK = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")  # of Python 3.12, about threads and fork
import numpy as np, threadpoolctl
import tinyattn as ta
from tinyattn import nn
threadpoolctl.threadpool_limits(2, "blas")
net = nn.DataParallel(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), 2)
loader = ta.data.DataLoader(np.arange(200), shuffle=True)
stop = threading.Event()

def busy():
    while not stop.is_set():
        ta.checkpoint(net, ta.ones(4, 4)).sum().backward()
        next(iter(loader))
        with ta.memory_ledger():
            ta.ones(2) + 1

others = [threading.Thread(target=busy) for _ in range(2)]
for other in others:
    other.start()
bad = 0
for _ in range(60):
    time.sleep(0.002)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        blas = {p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"}
        net(ta.ones(4, 4)).sum().backward()
        next(iter(loader))
        with ta.memory_ledger():
            ta.ones(2) + 1
        os._exit(0 if blas <= {2} else 3)
    bad += os.waitpid(child, 0)[1] != 0
stop.set()
print(bad)
"""


@FORKS
def test_children_forked_beside_data_parallel_do_not_hang():
    done = subprocess.run(
        [sys.executable, "-c", FORK], cwd=Path(ta.__file__).parents[1], capture_output=True, text=True, timeout=300
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


HELD_LOCK = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
import tinyattn as ta
from tinyattn import random
from tinyattn.data import loader
from tinyattn.debug import memory
from tinyattn import cores
from tinyattn.engine import variable
locks = [cores.OneBlasThread.lock, variable._new_storage, loader._drawing_order, memory.MemoryLedger._lock, random._spawning]
for lock in locks:
    held = threading.Event()
    def hold():
        with lock:
            held.set()
            time.sleep(0.1)
    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if lock.acquire(timeout=5) else 3)
    print(os.waitpid(child, 0)[1], end=" ")
    other.join()
"""


@FORKS
def test_a_lock_held_by_another_thread_is_free_in_a_forked_child():
    done = subprocess.run(
        [sys.executable, "-c", HELD_LOCK], cwd=Path(ta.__file__).parents[1], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.split(), done.stderr) == (["0"] * 5, "")


@FORKS
def test_every_lock_of_the_package_survives_a_fork():
    """A lock is made by fork_safe, or renewed after a fork (those of checkpoints), or belongs to one call."""
    found = {}
    for path in sorted(Path(ta.__file__).parent.rglob("*.py")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "Lock()" in line and "fork_safe(" not in line:
                found.setdefault(path.name, []).append(line.strip())
    assert {name: len(lines) for name, lines in found.items()} == {"recompute.py": 2, "threads.py": 1}


def blas_threads():
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


def test_blas_is_limited_by_a_data_parallel_of_any_thread():
    """threadpoolctl 3.8 listens to one thread only, and here that is another one."""
    cores._blas.cache_clear()  # another test may have loaded one more
    seen = []
    with threadpoolctl.threadpool_limits(2, "blas"):
        other = threading.Thread(target=threads.side_by_side, args=[[lambda: seen.append(blas_threads())] * 2])
        other.start()
        other.join()
        assert seen == [{1}, {1}]
        assert blas_threads() == {2}


def test_ctrl_c_anywhere_leaves_blas_as_it_was():
    """Raise KeyboardInterrupt wherever Python looks for signals in engine/threads.py and cores.py: after calls and jumps back."""
    own = threading.current_thread()

    def interrupted(at):
        left, last = [at], {}

        def trace(frame, event, arg):
            if (
                frame.f_code.co_filename not in (threads.__file__, cores.__file__)
                or threading.current_thread() is not own
            ):
                return None
            frame.f_trace_opcodes = True  # from Python 3.13 on it takes effect with the frame's next line
            if event == "opcode":
                before, last[frame] = last.get(frame, ""), dis.opname[frame.f_code.co_code[frame.f_lasti]]
                left[0] -= before.startswith(("CALL", "JUMP_BACKWARD", "RESUME"))
                if left[0] == 0:
                    left[0] = -1
                    raise KeyboardInterrupt
            return trace

        sys._getframe().f_trace_opcodes = True  # Python 3.12 traces instructions only if a frame wanted it before
        sys.settrace(trace)
        try:
            threads.side_by_side([lambda: 1, lambda: 2])
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        return left[0] < 0

    before = sys.gettrace()
    try:
        with threadpoolctl.threadpool_limits(2, "blas"):
            threads.side_by_side([lambda: 1, lambda: 2])
            at = 1
            while interrupted(at):
                for _ in range(2000):  # the helpers end what they were given
                    if not cores.OneBlasThread.running:
                        break
                    threading.Event().wait(0.001)
                assert blas_threads() == {2}, f"instruction {at}"
                at += 1
            assert at > 30
            assert threads.side_by_side([lambda: 1, lambda: 2]) == [1, 2]
    finally:
        sys.settrace(before)


# --- checkpoint beside other threads ---


def test_checkpoint_repeats_its_masks_while_other_threads_draw():
    stop, wrong = threading.Event(), 0

    def draw():
        while not stop.is_set():
            ta.rand(3)

    other = threading.Thread(target=draw)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    other.start()
    try:
        x = ta.ones(40, requires_grad=True)
        for _ in range(200):
            out = ta.checkpoint(lambda x: F.dropout(F.dropout(x * 1.0, 0.5) * x, 0.5) * x, x)
            (g,) = ta.grad(out.sum(), x)
            wrong += not np.array_equal(g.array, 3 * out.array)  # of x ** 3 at 1, under the same masks
    finally:
        stop.set()
        other.join()
        sys.setswitchinterval(before)
    assert wrong == 0


def test_checkpoint_leaves_the_streams_to_other_threads():
    """What another thread draws during the second run is not drawn again by anybody."""
    ta.manual_seed(0)
    out = ta.checkpoint(lambda x: F.dropout(x, 0.5).exp(), ta.ones(8, requires_grad=True))
    state = ta.random.default_generator.get_state()
    during = []

    class Draws(Observer):
        def before_forward(self, op, inputs, options):
            during.append(ta.random.default_generator.get_state() == state)

    with Draws():
        out.sum().backward()
    assert during and all(during)
    assert ta.random.default_generator.get_state() == state


@pytest.mark.parametrize("preserve", [True, False])
def test_checkpoint_in_a_checkpoint_draws_the_masks_of_the_plain_run(preserve):
    def inner(x):
        return F.dropout(x, 0.5, generator=own) * ta.rand(4)

    def outer(x):
        return F.dropout(ta.checkpoint(inner, F.dropout(x, 0.3)), 0.3) * x

    found = []
    for run in (outer, lambda x: ta.checkpoint(outer, x)):
        ta.manual_seed(3)
        own = ta.Generator().manual_seed(4)
        x = ta.ones(4, requires_grad=True)
        run(x).sum().backward()
        found.append((x.grad.tolist(), ta.rand(1).item(), ta.rand(1, generator=own).item()))
    assert found[0] == found[1]
    y = ta.checkpoint(lambda x: F.dropout(x, 0.5).exp(), x, preserve_rng_state=preserve)
    assert len(ta.grad(y.sum(), x)) == 1


def test_checkpointed_function_that_seeds_leaves_the_seed_alone():
    def seeds(x):
        ta.manual_seed(9)
        return F.dropout(x, 0.5).exp()

    x = ta.ones(4, requires_grad=True)
    out = ta.checkpoint(seeds, x)
    ta.manual_seed(1)
    expected = ta.rand(2).tolist()
    ta.manual_seed(1)
    out.sum().backward()
    assert ta.initial_seed() == 1
    assert ta.rand(2).tolist() == expected


def test_checkpoint_that_draws_more_the_second_time_raises():
    more = []

    def function(x):
        if more:
            ta.rand(1)
        more.append(1)
        return F.dropout(x, 0.5).exp()

    out = ta.checkpoint(function, ta.ones(4, requires_grad=True))
    with pytest.raises(RuntimeError, match="checkpoint: the function"):
        out.sum().backward()
