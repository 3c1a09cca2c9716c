"""Worker processes that make the batches of a DataLoader.

Batch i comes from worker i modulo their number, over a pipe of that worker, so the order is that of a loader without
workers. A worker ends when its pipe closes, or its parent has ended.
"""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from tinyattn.random import manual_seed

END = "end"  # of an iterable data set


@dataclass(frozen=True)
class WorkerInfo:
    """What `get_worker_info` returns: the worker's number, their count, its seed, and its copy of the data set."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """Return the `WorkerInfo` of this worker process; None elsewhere. As torch.utils.data.get_worker_info.

    >>> get_worker_info() is None
    True
    """
    return _info


def batches(
    tasks: Iterator[Any], make: Callable[[Any], Callable[[Any], Any]], dataset: Any, *, workers: int, seed: int,
    init: Callable[[int], Any] | None, ahead: int, timeout: float, context: Any,
) -> Iterator[Any]:  # fmt: skip
    """Yield the batches of `tasks`, lists of indices.

    make: called in a worker with its data set; returns the function from a task to a batch, or END.
    ahead: tasks that each worker has at a time.
    """
    if context is None or isinstance(context, str):  # a forked worker needs no pickling of the data set
        context = multiprocessing.get_context(context or ("fork" if sys.platform == "linux" else None))
    started: list[Worker] = []
    try:
        for i in range(workers):
            started.append(Worker(context, make, WorkerInfo(i, workers, seed + i, dataset), init))
        for _ in range(ahead):
            for worker in started:
                worker.give(tasks)
        ended: set[Worker] = set()
        for worker in cycle(started):
            if worker in ended:
                continue
            batch = worker.next(timeout) if worker.pending else END
            if isinstance(batch, str) and batch == END:
                ended.add(worker)
                if len(ended) == workers:
                    return
                continue
            yield batch
            worker.give(tasks)
    finally:
        for worker in started:
            worker.stop()
        for worker in started:
            worker.process.join()


class Worker:
    """A worker process, seen from the loader."""

    def __init__(self, context: Any, make: Any, info: WorkerInfo, init: Any) -> None:
        self.name, self.pending = f"DataLoader: worker {info.id}", 0
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_work, args=(end, make, info, init), daemon=True)
        self.process.start()
        end.close()  # the worker's own: now its end is the end of the pipe

    def give(self, tasks: Iterator[Any]) -> None:
        """Send the next task, if there is one."""
        for task in tasks:
            self.pipe.send(task)
            self.pending += 1
            return

    def next(self, timeout: float) -> Any:
        """Return the next batch; raise the error of the worker."""
        if not wait([self.pipe], timeout or None):
            raise RuntimeError(f"{self.name} has not returned a batch within timeout={timeout} seconds.")
        try:
            batch, error = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            raise RuntimeError(
                f"{self.name} ended unexpectedly with exit code {self.process.exitcode}; it was killed, perhaps for "
                "want of memory, or exited by itself."
            ) from None
        self.pending -= 1
        if error is not None:
            kind, text = error
            message = f"{self.name} raised {kind.__name__}. Its traceback was:\n{text}"
            try:
                raised = kind(message)
            except Exception:  # a class that takes other arguments
                raised = RuntimeError(message)
            raise raised
        return batch

    def stop(self) -> None:
        """Close the pipe and end the process, which may be busy or blocked."""
        self.pipe.close()
        self.process.terminate()


def _work(pipe: Any, make: Any, info: WorkerInfo, init: Any) -> None:
    """The main function of a worker process."""
    global _info
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the loader too, which ends its workers
    _info = info
    random.seed(info.seed)
    np.random.seed(info.seed % 2**32)  # the stream that data sets of others draw from
    manual_seed(info.seed)
    results: queue.Queue[Any] = queue.Queue()
    threading.Thread(
        target=_send, args=(pipe, results), daemon=True
    ).start()  # a full pipe must not stop the next batch
    failed = None
    try:
        if init is not None:
            init(info.id)
        batch_of = make(info.dataset)
    except Exception as error:
        failed = _described(error)
    parent = multiprocessing.parent_process()
    while True:
        try:
            if not pipe.poll(5):
                if parent is not None and not parent.is_alive():
                    return
                continue
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            results.put((None, failed) if failed else (batch_of(task), None))
        except Exception as error:
            results.put((None, _described(error)))


def _send(pipe: Any, results: queue.Queue[Any]) -> None:
    while True:
        try:
            pipe.send(results.get())
        except OSError:  # the loader has ended
            return
        except Exception as error:  # a batch that cannot be pickled
            pipe.send((None, _described(error)))


def _described(error: Exception) -> tuple[type[Exception], str]:
    """The class of an error (RuntimeError for one that the loader cannot import), and its traceback."""
    kind: type[Exception] = type(error)
    try:
        pickle.dumps(kind)
    except Exception:
        kind = RuntimeError
    return kind, "".join(traceback.format_exception(error))
