"""save and load: tensors, and states made of them, as safetensors files. Nothing in a file is ever run.

A mapping from names to Tensors becomes a plain safetensors file, which `safetensors.torch` reads, and
the other way round. Any other state (an optimizer's, nested dicts and lists, numbers, strings) keeps
its tensors as tensors of the file, under names that say where they belong, and the rest as JSON in
the file's metadata. The format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyattn.extras import require
from tinyattn.files.errors import FileFormatError
from tinyattn.files.nested import DamageError, decode, encode, is_name, parse, short
from tinyattn.files.whole import opened, write_whole
from tinyattn.ops.creation import from_numpy
from tinyattn.tensors import Tensor

Arrays: TypeAlias = dict[str, NDArray[Any]]

STATE = "tinyattn.state"  # the key in a file's metadata under which the JSON stands
MAX_HEADER = 1 << 22  # bytes; Python needs some twenty times as many to hold the worst of them
MAX_DIMS = 32
CHUNK = 1 << 18  # elements that are looked at in one go
DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2",
}  # fmt: skip


class Entry(NamedTuple):
    """What a header says of one tensor; begin and end count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def save(path: str | os.PathLike[str], state: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state to a safetensors file: whole, or not at all.

    Args:
        path: the file, replaced if it is there; its folder must exist.
        state: a mapping from names to Tensors, as `Module.state_dict()` gives it, or any nesting of
            dicts, lists and tuples with Tensors, arrays, numbers, strings, booleans and None in it.
        metadata: words about the file, for `load_metadata` and other programs.

    Raises:
        TypeError: something in the state is none of these; the message says where.
        ValueError: nested too deep, or too much that is not in tensors.
        OSError: the file cannot be written; one that was there before is as it was.
        ImportError: safetensors is not installed.
    """
    library = require("safetensors.numpy", "ta.save")
    words = dict(metadata or {})
    if STATE in words or not all(isinstance(word, str) for pair in words.items() for word in pair):
        raise TypeError(f"ta.save: metadata is a mapping from strings to strings, without {STATE!r} in it.")
    if isinstance(state, Mapping) and all(is_name(k) and isinstance(v, Tensor) for k, v in state.items()):
        arrays = {name: np.asarray(tensor.cpu().numpy(), order="C") for name, tensor in state.items()}
    else:
        words[STATE], arrays = encode(state)
    content = library.save(arrays, words or None)
    header = int.from_bytes(content[:8], "little")
    if header > MAX_HEADER:
        raise ValueError(
            f"ta.save: the names, numbers and strings take {header} bytes where {MAX_HEADER} are the most;"
            " put long lists of numbers into tensors."
        )
    write_whole(path, content)


def load(path: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote, or any other safetensors file: then a dict from names to Tensors.

    Tensors come back as Tensors without a graph, arrays as arrays, containers as dict, list and tuple.
    bfloat16, which NumPy lacks, becomes float32, which has all its numbers. A NaN or an infinity in a
    tensor is a warning that names it.

    Raises:
        FileFormatError: the file is damaged, is not safetensors, holds a dtype that is not supported,
            or cannot be read (MissingFileError: is not there). The header is proved before anything
            else is read or allocated.
        ImportError: safetensors is not installed.
    """
    library = require("safetensors", "ta.load")
    with opened(path) as file:
        name = os.fspath(path)
        words, entries = _read_header(file, name)
        try:
            parts = library.deserialize(_read_again(file, name))  # which checks everything once more
        except library.SafetensorError as error:
            raise FileFormatError(f"{name} is not a valid safetensors file ({error}).") from error
    arrays = _arrays(name, {entry.name: entry for entry in entries}, parts)
    _warn_of_nonfinite(name, arrays)
    if STATE in words:
        return decode(name, words[STATE], arrays)
    return {key: from_numpy(array) for key, array in arrays.items()}


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The words that were saved with a file; nothing but its header is read.

    Raises:
        FileFormatError: as `load`.
    """
    with opened(path) as file:
        words, _ = _read_header(file, os.fspath(path))
    words.pop(STATE, None)
    return words


# --- the header: eight bytes with its length, then JSON ---


def _read_header(file: IO[bytes], name: str) -> tuple[dict[str, str], list[Entry]]:
    """The metadata and the entries in the order of their bytes, which fill the file exactly."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length < 2:
        raise FileFormatError(f"{name} is not a safetensors file: it has no header.")
    if start.startswith(b"PK\3\4"):
        raise FileFormatError(
            f"{name} is a zip archive, as torch.save writes it, and no safetensors file;"
            " write it with safetensors.torch.save_file instead."
        )
    if length > size - 8:
        raise FileFormatError(
            f"{name} is cut short, or no safetensors file: its header claims {length} bytes where {size - 8} follow."
        )
    if length > MAX_HEADER:
        raise FileFormatError(f"{name} has a header of {length} bytes where {MAX_HEADER} are the most.")
    try:
        words, entries = _parse(file.read(length))
        _check_layout(entries, size - 8 - length)
    except DamageError as error:
        raise FileFormatError(f"{name} is not a valid safetensors file: {error}.") from error
    return words, entries


def _parse(content: bytes) -> tuple[dict[str, str], list[Entry]]:
    """The JSON of a header, each part of it checked on its own. DamageError if that fails."""
    try:
        header = parse(content.decode("utf-8"), "header")
    except UnicodeDecodeError as error:
        raise DamageError("its header is not in UTF-8") from error
    words = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(words, dict) or not all(isinstance(word, str) for word in words.values()):
        raise DamageError("its header is not metadata of strings, and tensors")
    entries = [_entry(name, fields) for name, fields in header.items()]
    return words, sorted(entries, key=lambda entry: (entry.begin, entry.end))


def _entry(name: str, fields: Any) -> Entry:
    """What the header says of one tensor, if that is possible in itself. DamageError if not."""
    if not is_name(name):
        raise DamageError(f"{short(name)} is no name for a tensor")
    if not isinstance(fields, dict) or not fields.keys() >= {"dtype", "shape", "data_offsets"}:
        raise DamageError(f"tensor {short(name)} has no dtype, shape and data_offsets")
    dtype, shape, place = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise DamageError(f"tensor {short(name)} has dtype {short(dtype)}, which is none of {', '.join(DTYPES)}")
    if not (_are_counts(shape) and _are_counts(place)) or len(shape) > MAX_DIMS or len(place) != 2:
        raise DamageError(f"tensor {short(name)} has an impossible shape or place")
    size, itemsize = place[1] - place[0], np.dtype(DTYPES[dtype]).itemsize
    if math.prod(max(n, 1) for n in shape) * itemsize >= 1 << 63 or size != math.prod(shape) * itemsize:
        raise DamageError(
            f"tensor {short(name)} is {dtype} of shape {short(shape)}, for which {short(size)} bytes are wrong"
        )
    return Entry(name, dtype, tuple(shape), *place)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


def _check_layout(entries: list[Entry], size: int) -> None:
    """The tensors lie one behind the other and fill the `size` bytes behind the header. DamageError if not."""
    reached = 0
    for entry in entries:
        if entry.begin != reached:
            what = "overlaps another" if entry.begin < reached else "has a hole before it"
            raise DamageError(f"tensor {short(entry.name)} {what}")
        reached = entry.end
    if reached != size:
        what = "it is cut short" if reached > size else "bytes follow its last tensor"
        raise DamageError(f"{what}: its header speaks of {reached} bytes, and there are {size}")


# --- the numbers ---


def _read_again(file: IO[bytes], name: str) -> bytes:
    """The whole file again, from its start, no longer than it was when its header was proved."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    content = file.read(size)
    if len(content) != size:
        raise FileFormatError(f"{name} became shorter while it was read.")
    return content


def _arrays(path: str, entries: dict[str, Entry], parts: list[tuple[str, dict[str, Any]]]) -> Arrays:
    """Writable arrays of the machine's byte order, in the order of the file."""
    parts_by_name = dict(parts)
    arrays = {}
    for name, entry in entries.items():
        raw = np.frombuffer(parts_by_name.pop(name)["data"], DTYPES[entry.dtype]).reshape(entry.shape)
        if entry.dtype == "BOOL" and raw.view("u1").max(initial=0) > 1:
            raise FileFormatError(f"{path} is damaged: tensor {short(name)} of BOOL holds more than 0 and 1.")
        if entry.dtype == "BF16":  # the upper half of a float32
            wide = raw.astype(np.uint32)
            wide <<= 16
            raw = wide.view(np.float32)
        arrays[name] = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    return arrays


def _warn_of_nonfinite(path: str, arrays: Arrays) -> None:
    """One warning, whatever their number; a piece at a time, which needs no second array."""
    names = [name for name, array in arrays.items() if array.dtype.kind == "f" and not _all_finite(array)]
    if names:
        more = f" (and {len(names) - 1} more tensors)" if len(names) > 1 else ""
        warnings.warn(f"{path}: tensor {short(names[0])}{more} holds NaN or infinity.", stacklevel=3)


def _all_finite(array: NDArray[Any]) -> bool:
    flat = array.reshape(-1)
    return all(np.isfinite(flat[i : i + CHUNK]).all() for i in range(0, flat.size, CHUNK))
