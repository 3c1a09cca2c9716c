"""Data sets: what a DataLoader takes its items from, and parts and sums of them. As in torch.utils.data."""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

from numpy.typing import NDArray

from tinyattn.ops.creation import from_numpy
from tinyattn.random import Generator, current_generator
from tinyattn.tensors import Tensor


class Dataset:
    """Items by number: a subclass defines `__getitem__` and `__len__`. As torch.utils.data.Dataset.

    >>> class Squares(Dataset):
    ...     def __len__(self):
    ...         return 3
    ...
    ...     def __getitem__(self, index):
    ...         return index**2
    >>> (Squares() + Squares())[5]
    4
    """

    def __class_getitem__(cls, kind: Any) -> type:  # Dataset[Tensor], in annotations
        return cls

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not define __getitem__.")

    def __add__(self, other: Any) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset):
    """Items one after another: a subclass defines `__iter__`. As torch.utils.data.IterableDataset.

    In a worker process of a DataLoader, `get_worker_info` says which share of the items is its own.

    >>> class Countdown(IterableDataset):
    ...     def __iter__(self):
    ...         return iter([3, 2, 1])
    >>> from tinyattn.data import DataLoader
    >>> [batch.tolist() for batch in DataLoader(Countdown(), batch_size=2)]
    [[3, 2], [1]]
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__.")


class TensorDataset(Dataset):
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


class Subset(Dataset):
    """The items of a data set at `indices`. As torch.utils.data.Subset.

    >>> Subset("abcdef", [4, 0])[0]
    'e'
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[[self.indices[i] for i in index] if isinstance(index, list) else self.indices[index]]


class ConcatDataset(Dataset):
    """Data sets one after another. As torch.utils.data.ConcatDataset.

    Raises ValueError for none, and TypeError for a data set of unknown length.

    >>> len(ConcatDataset(["abc", "de"])), ConcatDataset(["abc", "de"])[3]
    (5, 'd')
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset takes at least one data set, but got none.")
        for dataset in self.datasets:
            if not hasattr(dataset, "__len__"):
                raise TypeError(
                    f"ConcatDataset: a {type(dataset).__name__} has no length, so its items have no numbers."
                )
        self.cumulative_sizes = list(accumulate(map(len, self.datasets)))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> Any:
        place = operator.index(index) + (len(self) if index < 0 else 0)
        if not 0 <= place < len(self):
            raise IndexError(f"ConcatDataset: index {index} is out of range for {len(self)} items.")
        which = bisect_right(self.cumulative_sizes, place)
        return self.datasets[which][place - (self.cumulative_sizes[which - 1] if which else 0)]


def random_split(dataset: Any, lengths: Sequence[float], generator: Generator | None = None) -> list[Subset]:
    """Return random parts of a data set that have no item in common. As torch.utils.data.random_split.

    lengths: the sizes of the parts, or shares with the sum 1; items left over by rounding go to the first parts.

    Raises ValueError unless the lengths sum up to the data set's.

    >>> [len(part) for part in random_split(range(10), [0.75, 0.25])]
    [8, 2]
    """
    total = len(dataset)
    counts = [*lengths]
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1 and all(0 <= share <= 1 for share in lengths):
        counts = [math.floor(total * share) for share in lengths]
        for i in range(total - int(sum(counts))):
            counts[i % len(counts)] += 1
    if sum(counts) != total:
        raise ValueError(
            f"random_split: lengths {[*lengths]} sum up to {sum(counts)}, but the data set has {total} items."
        )
    order = (generator or current_generator()).random.permutation(total).tolist()
    return [Subset(dataset, order[a:b]) for a, b in pairwise(accumulate(map(int, counts), initial=0))]
