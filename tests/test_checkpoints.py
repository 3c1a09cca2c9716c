"""Checkpoints: their content, when they are written, and damaged ones; sessions; run folders."""

from __future__ import annotations

import enum
import json
import os
import random
import signal
import threading

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn as tnn

import tinyattn as ta
from tinyattn import models, nn, optim, train
from tinyattn.data import DataLoader
from tinyattn.files import whole as files

SIZES = {"image_size": 8, "hidden_dim": 16, "num_heads": 2, "num_layers": 1, "mlp_dim": 24}


class Training:
    """A model in the middle of its training, with everything that a script would save."""

    def __init__(self, folder, seed=0, **options):
        ta.manual_seed(seed)
        self.model = models.AttentionClassifier(**SIZES, dropout=0.3)
        self.network = nn.DataParallel(self.model, 2)
        self.optimizer = optim.AdamW(self.model.parameters(), lr=1e-2)
        self.schedule = optim.CosineAnnealingLR(self.optimizer, T_max=50)
        images = np.random.default_rng(7).random((37, 8, 8), dtype=np.float32)
        self.loader = DataLoader((images, np.arange(37) % 10), 5, shuffle=True)  # 8 batches
        self.own = ta.Generator().manual_seed(3)
        self.steps = 0
        parts = {
            "model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "loader": self.loader,
            "random": ta.default_generator, "own": self.own, "nothing": None,
        }  # fmt: skip
        self.said = []
        self.checkpoints = train.Checkpoints(folder, parts, say=self.said.append, **options)
        self.batches = self.endless()

    def endless(self):
        while True:
            yield from self.loader

    def step(self, count=1):
        for _ in range(count):
            images, labels = next(self.batches)
            noise = ta.rand(*images.shape, generator=self.own)
            loss = ta.nn.functional.cross_entropy(self.network(images + noise), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.steps += 1
        return self

    def save(self):
        return self.checkpoints.save(self.steps)

    def weights(self):
        return {name: tensor.numpy().copy() for name, tensor in self.model.state_dict().items()}


def same(one, other):
    return all(np.array_equal(value, other[name]) for name, value in one.items())


def damage(path, how):
    content = bytearray(path.read_bytes())
    how(content)
    path.write_bytes(content)


# --- everything is in it ---


@pytest.mark.parametrize("at", [1, 7, 8, 9, 16])  # 8 batches a pass
def test_restored_training_continues_bit_for_bit(tmp_path, at):
    whole = Training(tmp_path).step(at)
    whole.save()
    whole.step(20 - at)
    random_state = ta.default_generator.get_state()
    other = Training(tmp_path, seed=99)
    assert other.checkpoints.restore().name == f"step-{at:08d}.safetensors"
    other.step(20 - at)
    assert same(whole.weights(), other.weights())
    assert ta.default_generator.get_state() == random_state
    assert whole.own.get_state() == other.own.get_state()
    assert whole.schedule.get_last_lr() == other.schedule.get_last_lr()
    assert same(
        {f"{i}.{k}": v.numpy() for i, s in whole.optimizer.state_dict()["state"].items() for k, v in s.items()},
        {f"{i}.{k}": v.numpy() for i, s in other.optimizer.state_dict()["state"].items() for k, v in s.items()},
    )


def test_saving_a_checkpoint_changes_no_training(tmp_path):
    one = Training(tmp_path / "a")
    for _ in range(12):
        one.step().save()
    other = Training(tmp_path / "b").step(12)
    assert same(one.weights(), other.weights())


def test_checkpoint_is_a_safetensors_file_for_torch(tmp_path):
    training = Training(tmp_path).step(3)
    path = training.save()
    found = safetensors.torch.load_file(path)
    for name, value in training.weights().items():
        np.testing.assert_array_equal(found[f"model.{name}"].numpy(), value)
    words = ta.load_metadata(path)
    assert (words["format"], words["step"], len(words["sha256"])) == ("1", "3", 64)


class Kind(enum.IntEnum):
    A = 1


class Odd:
    """A part of a user's own, with what NumPy and Python have besides plain numbers."""

    state = {
        "numbers": [np.float64(1.5), np.int64(3), np.bool_(True), float("nan"), -0.0, Kind.A, 2**200, None],
        "arrays": (np.arange(3, dtype=">i4"), np.ones((4, 4), np.float32)[::2, ::2], np.array(2.0), np.zeros((0, 3))),
        5: "é\n",
    }

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.loaded = state


def test_checkpoint_of_any_state_keeps_its_checksum(tmp_path):
    part = Odd()
    checkpoints = train.Checkpoints(tmp_path, {"odd": part})
    path = checkpoints.save(1)
    assert checkpoints.restore() == path
    assert part.loaded["numbers"][:3] == [1.5, 3, True]
    np.testing.assert_array_equal(part.loaded["arrays"][0], [0, 1, 2])


def test_restore_without_checkpoints_returns_none(tmp_path):
    assert Training(tmp_path / "none").checkpoints.restore() is None
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "step-x.safetensors").write_text("")
    assert Training(tmp_path).checkpoints.restore() is None


