"""default_collate: the items of a batch as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinyattn.ops.creation import from_numpy
from tinyattn.ops.joins import stack
from tinyattn.tensors import Tensor


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
        found = {key: default_collate([other[key] for other in batch]) for key in item}
        return found if type(item) is dict else type(item)(found)  # type: ignore[call-arg]
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
        return {key: default_convert(value) for key, value in item.items()}
    if isinstance(item, tuple | list):
        parts = [default_convert(part) for part in item]
        return type(item)(*parts) if hasattr(item, "_fields") else parts
    return item
