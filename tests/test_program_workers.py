"""Compiled steps whose model is nn.DataParallel: a thread for each share, and the bits of the step itself."""

from __future__ import annotations

import contextlib
import logging
import random
import subprocess
import sys
import threading

import numpy as np
import programs
import pytest
import threadpoolctl

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import cores, models, nn, optim
from tinyattn.program import recorder
from tinyattn.program.program import Shares

MODELS = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)),
    "classifier": lambda: models.AttentionClassifier(8, 2, 2, 2, 16, 32, dropout=0.1, pooling="attention"),
    "batchnorm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    ),
    "nested": lambda: nn.Sequential(
        nn.Flatten(), nn.DataParallel(nn.Sequential(nn.Linear(64, 32), nn.Dropout(0.3)), 2), nn.Dropout(0.3), nn.Linear(32, 10)
    ),
    "twice": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10)),
}  # fmt: skip


class Training:
    """A model with its optimizer and batches, the same ones every time; every fourth batch is smaller."""

    def __init__(self, name: str = "mlp", workers: int = 2) -> None:
        ta.manual_seed(0)
        self.model = MODELS[name]()
        self.network = nn.DataParallel(self.model, workers)
        self.optimizer = optim.Adam(self.model.parameters(), 1e-2)
        self.rng, self.name = np.random.default_rng(0), name

    def batch(self, rows: int = 8) -> tuple[ta.Tensor, ta.Tensor]:
        return ta.tensor(self.rng.random((rows, 8, 8), dtype=np.float32)), ta.tensor(self.rng.integers(0, 10, rows))

    def step(self, x: ta.Tensor, y: ta.Tensor) -> ta.Tensor:
        if self.name == "twice":  # two splits in a step, and draws before, between and after
            x = F.dropout(x, 0.1)
            scores = self.network(x) + F.dropout(self.network(x * 2), 0.5)
        else:
            scores = self.network(x)
        loss = F.cross_entropy(scores, y, label_smoothing=0.1)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def state(self) -> list[bytes]:
        tensors = [*self.model.state_dict().values(), *(p.grad for p in self.model.parameters() if p.grad is not None)]
        return [t.array.tobytes() for t in tensors]


def run(training: Training, step, steps: int = 18) -> list:
    found = []
    for i in range(steps):
        found.append(step(*training.batch(5 if i % 4 == 3 else 8)).array.tobytes())
        found.append([*training.state(), ta.random.default_generator.get_state()])
    return found


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_program_of_workers_equals_eager_bit_for_bit(name, workers):
    eager = Training(name, workers)
    expected = run(eager, eager.step)
    compiled = Training(name, workers)
    step = ta.compile(compiled.step)
    assert run(compiled, step) == expected
    assert step.program is not None, step.why_not
    assert all(kind.program for kind in step._on_cpu.values())
    assert str(step.program).count("side_by_side(") == (4 if name == "twice" else 2)


class Branches(nn.Module):
    """A random program of tests/programs.py, on its leaves and a number from the share's rows."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        from test_program_random import pieces

        leaves, lines, self.variables = pieces(seed)
        self.leaves, self.code = leaves, compile(lines, f"<program {seed}>", "exec")
        chosen = random.Random(seed)
        for name, x in leaves.items():
            if x.requires_grad and chosen.random() < 0.7:
                self.register_parameter(name, nn.Parameter(x.detach().clone()))

    def forward(self, rows: ta.Tensor) -> ta.Tensor:
        names = programs.namespace(ta)
        for name, leaf in self.leaves.items():
            own = self._parameters.get(name, leaf.detach())
            names[name] = own + rows.mean().to(own.dtype) if own.dtype.kind == "f" else own.clone()
        exec(self.code, names)
        total = programs._total(names, self.variables)
        rows = F.dropout(rows, 0.2)
        return rows if total is None else rows * total


def bits(x: ta.Tensor) -> bytes:
    """The bytes, with one kind of NaN: of 0-d arrays, NumPy's scalars may give one of another sign."""
    return np.where(x.array != x.array, np.array(np.nan, x.dtype), x.array).tobytes()


def outcomes(seed: int, workers: int, how) -> tuple[list, object]:
    ta.manual_seed(seed)
    net = nn.DataParallel(Branches(seed), workers)

    def step(x: ta.Tensor) -> ta.Tensor:
        loss = net(x).sum()
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    step, found, rng = how(step), [], np.random.default_rng(seed)
    for _ in range(5):
        for p in net.parameters():
            p.grad = None
        try:
            result = step(ta.tensor(rng.integers(0, 3, 7) / 8, dtype=ta.float32))
        except Exception as error:
            found.append(str(error))
            continue
        gradients = [p.grad if p.grad is None else bits(p.grad) for p in net.parameters()]
        found.append((result.dtype, bits(result), gradients, ta.random.default_generator.get_state()))
    return found, step


