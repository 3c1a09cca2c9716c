"""Data sets, samplers, collation and worker processes beside torch.utils.data."""

from __future__ import annotations

import collections
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data

import tinyattn as ta
from tinyattn import data

ROOT = Path(__file__).parents[1]
X = np.arange(30.0).reshape(10, 3)
Pair = collections.namedtuple("Pair", "first second")


def plain(x):
    """Tensors of either library as (dtype, values), at any depth."""
    if isinstance(x, ta.Tensor | torch.Tensor):
        return str(x.dtype).removeprefix("torch."), x.tolist()
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return (type(x).__name__, *map(plain, x))
    return [type(x).__name__, *map(plain, x)] if isinstance(x, list | tuple) else x


class Items:
    """A data set as its users write it, of either library."""

    def __new__(cls, library=data, kind="map", n=10):
        class Mapped(library.Dataset):
            def __len__(self):
                return n

            def __getitem__(self, index):
                if not 0 <= index < n:
                    raise IndexError(index)
                return {"x": X[index % 10], "y": index, "name": f"item {index}", "pair": Pair(index * 0.5, index > 3)}

        class Streamed(library.IterableDataset):
            def __iter__(self):
                info = library.get_worker_info()
                which, of = (info.id, info.num_workers) if info else (0, 1)
                return iter(range(which, n, of))

        return Mapped() if kind == "map" else Streamed()


# --- collation ---

BATCHES = {
    "integers": [1, 2, 3],
    "floats": [0.5, 1],
    "booleans": [True, False],
    "strings": ["a", "b"],
    "bytes": [b"a", b"b"],
    "arrays": [np.ones((2, 3), np.float32)] * 2,
    "scalars": [np.float32(1.5), np.float32(2.5)],
    "tuples": [(1, "a", np.zeros(2)), (2, "b", np.ones(2))],
    "lists": [[1, [2.0, 3.0]], [4, [5.0, 6.0]]],
    "named tuples": [Pair(1, 2.5), Pair(3, 4.5)],
    "dicts": [{"x": np.arange(3), "y": {"z": 1}}, {"x": np.arange(3), "y": {"z": 2}}],
    "ordered dicts": [collections.OrderedDict(a=1, b="c")] * 2,
    "default dicts": [collections.defaultdict(int, a=1)] * 2,
}


@pytest.mark.parametrize("name", BATCHES)
def test_default_collate_as_torch(name):
    ours, theirs = data.default_collate(BATCHES[name]), torch_data.default_collate(BATCHES[name])
    assert plain(ours) == plain(theirs)
    assert type(ours) is type(theirs) or isinstance(ours, ta.Tensor)
    first = BATCHES[name][0]
    ours, theirs = data.default_convert(first), torch_data.default_convert(first)
    assert plain(ours) == plain(theirs)
    assert type(ours) is type(theirs) or isinstance(ours, ta.Tensor)


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        ([None, None], TypeError, "cannot stack items of type NoneType.*collate_fn"),
        ([np.zeros(2), np.zeros(3)], ValueError, r"shapes \(2,\) and \(3,\); pad them"),
        ([[1, 2], [1]], ValueError, r"lengths \[1, 2\]"),
        ([{"a": 1}, {"b": 1}], ValueError, r"other keys than \['a'\]"),
    ],
)
def test_default_collate_refuses_uneven_batches(batch, error, words):
    with pytest.raises(error, match=words):
        data.default_collate(batch)


# --- data sets ---


def test_concat_and_subset_as_torch():
    rows = []
    for library in (data, torch_data):
        both = (Items(library, n=3) + Items(library, n=2)).__add__([7])
        part = library.Subset(both, [5, 0, 3])
        rows.append([len(both), both[-1], both[3]["y"], both[-3]["y"], len(part), part[0], part[2]["y"]])
        for index in (6, -7):
            with pytest.raises((IndexError, ValueError)):
                both[index]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("lengths", [[7, 3], [0.5, 0.5], [0.25, 0.35, 0.4], [0.9, 0.1], [0.7, 0.2, 0.1], [10]])
def test_random_split_sizes_as_torch(lengths):
    ours = data.random_split(range(10), lengths, generator=ta.Generator().manual_seed(1))
    assert [len(part) for part in ours] == [len(part) for part in torch_data.random_split(range(10), lengths)]
    items = [item for part in ours for item in part]
    assert sorted(items) == list(range(10))
    again = data.random_split(range(10), lengths, generator=ta.Generator().manual_seed(1))
    assert items == [item for part in again for item in part]


