"""Files written whole or not at all, and files opened only if they are files."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from typing import IO

from tinyattn.files.errors import FileFormatError, MissingFileError


@contextlib.contextmanager
def opened(
    path: str | os.PathLike[str],
    error: type[FileFormatError] = FileFormatError,
    missing: type[FileFormatError] = MissingFileError,
) -> Iterator[IO[bytes]]:
    """A regular file open for reading, in a `with` whose failures to read become the package's errors.

    Raises:
        FileFormatError: a folder, a device, a pipe (which would block for ever), no permission, a
            failing disk; of the class `error`, or `missing` where there is no file of that name.
    """
    name = os.fspath(path)
    if "\0" in os.fsdecode(name):  # which no file can have in its name
        raise missing(f"{name!r} is not there.")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            kind = "a folder" if os.path.isdir(path) else "a device or a pipe"
            raise error(f"{name} is not a file but {kind}.")
        with open(path, "rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise missing(f"{name} is not there.") from reason
    except OSError as reason:
        raise error(f"{name} cannot be read: {reason.strerror or reason}.") from reason


def write_whole(path: str | os.PathLike[str], content: bytes | bytearray | memoryview) -> None:
    """Write a file so that others, and a power cut, find the old one or the new one and nothing between.

    The bytes go into a file aside in the same folder, then to the disk, and only then does it take the
    name, which the disk is told too. A file that was there keeps its permission bits, and a link what
    it points to; a new file gets the usual bits. A process killed meanwhile leaves `.NAME.*.tmp` behind,
    which nobody reads.

    Raises:
        OSError: the folder is missing or closed, the disk is full, or something else has that name;
            the old file is as it was, and nothing is left aside.
    """
    path = os.path.realpath(os.fspath(path))
    folder, name = os.path.split(path)
    mode = _mode_of_the_old(path)
    aside = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with open(aside, "wb", opener=lambda file, _: os.open(file, flags, 0o666)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(aside, mode)
        os.replace(aside, path)
    except OSError as error:
        _remove(aside)
        raise _named(error, path) from error
    except BaseException:
        _remove(aside)
        raise
    _sync_folder(folder)


def _mode_of_the_old(path: str) -> int | None:
    """The permission bits of the file that is to be replaced; None if there is none."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):  # a device or a pipe would be gone
        raise OSError(errno.EINVAL, "Not a regular file", path)
    if not os.access(path, os.W_OK):  # write-protected on purpose: a rename would not care
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return stat.S_IMODE(mode)


def _named(error: OSError, path: str) -> OSError:
    """The same error about the file that was asked for, not about the one aside."""
    return OSError(error.errno, error.strerror, path) if error.errno is not None else error


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _sync_folder(folder: str) -> None:
    """Tell the disk the new name too; Windows and some network file systems have no way to."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
