"""examples/mnist.py --device cuda: one graph a step, few read-outs, the bits of the eager loop."""

from __future__ import annotations

import dataclasses
import signal

import gpus
import numpy as np
import pytest
from killing import digits, mnist
from oracle import host
from test_resume import only, outcome, run

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import backends, models, optim, train

slow, pytestmark = pytest.mark.slow, pytest.mark.usefixtures("gpu")
CLASSIFIER = mnist.RECIPES["classifier"]
TINY = {"patch_size": 14, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
RUN = "--data digits --epochs 2 --batch-size 15 --dropout 0.2 --no-progress --workers 1 --out".split()
STEPS = 23  # of an epoch, the last of which has 12 images
CUDA = ("--device", "cuda")


@pytest.fixture(scope="module", autouse=True)
def tiny(gpu):
    """A model that is quick where CUDA kernels run on the processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mnist.RECIPES, "classifier", {**CLASSIFIER, "model": TINY})
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome of a run that nobody stops."""
    out = tmp_path_factory.mktemp("whole")
    assert run(*RUN, out, *CUDA) == 0
    return outcome(only(out))


@gpus.only_where_counted
def test_step_is_one_graph_read_every_20_steps(tmp_path, monkeypatch):
    seen, count = [], train.Tally._next_step

    def step(tally):
        count(tally)
        seen.append(gpus.counts())

    monkeypatch.setattr(train.Tally, "_next_step", step)
    assert run(*RUN, tmp_path, *CUDA) == 0
    assert len(seen) == 2 * STEPS
    for i in range(1, len(seen)):  # from the count of step i to that of step i + 1
        if i == STEPS:  # the end of the epoch: evaluation, a checkpoint, a new order
            continue
        cost, read = seen[i] - seen[i - 1], i % 20 == 0
        assert (cost["download"], cost["upload"], cost["synchronise"]) == (read, 0, 0), (i + 1, cost)
        if i >= 3 and i + 1 not in (STEPS, 2 * STEPS):  # a graph comes third, and the last batch has one of its own
            assert cost["graph launch"] == 1 and cost["launch"] <= 10 + 20 * read, (i + 1, cost)


@slow
@gpus.only_where_counted
@pytest.mark.parametrize(
    "options", [("--model", "article"), ("--model", "classifier"), ("--dropout", "0.2")], ids=lambda options: options[1]
)
def test_every_recipe_can_be_captured(options, tmp_path, monkeypatch):
    monkeypatch.setitem(mnist.RECIPES, "classifier", CLASSIFIER)
    few = digits()
    parts = ("train_images", "train_labels", "test_images", "test_labels")
    few = dataclasses.replace(few, **{part: getattr(few, part)[:8] for part in parts})
    monkeypatch.setattr(mnist.data, "load", lambda *_, **__: few)
    with gpus.counting() as cost:
        assert (
            mnist.main([*RUN[:-1], *CUDA, "--dropout", "0", *options, "--batch-size", "2", "--out", str(tmp_path)]) == 0
        )
    assert cost["graph launch"] == 6  # of 8 steps
    assert cost["malloc in capture"] <= 2  # CuPy splits blocks of its pool, not always as in the run before


def test_graph_has_the_bits_of_the_eager_loop(whole, tmp_path, monkeypatch):
    assert run(*RUN, tmp_path / "7", *CUDA, "--checkpoint-every", 7) == 0
    monkeypatch.setattr(ta, "compile", lambda disable: lambda step: step)
    assert run(*RUN, tmp_path / "1", *CUDA, "--checkpoint-every", 1) == 0
    assert outcome(only(tmp_path / "1")) == outcome(only(tmp_path / "7")) == whole


@pytest.mark.parametrize(
    "stops", [pytest.param([1], marks=slow), pytest.param([STEPS], marks=slow), [5, STEPS + 4]], ids=str
)
def test_stopped_cuda_run_resumes_to_the_same_bits(whole, tmp_path, stops):
    arguments = [*RUN, tmp_path, *CUDA]
    for stop in stops:
        assert run(*arguments, stop_at=stop, number=signal.SIGINT) == 130
        folder = only(tmp_path)
        assert sorted((folder / "checkpoints").iterdir())[-1].stem == f"step-{stop:08d}"
        arguments = ["--resume", folder, "--no-progress"]
    assert run(*arguments) == 0
    assert outcome(folder) == whole


# --- numbers that are not finite ---


def spoil(monkeypatch, what, at):
    """Have the loss of some steps NaN, or finite with gradients that are NaN: on the device, as a replay needs it."""
    cross_entropy, counts = mnist.F.cross_entropy, {}

    def spoiled(scores, labels):
        loss = cross_entropy(scores, labels)
        count = counts.setdefault("step", ta.zeros((), device=loss.device))
        count += 1
        now = sum((count == step).float() for step in at)
        if what == "loss":
            return ta.where(now > 0, float("nan"), loss)
        zero = (scores - scores.detach()).sum()
        return loss + (zero.square() + 1 - now).sqrt() - (1 - now)  # the slope of a root at 0

    monkeypatch.setattr(mnist.F, "cross_entropy", spoiled)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nonfinite_batch_is_named_as_on_the_cpu(tmp_path, monkeypatch, capsys, what):
    said = []
    for device in ("cpu", "cuda"):
        with monkeypatch.context() as patch:
            spoil(patch, what, [9])
            assert run(*RUN, tmp_path / device, "--dropout", 0, "--device", device) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert not list(tmp_path.glob(f"{device}/*/checkpoints/*"))
        said.append(line)
    why = {"loss": "the loss is nan at step 9 (epoch 1)", "gradient": "a gradient is nan, though the loss is 2."}[what]
    assert said[0].startswith(f"mnist.py: {why}")
    assert said[0].partition(" at step ")[2] == said[1].partition(" at step ")[2]  # the images too


@pytest.mark.parametrize("what", [pytest.param("loss", marks=slow), "gradient"])
def test_losses_with_skipped_batches_equal_the_cpus(tmp_path, monkeypatch, capsys, what):
    monkeypatch.setitem(mnist.RECIPES["classifier"], "shift", 0)  # random numbers differ
    rows = []
    for device in ("cpu", "cuda"):
        with monkeypatch.context() as patch:
            spoil(patch, what, [1, 4, 5, STEPS])
            arguments = ["--dropout", 0, "--device", device, "--skip-nonfinite"]
            assert run(*RUN, tmp_path / device, *arguments) == 0
        assert ", 4 batches skipped as not finite" in capsys.readouterr().out
        found = outcome(only(tmp_path / device))
        assert found["summary"]["skipped"] == 4
        rows.append([float(row["train_loss"]) for row in found["rows"]])
    np.testing.assert_allclose(*rows, rtol=1e-4)
    assert rows[0][1] < rows[0][0] - 0.1


@pytest.mark.parametrize("known", [True, False])
def test_index_out_of_range_in_nonfinite_step_raises(monkeypatch, known):
    """And nothing is held back after it. not known: the processor has gone on when the GPU finds it."""
    weight = ta.ones(4, 3, device="cuda", requires_grad=True)
    optimizer = optim.Adam([weight])

    def step(rows, factor=1.0):
        loss = (F.embedding(ta.tensor(rows, device="cuda"), weight) * factor).sum()
        optimizer.zero_grad()
        loss.backward()
        train.step_if_finite(optimizer, loss)

    def bad_step():
        with monkeypatch.context() as patch:
            if not known:
                patch.setattr(backends, "check", lambda: None)
            step([0, 9], float("nan"))
        ta.cuda.synchronize()

    step([0, 1])
    before = host(weight)
    with pytest.raises(IndexError, match=r"embedding: index 9 at position \(1,\)"):
        bad_step()
    np.testing.assert_array_equal(host(weight), before)
    step([0, 1])
    assert not np.array_equal(host(weight), before)


def test_optimizer_error_in_nonfinite_step_allows_the_next(monkeypatch):
    weight = ta.ones(3, device="cuda", requires_grad=True)
    optimizer = optim.SGD([weight], 0.5)
    weight.grad = ta.ones(3, device="cuda")
    monkeypatch.setattr(optimizer, "update_together", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.step_if_finite(optimizer, ta.tensor(float("nan"), device="cuda"))
    monkeypatch.undo()
    train.step_if_finite(optimizer, ta.tensor(1.0, device="cuda"))
    assert weight.tolist() == [0.5] * 3


@gpus.only_where_counted
def test_predict_synchronises_once():
    model = models.AttentionClassifier(**TINY).to("cuda")
    images = ta.zeros(7, 28, 28, device="cuda")
    with gpus.counting() as cost:
        assert train.predict(model, images, batch_size=2).shape == (7, 10)
    assert (cost["download"], cost["upload"], cost["synchronise"]) == (1, 0, 0)
