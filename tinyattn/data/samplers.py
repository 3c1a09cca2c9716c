"""Samplers: the orders in which a DataLoader takes the items of a data set. As in torch.utils.data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np

from tinyattn import distributed
from tinyattn.random import Generator, current_generator
from tinyattn.tensors import Tensor


class Sampler:
    """An order of items: a subclass defines `__iter__`, and `__len__` if it is known. As torch.utils.data.Sampler.

    >>> class Backwards(Sampler):
    ...     def __iter__(self):
    ...         return iter(range(2, -1, -1))
    >>> list(Backwards())
    [2, 1, 0]
    """

    generator: Generator | None = None

    def __init__(self, data_source: Any = None) -> None:
        pass

    def __class_getitem__(cls, kind: Any) -> type:  # Sampler[int], in annotations
        return cls

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__.")

    @property
    def _random(self) -> Any:
        return (self.generator or current_generator()).random


class SequentialSampler(Sampler):
    """The data set's own order. As torch.utils.data.SequentialSampler.

    >>> list(SequentialSampler("abc"))
    [0, 1, 2]
    """

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """Random items; with `replacement`, an item may come again. As torch.utils.data.RandomSampler.

    num_samples: how many (default: as many as the data set has); more than that are orders one after another.

    >>> sorted(RandomSampler("abc"))
    [0, 1, 2]
    """

    def __init__(
        self, data_source: Sized, replacement: bool = False, num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:  # fmt: skip
        self.data_source, self.replacement, self.generator = data_source, replacement, generator
        self._count = None if num_samples is None else _positive(num_samples, "RandomSampler")

    @property
    def num_samples(self) -> int:
        """The number of items that are drawn."""
        return len(self.data_source) if self._count is None else self._count

    def __iter__(self) -> Iterator[int]:
        n, left = len(self.data_source), self.num_samples
        if self.replacement:
            for start in range(0, left, 1 << 16):  # "without end" is num_samples=10**10, too many to draw at once
                yield from self._random.integers(n, size=min(left - start, 1 << 16)).tolist()
            return
        while left > 0:
            yield from self._random.permutation(n)[:left].tolist()
            left -= n

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler):
    """The given indices in a random order. As torch.utils.data.SubsetRandomSampler.

    >>> sorted(SubsetRandomSampler([4, 2]))
    [2, 4]
    """

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices, self.generator = indices, generator

    def __iter__(self) -> Iterator[int]:
        for place in self._random.permutation(len(self.indices)).tolist():
            yield self.indices[place]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler):
    """Items drawn with probabilities in proportion to `weights`. As torch.utils.data.WeightedRandomSampler.

    replacement: whether an item may come again; if not, num_samples may not exceed the weights that are not 0.

    >>> set(WeightedRandomSampler([0.0, 1.0], num_samples=5))
    {1}
    """

    def __init__(
        self, weights: Sequence[float] | Tensor, num_samples: int, replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:  # fmt: skip
        values = weights.cpu().numpy() if isinstance(weights, Tensor) else weights
        self.weights = np.asarray(values, np.float64)
        self.num_samples = _positive(num_samples, "WeightedRandomSampler")
        self.replacement, self.generator = replacement, generator
        if self.weights.ndim != 1 or not (self.weights >= 0).all() or not 0 < self.weights.sum() < math.inf:
            raise ValueError("WeightedRandomSampler: weights must be a row of finite numbers of at least 0, not all 0.")
        if not replacement and num_samples > np.count_nonzero(self.weights):
            raise ValueError(
                f"WeightedRandomSampler: num_samples is {num_samples}, but without replacement at most "
                f"{np.count_nonzero(self.weights)} items can be drawn, those with a weight above 0."
            )

    def __iter__(self) -> Iterator[int]:
        shares = self.weights / self.weights.sum()
        yield from self._random.choice(len(shares), self.num_samples, self.replacement, shares).tolist()

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler):
    """The indices of another sampler in lists of `batch_size`. As torch.utils.data.BatchSampler.

    >>> list(BatchSampler(range(5), batch_size=2, drop_last=False))
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Iterable[Any], batch_size: int, drop_last: bool) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, _positive(batch_size, "BatchSampler"), drop_last

    def __iter__(self) -> Iterator[list[Any]]:
        batch: list[Any] = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)  # type: ignore[arg-type]
        return full + (rest > 0 and not self.drop_last)


class DistributedSampler(Sampler):
    """The share of one of several processes. As torch.utils.data.DistributedSampler.

    num_replicas, rank: by default those of `ta.distributed`, and without a group the only process. Every process makes
    one with the same seed; their shares do not overlap. `set_epoch` selects the order of an epoch.
    drop_last: leave out items until the shares are equal, instead of giving the first ones twice.

    >>> [sorted(DistributedSampler("abcd", num_replicas=2, rank=r, shuffle=False)) for r in (0, 1)]
    [[0, 2], [1, 3]]
    """

    def __init__(
        self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None, shuffle: bool = True,
        seed: int = 0, drop_last: bool = False,
    ) -> None:  # fmt: skip
        self.dataset, self.shuffle, self.seed, self.drop_last = dataset, shuffle, seed, drop_last
        ranks, own = (distributed.get_world_size(), distributed.get_rank()) if distributed.is_initialized() else (1, 0)
        self.num_replicas = _positive(ranks if num_replicas is None else num_replicas, "DistributedSampler")
        self.rank, self.epoch = own if rank is None else rank, 0
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(
                f"DistributedSampler: rank is {self.rank}, but of {self.num_replicas} it must be 0 or more and below."
            )
        share = len(dataset) / self.num_replicas
        self.num_samples = math.floor(share) if drop_last else math.ceil(share)

    def set_epoch(self, epoch: int) -> None:
        """Select the order of an epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = Generator().manual_seed(self.seed + self.epoch).random.permutation(len(self.dataset))
        total = self.num_samples * self.num_replicas
        return iter(np.resize(order, total)[self.rank :: self.num_replicas].tolist())

    def __len__(self) -> int:
        return self.num_samples


def _positive(number: Any, what: str) -> int:
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{what}: got {number!r}, but the number of items must be a whole number of at least 1.")
    return int(number)
