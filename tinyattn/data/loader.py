"""DataLoader: a data set in batches, in order or shuffled, with as few copies as possible."""

from __future__ import annotations

import copy
import inspect
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from collections.abc import Generator as Generated
from dataclasses import dataclass
from itertools import islice, repeat, tee
from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.data.samplers import BatchSampler, RandomSampler, SequentialSampler
from tinyattn.data.sets import IterableDataset, TensorDataset
from tinyattn.data.workers import END, batches
from tinyattn.locks import fork_safe
from tinyattn.ops.creation import as_tensor, from_numpy
from tinyattn.ops.joins import stack
from tinyattn.random import Generator, current_generator
from tinyattn.tensors import Tensor

_drawing_order = fork_safe(threading.Lock())  # an order takes several steps on a generator that threads may share


class _Pass:
    """A pass over a loader's data set: the batches that it has returned, and the generator's state at its start."""

    def __init__(self, position: int, state: Any) -> None:
        self.position, self.state = position, state


@dataclass(frozen=True)
class _Fetch:
    """Makes batches of the items of a data set, here or in a worker; size None: items without a batch."""

    size: int | None
    drop_last: bool
    collate: Callable[[Any], Any]

    def __call__(self, dataset: Any) -> Callable[[Any], Any]:
        if not isinstance(dataset, IterableDataset):
            one = self.size is None
            return lambda task: self.collate(dataset[task] if one else [dataset[index] for index in task])
        items = iter(dataset)
        return lambda task: self._next(items)

    def _next(self, items: Iterator[Any]) -> Any:
        batch = list(islice(items, self.size or 1))
        if not batch or (self.drop_last and len(batch) < (self.size or 1)):
            return END
        return self.collate(batch[0] if self.size is None else batch)


