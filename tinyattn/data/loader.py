"""Batches: the loader cuts a data set into them, in order or shuffled, without a copy too many."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyattn import backends
from tinyattn.ops.creation import from_numpy
from tinyattn.ops.shape import stack
from tinyattn.random import Generator, current_generator
from tinyattn.tensors import Tensor

_one_begins = threading.Lock()  # a pass draws its order in several steps, and no other thread may draw between


class TensorDataset:
    """Tensors whose rows belong together, such as images and their labels.

    As torch.utils.data.TensorDataset; arrays are taken as well and share their memory.

    Args:
        tensors: Tensors or arrays of the same length along their first dimension.

    Raises:
        ValueError: none given, a 0-d one, or unequal lengths.
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


class DataLoader:
    """Hands out a data set in batches, as torch.utils.data.DataLoader does.

    Batches of a `TensorDataset`, in order, are views of its tensors; shuffled ones are one gather.
    Where its tensors are on a GPU the order of a pass goes there once, and batches are gathered there.
    Batches of other data sets are stacked from their items. A shuffling loader has a generator of its
    own, so that how a model draws its dropout masks does not change the order of its data.

    Args:
        dataset: a `TensorDataset`, a tuple of arrays or Tensors (the same in short), one array or
            Tensor, or anything with `__len__` and `__getitem__` that gives numbers, arrays, Tensors,
            or tuples, lists or dicts of these.
        batch_size: items in a batch; the last batch may have fewer.
        shuffle: a new order for each pass, instead of the data set's.
        drop_last: leave out a last batch that is not full.
        generator: draws the orders (default: a new one, derived from the global generator's seed
            without drawing from it).
        transform: called with the parts of a batch, `transform(images, labels)`; what it returns is
            handed out.

    Raises:
        ValueError: a batch_size under 1.
        TypeError: a data set that is none of the above.

    `indices` are those of the items in the batch that was handed out last. `state_dict` says where a
    pass is, so that another loader can go on with it.

    Example:
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
        if shuffle and generator is None:
            # a stream beside the global one, not the same numbers a second time
            seeds = np.random.SeedSequence([current_generator().initial_seed() % 2**64, 1])
            generator = Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        self.generator = generator
        self.indices = np.empty(0, np.int64)  # of the items in the batch handed out last
        self._position = 0  # batches handed out in this pass; 0 between passes
        self._pass_state: Any = None  # the generator's, when this pass began
        self._resuming = False

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        with _one_begins:
            first, order = self._begin()
        for position in range(first, len(self)):
            start = position * self.batch_size
            stop = min(start + self.batch_size, len(self.dataset))
            self.indices = np.arange(start, stop) if order is None else order[start:stop]
            batch = self._batch(slice(start, stop) if order is None else self.indices)
            if self.transform is not None:
                batch = self.transform(*batch) if isinstance(batch, tuple) else self.transform(batch)
            self._position = position + 1
            yield batch
        self._position = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: a loader that loads this goes on with the batch after the last one
        handed out, as if it had never stopped."""
        return {"position": self._position, "pass_state": self._pass_state, "generator": self._random_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken; the data set and the arguments must be the same.

        Raises:
            ValueError: the position is past the end of this loader.
        """
        position = operator.index(state["position"])
        if not 0 <= position <= len(self):
            raise ValueError(f"DataLoader: the state is at batch {position}, but this loader has {len(self)}.")
        self._position, self._pass_state = position, state["pass_state"]
        self._resuming = position > 0
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def _begin(self) -> tuple[int, Any]:
        """The first batch of a pass, and the order of the items unless it is the data set's own."""
        resuming, self._resuming = self._resuming, False
        if not resuming:
            self._position, self._pass_state = 0, self._random_state()
        if not self.shuffle or self.generator is None:
            return self._position, None
        now = self.generator.get_state()
        self.generator.set_state(self._pass_state)
        order = self.generator.random.permutation(len(self.dataset))
        if isinstance(self.dataset, (TensorDataset, Tensor)):
            first = self.dataset if isinstance(self.dataset, Tensor) else self.dataset.tensors[0]
            order = backends.move(order, first.device)
        if resuming:  # the order is the interrupted pass's, but what was drawn since stays drawn
            self.generator.set_state(now)
        return self._position, order

    def _batch(self, chosen: Any) -> Any:
        if isinstance(self.dataset, (TensorDataset, Tensor)):
            return self.dataset[chosen if isinstance(chosen, slice) else Tensor._from(chosen)]
        indices = range(chosen.start, chosen.stop) if isinstance(chosen, slice) else chosen.tolist()
        return _stack([self.dataset[index] for index in indices])

    def _random_state(self) -> Any:
        return None if self.generator is None else self.generator.get_state()


def _as_dataset(dataset: Any) -> Any:
    """The data set itself, or tensors made of the short forms that `DataLoader` takes."""
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
    """One batch of many items, part by part; Python's numbers become int64 and float64 as in
    torch.utils.data.default_collate."""
    item = items[0]
    if isinstance(item, Tensor):
        return stack(items)
    if isinstance(item, (np.ndarray, np.generic, int, float)):
        return from_numpy(np.stack(items))
    if isinstance(item, (tuple, list)):
        return tuple(_stack(parts) for parts in zip(*items, strict=True))
    if isinstance(item, Mapping):
        return {key: _stack([other[key] for other in items]) for key in item}
    raise TypeError(
        f"DataLoader cannot stack items of type {type(item).__name__}; give numbers, arrays, Tensors,"
        " or tuples, lists or dicts of these."
    )
