"""Data: MNIST, digits for machines without it, and the loader that hands out batches."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace

from tinyattn.data.augment import random_shift
from tinyattn.data.dataset import ImageDataset
from tinyattn.data.digits import load_digits
from tinyattn.data.idx import DataError, read_idx
from tinyattn.data.loader import DataLoader, TensorDataset
from tinyattn.data.mnist import DownloadError, load_mnist

__all__ = [
    "DataError",
    "DataLoader",
    "DownloadError",
    "ImageDataset",
    "TensorDataset",
    "load",
    "load_digits",
    "load_mnist",
    "random_shift",
    "read_idx",
]


def load(
    data: str = "auto",
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    say: Callable[[str], object] | None = None,
) -> ImageDataset:
    """MNIST, or scikit-learn's digits where there is no MNIST.

    Args:
        data: `"mnist"`, `"digits"`, or `"auto"`: MNIST if it can be had, else the digits, with
            a warning and the reason in the result's `note`. A `data_dir` without MNIST is an
            error even so: who names a folder wants what is in it.
        data_dir, download, say: as in `load_mnist`.

    Raises:
        ValueError: an unknown `data`, or the digits are asked for in a folder.
        DataError, ImportError: as `load_mnist` and `load_digits`.
    """
    if data not in ("auto", "mnist", "digits"):
        raise ValueError(f'data is {data!r}, but it must be "auto", "mnist" or "digits".')
    if data == "digits":
        if data_dir:
            raise ValueError(f"data_dir is {data_dir}, but the digits come with scikit-learn.")
        return load_digits()
    try:
        return load_mnist(data_dir, download=download, say=say)
    except (DataError, ImportError) as error:
        if data == "mnist" or data_dir:
            raise
        reason = error.reason if isinstance(error, DownloadError) else str(error)
    digits = replace(load_digits(), note=reason)
    warnings.warn(f"Not MNIST but {digits.name}, because: {reason}", stacklevel=2)
    return digits
