"""save and load: tensors, and nested states of them, as safetensors files.

A mapping from names to Tensors becomes a plain safetensors file, which `safetensors.torch` reads, and vice versa; a
file sorts its tensors, so their order stands in its metadata. Any other state (an optimizer's, nested dicts and lists,
numbers, strings) keeps its tensors as the file's tensors, named after their place in the state, and the rest as JSON in
the metadata. The format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyattn.extras import require
from tinyattn.files.nested import DamageError, decode, encode, in_order, is_name, mapped, parse, short
from tinyattn.files.whole import FileFormatError, opened, write_whole
from tinyattn.ops.creation import from_numpy
from tinyattn.tensors import Tensor

STATE = "tinyattn.state"  # the metadata key of the JSON
MAX_HEADER = 1 << 22  # bytes; parsing takes up to some twenty times as many
MAX_DIMS = 32
CHUNK = 1 << 18  # elements that are tested for NaN at a time
DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2",
}  # fmt: skip


def save(path: Any, state: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state to a safetensors file, whole or not at all.

    path: the file, replaced if it exists; its folder must exist. Or a binary file that is open for writing.
    state: a mapping from names to Tensors, such as `Module.state_dict()`, or any nesting of dicts, lists and tuples
        of Tensors, arrays, numbers, strings, booleans and None; also sets and argparse's Namespace. A path becomes a
        string.
    metadata: strings about the file, for `load_metadata` and other programs.

    The two may come in the order of torch.save too: what is a path or a file is `path`, the first if both are.

    Raises TypeError for any other object in the state (the message says where), ValueError for a state that is nested
    too deep or has too much outside its tensors, OSError if the file cannot be written (an old one is then unchanged),
    and ImportError if safetensors is not installed.

    >>> ta.save("state.safetensors", {"step": 3, "weights": [ta.ones(2)]})
    >>> ta.load("state.safetensors")["step"]
    3
    """
    if not _is_file(path) and _is_file(state):
        path, state = state, path
    content = _content(state, dict(metadata or {}))
    if hasattr(path, "write"):
        path.write(content)
    else:
        write_whole(path, content)


def _is_file(x: Any) -> bool:
    return isinstance(x, str | os.PathLike) or hasattr(x, "write")


def _content(state: Any, words: dict[Any, Any]) -> bytes:
    """The bytes of a file."""
    library = require("safetensors.numpy", "ta.save")
    if STATE in words or not all(isinstance(word, str) for pair in words.items() for word in pair):
        raise TypeError(f"ta.save: metadata must be a mapping from strings to strings, without the key {STATE!r}.")
    if isinstance(state, Mapping) and all(is_name(k) and isinstance(v, Tensor) for k, v in state.items()):
        arrays = {name: np.asarray(tensor.cpu().numpy(), order="C") for name, tensor in state.items()}
        if list(arrays) != sorted(arrays) or len({array.dtype for array in arrays.values()}) > 1:
            words[STATE] = in_order(arrays)  # the file sorts its tensors by dtype and name
    else:
        words[STATE], arrays = encode(state)
    content: bytes = library.save(arrays, words or None)
    header = int.from_bytes(content[:8], "little")
    if header > MAX_HEADER:
        raise ValueError(
            f"ta.save: names, numbers and strings take {header} bytes, but at most {MAX_HEADER} are allowed;"
            " put long lists of numbers into tensors."
        )
    return content


def load(path: Any, map_location: Any = None, **without_effect: Any) -> Any:
    """Read a file that `save` wrote, or any other safetensors file, which becomes a dict from names to Tensors.

    path: the file, or a binary file that is open for reading, which is read from where it stands to its end.
    map_location: the device for the tensors; a function or a dict, as in torch.load, means the CPU.
    without_effect: weights_only, mmap and pickle_module of torch.load; nothing in a file is executed.

    Tensors come back without a graph, and arrays as arrays. Containers come back as dict, list and tuple. bfloat16,
    which NumPy lacks, becomes float32 without loss. NaN or infinity in the tensors is one warning.

    Raises FileFormatError if the file is damaged, has another format or an unsupported dtype, or cannot be read, its
    subclass MissingFileError if it does not exist, and ImportError if safetensors is not installed. The header is
    validated before the data are read or any memory is allocated for them.

    >>> import tinyattn as ta
    >>> ta.save("state.safetensors", {"weights": ta.ones(2), "step": 3}, metadata={"about": "an example"})
    >>> ta.load("state.safetensors")
    {'weights': tensor([1., 1.]), 'step': 3}
    >>> ta.load_metadata("state.safetensors")
    {'about': 'an example'}
    """
    unknown = {*without_effect} - {"weights_only", "mmap", "pickle_module"}
    if unknown:
        raise TypeError(f"ta.load has no option {min(unknown)!r}.")
    require("safetensors", "ta.load")  # before a missing file is reported
    if hasattr(path, "read"):
        content = path.read()
        state = _read(io.BytesIO(content), str(getattr(path, "name", "the file")), len(content))
    else:
        with opened(path) as file:
            state = _read(file, os.fspath(path), os.fstat(file.fileno()).st_size)
    on_cpu = map_location is None or callable(map_location) or isinstance(map_location, Mapping)
    return state if on_cpu else mapped(lambda x: x.to(map_location) if isinstance(x, Tensor) else x, state)


