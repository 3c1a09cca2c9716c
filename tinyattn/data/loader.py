"""TensorDataset and DataLoader: a data set in batches, in order or shuffled, with as few copies as possible."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyattn import backends
from tinyattn.locks import fork_safe
from tinyattn.ops.creation import from_numpy
from tinyattn.ops.joins import stack
from tinyattn.random import Generator, current_generator
from tinyattn.tensors import Tensor

_drawing_order = fork_safe(threading.Lock())  # an order takes several steps on a generator that threads may share


class TensorDataset:
    """Tensors with matching rows, such as images and their labels. As torch.utils.data.TensorDataset.

    tensors: Tensors or arrays of the same length along their first dimension; arrays share their memory.

    Raises ValueError for no tensors, a 0-d tensor, or unequal lengths.

    >>> import numpy as np
    >>> TensorDataset(np.arange(3), np.arange(3) * 10)[1]
    (tensor(1), tensor(10))
    """

    def __init__(self, *tensors: Tensor | NDArray[Any]) -> None:
        self.tensors = tuple(t if isinstance(t, Tensor) else from_numpy(t) for t in tensors)
        lengths = [t.shape[0] if t.ndim else None for t in self.tensors]
        if not lengths or None in lengths or len(set(lengths)) > 1:
            raise ValueError(
                f"TensorDataset takes tensors of one length along their first dimension, but got"
                f" shapes {[tuple(t.shape) for t in self.tensors]}."
            )

    def __len__(self) -> int:
        return self.tensors[0].shape[0]

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)


class _Pass:
    """A pass over a loader's data set: the batches that it has returned, and the generator's state at its start."""

    def __init__(self, position: int, state: Any) -> None:
        self.position, self.state = position, state


class DataLoader:
    """Iterates over a data set in batches. As torch.utils.data.DataLoader.

    Batches of a `TensorDataset` are views of its tensors, or one gather if shuffled; with tensors on a GPU, the order
    is copied there once a pass. Batches of other data sets are stacked from their items. A shuffling loader has its own
    generator, so the random numbers that a model draws do not change the order of its data.

    dataset: a `TensorDataset`, a tuple of arrays or Tensors (short for one), one array or Tensor, or an object with
        `__len__` and `__getitem__` whose items are numbers, arrays, Tensors, or tuples, lists or dicts of these.
    batch_size: items in a batch; the last batch may have fewer.
    shuffle: draw a new order for each pass.
    drop_last: leave out an incomplete last batch.
    generator: the source of the orders (default: a new one, seeded from the global generator's seed).
    transform: called with the parts of each batch, `transform(images, labels)`; its result replaces the batch.

    `indices` are the indices of the last batch's items. `state_dict` holds the position within a pass, from which
    another loader can continue; only one pass may be under way then.

    Raises ValueError for a batch_size under 1, and TypeError for another kind of data set.

    >>> import numpy as np
    >>> loader = DataLoader((np.arange(5), np.arange(5) ** 2), batch_size=2)
    >>> [squares.tolist() for numbers, squares in loader]
    [[0, 1], [4, 9], [16]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        drop_last: bool = False,
        generator: Generator | None = None,
        transform: Callable[..., Any] | None = None,
    ) -> None:
        self.dataset = _as_dataset(dataset)
        self.batch_size = operator.index(batch_size)
        if self.batch_size < 1:
            raise ValueError(f"DataLoader: batch_size is {batch_size}, but it must be 1 or more.")
        self.shuffle, self.drop_last, self.transform = shuffle, drop_last, transform
        if shuffle and generator is None:  # seeded with the global seed and 1: another stream than the global one
            seeds = np.random.SeedSequence([current_generator().initial_seed() % 2**64, 1])
            generator = Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        self.generator = generator
        self.indices = np.empty(0, np.int64)
        self._last = _Pass(0, None)  # the pass that returned the last batch
        self._unfinished: set[_Pass] = set()
        self._resuming = False

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        with _drawing_order:
            own, order = self._begin()
        try:
            for position in range(own.position, len(self)):
                start = position * self.batch_size
                stop = min(start + self.batch_size, len(self.dataset))
                indices = np.arange(start, stop) if order is None else order[start:stop]
                batch = self._batch(slice(start, stop) if order is None else indices)
                if self.transform is not None:
                    batch = self.transform(*batch) if isinstance(batch, tuple) else self.transform(batch)
                own.position = position + 1
                self.indices, self._last = indices, own
                yield batch
            own.position = 0
        finally:
            self._unfinished.discard(own)

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
        if not 0 <= position <= len(self):
            raise ValueError(f"DataLoader: the state is at batch {position}, but this loader has {len(self)}.")
        self._last, self._unfinished = _Pass(position, state["pass_state"]), set()
        self._resuming = position > 0
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_unfinished": set()}  # a copy is in no pass

    def _begin(self) -> tuple[_Pass, Any]:
        """Return a new pass, and the order of its items, or None for the data set's own."""
        resuming, self._resuming = self._resuming, False
        own = self._last if resuming else _Pass(0, self._random_state())
        self._last = own
        self._unfinished.add(own)
        if not self.shuffle or self.generator is None:
            return own, None
        now = self.generator.get_state()
        self.generator.set_state(own.state)
        order = self.generator.random.permutation(len(self.dataset))
        if resuming:  # the interrupted pass has its order again, but the generator stays where it was
            self.generator.set_state(now)
        if isinstance(self.dataset, TensorDataset | Tensor):
            first = self.dataset if isinstance(self.dataset, Tensor) else self.dataset.tensors[0]
            order = backends.move(order, first.device)
        return own, order

    def _batch(self, chosen: Any) -> Any:
        if isinstance(self.dataset, TensorDataset | Tensor):
            return self.dataset[chosen if isinstance(chosen, slice) else Tensor._from(chosen)]
        indices = range(chosen.start, chosen.stop) if isinstance(chosen, slice) else chosen.tolist()
        return _stack([self.dataset[index] for index in indices])

    def _random_state(self) -> Any:
        return None if self.generator is None else self.generator.get_state()


def _as_dataset(dataset: Any) -> Any:
    """Convert the short forms that `DataLoader` takes to tensors."""
    arrays = (np.ndarray, Tensor)
    if isinstance(dataset, tuple) and dataset and all(isinstance(part, arrays) for part in dataset):
        return TensorDataset(*dataset)
    if isinstance(dataset, np.ndarray):
        return from_numpy(dataset)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            "DataLoader takes a TensorDataset, arrays, or an object with __len__ and __getitem__, but"
            f" got {type(dataset).__name__}."
        )
    return dataset


def _stack(items: Sequence[Any]) -> Any:
    """Stack items part by part; Python's numbers become int64 and float64, as in torch's default_collate."""
    item = items[0]
    if isinstance(item, Tensor):
        return stack(items)
    if isinstance(item, np.ndarray | np.generic | int | float):
        return from_numpy(np.stack(items))
    if isinstance(item, tuple | list):
        return tuple(_stack(parts) for parts in zip(*items, strict=True))
    if isinstance(item, Mapping):
        return {key: _stack([other[key] for other in items]) for key in item}
    raise TypeError(
        f"DataLoader cannot stack items of type {type(item).__name__}; give numbers, arrays, Tensors,"
        " or tuples, lists or dicts of these."
    )