def test_data_sets_refuse_wrong_arguments():
    for wrong, error, words in [
        (lambda: data.random_split(range(10), [5, 4]), ValueError, "sum up to 9, but the data set has 10"),
        (lambda: data.ConcatDataset([]), ValueError, "at least one"),
        (lambda: data.ConcatDataset([iter([1])]), TypeError, "has no length"),
        (lambda: data.Dataset()[0], NotImplementedError, "does not define __getitem__"),
        (lambda: iter(data.IterableDataset()), NotImplementedError, "does not define __iter__"),
        (lambda: iter(data.Sampler()), NotImplementedError, "does not define __iter__"),
        (lambda: data.RandomSampler([1], num_samples=0), ValueError, "RandomSampler: got 0"),
        (lambda: data.WeightedRandomSampler([-1.0, 2.0], 3), ValueError, "weights must be"),
        (lambda: data.WeightedRandomSampler([0.0, 2.0], 2, replacement=False), ValueError, "at most 1 items"),
        (lambda: data.BatchSampler([1], 1.5, False), ValueError, "BatchSampler: got 1.5"),
        (lambda: data.DistributedSampler([1], 2, 2), ValueError, "rank is 2"),
    ]:
        with pytest.raises(error, match=words):
            wrong()


# --- samplers ---


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("n", [8, 9, 10, 11, 2])
def test_distributed_sampler_shares_as_torch(n, shuffle, drop_last):
    ours, theirs = [], []
    for rank in range(4):
        how = {"num_replicas": 4, "rank": rank, "shuffle": shuffle, "drop_last": drop_last}
        ours.append(data.DistributedSampler(range(n), **how))
        theirs.append(torch_data.DistributedSampler(range(n), **how))
        assert len(ours[rank]) == len(theirs[rank])
    for epoch in (0, 1):
        for sampler in (*ours, *theirs):
            sampler.set_epoch(epoch)
        mine, torchs = [list(s) for s in ours], [list(s) for s in theirs]
        if not shuffle:
            assert mine == torchs
        count = [sorted(collections.Counter(itertools.chain(*lists)).values()) for lists in (mine, torchs)]
        assert count[0] == count[1]
    sampler = data.DistributedSampler(range(50))
    orders = [list(sampler) for epoch in (0, 1, 0) if sampler.set_epoch(epoch) is None]
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] == orders[2] != orders[1]


def test_random_samplers_draw_as_many_as_torch():
    source = range(7)
    for make in [
        lambda s: s.RandomSampler(source),
        lambda s: s.RandomSampler(source, num_samples=3),
        lambda s: s.RandomSampler(source, num_samples=17),
        lambda s: s.RandomSampler(source, replacement=True, num_samples=40),
        lambda s: s.SubsetRandomSampler([3, 1, 4]),
        lambda s: s.WeightedRandomSampler([1.0, 0.0, 3.0], 50),
        lambda s: s.WeightedRandomSampler([1.0, 0.0, 3.0], 2, replacement=False),
    ]:
        ours, theirs = make(data), make(torch_data)
        drawn, other = list(ours), list(theirs)
        assert len(drawn) == len(ours) == len(theirs)
        assert set(drawn) == set(other) or len(set(other)) < 7
        repeats = [max(collections.Counter(d).values()) for d in (drawn, other)]
        assert repeats[0] == repeats[1] or min(repeats) > 2
        seeded = [list(make(data)) for _ in range(2) if ta.manual_seed(5)]
        assert seeded[0] == seeded[1]


def test_random_sampler_with_replacement_repeats_and_weights_are_probabilities():
    generator = ta.Generator().manual_seed(0)
    drawn = list(data.RandomSampler(range(4), replacement=True, num_samples=4000, generator=generator))
    weighted = list(data.WeightedRandomSampler([1, 0, 3], 4000, generator=generator))
    for _ in range(20):
        assert sorted(data.WeightedRandomSampler([1, 0, 3], 2, replacement=False)) == [0, 2]
    np.testing.assert_allclose(np.bincount(drawn), 1000, atol=150)
    np.testing.assert_allclose(np.bincount(weighted), [1000, 0, 3000], atol=150)


# --- the loader without workers ---