def _read(file: IO[bytes], name: str, size: int) -> Any:
    """The state in a file of `size` bytes."""
    library = require("safetensors", "ta.load")
    words, entries = _read_header(file, name, size)
    file.seek(0)
    try:
        parts = dict(library.deserialize(file.read(size)))  # validates once more
    except library.SafetensorError as error:
        raise FileFormatError(f"{name} is not a valid safetensors file ({error}).") from error
    arrays = {entry.name: _array(name, entry, parts.pop(entry.name)["data"]) for entry in entries}
    nonfinite = [key for key, array in arrays.items() if array.dtype.kind == "f" and not _all_finite(array)]
    if nonfinite:
        more = f" (and {len(nonfinite) - 1} more tensors)" if len(nonfinite) > 1 else ""
        warnings.warn(f"{name}: tensor {short(nonfinite[0])}{more} contains NaN or infinity.", stacklevel=3)
    if STATE in words:
        return decode(name, words[STATE], arrays)
    return {key: from_numpy(array) for key, array in arrays.items()}


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the strings that were saved with a file, from its header alone. Raises FileFormatError as `load`.

    >>> ta.save("weights.safetensors", {"w": ta.ones(2)}, metadata={"epoch": "3"})
    >>> ta.load_metadata("weights.safetensors")["epoch"]
    '3'
    """
    with opened(path) as file:
        words, _ = _read_header(file, os.fspath(path), os.fstat(file.fileno()).st_size)
    words.pop(STATE, None)
    return words


# --- the header: eight bytes with its length, then JSON; validated here, since the library reads the whole file first,
# --- and accepts duplicate keys, names that are paths, and headers of 100 MB


class Entry(NamedTuple):
    """The header's entry of one tensor; its data are the bytes begin to end behind the header."""

    begin: int
    end: int
    name: str
    dtype: str
    shape: tuple[int, ...]


def _read_header(file: IO[bytes], name: str, size: int) -> tuple[dict[str, str], list[Entry]]:
    """Return the metadata, and the entries in the order of their data, which fill the file exactly."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length < 2:
        raise FileFormatError(f"{name} is not a safetensors file: it has no header.")
    if start.startswith(b"PK\3\4"):
        raise FileFormatError(
            f"{name} is a zip archive (as torch.save writes), not a safetensors file;"
            " write it with safetensors.torch.save_file instead."
        )
    if length > size - 8:
        raise FileFormatError(
            f"{name} is cut short, or not a safetensors file: its header claims {length} bytes, but {size - 8} follow."
        )
    if length > MAX_HEADER:
        raise FileFormatError(f"{name} has a header of {length} bytes, but at most {MAX_HEADER} are allowed.")
    try:
        return _parse(file.read(length), size - 8 - length)
    except DamageError as error:
        raise FileFormatError(f"{name} is not a valid safetensors file: {error}.") from error


def _parse(content: bytes, size: int) -> tuple[dict[str, str], list[Entry]]:
    """Validate every part of a header, and that its tensors fill the `size` bytes behind it without gap or overlap."""
    try:
        header = parse(content.decode("utf-8"), "header")
    except UnicodeDecodeError as error:
        raise DamageError("its header is not UTF-8") from error
    words = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(words, dict) or not all(isinstance(word, str) for word in words.values()):
        raise DamageError("its header is not an object of tensors and a __metadata__ of strings")
    entries = sorted(_entry(name, fields) for name, fields in header.items())
    reached = 0
    for entry in entries:
        if entry.begin != reached:
            what = "overlaps another" if entry.begin < reached else "has a gap before it"
            raise DamageError(f"tensor {short(entry.name)} {what}")
        reached = entry.end
    if reached != size:
        what = "it is cut short" if reached > size else "bytes follow its last tensor"
        raise DamageError(f"{what}: its header describes {reached} bytes of data, but there are {size}")
    return words, entries


def _entry(name: str, fields: Any) -> Entry:
    """Validate the header's entry of one tensor by itself."""
    if not is_name(name):
        raise DamageError(f"{short(name)} is not a valid tensor name")
    if not isinstance(fields, dict) or not fields.keys() >= {"dtype", "shape", "data_offsets"}:
        raise DamageError(f"tensor {short(name)} has no dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise DamageError(f"tensor {short(name)} has dtype {short(dtype)}, not one of {', '.join(DTYPES)}")
    if not (_are_counts(shape) and _are_counts(offsets)) or len(shape) > MAX_DIMS or len(offsets) != 2:
        raise DamageError(f"tensor {short(name)} has an invalid shape or data_offsets")
    (begin, end), itemsize = offsets, np.dtype(DTYPES[dtype]).itemsize
    if math.prod(max(n, 1) for n in shape) * itemsize >= 1 << 63 or end - begin != math.prod(shape) * itemsize:
        raise DamageError(
            f"tensor {short(name)} is {dtype} of shape {short(shape)},"
            f" which does not fit its {short(end - begin)} bytes"
        )
    return Entry(begin, end, name, dtype, tuple(shape))


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


# --- the data ---


def _array(path: str, entry: Entry, data: bytearray) -> NDArray[Any]:
    """Return a writable array of the machine's byte order."""
    array: NDArray[Any] = np.frombuffer(data, DTYPES[entry.dtype]).reshape(entry.shape)
    if entry.dtype == "BOOL" and array.view("u1").max(initial=0) > 1:
        raise FileFormatError(f"{path} is damaged: tensor {short(entry.name)} of BOOL holds other bytes than 0 and 1.")
    if entry.dtype == "BF16":  # the upper half of a float32
        wide = array.astype(np.uint32)
        wide <<= 16
        array = wide.view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _all_finite(array: NDArray[Any]) -> bool:
    flat = array.reshape(-1)  # in chunks, which need no second array
    return all(np.isfinite(flat[i : i + CHUNK]).all() for i in range(0, flat.size, CHUNK))