# --- when they are written, and what is deleted ---


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_keep_leaves_the_newest_checkpoints(tmp_path, keep):
    training = Training(tmp_path, keep=keep)
    (tmp_path / "mine.txt").write_text("")
    for _ in range(7):
        training.step().save()
    assert [path.stem for path in training.checkpoints.paths()] == [f"step-{n:08d}" for n in range(8 - keep, 8)]
    assert len(list(tmp_path.iterdir())) == keep + 1


def test_old_checkpoint_is_deleted_after_new_is_flushed(tmp_path, monkeypatch):
    training = Training(tmp_path, keep=1)
    training.step().save()
    events = []

    def told(module, name, say):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: (events.append(say(*a)), real(*a, **k))[1])

    def what(descriptor):
        return "flush the folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "flush the file"

    told(files.os, "fsync", what)
    told(files.os, "replace", lambda *_: "rename")
    told(type(tmp_path), "unlink", lambda path, **_: f"delete {path.name}")
    training.step().save()
    assert events == ["flush the file", "rename", "flush the folder", "delete step-00000001.safetensors"]


def test_restore_deletes_what_a_killed_process_left(tmp_path, monkeypatch):
    training = Training(tmp_path, keep=2)
    for _ in range(2):
        training.step().save()
    with monkeypatch.context() as killed:
        killed.setattr(type(tmp_path), "unlink", lambda *_, **__: None)
        training.step().save()
    assert len(training.checkpoints.paths()) == 3
    assert training.checkpoints.restore() == training.checkpoints.paths()[-1]
    assert [path.stem for path in training.checkpoints.paths()] == ["step-00000002", "step-00000003"]


def test_nonfinite_weights_are_not_saved(tmp_path):
    training = Training(tmp_path).step(2)
    training.save()
    training.step()
    training.model.head.weight.array[3, 4] = np.inf
    with pytest.raises(train.NonFiniteError, match=r"head\.weight holds a NaN or an infinity at step 3.*step-00000002"):
        training.save()
    assert [path.stem for path in training.checkpoints.paths()] == ["step-00000002"]


