"""Data: MNIST, digits for machines without it, batches and augmentation.

In reading order:

idx.py       MNIST's file format
dataset.py   images with their labels
download.py  one file over HTTPS
mnist.py     MNIST, found on this machine or downloaded
digits.py    scikit-learn's digits
sets.py      Dataset, TensorDataset, Subset and their like
samplers.py  orders of items
workers.py   processes that make batches
loader.py    DataLoader; default_collate: items to batches
augment.py   random_shift
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace

from tinyattn.data.augment import random_shift
from tinyattn.data.dataset import ImageDataset
from tinyattn.data.loader import default_collate, default_convert
from tinyattn.data.digits import load_digits
from tinyattn.data.idx import DataError, read_idx
from tinyattn.data.loader import DataLoader
from tinyattn.data.mnist import DownloadError, load_mnist
from tinyattn.data.samplers import (
    BatchSampler, DistributedSampler, RandomSampler, Sampler, SequentialSampler, SubsetRandomSampler,
    WeightedRandomSampler,
)  # fmt: skip
from tinyattn.data.sets import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, random_split
from tinyattn.data.workers import get_worker_info


def load(
    data: str = "auto",
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    say: Callable[[str], object] | None = None,
) -> ImageDataset:
    """Return MNIST, or scikit-learn's digits if MNIST is not available.

    data: "mnist", "digits", or "auto": MNIST if available, else the digits, with a warning and with the reason in the
        result's `note`. With a `data_dir` that lacks MNIST, "auto" is an error too.
    data_dir, download, say: as in `load_mnist`.

    Raises ValueError for another `data`, or for "digits" with a `data_dir`, and DataError or ImportError as
    `load_mnist` and `load_digits`.

    >>> ta.data.load("digits").name
    'digits (scikit-learn, not MNIST)'
    """
    if data not in ("auto", "mnist", "digits"):
        raise ValueError(f'data is {data!r}, but it must be "auto", "mnist" or "digits".')
    if data == "digits":
        if data_dir:
            raise ValueError(f"data_dir is {data_dir}, but the digits come with scikit-learn; leave data_dir out.")
        return load_digits()
    try:
        return load_mnist(data_dir, download=download, say=say)
    except (DataError, ImportError) as error:
        if data == "mnist" or data_dir:
            raise
        reason = error.reason if isinstance(error, DownloadError) else str(error)
    digits = replace(load_digits(), note=reason)
    warnings.warn(f"Using {digits.name}: {reason}", stacklevel=2)
    return digits


__all__ = [name for name, x in globals().items() if getattr(x, "__module__", "").startswith("tinyattn.data")]