LOADERS = {
    "in order": lambda s, d: s.DataLoader(d, 4),
    "dropping": lambda s, d: s.DataLoader(d, batch_size=4, drop_last=True, pin_memory=False),
    "sampler": lambda s, d: s.DataLoader(d, 4, sampler=[3, 1, 9, 9, 0]),
    "sampler, dropping": lambda s, d: s.DataLoader(d, 4, sampler=range(9), drop_last=True),
    "batch sampler": lambda s, d: s.DataLoader(d, batch_sampler=s.BatchSampler(range(7), 3, False)),
    "batches in lists": lambda s, d: s.DataLoader(d, batch_sampler=[[1, 2], [5], [0, 9, 8]]),
    "no batches": lambda s, d: s.DataLoader(d, batch_size=None),
    "no batches, sampler": lambda s, d: s.DataLoader(d, batch_size=None, sampler=[2, 0]),
    "collate": lambda s, d: s.DataLoader(d, 3, collate_fn=lambda items: [item["y"] for item in items]),
    "subset": lambda s, d: s.DataLoader(s.Subset(d, [5, 2, 7]), 2),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_loader_batches_as_torch(make, workers):
    ours, theirs = make(data, Items()), make(torch_data, Items(torch_data))
    ours.num_workers = workers
    if workers:
        ours.generator = ta.Generator()
    assert len(ours) == len(theirs)
    for _ in range(2):
        assert [plain(b) for b in ours] == [plain(b) for b in theirs]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 3, "drop_last": True}, {"batch_size": None}])
def test_loader_of_a_stream_as_torch(options, workers):
    loaders = [s.DataLoader(Items(s, "stream", 17), num_workers=workers, **options) for s in (data, torch_data)]
    ours, theirs = ([plain(b) for b in loader] for loader in loaders)
    assert ours == theirs and ours
    with pytest.raises(TypeError):
        len(loaders[0])


def test_loader_of_a_tensor_dataset_subclass_calls_its_getitem():
    class Doubled(data.TensorDataset):
        def __getitem__(self, index):
            assert isinstance(index, int)
            return self.tensors[0][index] * 2

    assert [b.tolist() for b in data.DataLoader(Doubled(np.arange(3)), 2)] == [[0, 2], [4]]
    whole = data.DataLoader(data.TensorDataset(np.arange(3)), 2, collate_fn=len)
    assert list(whole) == [2, 1]


def test_loader_refuses_arguments_that_exclude_each_other():
    items = Items()
    for options, words in [
        ({"sampler": [1], "shuffle": True}, "sampler excludes shuffle"),
        ({"batch_sampler": [[1]], "batch_size": 3}, "batch_sampler excludes"),
        ({"batch_sampler": [[1]], "drop_last": True}, "batch_sampler excludes"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"timeout": -1}, "timeout -1"),
    ]:
        with pytest.raises(ValueError, match=words):
            data.DataLoader(items, **options)
    with pytest.raises(ValueError, match="an IterableDataset has its own order"):
        data.DataLoader(Items(kind="stream"), shuffle=True)
    with pytest.raises(TypeError, match="no option 'workers'; it has batch_size, shuffle, "):
        data.DataLoader(items, workers=2)
    data.DataLoader(items, persistent_workers=False, prefetch_factor=None, pin_memory_device="")


# --- worker processes ---


class Drawing(data.Dataset):
    """Items that tell about the process that makes them."""

    def __init__(self, fault=None):
        self.fault = fault

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == 7 and self.fault == "error":
            raise KeyError("item seven")
        if index == 7 and self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 7 and self.fault == "slow":
            time.sleep(60)
        if self.fault == "unpicklable":
            return lambda: None
        info = data.get_worker_info()
        draws = [random.random(), float(np.random.random()), ta.rand(()).item()]
        return [index, os.getpid(), -1 if info is None else info.id, 0 if info is None else info.num_workers, draws]


def test_workers_have_their_own_seeds():
    ta.manual_seed(3)
    loader = data.DataLoader(Drawing(), 2, num_workers=2, worker_init_fn=ta.random.manual_seed)
    assert data.get_worker_info() is None
    first = list(data.DataLoader(Drawing(), 2, num_workers=2))
    again = list(data.DataLoader(Drawing(), 2, num_workers=2))
    assert [b[0].tolist() for b in first] == [[2 * i, 2 * i + 1] for i in range(6)]
    pids = {tuple(b[1].tolist()) for b in first}
    assert len(pids) == 2 and os.getpid() not in {p for pair in pids for p in pair}
    assert [b[2].tolist() for b in first] == [[i % 2] * 2 for i in range(6)]
    assert {n for b in first for n in b[3].tolist()} == {2}
    draws = [[d.tolist() for d in b[4]] for b in first]
    assert draws == [[d.tolist() for d in b[4]] for b in again]  # repeated by the global seed
    flat = [x for row in draws for column in row for x in column]
    assert len(set(flat)) == len(flat)
    seeded = [b[4][2].tolist() for b in loader]  # worker_init_fn has the last word
    ta.manual_seed(1)
    assert seeded[1] == ta.rand(1).tolist() + seeded[1][1:]


