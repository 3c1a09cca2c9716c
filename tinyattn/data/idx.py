"""IDX, the file format of MNIST: a four-byte magic number, the dimensions, the data.

The format is described on the MNIST page of Y. LeCun, C. Cortes and C. Burges (1998). Files are validated before their
contents are used, and memory grows with the bytes that a file has, never with those that its header promises.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tinyattn.files.whole import FileFormatError, opened

GZIP_MAGIC = b"\x1f\x8b"
CHUNK = 1 << 16  # bytes read at a time
MAX_DIMS = 32
DTYPES: dict[int, np.dtype[Any]] = {  # third byte of the magic number -> big-endian type
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}


class DataError(FileFormatError):
    """A data set is missing, damaged or another one than expected; the message is one sentence."""


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an IDX file, plain or gzipped (its first bytes decide, not its name).

    Returns a writable array of the file's shape and dtype, in the machine's byte order.

    Raises DataError if the path is not a regular file, or the file is not IDX, has an unknown dtype or no items, or is
    shorter or longer than its header says.

    >>> with open("two.idx", "wb") as file:
    ...     size = file.write(bytes([0, 0, 0x08, 1, 0, 0, 0, 2, 5, 7]))  # uint8, one dimension of 2
    >>> read_idx("two.idx")
    array([5, 7], dtype=uint8)
    """
    return decode(unpack(path, os.fspath(path)))


def unpack(source: str | os.PathLike[str] | bytes, name: str, shape: tuple[int, ...] | None = None) -> bytearray:
    """Return the unpacked content of an IDX file, header included, after validation. Raises DataError as `read_idx`.

    source: a path, or the bytes of a file.
    name: the file's name in error messages.
    shape: the only shape to accept, of uint8; others are refused before the data are read.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else opened(source, DataError, DataError) as file:
        packed = file.read(2) == GZIP_MAGIC
        size = None if packed else file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            return _read(gzip.GzipFile(fileobj=file) if packed else file, name, shape, size)
        except EOFError as error:
            raise DataError(f"{name} is cut short: its gzip data end without an end mark.") from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{name} is damaged: {error}.") from error


def decode(content: bytearray) -> NDArray[Any]:
    """Return the array in what `unpack` returned, without a copy if the byte order allows it."""
    ndim = content[3]
    shape = struct.unpack_from(f">{ndim}I", content, 4)
    dtype = DTYPES[content[2]]
    array = np.frombuffer(content, dtype, offset=4 + 4 * ndim).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read(file: IO[bytes] | gzip.GzipFile, name: str, shape: tuple[int, ...] | None, size: int | None) -> bytearray:
    """Read the header, then exactly the bytes that it promises; `size` is the true size, if known."""
    content, promised = _read_header(file, name, shape)
    if size is not None and size < promised:
        raise DataError(f"{name} is cut short: its header promises {promised} bytes, but it has {size}.")
    while len(content) < promised:
        chunk = file.read(min(CHUNK, promised - len(content)))
        if not chunk:
            raise DataError(f"{name} is cut short: its header promises {promised} bytes, but it has {len(content)}.")
        content += chunk
    if file.read(1):  # GzipFile verifies its checksum when it reaches the end
        raise DataError(f"{name} is too long: bytes follow the {promised} that its header promises.")
    return content


def _read_header(file: IO[bytes] | gzip.GzipFile, name: str, shape: tuple[int, ...] | None) -> tuple[bytearray, int]:
    """Return the header's bytes, and the size that it promises for the whole file."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= MAX_DIMS:
        raise DataError(
            f"{name} is not an IDX file: it starts with {magic.hex(' ') or 'nothing'}, but"
            f" 00 00, a type and 1 to {MAX_DIMS} dimensions are expected."
        )
    if magic[2] not in DTYPES:
        known = ", ".join(f"{code:02x}" for code in DTYPES)
        raise DataError(f"{name} has IDX type {magic[2]:02x}, not one of {known}.")
    header = bytearray(magic) + file.read(4 * magic[3])
    if len(header) < 4 + 4 * magic[3]:
        raise DataError(f"{name} is cut short: it ends within its header.")
    dims = struct.unpack_from(f">{magic[3]}I", header, 4)
    if shape is not None and (dims != shape or magic[2] != 0x08):
        dtype = DTYPES[magic[2]].newbyteorder("=")
        raise DataError(f"{name} holds {dtype} of shape {dims}, but uint8 of shape {shape} is expected.")
    if 0 in dims:
        raise DataError(f"{name} has no items: its shape is {dims}.")
    return header, len(header) + math.prod(dims) * DTYPES[magic[2]].itemsize