def test_temporary_files_of_dead_processes_are_deleted(tmp_path):
    (tmp_path / ".step-00000004.safetensors.0a1b2c3d.tmp").write_bytes(b"half")
    Training(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- damaged ---


def flip(byte, bit):
    def change(content):
        content[byte] ^= 1 << bit

    return change


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A training after 3 steps, with a checkpoint of each, whose content is kept."""
    folder = tmp_path_factory.mktemp("three")
    training = Training(folder)
    for _ in range(3):
        training.step().save()
    training.contents = {path: path.read_bytes() for path in training.checkpoints.paths()}
    return training


def restored_in_spite_of(three, how):
    *_, newest = three.contents
    for path, content in three.contents.items():
        path.write_bytes(content)
    for path in newest.parent.glob("*.damaged"):
        path.unlink()
    damage(newest, how)
    three.said.clear()
    return three.checkpoints.restore()


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bit_restores_the_checkpoint_before(three, seed):
    size = len([*three.contents.values()][-1])
    chance = random.Random(seed)
    byte = chance.randrange(size if seed % 2 else 3000)  # every second one in the header
    before, (_, second, third) = three.weights(), three.contents
    path = restored_in_spite_of(three, flip(byte, chance.randrange(8)))
    if path == third:  # the header has a few blanks at its end
        assert same(before, three.weights())
        return
    assert path == second
    (said,) = three.said
    assert said.startswith(str(third))
    assert said.endswith("; step-00000002.safetensors is taken instead.")
    assert [p.name for p in third.parent.glob("*.damaged")] == ["step-00000003.damaged"]
    three.checkpoints.parts["model"].load_state_dict({name: ta.tensor(value) for name, value in before.items()})


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.1, 0.5, 0.9, 0.99999])
def test_truncated_checkpoint_is_detected(three, share):
    def cut(content):
        del content[int(share * len(content)) :]

    assert restored_in_spite_of(three, cut).stem == "step-00000002"


def test_checkpoint_bytes_after_the_end_are_detected(three):
    assert restored_in_spite_of(three, lambda content: content.extend(b"more")).stem == "step-00000002"


def test_restore_where_none_is_whole_is_refused(tmp_path):
    training = Training(tmp_path)
    for _ in range(2):
        damage(training.step().save(), lambda content: content.clear())
    with pytest.raises(train.RefusedError) as refused:
        training.checkpoints.restore()
    said = str(refused.value)
    assert "\n" not in said
    assert said.startswith(f"no checkpoint in {tmp_path} is whole (")
    assert said.count("step-0000000") == 2
    assert len(training.checkpoints.paths()) == 2  # nothing was touched


def test_damaged_checkpoints_push_no_good_one_out(tmp_path):
    training = Training(tmp_path, keep=9)
    paths = [training.step().save() for _ in range(6)]
    for path in paths[4:]:
        damage(path, lambda content: content.clear())
    assert training.checkpoints.restore() == paths[3]
    training.checkpoints.keep = 1
    assert training.checkpoints.save(5) == paths[4]
    assert training.checkpoints.paths() == [paths[4]]
    assert training.checkpoints.restore() == paths[4]


# --- of something else ---


def test_checkpoint_of_later_version_is_refused(tmp_path, monkeypatch):
    training = Training(tmp_path)
    monkeypatch.setattr(train.checkpoints, "FORMAT", 2)
    path = training.step().save()
    monkeypatch.undo()
    with pytest.raises(train.RefusedError, match="format 2, and this version reads up to 1; use a newer tinyattn"):
        training.checkpoints.restore()
    assert path.exists()


def test_checkpoint_of_another_model_is_refused(tmp_path):
    Training(tmp_path).step().save()
    for change, words in {
        "model": "cannot be resumed from, its model does not fit: the state does not fit AttentionClassifier",
        "optimizer": "cannot be resumed from, its optimizer does not fit: ",
        "parts": "is a checkpoint of .*, but .* are needed",
    }.items():
        other = Training(tmp_path)
        if change == "model":
            other.checkpoints.parts["model"] = models.AttentionClassifier(**{**SIZES, "mlp_dim": 7})
        elif change == "optimizer":
            other.checkpoints.parts["optimizer"] = optim.SGD(other.model.parameters(), lr=1.0)
        else:
            del other.checkpoints.parts["own"]
        with pytest.raises(train.RefusedError, match=words) as refused:
            other.checkpoints.restore()
        assert "\n" not in str(refused.value)


# --- weights that cross over ---


class TorchBlock(tnn.Module):
    def __init__(self, dim, heads, hidden):
        super().__init__()
        self.norm1, self.norm2 = tnn.LayerNorm(dim), tnn.LayerNorm(dim)
        self.attention = tnn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = tnn.ModuleDict({"fc1": tnn.Linear(dim, hidden), "fc2": tnn.Linear(hidden, dim)})

    def forward(self, x):
        normal = self.norm1(x)
        x = x + self.attention(normal, normal, normal, need_weights=False)[0]
        return x + self.mlp["fc2"](tnn.functional.gelu(self.mlp["fc1"](self.norm2(x)), approximate="tanh"))


class TorchClassifier(tnn.Module):
    """AttentionClassifier with 4x4 patches and mean pooling, in torch.nn, under the same names."""

    def __init__(self, tokens=49, dim=64, heads=4, layers=2, hidden=256):
        super().__init__()
        self.embed = tnn.Linear(16, dim)
        self.position = tnn.Parameter(torch.randn(tokens, dim) / 50)
        self.blocks = tnn.ModuleList(TorchBlock(dim, heads, hidden) for _ in range(layers))
        self.norm, self.head = tnn.LayerNorm(dim), tnn.Linear(dim, 10)

    def forward(self, images):  # (batch, 28, 28)
        patches = tnn.functional.unfold(images.unsqueeze(1), 4, stride=4).transpose(1, 2)  # (batch, tokens, 16)
        x = self.embed(patches) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def test_weights_cross_over_to_torch_and_back(tmp_path):
    torch.manual_seed(0)
    ta.manual_seed(0)
    theirs, ours = TorchClassifier(), models.AttentionClassifier()
    images = np.random.default_rng(0).random((16, 28, 28), dtype=np.float32)

    def outputs():
        with torch.no_grad(), ta.no_grad():
            return theirs(torch.from_numpy(images)).numpy(), ours(ta.from_numpy(images)).numpy()

    assert np.abs(np.subtract(*outputs())).max() > 0.1
    ta.save(tmp_path / "ours.safetensors", ours.state_dict())
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "ours.safetensors"))
    np.testing.assert_allclose(*outputs(), rtol=0, atol=1e-6)

    theirs = TorchClassifier()
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours.load_state_dict(ta.load(tmp_path / "theirs.safetensors"))
    np.testing.assert_allclose(*outputs(), rtol=0, atol=1e-6)


def test_saved_weights_are_a_plain_state_dict(tmp_path):
    training = Training(tmp_path).step(2)
    ta.save(tmp_path / "model.safetensors", training.model.state_dict())
    assert {*safetensors.torch.load_file(tmp_path / "model.safetensors")} == {*training.model.state_dict()}


# --- a session: run, checkpoints, counts and signals together ---


def described(parent, name):
    run = train.Run(parent, name)
    run.describe(arguments={})
    return run


def session_of(run, seed=0):
    """A linear model on 10 points in batches of 4, and the session of its training."""
    points = ta.from_numpy(np.random.default_rng(0).random((10, 3), dtype=np.float32))
    ta.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), 0.1)
    loader = DataLoader((points, (points.sum(1) > 1.5).long()), 4, shuffle=True)
    return train.Session(run, model=model, optimizer=optimizer, loader=loader, epochs=3, say=lambda line: None)


def train_with(session, stop_at=None):
    with session:
        for _ in session.epochs():
            for points, labels in session.batches():
                scores = session.model(points)
                loss = ta.nn.functional.cross_entropy(scores, labels)
                session.optimizer.zero_grad()
                loss.backward()
                largest = train.step_if_finite(session.optimizer, loss)
                session.count(ta.stack([loss.detach(), (scores.argmax(1) == labels).sum(), largest]))
                if session.tally.step == stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)
            if session.stopped:
                break
            session.end_epoch(0.5)
    return json.loads(session.finish(name="test").read_text())


def test_session_resumes_a_stopped_loop(tmp_path):
    whole = session_of(described(tmp_path, "whole"))
    summary = train_with(whole)
    assert (summary["name"], summary["steps"], summary["interrupted"]) == ("test", 9, False)
    stopped = session_of(described(tmp_path, "stopped"))
    assert train_with(stopped, stop_at=5)["interrupted"]
    assert (stopped.signals.exit_code, stopped.tally.step, stopped.stopped) == (143, 5, True)
    stopped.run.close()
    resumed = session_of(train.Run.resume(stopped.run.folder), seed=1)
    assert train_with(resumed)["steps"] == 9
    ours, theirs = ({k: v.numpy() for k, v in s.model.state_dict().items()} for s in (resumed, whole))
    assert same(ours, theirs)
    rows = [{k: row[k] for k in ("epoch", "train_loss", "train_accuracy")} for row in whole.run.rows]
    assert [{k: row[k] for k in rows[0]} for row in resumed.run.rows] == rows
    assert [path.stem for path in resumed.checkpoints.paths()] == ["step-00000005", "step-00000006", "step-00000009"]


# --- a run's folder ---


def test_metrics_return_to_the_rows_of_a_checkpoint(tmp_path):
    run = train.Run(tmp_path, "name")
    run.describe(arguments={"lr": 0.1})
    run.log(epoch=1, loss=0.5)
    state = json.loads(json.dumps(run.state_dict()))
    run.log(epoch=2, loss=0.25)
    metrics = run.folder / "metrics.csv"
    assert metrics.read_text() == "epoch,loss\n1,0.5\n2,0.25\n"
    run.load_state_dict(state)
    assert metrics.read_text() == "epoch,loss\n1,0.5\n"
    run.log(epoch=2, loss=0.125)
    assert metrics.read_text() == "epoch,loss\n1,0.5\n2,0.125\n"
    run.log(epoch=3, loss=0.1, test_loss=0.2)  # a run of an older version goes on
    assert metrics.read_text() == "epoch,loss,test_loss\n1,0.5,\n2,0.125,\n3,0.1,0.2\n"
    run.load_state_dict({**state, "rows": []})
    assert not metrics.exists()
    run.close()
    assert train.Run.resume(run.folder).config == {"format": 1, "arguments": {"lr": 0.1}}


def test_two_threads_save_whole_checkpoints(tmp_path):
    training = Training(tmp_path, keep=2).step()
    threads = [threading.Thread(target=training.checkpoints.save, args=(step,)) for step in (1, 1, 2, 2) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [train.checkpoints.read(path)["model"].keys() for path in training.checkpoints.paths()]


def test_run_refuses_a_folder_it_cannot_create(tmp_path):
    (tmp_path / "file").write_text("")
    for parent in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(train.RefusedError, match="file"):
            train.Run(parent, "name")
    run = train.Run(tmp_path, "name")
    (run.folder / ".metrics.csv.0a1b2c3d.tmp").write_text("half")
    run.describe(arguments={})
    run.close()
    train.Run.resume(run.folder)
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.json", "lock"]


def test_folder_lock_without_locks_does_nothing(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    first, second = train.run.FolderLock(tmp_path), train.run.FolderLock(tmp_path)
    first.release()
    second.release()