def compare(seeds) -> int:
    """Compare programs; returns how many ran as a program of NumPy with shares."""
    ran = 0
    for seed in seeds:
        try:
            text = str(programs.Program(seed))
        except programs.EndedError:
            continue
        if "autograd.backward" in text:  # threads would add to one .grad in any order, also without compile
            continue
        workers = 2 + seed % 2
        eager, _ = outcomes(seed, workers, lambda f: f)
        compiled, step = outcomes(seed, workers, ta.compile)
        assert eager == compiled, f"program {seed}:\n{step.program}"
        ran += step.program is not None and "side_by_side(" in str(step.program)
    return ran


def test_random_programs_in_workers_equal_eager():
    assert compare([0, 2, 4, 5, 7, 12, 14, 16]) == 8


@pytest.mark.slow
def test_many_random_programs_in_workers_equal_eager():
    assert compare(range(400)) > 100


# --- threads, errors, interrupts ---


def started(workers: int = 2, calls: int = 3, name: str = "mlp") -> tuple[Training, object]:
    training = Training(name, workers)
    step = ta.compile(training.step)
    for _ in range(calls):
        step(*training.batch())
    assert step.program is not None, step.why_not
    return training, step


def test_program_of_workers_has_a_thread_each_and_one_for_blas(monkeypatch):
    cores._blas.cache_clear()  # another test may have loaded one more
    training, step = started(3)
    seen, original = [], Shares._run

    def watched(self, call, share):
        blas = threadpoolctl.ThreadpoolController().select(user_api="blas").info()
        seen.append((threading.get_ident(), {library["num_threads"] for library in blas}))
        original(self, call, share)

    monkeypatch.setattr(Shares, "_run", watched)
    with threadpoolctl.threadpool_limits(2):
        step(*training.batch())
    assert len({thread for thread, _ in seen}) == 3
    assert threading.get_ident() in {thread for thread, _ in seen}
    assert [threads for _, threads in seen] == [{1}] * 6


def test_program_of_workers_raises_what_the_step_raises():
    table = ta.ones(5, 2)
    net = nn.DataParallel(Calls(lambda i: F.embedding(i, table)), 2)
    f = ta.compile(lambda i: net(i) * 2)
    for _ in range(4):
        f(ta.tensor([1, 2, 3]))
    assert f.program is not None, f.why_not
    with pytest.raises(IndexError, match="index 7 at position") as error:
        f(ta.tensor([1, 7, 2]))
    assert error.value.__notes__ == ["DataParallel: in worker 1 of 2, which has rows 1 to 2"]
    assert f(ta.tensor([1, 2, 3])).tolist() == [[2.0, 2.0]] * 3
    assert f.program is not None


@pytest.mark.parametrize("waits", [True, False])
def test_program_of_workers_after_ctrl_c(waits, monkeypatch):
    """The first Ctrl-C waits for all shares; after a second one, a share may still use the program's memory."""
    found = []
    for how in (lambda f: f, ta.compile):
        training = Training()
        step = how(training.step)
        losses = [step(*training.batch()).item() for _ in range(4)]
        batch = training.batch()
        if how is ta.compile:
            program = step.program
            interrupt(training, step, batch, waits, monkeypatch)
        losses.append(step(*batch).item())
        assert how is not ta.compile or (step.program is program) == waits
        losses += [step(*training.batch()).item() for _ in range(4)]
        found.append((losses, training.state()))
    assert found[0] == found[1]
    assert step.program is not None


