"""MNIST: found on this machine, or else downloaded once into the user's cache.

Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits" (1998): 60,000 training
and 10,000 test images. A file counts as MNIST's when its unpacked bytes have the SHA-256 of the
original's, however it was compressed and wherever it comes from.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyattn.data.dataset import ImageDataset
from tinyattn.data.download import MirrorError, fetch
from tinyattn.data.idx import GZIP_MAGIC, DataError, decode, unpack
from tinyattn.extras import require
from tinyattn.files.whole import write_whole

ENVIRONMENT = "TINYATTN_DATA"
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
LONGEST = 900.0  # seconds for all downloads together; 11.6 MB take as long at 13 kB/s
LAYOUTS = ("", "MNIST/raw", "raw")  # the last two: a root folder of torchvision's, or its MNIST folder


@dataclass(frozen=True)
class File:
    """One of the four: its name, the shape of its array, the hash of its unpacked bytes."""

    name: str
    shape: tuple[int, ...]
    sha256: str


FILES = (
    File(
        "train-images-idx3-ubyte", (60000, 28, 28), "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    File("train-labels-idx1-ubyte", (60000,), "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    File("t10k-images-idx3-ubyte", (10000, 28, 28), "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    File("t10k-labels-idx1-ubyte", (10000,), "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)


class DownloadError(DataError):
    """No mirror delivered. The message says how to do it by hand; `reason` is the short form."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


def load_mnist(
    data_dir: str | os.PathLike[str] | None = None, *, download: bool = True, say: Callable[[str], object] | None = None
) -> ImageDataset:
    """The MNIST handwritten digits, as uint8 images of 28x28 and int64 labels.

    A folder that the caller names, as `data_dir` or in the environment variable `TINYATTN_DATA`,
    is the only one looked into. Otherwise the user's cache comes first, then `./data`, then the
    mirrors. Every folder may hold the files themselves or torchvision's `MNIST/raw`, gzipped or not.

    Args:
        data_dir: the folder to look into.
        download: whether the mirrors may be asked.
        say: called with one line of text before each download, for example `print`.

    Raises:
        DataError: the named folder lacks a file or holds a damaged one.
        DownloadError: nothing was found, and no mirror delivered (within 15 s if none answers,
            within 15 minutes however slowly they do).
        ImportError: a download is needed and pooch is not installed.
    """
    named = data_dir or os.environ.get(ENVIRONMENT) or None
    folders = [Path(os.path.expanduser(named))] if named else _usual_folders()
    found, damaged = _find(folders)
    missing = [file for file in FILES if file not in found]
    if missing and missing[0] in damaged and (named or not download):
        raise damaged[missing[0]]
    if missing and named:
        raise _not_there(folders[0], missing, asked="data_dir" if data_dir else ENVIRONMENT)
    if missing and not download:
        raise DataError("MNIST is not on this machine, and downloading it was not allowed.")
    if missing:
        found |= _download(missing, say or (lambda line: None))
    train_x, train_y, test_x, test_y = (found[file] for file in FILES)
    return ImageDataset("MNIST", train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))


def cache_folder() -> Path:
    """Where downloads go, and are found again: torchvision's layout in the user's cache."""
    return Path(require("pooch", "the download cache").os_cache("tinyattn"))


def _usual_folders() -> list[Path]:
    try:
        return [cache_folder(), Path("data")]
    except ImportError:  # nothing can have been downloaded without pooch
        return [Path("data")]


def _find(folders: Sequence[Path]) -> tuple[dict[File, NDArray[Any]], dict[File, DataError]]:
    """The files that are there and whole; and what is wrong with those that are only there."""
    found: dict[File, NDArray[Any]] = {}
    damaged: dict[File, DataError] = {}
    for file in FILES:
        for path in _candidates(file, folders):
            try:
                found[file] = _checked(file, path, str(path))
                break
            except DataError as error:
                damaged[file] = error
    return found, damaged


def _candidates(file: File, folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        for layout in LAYOUTS:
            for suffix in ("", ".gz"):
                path = folder / layout / f"{file.name}{suffix}"
                if os.path.isfile(path):  # unlike Path.is_file, no error for a closed folder
                    yield path


def _checked(file: File, source: Path | bytes, name: str) -> NDArray[Any]:
    """The array of a file that is proved to be MNIST's."""
    content = unpack(source, name, file.shape)
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataError(
            f"{name} is not MNIST's: the SHA-256 of its unpacked bytes is {digest} where {file.sha256} is expected."
        )
    return decode(content)


def _not_there(folder: Path, missing: Sequence[File], *, asked: str) -> DataError:
    names = ", ".join(file.name for file in missing)
    state = "lacks" if folder.is_dir() else "is not a folder and so lacks"
    return DataError(
        f"{asked} {folder} {state} {names} (each looked for with and without .gz, in the folder"
        " itself, in MNIST/raw and in raw)."
    )


def _download(missing: Sequence[File], say: Callable[[str], object]) -> dict[File, NDArray[Any]]:
    """The missing files from the mirrors; gives up for good at the first that no mirror delivers."""
    folder = cache_folder() / "MNIST" / "raw"
    mirrors, until = list(MIRRORS), time.monotonic() + LONGEST
    arrays = {}
    for file in missing:
        failures = []
        for mirror in tuple(mirrors):
            url = f"{mirror}{file.name}.gz"
            say(f"Downloading {url} to {folder}")
            try:
                content = fetch(url, _unpacked_size(file) + 1024, until)  # room for a gzip header
                arrays[file] = _checked(file, content, url)
                break
            except (MirrorError, DataError) as error:
                failures.append(f"{url}: {str(error).removeprefix(f'{url} ').removesuffix('.')}")
                mirrors.remove(mirror)  # the other one comes first from now on
                mirrors.append(mirror)
        else:
            raise _download_failed(failures, folder)
        _keep(content, folder / file.name)
    return arrays


def _unpacked_size(file: File) -> int:
    return 4 + 4 * len(file.shape) + math.prod(file.shape)


def _keep(content: bytes, path: Path) -> None:
    """Cache a file as it came, under the name that says whether it is packed."""
    if content.startswith(GZIP_MAGIC):
        path = path.with_name(f"{path.name}.gz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        _sweep(path)
    except OSError as error:  # no reason to stop: the data are here, they will only be fetched again
        warnings.warn(f"MNIST is not cached: {path} cannot be written ({error}).", stacklevel=4)


def _sweep(path: Path) -> None:
    """Remove what processes that were killed while they wrote this file left beside it, an hour ago or more."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):  # another process sweeps too
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()


def _download_failed(failures: Sequence[str], folder: Path) -> DownloadError:
    files = ", ".join(f"{file.name} (SHA-256 {file.sha256})" for file in FILES)
    return DownloadError(
        f"MNIST could not be downloaded ({'; '.join(failures)})",
        f"to do it by hand, fetch each of {files}, with .gz added, from {' or '.join(MIRRORS)} into"
        f" {folder}, or name their folder in {ENVIRONMENT}; the SHA-256 are those of the unpacked files.",
    )
