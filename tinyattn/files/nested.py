"""A nested state as JSON text and named arrays, and back: what a file holds beside its tensors.

None, booleans, integers, finite floats, strings and lists are JSON's own. Everything else is an object with one key,
which names its kind:

    {"dict": {"lr": 0.1}}       {"items": [[key, value], ...]}      the second if not all keys are strings
    {"tuple": [1, 2]}           {"set": [1, 2]}                     {"float": "nan"}, "inf", "-inf"
    {"tensor": "NAME"}          {"array": "NAME"}                   the file's tensor of that name
    {"namespace": {"dict": {"lr": 0.1}}}                            argparse's: the options of a script
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
import reprlib
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyattn.files.whole import FileFormatError
from tinyattn.ops.creation import as_tensor, from_numpy
from tinyattn.tensors import Tensor

VERSION = 1
MAX_DEPTH = 100  # containers within containers
MAX_BITS = 4096  # of an integer
CONTENT: dict[str, Any] = {
    "dict": dict, "items": list, "tuple": list, "set": list, "namespace": dict, "float": str, "tensor": str,
    "array": str,
}  # fmt: skip
FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class DamageError(Exception):
    """JSON from a file is invalid; the message completes "FILE is damaged: ". Never leaves `load`."""


def mapped(func: Callable[[Any], Any], tree: Any) -> Any:
    """Apply `func` to what dicts, lists and tuples hold, at any depth. As torch.utils._pytree.tree_map."""
    if isinstance(tree, dict):
        return alike(tree, {key: mapped(func, value) for key, value in tree.items()})
    if isinstance(tree, list | tuple):
        return alike(tree, [mapped(func, value) for value in tree])
    return func(tree)


def alike(tree: Any, values: Any) -> Any:
    """Return a dict, list or tuple of the type of `tree` that holds `values`: a dict with its keys, or a list."""
    if not isinstance(tree, dict):
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)  # a namedtuple
    made = copy.copy(tree)  # a defaultdict is made of more than its items
    for key, value in values.items():
        made[key] = value
    return made


# --- names ---


def is_name(name: Any) -> bool:
    """Whether a value is a valid tensor name: a printable string that, taken for a path, stays in its folder."""
    if not isinstance(name, str) or not name or not name.isprintable() or name == "__metadata__":
        return False
    parts = re.split(r"[/\\]", name)
    return bool(parts[0]) and ":" not in parts[0] and parts[0] != "~" and not {"", ".", ".."} & {*parts}


_shortened = reprlib.Repr()  # a repr, which escapes control characters, of a few elements and levels
_shortened.maxstring = _shortened.maxlong = _shortened.maxother = 60
short = _shortened.repr  # of a value from a file, for an error message


def parse(text: str, what: str) -> Any:
    """Parse JSON text. Raises DamageError for invalid JSON, a duplicate key, NaN and Infinity.

    what: the name of the text in the message, "header" or "state".
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise DamageError(f"its {what} has the key {short(key)} twice")
            found[key] = value
        return found

    def refuse(constant: str) -> None:
        raise DamageError(f"its {what} contains {constant}, which is not valid JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"its {what} is not valid JSON") from error


# --- a state to JSON ---


def encode(state: Any) -> tuple[str, dict[str, NDArray[Any]]]:
    """Return a state's JSON text and its arrays by name. Raises TypeError or ValueError for what cannot be saved."""
    encoder = _Encoder()
    return _text(encoder.value(state, ())), encoder.arrays


def in_order(names: Iterable[str]) -> str:
    """Return the JSON text of a dict of tensors by these names, which are those of the file's tensors."""
    return _text({"dict": {name: {"tensor": name} for name in names}})


def _text(content: Any) -> str:
    return json.dumps({"version": VERSION, "state": content}, separators=(",", ":"))


class _Encoder:
    """Converts values to JSON's, and collects the arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        self.same: defaultdict[str, int] = defaultdict(lambda: 1)  # tensors whose place gives the same name

    def value(self, value: Any, path: tuple[Any, ...]) -> Any:
        if len(path) > MAX_DEPTH:
            raise ValueError(f"ta.save: {_where(path[:5])}... is nested deeper than {MAX_DEPTH}, or contains itself.")
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int):
            if value.bit_length() > MAX_BITS:
                raise ValueError(f"ta.save: {_where(path)} is an integer of more than {MAX_BITS} bits.")
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if isinstance(value, list):
            return [self.value(each, (*path, i)) for i, each in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": [self.value(each, (*path, i)) for i, each in enumerate(value)]}
        if isinstance(value, Mapping):
            return self._mapping(value, path)
        if isinstance(value, set | frozenset) and all(map(_is_key, value)):
            return {"set": [self.value(each, path) for each in value]}
        if isinstance(value, Namespace):
            return {"namespace": self.value(vars(value), path)}
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        return self._tensor(value, path)

    def _mapping(self, value: Mapping[Any, Any], path: tuple[Any, ...]) -> Any:
        if all(isinstance(key, str) for key in value):
            return {"dict": {str(key): self.value(each, (*path, key)) for key, each in value.items()}}
        wrong = [key for key in value if not _is_key(key)]
        if wrong:
            raise TypeError(f"ta.save: {_where(path)} has a key of type {type(wrong[0]).__name__}; use a string.")
        return {"items": [[self.value(key, path), self.value(each, (*path, key))] for key, each in value.items()]}

    def _tensor(self, value: Any, path: tuple[Any, ...]) -> dict[str, str]:
        if not (isinstance(value, Tensor) or hasattr(value, "__array__")):
            hint = "; save its state_dict()" if hasattr(value, "state_dict") else ""
            raise TypeError(
                f"ta.save: {_where(path)} is a {type(value).__name__}, but a state holds tensors, arrays, numbers,"
                f" strings, booleans, None, and dicts, lists and tuples of them{hint}."
            )
        try:
            swapped = isinstance(value, np.ndarray) and not value.dtype.isnative
            array = as_tensor(value.astype(value.dtype.newbyteorder("=")) if swapped else value).cpu().numpy()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"ta.save: {_where(path)} is not a tensor that can be saved ({error}).") from error
        name = self._free_name(path)
        self.arrays[name] = np.asarray(array, order="C")
        return {"array" if isinstance(value, np.ndarray) else "tensor": name}

    def _free_name(self, path: tuple[Any, ...]) -> str:
        """Name a tensor after its place in the state, in harmless characters: "optimizer.state.0.exp_avg"."""
        name = re.sub(r"[^\w.+-]", "_", ".".join(map(str, path)))
        name = stem = name if is_name(name) else f"tensor_{name}"
        while name in self.arrays:
            self.same[stem] += 1
            name = f"{stem}_{self.same[stem]}"
        return name


def _is_key(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(map(_is_key, key))
    return key is None or isinstance(key, bool | int | float | str | np.generic)


def _where(path: tuple[Any, ...]) -> str:
    return "the state" + "".join(f"[{short(key)}]" for key in path)


# --- and back ---


def decode(path: str, text: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """Return the state that `encode` converted.

    path: the name of the file in error messages.

    Raises FileFormatError if the JSON is damaged or does not use each of the arrays exactly once.
    """
    try:
        outer = parse(text, "state")
        if not isinstance(outer, dict) or outer.keys() != {"version", "state"}:
            raise DamageError("its state is not an object of a version and a state")
        if outer["version"] != VERSION:
            raise DamageError(f"its state has version {short(outer['version'])}, but only {VERSION} is supported")
        decoder = _Decoder(arrays)
        state = decoder.value(outer["state"], 0)
        if decoder.left:
            raise DamageError(f"its state does not use tensor {short(min(decoder.left))}")
    except DamageError as error:
        raise FileFormatError(f"{path} is damaged: {error}.") from error
    return state


class _Decoder:
    """Converts JSON's values back. Raises DamageError for what `_Encoder` never writes."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.left = dict(arrays)

    def value(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise DamageError(f"its state is nested deeper than {MAX_DEPTH}")
        if isinstance(value, list):
            return [self.value(each, depth + 1) for each in value]
        if not isinstance(value, dict):
            return value
        kind, content = next(iter(value.items()), ("", None))
        if len(value) != 1 or not isinstance(content, CONTENT.get(kind, ())):
            raise DamageError(f"its state contains {short(value)}, which is of no known kind")
        if kind == "dict":
            return {key: self.value(each, depth + 1) for key, each in content.items()}
        if kind == "items":
            return self._items(content, depth + 1)
        if kind == "tuple":
            return tuple(self.value(content, depth))
        if kind == "set":
            return self._set(content, depth)
        if kind == "namespace":
            return self._namespace(content, depth)
        if kind == "float":
            if content not in FLOATS:
                raise DamageError(f"its state contains the float {short(content)}, not one of {', '.join(FLOATS)}")
            return FLOATS[content]
        if content not in self.left:
            raise DamageError(f"its state refers to tensor {short(content)}, which is missing or already used")
        array = self.left.pop(content)
        return array if kind == "array" else from_numpy(array)

    def _set(self, content: list[Any], depth: int) -> set[Any]:
        found = self.value(content, depth)
        if not all(map(_is_key, found)):
            raise DamageError(f"its state contains the set {short(content)}, with an invalid element")
        return {*found}

    def _namespace(self, content: dict[str, Any], depth: int) -> Namespace:
        found = self.value(content, depth + 1)
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise DamageError(f"its state contains {short(content)} where a namespace's attributes are expected")
        namespace = Namespace()
        vars(namespace).update(found)  # one of them may be named self
        return namespace

    def _items(self, content: list[Any], depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for pair in content:
            if not isinstance(pair, list) or len(pair) != 2:
                raise DamageError(f"its state contains {short(pair)} where a key and a value are expected")
            key = self.value(pair[0], depth)
            if not _is_key(key) or key in found:
                raise DamageError(f"its state contains the key {short(key)}, which is invalid or a duplicate")
            found[key] = self.value(pair[1], depth)
        return found
