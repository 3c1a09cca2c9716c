"""Loaders under fire: whole files, damaged by hypothesis. Out comes the data or one sentence, and memory stays small.

`TINYATTN_FUZZ=10000 pytest -m slow -s tests/test_fuzz.py` tries 10,000 for each loader and prints what became of them.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import struct
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_mnist import idx, pixels

import tinyattn as ta
from tinyattn import train
from tinyattn.data import DataLoader, mnist, read_idx
from tinyattn.train import checkpoints

FEW, MANY = 300, int(os.environ.get("TINYATTN_FUZZ", "1500"))
SLACK = 200_000  # bytes that any loader may take beside three times what it reads

# --- damage to bytes -----------------------------------------------------------------------------

EDGES = [0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
FIELDS = [order + kind for order in "<>" for kind in "BHIQ"]


def flip(content, place, size, value):
    """One bit."""
    content[place] ^= 1 << value % 8


def cut(content, place, size, value):
    """The end is missing."""
    del content[place:]


def drop(content, place, size, value):
    """A piece is missing."""
    del content[place : place + size]


def insert(content, place, size, value):
    """A piece too many."""
    content[place:place] = bytes([value % 256]) * size


def splice(content, place, size, value):
    """A piece of the file stands in another place too."""
    start = value % len(content)
    content[place : place + size] = content[start : start + size]


def field(content, place, size, value):
    """A number of one to eight bytes, of either byte order, has become an extreme one."""
    kind = FIELDS[size % len(FIELDS)]
    number = EDGES[value % len(EDGES)] % 256 ** struct.calcsize(kind)
    content[place : place + struct.calcsize(kind)] = struct.pack(kind, number)


HITS = st.tuples(
    st.sampled_from([flip, cut, drop, insert, splice, field]),
    st.integers(0, 40) | st.integers(0, 2**20),  # headers are hit as often as all the rest
    st.integers(1, 40),
    st.integers(0, 2**16),
)


def damage(content, hits):
    content = bytearray(content)
    for way, place, size, value in hits:
        if content:
            way(content, place % len(content), size, value)
    return bytes(content)


def damaged(files):
    """A strategy: one of these files, hit one to four times."""
    return st.builds(damage, st.sampled_from(files), st.lists(HITS, min_size=1, max_size=4))


# --- damage to JSON: files that are well-formed, and lie -----------------------------------------

LEAVES = st.sampled_from([
    None, True, 0, 1, -1, 8, 2**31, 2**63, 2**70, 0.5, 1e300, "", "F32", "F64", "BF16", "BOOL", "a", "../a", "nan",
    [], [0], [0, 8], [8, 0], [2, 2], [-1, -8], [0, 2**63], [[[[]]]], {}, {"a": 1}, {"tensor": "a"}, {"array": "b"},
    {"tuple": [1]}, {"items": [[1, 2]]}, {"dict": {"a": 1}}, {"float": "inf"},
])  # fmt: skip
KEYS = st.sampled_from(
    ["a", "b", "__metadata__", "dtype", "shape", "data_offsets", "dict", "tuple", "..", "\x00", "x" * 300]
)


def edit(value, path, key, leaf):
    """Go down where `path` leads, and there delete, replace or add something."""
    children = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if len(path) > 1 and children:
        child = children[path[0] % len(children)]
        value[child] = edit(value[child], path[1:], key, leaf)
        return value
    if path[-1] % 4 == 0 or not children:
        return copy.deepcopy(leaf)
    if path[-1] % 4 == 1:
        del value[children[path[-1] % len(children)]]
    elif isinstance(value, dict):
        value[key] = copy.deepcopy(leaf)
    else:
        value.append(copy.deepcopy(leaf))
    return value


def edit_header(content, edits, in_state):
    """A safetensors file with edits to its header, or to the state inside the header, and a length that is right."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    words = header.get("__metadata__", {})
    inside = in_state and "tinyattn.state" in words
    value = json.loads(words["tinyattn.state"]) if inside else header
    for each in edits:
        value = edit(value, *each)
    if inside:
        words["tinyattn.state"] = json.dumps(value)
    text = json.dumps(header if inside else value).encode()
    return struct.pack("<Q", len(text)) + text + data


EDITS = st.lists(st.tuples(st.lists(st.integers(0, 255), min_size=1, max_size=6), KEYS, LEAVES), min_size=1, max_size=3)


def damaged_safetensors(files):
    """A strategy: hit anywhere, or with a header that is JSON still."""
    return damaged(files) | st.builds(edit_header, st.sampled_from(files), EDITS, st.booleans())


# --- the loaders, and files that they read -------------------------------------------------------


def idx_files():
    kinds = [pixels(3, 4, 5), pixels(60) % 10, pixels(200, 16, 16), np.arange(6, dtype="i2"), np.ones((2, 2), "f8")]
    return [idx(kind) for kind in kinds]


