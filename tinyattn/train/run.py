"""The folder of one training run, written so that a stop at any moment loses nothing; what the run was made with."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from tinyattn.files.texts import table
from tinyattn.files.whole import open_own, unlinked, write_whole

FORMAT = 1  # of config.json
FILES = (
    "config.json", "metrics.csv", "summary.json", "model.safetensors", "curves.png", "attention.png", "attention.html",
    "playground.html",
)  # fmt: skip
_FAR = 1 << 30  # the byte to lock on Windows, where others cannot read a locked part


class RefusedError(Exception):
    """A request that cannot be met, raised before anything is done. Exit code 2."""


class Run:
    """runs/<name>/ with config.json, metrics.csv (a row for each epoch), summary.json, and other files that users save.

    parent: created if necessary. name: of the folder; if it exists, the new run gets the next free name, name-2,
        name-3 ..., or replaces the old run with `overwrite`, which deletes the files of a run and no others.
    resumed: False; True for a run from `resume`.
    The folder is locked for this process until it ends, or `close`. Files are always replaced as a whole.
    Raises RefusedError if the folder cannot be created, or is locked by another process.
    """

    resumed = False

    def __init__(self, parent: str | os.PathLike[str], name: str, *, overwrite: bool = False) -> None:
        try:
            folder = _folder(Path(parent), name, overwrite)
            self._open(folder)
            if overwrite:
                for file in FILES:
                    (folder / file).unlink(missing_ok=True)
                if unlinked(folder / "checkpoints").exists():  # of a link, rmtree would leave it all
                    shutil.rmtree(folder / "checkpoints")
        except OSError as error:
            raise RefusedError(f"no run can be written to {Path(parent) / name} ({error.strerror or error}).") from None

    @classmethod
    def resume(cls, folder: str | os.PathLike[str]) -> Self:
        """Open the run in an existing folder, to continue it, and read its `config`.

        Raises RefusedError if the folder has no run, has a symbolic link where a run writes a file, is locked by
        another process, or cannot be written to.
        """
        run, folder = cls.__new__(cls), Path(folder)
        run.resumed = True
        path = folder / "config.json"
        if not path.is_file():
            raise RefusedError(f"{folder} holds no run that can be resumed: it has no config.json.")
        for link in (folder / name for name in (*FILES, "checkpoints")):
            if link.is_symlink():  # by whoever made the folder; its target may be any file of the user
                raise RefusedError(f"{link} is a symbolic link, and a run writes through none; put its target there.")
        run._open(folder)
        try:
            run.config = json.loads(path.read_bytes())
            version = run.config["format"]
            _ = {**run.config["arguments"]}, {**run.config.get("versions", {})}  # raises if one is not an object
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RefusedError(f"{path} is not a run's configuration ({type(error).__name__}: {error}).") from None
        if version != FORMAT:
            raise RefusedError(f"{path} has format {version!r}, and this version reads {FORMAT}.")
        return run

    def _open(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FolderLock(folder)
        with contextlib.suppress(OSError):
            for left in folder.glob(".*.tmp"):  # of a process killed while writing
                left.unlink()
        self.rows: list[dict[str, Any]] = []
        self.config: dict[str, Any] = {}

    def describe(self, **facts: Any) -> None:
        """Write config.json: what it takes to repeat the run."""
        self.config = json.loads(json.dumps({"format": FORMAT, **facts}))
        self._write_json("config.json", self.config)

    def hold_to(self, **facts: Any) -> None:
        """Raise RefusedError if the run began with facts other than these."""
        for name, now in facts.items():
            if json.loads(json.dumps(now)) != self.config.get(name):
                raise RefusedError(
                    f"{self.folder} cannot be resumed: its {name} was {self.config.get(name)}, and is {now} now."
                )

    def log(self, **row: Any) -> None:
        """Append a row to metrics.csv. A value that a row lacks is empty."""
        self._write_rows([*self.rows, row])

    def summarise(self, **facts: Any) -> Path:
        """Write summary.json, the results of the run."""
        return self._write_json("summary.json", facts)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far and the configuration: a part of a checkpoint."""
        return {"rows": self.rows, "config": self.config}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the rows of metrics.csv at a checkpoint. Raises ValueError for a checkpoint of another run."""
        if state["config"] != self.config:
            raise ValueError("it was made with another config.json than the one in this folder")
        self._write_rows(list(state["rows"]))

    def close(self) -> None:
        """Unlock the folder."""
        self._lock.release()

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            columns = list({name: None for row in rows for name in row})
            self._write("metrics.csv", table(columns, rows))
        else:
            (self.folder / "metrics.csv").unlink(missing_ok=True)
        self.rows = rows

    def _write_json(self, name: str, facts: Mapping[str, Any]) -> Path:
        return self._write(name, json.dumps(facts, indent=2).encode() + b"\n")

    def _write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        try:
            write_whole(unlinked(path), content)
        except OSError as error:
            raise OSError(
                f"{path} could not be written ({error.strerror}); what was written before is whole."
            ) from error
        return path


class Follower(Run):
    """The run of a process beside the one that has the Run: it may read its checkpoints, and writes nothing.

    For the ranks of `ta.distributed` after the first.
    """

    def __init__(self) -> None:
        self._open(Path())

    def _open(self, folder: Path) -> None:
        self.folder, self.rows, self.config = folder, [], {}

    def _write(self, name: str, content: bytes) -> Path:
        return self.folder / name

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows


def _folder(parent: Path, name: str, overwrite: bool) -> Path:
    if overwrite:
        folder = parent / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config.json").exists():  # it may be somebody else's folder
            for path in folder.iterdir():
                if path.name not in (*FILES, "checkpoints", "lock") and path.suffix != ".tmp":
                    raise RefusedError(
                        f"{folder} is not a run's folder (it holds {path.name}), so it is not overwritten."
                    )
        return folder
    for number in range(1, 100_000):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise RefusedError(f"{parent} is a file; runs need a folder to be written to.") from None
            continue
        return folder
    raise RefusedError(f"there is no free name for {name} in {parent}.")


class FolderLock:
    """Lock a folder for this process until `release` or the end of the process.

    The operating system keeps the lock (flock, or msvcrt.locking on Windows) on a file `lock` in the folder, so it ends
    with the process. The file contains the number of the process.
    Raises RefusedError if another process holds the lock or the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            file = open_own(folder / "lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise RefusedError(f"{folder} cannot be written to ({error.strerror}).") from None
        self.release = weakref.finalize(self, os.close, file)
        try:
            _take(file)
        except BlockingIOError:
            holder = os.read(file, 20).decode("ascii", "replace").strip()
            self.release()
            raise RefusedError(
                f"another process ({holder or 'number unknown'}) is training in {folder}; wait for its end, or stop it."
            ) from None
        with contextlib.suppress(OSError):  # a full disk: the lock works without the number
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())


def _take(file: int) -> None:
    """Lock an open file, or raise BlockingIOError. On a file system without locks this does nothing."""
    try:
        import fcntl
    except ImportError:
        return _take_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError):
            raise


def _take_on_windows(file: int) -> None:
    import msvcrt

    os.lseek(file, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        raise BlockingIOError from None
    finally:
        os.lseek(file, 0, os.SEEK_SET)


# --- what a run was made with: versions, state of the source, checksum of the data ---


def versions() -> dict[str, str]:
    """The versions of Python, of this package, and of the packages that can change a result."""
    own = sys.modules["tinyattn"].__version__  # an import of the package by its own module would be a circle
    found = {"python": platform.python_version(), "platform": platform.platform(), "tinyattn": own}
    for package in ("numpy", "scikit-learn", "safetensors", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def changed_versions(before: Mapping[str, str]) -> str:
    """The differences between the versions recorded before and those of today, in words."""
    now = versions()
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {now.get(name, 'missing')} instead of {before.get(name, 'none')}" for name in names)


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of a folder and whether its files have changes; None without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changed)}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def fingerprint(*arrays: Any) -> str:
    """SHA-256 of arrays with their shapes and dtypes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
