"""MNIST: found on this machine, or else downloaded once into the user's cache.

Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits" (1998): 60,000 training and 10,000 test
images. A file is accepted if its unpacked bytes have the SHA-256 of the original's, whatever its compression or source.
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
LONGEST = 900.0  # seconds for all downloads together, enough for their 11.6 MB at 13 kB/s
LAYOUTS = ("", "MNIST/raw", "raw")  # the last two are torchvision's, below its root and below its MNIST folder


@dataclass(frozen=True)
class File:
    """One of MNIST's four files: its name, the shape of its array, the SHA-256 of its unpacked bytes."""

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
    """No mirror delivered. The message explains how to download by hand; `reason` is its first part alone."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


def load_mnist(
    data_dir: str | os.PathLike[str] | None = None, *, download: bool = True, say: Callable[[str], object] | None = None
) -> ImageDataset:
    """Return the MNIST handwritten digits, as uint8 images of 28x28 and int64 labels.

    A folder given as `data_dir`, or else in the environment variable `TINYATTN_DATA`, is the only one searched.
    Otherwise the user's cache is searched first, then `./data`, and missing files are downloaded. A folder may hold
    the files themselves or torchvision's `MNIST/raw`, gzipped or not.

    data_dir: the folder to search.
    download: whether the mirrors may be used.
    say: called with a line of text before each download, for example `print`.

    Raises DataError if the given folder lacks a file or has a damaged one, DownloadError if no mirror delivers (within
    15 s if none answers, within 15 minutes in any case), and ImportError if a download needs pooch, which is missing.
    """
    given = data_dir or os.environ.get(ENVIRONMENT) or None
    folders = [Path(os.path.expanduser(given))] if given else _usual_folders()
    found, damaged = _find(folders)
    missing = [file for file in FILES if file not in found]
    if missing and (given or not download):
        if missing[0] in damaged:
            raise damaged[missing[0]]
        if given:
            raise _not_there(folders[0], missing, source="data_dir" if data_dir else ENVIRONMENT)
        raise DataError("MNIST is not on this machine, and download=False forbids to download it.")
    if missing:
        mirrors, until = list(MIRRORS), time.monotonic() + LONGEST
        found |= {file: _download(file, mirrors, until, say or (lambda line: None)) for file in missing}
    train_x, train_y, test_x, test_y = (found[file] for file in FILES)
    return ImageDataset("MNIST", train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))


# --- on this machine ---


def cache_folder() -> Path:
    """Return the folder of downloads, torchvision's layout in the user's cache. Raises ImportError without pooch."""
    return Path(require("pooch", "the download cache").os_cache("tinyattn"))


def _usual_folders() -> list[Path]:
    try:
        return [cache_folder(), Path("data")]
    except ImportError:  # without pooch nothing can have been downloaded
        return [Path("data")]


def _find(folders: Sequence[Path]) -> tuple[dict[File, NDArray[Any]], dict[File, DataError]]:
    """Return the arrays of the valid files, and the error of each invalid one."""
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
                if os.path.isfile(path):  # unlike Path.is_file, raises nothing for a folder without permission
                    yield path


def _checked(file: File, source: Path | bytes, name: str) -> NDArray[Any]:
    """Return the array of a file after the check that it is MNIST's."""
    content = unpack(source, name, file.shape)
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataError(
            f"{name} is not MNIST's: the SHA-256 of its unpacked bytes is {digest}, but {file.sha256} is expected."
        )
    return decode(content)


def _not_there(folder: Path, missing: Sequence[File], *, source: str) -> DataError:
    names = ", ".join(file.name for file in missing)
    state = "lacks" if os.path.isdir(folder) else "is not a folder and so lacks"
    return DataError(
        f"{source} {folder} {state} {names} (each was searched for with and without .gz, in the folder"
        " itself, in MNIST/raw and in raw)."
    )


# --- downloads ---


def _download(file: File, mirrors: list[str], until: float, say: Callable[[str], object]) -> NDArray[Any]:
    """Fetch and cache a file from the first mirror that delivers; those that do not move to the list's end."""
    folder = cache_folder() / "MNIST" / "raw"
    limit = 4 + 4 * len(file.shape) + math.prod(file.shape) + 1024  # unpacked, and room for a gzip header
    failures = []
    for mirror in tuple(mirrors):
        url = f"{mirror}{file.name}.gz"
        say(f"Downloading {url} to {folder}")
        try:
            content = fetch(url, limit, until)
            array = _checked(file, content, url)
        except (MirrorError, DataError) as error:
            failures.append(f"{url}: {str(error).removeprefix(f'{url} ').removesuffix('.')}")
            mirrors.append(mirrors.pop(0))
        else:
            _cache(content, folder / file.name)
            return array
    files = ", ".join(f"{file.name} (SHA-256 {file.sha256})" for file in FILES)
    raise DownloadError(
        f"MNIST could not be downloaded ({'; '.join(failures)})",
        f"to do it by hand, fetch each of {files}, with .gz added, from {' or '.join(MIRRORS)} into"
        f" {folder}, or name their folder in {ENVIRONMENT}; the SHA-256 are those of the unpacked files.",
    )


def _cache(content: bytes, path: Path) -> None:
    """Write a file to the cache as it was delivered, with .gz added if it is packed; a failure is a warning."""
    if content.startswith(GZIP_MAGIC):
        path = path.with_name(f"{path.name}.gz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # of killed processes, if more than an hour old
            with contextlib.suppress(OSError):  # another process may remove it too
                if time.time() - left.stat().st_mtime > 3600:
                    left.unlink()
    except OSError as error:
        warnings.warn(
            f"MNIST is not cached, so the next run downloads it again: {path} cannot be written ({error}).",
            stacklevel=4,
        )
