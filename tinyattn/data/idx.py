"""IDX, the file format of MNIST: a four-byte magic number, the dimensions, the numbers.

The format is described on the MNIST page of Y. LeCun, C. Cortes and C. Burges (1998). A file may come
from anywhere, so nothing it says is believed before it is checked, and memory grows with the bytes
that are really there, never with the bytes that a header promises.
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
    """A data set that is missing, damaged or not what it should be; the message is one sentence."""


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an IDX file, plain or gzipped (told apart by its first bytes, not by its name).

    Args:
        path: the file.

    Returns:
        A writable array of the file's shape and type, in the machine's byte order.

    Raises:
        DataError: not a file, not IDX, an unknown type, no items, cut short, or too long.
    """
    return decode(unpack(path))


def unpack(
    source: str | os.PathLike[str] | bytes, name: str | None = None, shape: tuple[int, ...] | None = None
) -> bytearray:
    """The whole unpacked content of an IDX file, header included, as long as the header says.

    Args:
        source: a path, or the bytes of a file.
        name: what error messages call the source (default: the path).
        shape: the only shape to accept; anything else is refused before the numbers are read.

    Raises:
        DataError: as `read_idx`.
    """
    if isinstance(source, bytes):
        with io.BytesIO(source) as file:
            return _unpack_checked(file, len(source), name or "the IDX file", shape)
    with opened(source, DataError, DataError) as file:
        return _unpack_checked(file, os.fstat(file.fileno()).st_size, name or os.fspath(source), shape)


def decode(content: bytearray) -> NDArray[Any]:
    """The array in the content of an IDX file that `unpack` has checked; shares its memory
    where the machine's byte order allows."""
    ndim = content[3]
    shape = struct.unpack_from(f">{ndim}I", content, 4)
    dtype = DTYPES[content[2]]
    array = np.frombuffer(content, dtype, offset=4 + 4 * ndim).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _unpack_checked(file: IO[bytes], size: int, name: str, shape: tuple[int, ...] | None) -> bytearray:
    packed = file.read(2) == GZIP_MAGIC
    file.seek(0)
    if not packed:
        return _read(file, name, shape, size)
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            return _read(unpacked, name, shape, None)
    except EOFError as error:
        raise DataError(f"{name} is cut short: its gzip data ends before its end mark.") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name} is damaged: {error}.") from error


def _read(file: IO[bytes] | gzip.GzipFile, name: str, shape: tuple[int, ...] | None, size: int | None) -> bytearray:
    """Header, then as many bytes as it promises; `size` is the file's true one where known."""
    content, promised = _read_header(file, name, shape)
    if size is not None and size < promised:
        raise DataError(f"{name} is cut short: its header promises {promised} bytes, it has {size}.")
    while len(content) < promised:
        chunk = file.read(min(CHUNK, promised - len(content)))
        if not chunk:
            raise DataError(f"{name} is cut short: its header promises {promised} bytes, it has {len(content)}.")
        content += chunk
    if file.read(1):  # reaching a gzip's end is also what checks its checksum
        raise DataError(f"{name} is too long: bytes follow the {promised} that its header promises.")
    return content


def _read_header(file: IO[bytes] | gzip.GzipFile, name: str, shape: tuple[int, ...] | None) -> tuple[bytearray, int]:
    """The header's bytes, and how many bytes the whole file must have."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= MAX_DIMS:
        raise DataError(
            f"{name} is not an IDX file: it starts with {magic.hex(' ') or 'nothing'} where"
            f" 00 00, a type and 1 to {MAX_DIMS} dimensions are expected."
        )
    if magic[2] not in DTYPES:
        known = ", ".join(f"{code:02x}" for code in DTYPES)
        raise DataError(f"{name} has IDX type {magic[2]:02x}, which is none of {known}.")
    header = bytearray(magic) + file.read(4 * magic[3])
    if len(header) < 4 + 4 * magic[3]:
        raise DataError(f"{name} is cut short: it ends within its header.")
    dims = struct.unpack_from(f">{magic[3]}I", header, 4)
    if shape is not None and (dims != shape or magic[2] != 0x08):
        kind = DTYPES[magic[2]].newbyteorder("=")
        raise DataError(f"{name} holds {kind} of shape {dims} where uint8 of shape {shape} belongs.")
    if 0 in dims:
        raise DataError(f"{name} has no items: its shape is {dims}.")
    return header, len(header) + math.prod(dims) * DTYPES[magic[2]].itemsize