def interrupt(training, step, batch, waits: bool, monkeypatch) -> None:
    """Ctrl-C in a step, which changes nothing."""
    before, original = (training.state()[:4], ta.random.default_generator.get_state()), Shares._run

    def interrupted(self, call, share):
        if waits:
            original(self, call, share)
        else:
            self.running.append(share)
        raise KeyboardInterrupt

    monkeypatch.setattr(Shares, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        step(*batch)
    monkeypatch.setattr(Shares, "_run", original)
    assert (training.state()[:4], ta.random.default_generator.get_state()) == before


def test_share_that_begins_after_its_call_does_not_run():
    """After a second Ctrl-C, a thread may take up its share when the program's memory is used by the next call."""
    late, ran = Shares(), []
    late(lambda: ran.append(1), lambda: ran.append(2))
    late._run(object(), lambda: ran.append(3))
    assert sorted(ran) == [1, 2]
    assert not late.running


def test_program_of_workers_in_two_threads():
    training = Training("classifier")
    f, wrong = ta.compile(training.network.eval()), []
    inputs = [training.batch()[0] for _ in range(2)]
    with ta.no_grad():
        expected = [training.network(x).tolist() for x in inputs]

    def work(i):
        with ta.no_grad():
            wrong.extend(i for _ in range(15) if f(inputs[i]).tolist() != expected[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong
    assert f.program is not None, f.why_not


def test_compiled_function_inside_a_worker_runs_by_itself():
    inner = ta.compile(lambda x: F.dropout(x * 2, 0.5))
    net = nn.DataParallel(Calls(inner), 2)
    ta.manual_seed(0)
    found = [net(ta.ones(4)).tolist() for _ in range(5)]
    ta.manual_seed(0)
    net = nn.DataParallel(Calls(lambda x: F.dropout(x * 2, 0.5)), 2)
    assert found == [net(ta.ones(4)).tolist() for _ in range(5)]
    assert inner.program is None


# --- what workers share ---


class Calls(nn.Module):
    """A module that is a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


@pytest.mark.parametrize("draws", [True, False])
def test_program_of_workers_splits_a_generator(draws):
    found = []
    for how in (lambda f: f, ta.compile):
        g = ta.Generator().manual_seed(3)
        net = nn.DataParallel(Calls(lambda x, g: x + ta.rand(len(x), generator=g) if draws else x * 2), 2)
        f = how(lambda x, net=net, g=g: net(x, g) + ta.rand(len(x), generator=g))
        found.append([(f(ta.ones(5)).tolist(), g.get_state()) for _ in range(6)])
    assert found[0] == found[1]
    assert f.program is not None, f.why_not


counter, own = ta.zeros(1), ta.Generator()


def writes_into_one_tensor(x):
    counter.add_(1)
    return x + counter


def draws_from_one_generator(x):
    return x + ta.rand(len(x), generator=own)


def spawns_from_one_generator(x):
    return x + ta.rand(len(x), generator=own.spawn(1)[0])


def seeds(x):
    ta.manual_seed(5)
    return F.dropout(x, 0.5)


def checkpointed(x):
    return ta.checkpoint(lambda t: F.dropout(t, 0.5), x)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (writes_into_one_tensor, "workers of DataParallel that share a tensor which one of them writes"),
        (draws_from_one_generator, "a random generator that several workers of DataParallel draw from"),
        (spawns_from_one_generator, "a random generator that several workers of DataParallel draw from"),
        (seeds, "a random generator that the step seeds or restores"),
        (checkpointed, "checkpoint()"),
    ],
)
def test_program_of_workers_gives_way(function, why, caplog):
    caplog.set_level(logging.INFO, "tinyattn")
    net = nn.DataParallel(Calls(function), 2)
    f = ta.compile(lambda x: net(x) * 1)
    for _ in range(5):
        f(ta.ones(4))
    assert f.program is None
    assert len(caplog.records) == 1
    assert why in caplog.text


@pytest.mark.parametrize("style", ["kernels", "definitions"])
def test_program_of_workers_saved_runs_with_numpy_alone(style, tmp_path):
    training, step = started(3, name="classifier")
    step.program.save(tmp_path / "step.py", style)
    batches = [training.batch() for _ in range(4)]
    np.save(tmp_path / "x.npy", [x.array for x, _ in batches])
    np.save(tmp_path / "y.npy", [y.array for _, y in batches])
    code = (
        "import sys, step, numpy as np; print(*(step.step(x, y).tobytes().hex() for x, y in zip(np.load('x.npy'), "
        "np.load('y.npy'))), 'tinyattn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    with ta.definitions() if style == "definitions" else contextlib.nullcontext():
        expected = [training.step(*b).array.tobytes().hex() for b in batches]
    assert done.stdout.split() == [*expected, "False"], done.stderr


def reads_beside(x: ta.Tensor) -> ta.Tensor:
    """What both shares read ends in them, and has the shape of what they make from it."""
    both = x.sum(0) * 2
    return nn.DataParallel(Calls(lambda rows: rows * (both * 3).exp()), 2)(x)


@pytest.mark.parametrize("training", [True, False])
def test_memory_of_each_share_is_its_own(training):
    """No call of a share writes into memory that another share touches while both run."""
    step = started(3, name="classifier")[1] if training else ta.compile(reads_beside)
    for _ in range(0 if training else 3):
        step(ta.rand(6, 5))
    program = step.program
    plan, spans = program._plan, {}
    for call in plan.calls:
        if call.share is not None:
            split, i = call.share
            for value in recorder.values([call.args, call.options, list(call.writes)]):
                at = plan.at(value)
                if at.root in plan.places:
                    start = plan.places[at.root] + at.offset
                    end = start + recorder._span(program._arrays[at])
                    spans.setdefault(split, []).append((i, value in call.writes, start, end))
    assert len(spans) == (2 if training else 1)
    for touched in spans.values():
        for i, writes, start, end in touched:
            assert not writes or all(j == i or e <= start or end <= s for j, _, s, e in touched)
