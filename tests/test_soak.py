"""Long runs, and several at once: memory stays flat, nothing leaks, the loader keeps its head."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import numpy as np
import pytest

import tinyattn as ta
from tinyattn import nn
from tinyattn.data import DataLoader

HERE = Path(__file__).parent


def soak(*arguments):
    """A process of its own, whose memory no other test has touched."""
    done = subprocess.run([sys.executable, str(HERE / "soak.py"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found, steps):
    assert found["checkpoints"] == steps // 200
    assert found["kept"] == 3
    assert found["growth of memory, %"] < 1
    first, last = found["file handles"]
    assert first == last


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_and_speed_stay_flat_over_2000_steps():
    for _ in range(3):  # another process may begin to use the caches meanwhile
        found = soak("--steps", "2000", "--workers", "1")
        check(found, 2000)
        if found["change of speed, %"] > -5:
            return
    raise AssertionError(found)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_stays_flat_over_20000_steps():
    check(soak("--steps", "20000", "--workers", "1"), 20_000)


def in_threads(count, work):
    """Call work(i) in as many threads at once; what each gave."""
    results, barrier = [None] * count, threading.Barrier(count)

    def run(i):
        barrier.wait()
        results[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_loader_in_many_threads_gives_whole_passes():
    """Each pass is a permutation of its own, and the orders are those of one thread that takes all passes."""
    numbers = np.arange(997)
    alone = DataLoader(numbers, 10, shuffle=True, generator=ta.Generator().manual_seed(3))
    expected = {tuple(np.concatenate([batch.numpy() for batch in alone])) for _ in range(40)}
    shared = DataLoader(numbers, 10, shuffle=True, generator=ta.Generator().manual_seed(3))
    passes = in_threads(8, lambda i: [np.concatenate([batch.numpy() for batch in shared]) for _ in range(5)])
    found = [tuple(order) for orders in passes for order in orders]
    assert all(sorted(order) == numbers.tolist() for order in found)
    assert len({*found}) == 40  # none twice
    assert {*found} == expected


@pytest.mark.parametrize("shuffle", [True, False])
def test_loader_indices_are_the_items_of_a_batch(shuffle):
    squares = np.arange(23) ** 2
    loader = DataLoader(squares, 5, shuffle=shuffle)
    assert loader.indices.size == 0
    seen = []
    for batch in loader:
        np.testing.assert_array_equal(batch.numpy(), squares[loader.indices])
        seen += loader.indices.tolist()
    assert sorted(seen) == [*range(23)]
    assert (seen == [*range(23)]) is not shuffle


def test_two_iterators_of_a_loader_are_two_passes():
    """Two iterators of one loader are two passes: what one takes, the other still gets."""
    loader = DataLoader(np.arange(100), 1)
    sums = in_threads(2, lambda i: sum(int(batch.numpy()[0]) for batch in loader))
    assert sums == [4950, 4950]


class Fails(nn.Module):
    def forward(self, x):
        return self.deeper(x)

    def deeper(self, x):
        if (x.numpy() == 7).any():
            raise LookupError("in row 7")
        return x


def test_worker_error_has_its_traceback_and_rows():
    with pytest.raises(LookupError, match="in row 7") as caught:
        nn.DataParallel(Fails(), 3)(ta.arange(9).float())
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-2:] == ["forward", "deeper"]
    assert caught.value.__notes__ == ["DataParallel: in worker 2 of 3, which has rows 6 to 8"]


def test_data_set_error_keeps_its_traceback():
    class Items:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return 1 / (index - 2)

    with pytest.raises(ZeroDivisionError) as caught:
        list(DataLoader(Items(), 1))
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "__getitem__"


def test_many_trainings_leave_no_threads_behind():
    def train():
        model = nn.DataParallel(nn.Linear(3, 2), 3)
        model(ta.rand(6, 3)).sum().backward()

    train()
    before = threading.active_count()
    for _ in range(20):
        train()
    assert threading.active_count() == before
