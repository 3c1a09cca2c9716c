"""Regular files only, and whole files only: what is raised about files, `opened` to read, `write_whole` to write.

A folder from elsewhere may contain symbolic links, so the files of a run are written through none: see `unlinked`,
`open_own`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO


class FileFormatError(ValueError):
    """A file cannot be read, is damaged, or has another format; the message is one sentence that names the file."""


class MissingFileError(FileFormatError, FileNotFoundError):
    """The file does not exist."""


@contextlib.contextmanager
def opened(
    path: str | os.PathLike[str],
    error: type[FileFormatError] = FileFormatError,
    missing: type[FileFormatError] = MissingFileError,
) -> Iterator[IO[bytes]]:
    """Open a regular file for reading, in a `with` that turns every OSError into an error of the package.

    error: the class of the error for a folder, a device, a pipe (which would block for ever), a file without
        read permission, and a failing disk.
    missing: its class for a file that does not exist.
    """
    name = os.fspath(path)
    if "\0" in os.fsdecode(name):  # no file name contains one, and open() raises a bare ValueError
        raise missing(f"{name!r} does not exist.")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise error(f"{name} is {'a folder' if os.path.isdir(path) else 'a device or a pipe'}, not a file.")
        with open(path, "rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise missing(f"{name} does not exist.") from reason
    except OSError as reason:
        raise error(f"{name} cannot be read: {reason.strerror or reason}.") from reason


def write_whole(path: str | os.PathLike[str], content: bytes | bytearray | memoryview) -> None:
    """Write a file atomically: other processes, and a power cut, find the old file or the new one, never a part.

    The bytes are written to a temporary file in the same folder and flushed to the disk; then it is renamed, and
    the folder is flushed too. A replaced file keeps its permission bits, and a symbolic link its target; a new file
    gets the default bits. A process killed meanwhile leaves `.NAME.*.tmp` behind, which is never read.

    Raises OSError if the folder is missing or not writable, the disk is full, the file is write-protected, or the
    path is not a regular file. The old file is then unchanged, and no temporary file is left.
    """
    path = os.path.realpath(os.fspath(path))
    folder, name = os.path.split(path)
    mode = _mode_to_keep(path)
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with open(temporary, "wb", opener=lambda file, _: os.open(file, flags, 0o666)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:  # about the user's file, not the temporary one
            reason = "its folder does not exist" if error.errno == errno.ENOENT else error.strerror
            raise OSError(error.errno, reason, path) from error
        raise
    _sync_folder(folder)


def unlinked(path: Path) -> Path:
    """Delete a symbolic link at the path, so that a file written there replaces the link and not its target."""
    if path.is_symlink():
        path.unlink()
    return path


def open_own(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file as `os.open` (an opener for `open`). Raises OSError for a symbolic link, whatever its target."""
    if os.path.islink(path):
        raise OSError(errno.ELOOP, f"{os.path.basename(path)} is a symbolic link; delete it", os.fspath(path))
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _mode_to_keep(path: str) -> int | None:
    """Return the permission bits of the file that will be replaced, or None if there is none."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):  # renaming over a device or a pipe would delete it
        raise OSError(errno.EINVAL, "Not a regular file", path)
    if not os.access(path, os.W_OK):  # renaming would ignore the write protection
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return stat.S_IMODE(mode)


def _sync_folder(folder: str) -> None:
    """Flush a folder, so that the new name survives a power cut; Windows and some network file systems cannot."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
