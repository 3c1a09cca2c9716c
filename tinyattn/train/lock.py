"""A folder that belongs to one process at a time."""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path

from tinyattn.train.errors import RefusedError

_FAR = 1 << 30  # where Windows locks a byte: others may not even read what is locked there


class FolderLock:
    """Holds a folder for this process until `release`, or until the process ends in whatever way.

    The operating system keeps the lock (flock, or msvcrt.locking where there is none) on a file
    `lock` in the folder, so that a killed process leaves none behind. The file says who holds it.
    Raises RefusedError where another process holds the folder or the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
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
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the number
            os.truncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())


def _take(file: int) -> None:
    """Lock an open file, or raise BlockingIOError. A file system that knows no locks is taken as it is."""
    try:
        import fcntl
    except ImportError:
        return _take_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass


def _take_on_windows(file: int) -> None:
    import msvcrt

    os.lseek(file, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        raise BlockingIOError from None
    finally:
        os.lseek(file, 0, os.SEEK_SET)