class DataLoader:
    """Iterates over a data set in batches. As torch.utils.data.DataLoader.

    Batches of a `TensorDataset` are views of its tensors, or one gather if shuffled; with tensors on a GPU, the order
    is copied there once a pass. Batches of other data sets are made of their items by `collate_fn`. A shuffling loader
    has its own generator, so the random numbers that a model draws do not change the order of its data.

    dataset: a `TensorDataset`, a tuple of arrays or Tensors (short for one), one array or Tensor, an object with
        `__len__` and `__getitem__`, or an `IterableDataset`.
    batch_size: items in a batch; the last batch may have fewer. None: single items, without a batch.
    shuffle: draw a new order for each pass.
    sampler: the order instead, indices. batch_sampler: lists of indices, the batches.
    num_workers: processes that make the batches, in the same order; 0 for none. Each has its own seed, drawn from the
        generator; `get_worker_info` is known there. prefetch_factor: batches that each makes ahead, 2 if left out.
    collate_fn: from a list of items to a batch, `default_collate` if left out.
    drop_last: leave out an incomplete last batch.
    timeout: seconds to wait for a worker, 0 for ever. worker_init_fn: called in each worker with its number.
    multiprocessing_context: a context of multiprocessing or its name; on Linux "fork" if left out.
    generator: the source of the orders (default: a new one, seeded from the global generator's seed).
    transform: called with the parts of each batch, `transform(images, labels)`; its result replaces the batch.
    without_effect: pin_memory, persistent_workers and their like.

    `indices` are the indices of the last batch's items. `state_dict` holds the position within a pass, from which
    another loader can continue; only one pass may be under way then. A given sampler must give its order again. Random
    numbers that items draw in worker processes are not part of the state: a resumed pass has new workers, which draw
    others. Those of `transform`, which is called in this process, are the global generator's.

    Raises ValueError for a batch_size under 1 and arguments that exclude each other, TypeError for another kind of data
    set, and in a pass an error of the data set, or RuntimeError for a worker that was killed.

    >>> import numpy as np
    >>> loader = DataLoader((np.arange(5), np.arange(5) ** 2), batch_size=2)
    >>> [squares.tolist() for numbers, squares in loader]
    [[0, 1], [4, 9], [16]]
    """

    def __init__(
        self, dataset: Any, batch_size: int | None = 1, shuffle: bool | None = False,
        sampler: Iterable[Any] | None = None, batch_sampler: Iterable[Any] | None = None, num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None, pin_memory: bool = False, drop_last: bool = False,
        timeout: float = 0, worker_init_fn: Callable[[int], Any] | None = None, multiprocessing_context: Any = None,
        generator: Generator | None = None, *, prefetch_factor: int | None = None,
        transform: Callable[..., Any] | None = None, **without_effect: Any,
    ) -> None:  # fmt: skip
        self.dataset = _as_dataset(dataset)
        self.batch_size = None if batch_size is None else operator.index(batch_size)
        self.shuffle, self.drop_last, self.transform = bool(shuffle), drop_last, transform
        self.num_workers, self.timeout, self.worker_init_fn = operator.index(num_workers), timeout, worker_init_fn
        self.multiprocessing_context, self.prefetch_factor = multiprocessing_context, prefetch_factor
        self.pin_memory, self.persistent_workers = pin_memory, without_effect.get("persistent_workers", False)
        self._check(sampler, batch_sampler, without_effect)
        if (shuffle or num_workers) and generator is None:  # with the global seed and 1: another stream than that one
            seeds = np.random.SeedSequence([current_generator().initial_seed() % 2**64, 1])
            generator = Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        self.generator = generator
        self.collate_fn = collate_fn or (default_convert if batch_size is None else default_collate)
        self._gathers = collate_fn is None and not num_workers and _gathers(self.dataset)  # all rows of a batch at once
        self._own_order = sampler is None and batch_sampler is None
        orders = RandomSampler if shuffle else SequentialSampler
        self.sampler = orders(self.dataset) if sampler is None else sampler
        self.batch_sampler = batch_sampler or BatchSampler(self.sampler, self.batch_size or 1, drop_last)
        self.indices = np.empty(0, np.int64)
        self._last = _Pass(0, None)  # the pass that returned the last batch
        self._unfinished: set[_Pass] = set()
        self._resuming = False

    def _check(self, sampler: Any, batch_sampler: Any, without_effect: Mapping[str, Any]) -> None:
        for name in without_effect:
            if name not in ("persistent_workers", "pin_memory_device", "in_order"):
                known = ", ".join([*inspect.signature(DataLoader).parameters][1:-1])  # without dataset and **
                raise TypeError(f"DataLoader has no option {name!r}; it has {known}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"DataLoader: batch_size is {self.batch_size}, but it must be 1 or more.")
        if self.num_workers < 0 or self.timeout < 0:
            raise ValueError(
                f"DataLoader: num_workers is {self.num_workers} and timeout {self.timeout}, but they must be 0 or more."
            )
        if batch_sampler is not None and (
            self.batch_size != 1 or self.shuffle or sampler is not None or self.drop_last
        ):
            raise ValueError("DataLoader: batch_sampler excludes batch_size, shuffle, sampler and drop_last.")
        if sampler is not None and self.shuffle:
            raise ValueError("DataLoader: sampler excludes shuffle; a RandomSampler shuffles.")
        iterable = isinstance(self.dataset, IterableDataset)
        if iterable and (self.shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError("DataLoader: an IterableDataset has its own order; leave out shuffle and the samplers.")

    def __len__(self) -> int:
        if not self._own_order and self.batch_size is not None:
            return len(self.batch_sampler)  # type: ignore[arg-type]
        full, rest = divmod(len(self.sampler), self.batch_size or 1)  # type: ignore[arg-type]
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        with _drawing_order:
            own, order, seed = self._begin()
        iterable = isinstance(self.dataset, IterableDataset)
        skipped = own.position if iterable else 0  # a stream has to be read again
        tasks, shown = tee(repeat(None) if iterable else islice(self._tasks(order), own.position, None))
        made = self._made(tasks, seed)
        try:
            for i, batch in enumerate(made):
                task = next(shown)
                if i < skipped:
                    continue
                if self.transform is not None:
                    several = isinstance(batch, tuple | list)
                    batch = self.transform(*batch) if several else self.transform(batch)
                own.position += 1
                self.indices, self._last = _numbers(task), own
                yield batch
            own.position = 0
        finally:
            self._unfinished.discard(own)
            made.close()

    def _tasks(self, order: Any) -> Iterator[Any]:
        """What to make each batch of: a slice of the data set, or indices."""
        if self._own_order and self.batch_size is not None:
            for start in range(0, len(self) * self.batch_size, self.batch_size):
                stop = min(start + self.batch_size, len(self.dataset))
                if order is not None:
                    yield order[start:stop] if self._gathers else order[start:stop].tolist()
                else:
                    yield slice(start, stop) if self._gathers else range(start, stop)
        elif self.batch_size is None:
            yield from self.sampler if order is None else order.tolist()
        else:
            yield from self.batch_sampler

    def _made(self, tasks: Iterator[Any], seed: int) -> Generated[Any, None, None]:
        fetch = _Fetch(self.batch_size, self.drop_last, self.collate_fn)
        if self.num_workers:
            yield from batches(
                tasks, fetch, self.dataset, workers=self.num_workers, seed=seed, init=self.worker_init_fn,
                ahead=self.prefetch_factor or 2, timeout=self.timeout, context=self.multiprocessing_context,
            )  # fmt: skip
            return
        make = self._rows if self._gathers and self.batch_size else fetch(self.dataset)
        for task in tasks:
            batch = make(task)
            if isinstance(batch, str) and batch == END:
                return
            yield batch

    def _rows(self, chosen: Any) -> Any:
        """The rows of tensors: a view for a slice, one gather for indices."""
        rows = self.dataset[chosen if isinstance(chosen, slice) else as_tensor(chosen)]
        return list(rows) if isinstance(rows, tuple) else rows

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's position; a loader that loads it continues with the batch after the last one.

        Raises RuntimeError if several passes are under way: a state holds the position of one.
        """
        last, unfinished = self._last, [*self._unfinished]
        if unfinished not in ([], [last]):
            raise RuntimeError(
                f"DataLoader: {len(unfinished)} iterators are under way, at batches "
                f"{sorted(one.position for one in unfinished)}, or one before the last; a state holds the position of "
                "one pass. End or close() the others, or give each its own DataLoader."
            )
        return {"position": last.position, "pass_state": last.state, "generator": self._random_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; the data set and the arguments must be the same.

        Raises ValueError if the position is past the end of this loader.
        """
        position = operator.index(state["position"])
        known = hasattr(self.sampler if self._own_order else self.batch_sampler, "__len__")
        if position < 0 or (known and hasattr(self.dataset, "__len__") and position > len(self)):
            raise ValueError(f"DataLoader: the state is at batch {position}, but this loader has {len(self)}.")
        self._last, self._unfinished = _Pass(position, state["pass_state"]), set()
        self._resuming = position > 0
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_unfinished": set()}  # a copy is in no pass

    def _begin(self) -> tuple[_Pass, Any, int]:
        """Return a new pass, the order of its items (None: of the data set or a sampler), and a seed of workers."""
        resuming, self._resuming = self._resuming, False
        own = self._last if resuming else _Pass(0, self._random_state())
        self._last = own
        self._unfinished.add(own)
        if self.generator is None:
            return own, None, 0
        now, order, seed = self.generator.get_state(), None, 0
        self.generator.set_state(own.state)
        if self.shuffle:
            order = self.generator.random.permutation(len(self.dataset))
        if self.num_workers:
            seed = int(self.generator.random.integers(2**62))
        if resuming:  # the interrupted pass has its order again, but the generator stays where it was
            self.generator.set_state(now)
        if order is not None and self._gathers:
            first = self.dataset if isinstance(self.dataset, Tensor) else self.dataset.tensors[0]
            order = backends.move(order, first.device)
        return own, order, seed

    def _random_state(self) -> Any:
        return None if self.generator is None else self.generator.get_state()


def _gathers(dataset: Any) -> bool:
    """Whether an index of several items gives a batch: a Tensor, or a TensorDataset with its own `__getitem__`."""
    rows = isinstance(dataset, TensorDataset) and type(dataset).__getitem__ is TensorDataset.__getitem__
    return rows or isinstance(dataset, Tensor)


def _numbers(task: Any) -> Any:
    """The indices of a batch as an array; none for a stream."""
    if isinstance(task, slice):
        return np.arange(task.start, task.stop)
    if backends.is_array(task):
        return task
    return np.array([] if task is None else task)


def _as_dataset(dataset: Any) -> Any:
    """Convert the short forms that `DataLoader` takes to tensors."""
    arrays = (np.ndarray, Tensor)
    if isinstance(dataset, tuple) and dataset and all(isinstance(part, arrays) for part in dataset):
        return TensorDataset(*dataset)
    if isinstance(dataset, np.ndarray):
        return from_numpy(dataset)
    by_number = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not (by_number or isinstance(dataset, IterableDataset)):
        raise TypeError(
            "DataLoader takes a TensorDataset, arrays, or an object with __len__ and __getitem__, but"
            f" got {type(dataset).__name__}."
        )
    return dataset


# --- items to batches ---


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack items part by part. As torch.utils.data.default_collate.

    Tensors, arrays and NumPy's numbers keep their dtype; Python's become int64, float64 and bool. Strings and bytes
    stay as they are. Tuples and lists become a list with a batch of each part, dicts and named tuples one of theirs.

    Raises TypeError for items of other types, ValueError for shapes, lengths or keys that differ within a batch.

    >>> default_collate([(1, "a"), (2, "b")])
    [tensor([1, 2]), ('a', 'b')]
    """
    item = batch[0]
    if isinstance(item, Tensor | np.ndarray | np.generic):
        shapes = {tuple(x.shape) for x in batch}
        if len(shapes) > 1:
            raise ValueError(
                f"default_collate: items of one batch have shapes {' and '.join(map(str, sorted(shapes)))}; pad them, "
                "or pass a collate_fn."
            )
        return stack(batch) if isinstance(item, Tensor) else from_numpy(np.stack(batch))
    if isinstance(item, int | float):
        return from_numpy(np.array(batch))
    if isinstance(item, str | bytes):
        return batch
    if isinstance(item, Mapping):
        if any(other.keys() != item.keys() for other in batch):
            raise ValueError(f"default_collate: items of one batch have other keys than {[*item]}.")
        return _alike(item, {key: default_collate([other[key] for other in batch]) for key in item})
    if isinstance(item, tuple | list):
        if any(len(other) != len(item) for other in batch):
            raise ValueError(f"default_collate: items of one batch have lengths {sorted({*map(len, batch)})}.")
        parts = [default_collate(part) for part in zip(*batch, strict=True)]
        return type(item)(*parts) if hasattr(item, "_fields") else parts
    raise TypeError(
        f"DataLoader cannot stack items of type {type(item).__name__}; give numbers, arrays, Tensors, strings,"
        " or tuples, lists or dicts of these, or pass a collate_fn."
    )


def default_convert(item: Any) -> Any:
    """Convert the arrays in an item to tensors, where a DataLoader makes no batches (batch_size=None).

    >>> default_convert((np.ones(2), "a"))
    [tensor([1., 1.], dtype=float64), 'a']
    """
    if isinstance(item, np.ndarray | np.generic):
        return from_numpy(np.asarray(item))
    if isinstance(item, Mapping):
        return _alike(item, {key: default_convert(value) for key, value in item.items()})
    if isinstance(item, tuple | list):
        parts = [default_convert(part) for part in item]
        return type(item)(*parts) if hasattr(item, "_fields") else parts
    return item


def _alike(item: Mapping[Any, Any], found: dict[Any, Any]) -> Any:
    """Return `found` in a mapping of the class of `item`, whose keys it has."""
    if not isinstance(item, MutableMapping):
        return type(item)(found)  # type: ignore[call-arg]
    changed = copy.copy(item)  # a defaultdict is made of more than its items
    changed.update(found)
    return changed