def safetensors_files(folder):
    numbers = np.random.default_rng(0)
    states = [
        {"a": ta.ones(2), "b": ta.arange(3)},
        {
            "weight": ta.tensor(numbers.random((60, 70), np.float32)),
            "mask": ta.ones(3).bool(),
            "half": ta.zeros(2).to(ta.half),
        },
        {"a": [ta.ones(2), (1, None, "text", float("nan"))], 3: {"b": np.arange(4), "deep": [[[{"x": (True,)}]]]}},
        {
            "optimizer": {
                "state": {0: {"step": ta.tensor(1.0), "exp_avg": ta.zeros(20, 20)}},
                "param_groups": [{"lr": 0.1}],
            }
        },
    ]
    for i, state in enumerate(states):
        ta.save(folder / str(i), state, {"about": "a test"})
    return [(folder / str(i)).read_bytes() for i in range(len(states))]


def check_as_mnist(path):
    """What `load_mnist` does with a file: another shape or another content is refused too."""
    mnist._checked(mnist.File("toy", (200, 16, 16), "0" * 64), path, str(path))


def damaged_gzip(files):
    """A strategy: damage before packing, or after."""
    packed = [gzip.compress(content, mtime=0) for content in files]
    packed.append(packed[0] + gzip.compress(b"", mtime=0))
    return damaged(packed) | damaged(files).map(lambda content: gzip.compress(content, 1, mtime=0))


# --- checkpoints: a whole run's state, under a checksum ------------------------------------------


class Training:
    """A small run with one checkpoint, and a folder to read damaged ones from."""

    def __init__(self, folder):
        model = ta.nn.Linear(3, 2)
        optimizer = ta.optim.AdamW(model.parameters(), lr=1e-2)
        loader = DataLoader((np.zeros((9, 3), np.float32), np.arange(9)), 2, shuffle=True)
        parts = {"model": model, "optimizer": optimizer, "loader": loader, "random": ta.default_generator}
        parts |= {"schedule": ta.optim.CosineAnnealingLR(optimizer, 50), "run": train.Run(folder, "run")}
        model(ta.ones(2, 3)).sum().backward()
        optimizer.step()
        next(iter(loader))
        self.checkpoints = train.Checkpoints(folder / "checkpoints", parts)
        self.content = self.checkpoints.save(1).read_bytes()

    def restore(self, path):
        """Go on from a file as a run does, which reads it only in its own folder."""
        path.replace(self.checkpoints.folder / "step-00000001.safetensors")
        try:
            self.checkpoints.restore()
        finally:
            (self.checkpoints.folder / "step-00000001.safetensors").replace(path)


def sealed(content, folder):
    """A checkpoint with the checksum that belongs to its state, if it has one: somebody made it so on purpose."""
    path = folder / "unsealed"
    path.write_bytes(content)
    try:
        words, state = ta.load_metadata(path), ta.load(path)
        ta.save(path, state, words | {"sha256": checkpoints.digest(state)})
        return path.read_bytes()
    except (ta.FileFormatError, ValueError):
        return content


def forged_checkpoints(folder):
    training = Training(folder)
    edited = st.builds(edit_header, st.just(training.content), EDITS, st.just(True))
    return (training.restore,), edited.map(lambda content: sealed(content, folder))


LOADERS = {  # what reads the files, and which files, in a folder of their own
    "IDX": lambda folder: ((read_idx, check_as_mnist), damaged(idx_files())),
    "IDX in gzip": lambda folder: ((read_idx, check_as_mnist), damaged_gzip(idx_files())),
    "safetensors": lambda folder: ((ta.load, ta.load_metadata), damaged_safetensors(safetensors_files(folder))),
    "checkpoint": lambda folder: ((checkpoints.read,), damaged_safetensors([Training(folder).content])),
    "forged checkpoint": forged_checkpoints,
}


def unpacked_size(content):
    """The bytes of a file, or of what is in it as far as it can be unpacked."""
    if content[:2] != b"\x1f\x8b":
        return len(content)
    try:
        return max(len(content), len(gzip.decompress(content)))
    except Exception:
        return len(content)


def outcome(load, path):
    """Read a file: "read" or "refused", the refusal in one sentence, and the memory within its bounds."""
    refusal, ended = None, "read"
    tracemalloc.start()
    try:
        load(path)
    except (ta.FileFormatError, train.RefusedError) as error:
        refusal, ended = str(error), "refused"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 3 * unpacked_size(path.read_bytes()) + SLACK
    if refusal is not None:
        assert str(path) in refusal or "step-00000001.safetensors" in refusal
        assert refusal.endswith(".")
        assert refusal.isprintable()
    return ended


def fire(loader, folder, count, **options):
    """Try `count` damaged files; returns how many were read and how many refused."""
    path, outcomes = Path(folder) / "file", Counter()
    functions, files = LOADERS[loader](folder)

    @given(files)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)
    def one(content):
        path.write_bytes(content)
        first, *_ = [outcome(function, path) for function in functions]
        outcomes[first] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that are not finite
        one()
    return outcomes


@pytest.mark.parametrize("loader", LOADERS)
def test_damaged_files(tmp_path, loader):
    outcomes = fire(loader, tmp_path, FEW, derandomize=True)
    assert outcomes["refused"] > FEW / 10  # the damage is real
    assert outcomes["read"] > 0  # and not all of it is hopeless


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADERS)
def test_thousands_of_damaged_files(tmp_path, loader):
    outcomes = fire(loader, tmp_path, MANY)
    assert outcomes.total() >= MANY
    print(f"\n{loader}: {outcomes.total()} damaged files, {outcomes['refused']} refused, {outcomes['read']} read")