def children():
    """The numbers of this process' children."""
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_the_pass():
    before = children()
    for batch in data.DataLoader(Drawing(), 2, num_workers=2):
        assert len(children() - before) == 2
        if batch[0][0] == 4:
            break
    assert children() == before
    list(data.DataLoader(Drawing(), 2, num_workers=2))
    assert children() == before


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("error", KeyError, r"worker 1 raised KeyError. Its traceback was:.*__getitem__.*item seven"),
        ("killed", RuntimeError, "worker 1 ended unexpectedly with exit code -9"),
        ("slow", RuntimeError, "worker 1 has not returned a batch within timeout=1 seconds"),
        ("unpicklable", (AttributeError, RuntimeError, TypeError), "worker 0 raised"),
    ],
)
def test_faults_of_workers_are_sentences(fault, error, words):
    loader = data.DataLoader(Drawing(fault), 2, num_workers=2, collate_fn=list, timeout=1 if fault == "slow" else 0)
    passing, done = iter(loader), []
    with pytest.raises(error, match=f"(?s){words}"):
        done.extend(passing)
    assert len(done) <= 3


def test_error_in_worker_init_fn_is_a_sentence():
    def init(number):
        raise RuntimeError("no such device")

    with pytest.raises(RuntimeError, match=r"(?s)worker 0 raised RuntimeError.*no such device"):
        next(iter(data.DataLoader(Drawing(), 2, num_workers=1, worker_init_fn=init)))


def test_loader_with_workers_resumes_within_a_pass():
    def make():
        return data.DataLoader(Items(), 3, shuffle=True, num_workers=2, generator=ta.Generator().manual_seed(4))

    straight = make()
    whole = [b["y"].tolist() for _ in range(2) for b in straight]
    stopped = make()
    first = [b["y"].tolist() for _, b in zip(range(2), stopped, strict=False)]
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    assert first + [b["y"].tolist() for _ in range(2) for b in resumed] == whole
    for kind in ("map", "stream"):
        whole = data.DataLoader(Items(kind=kind), 3, num_workers=1)
        half, rest = [], data.DataLoader(Items(kind=kind), 3, num_workers=1)
        for batch in whole:
            half.append(plain(batch))
            if len(half) == 2:
                break
        rest.load_state_dict(whole.state_dict())
        assert half + [plain(b) for b in rest] == [plain(b) for b in data.DataLoader(Items(kind=kind), 3)]


SCRIPT = """
import sys, time
import numpy as np
from tinyattn import data

class Slow(data.Dataset):
    def __len__(self):
        return 100
    def __getitem__(self, index):
        time.sleep(0.05)
        return np.full(100_000, index)

if __name__ == "__main__":
    loader = data.DataLoader(Slow(), 4, num_workers=2, multiprocessing_context=sys.argv[1])
    for i, batch in enumerate(loader):
        print(batch[:, 0].tolist(), flush=True)
        if i == 1 and sys.argv[2] == "stop":
            break
"""


def alive(group):
    """The processes of a process group, without those that have ended."""
    rows = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [row for row in map(str.split, rows) if row[0] == str(group) and not row[1].startswith("Z")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_loader(tmp_path, end):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, str(script), "fork", "on"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it may be ignored here, as under nohup
    )  # fmt: skip
    assert run.stdout.readline() == "[0, 1, 2, 3]\n"
    if end == signal.SIGINT:
        os.killpg(run.pid, end)  # as Ctrl-C does
    else:
        run.send_signal(end)
    _, errors = run.communicate(timeout=20)
    if end == signal.SIGINT:
        assert errors.splitlines()[-1] == "KeyboardInterrupt" and "Process" not in errors  # of the loader alone
    deadline = time.monotonic() + 20
    while alive(run.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive(run.pid) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_by_other_start_methods(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, str(script), method, "stop"], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (ran.stdout, ran.stderr) == ("[0, 1, 2, 3]\n[4, 5, 6, 7]\n", "")
