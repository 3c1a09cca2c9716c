"""Files that lie: whatever their bytes say, the answer is the data or one sentence, and little memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from answers import optional, torch
from toy_mnist import check, idx, pixels, put

import tinyattn as ta
from tinyattn.data import DataError, ImageDataset, load_mnist, read_idx
from tinyattn.files import serialization

save_file = optional("safetensors.torch").save_file


def assert_one_sentence(message, path, sentence):
    assert message.startswith(f"{path} ")
    assert sentence in message
    assert message.endswith(".")
    assert message.isprintable()
    assert ". " not in message.replace("...", "")
    assert len(message) < 600


def peak_of(function):
    """The most bytes of Python's own that were held at once, and what the function returned."""
    tracemalloc.start()
    try:
        result = function()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


# --- IDX -----------------------------------------------------------------------------------------

SMALL = idx(pixels(3, 4))
PACKED = gzip.compress(SMALL, mtime=0)
BAD = {
    "empty": (b"", "not an IDX file: it starts with nothing"),
    "a web page": (b"<!DOCTYPE html><html>", "not an IDX file: it starts with 3c 21 44 4f"),
    "wrong magic": (b"\1" + SMALL[1:], "not an IDX file: it starts with 01 00 08 02"),
    "no dimensions": (idx(pixels(1), magic=b"\0\0\x08\0", dims=()), "not an IDX file"),
    "too many dimensions": (b"\0\0\x08\xff" + bytes(2000), "not an IDX file"),
    "unknown type": (idx(pixels(3), magic=b"\0\0\x0a\1"), "IDX type 0a, not one of 08, 09"),
    "half a header": (SMALL[:9], "cut short: it ends within its header"),
    "no items": (idx(pixels(1), dims=(0, 2**32 - 1, 2**32 - 1)), "has no items"),
    "one byte short": (SMALL[:-1], "cut short: its header promises 24 bytes, but it has 23"),
    "one byte long": (SMALL + b"x", "too long: bytes follow the 24"),
    "2^31 items": (idx(pixels(3), dims=(2**31,)), "promises 2147483656 bytes, but it has 11"),
    "2^96 items": (idx(pixels(3), dims=(2**32 - 1,) * 3), "cut short"),
    "gzip: empty": (gzip.compress(b""), "not an IDX file: it starts with nothing"),
    "gzip: 2^31 items": (gzip.compress(idx(pixels(3), dims=(2**31,))), "cut short"),
    "gzip: one byte short": (gzip.compress(SMALL[:-1]), "cut short: its header promises 24"),
    "gzip: one byte long": (gzip.compress(SMALL + b"x"), "too long"),
    "gzip: cut": (PACKED[:-9], "cut short: its gzip data end without an end mark"),
    "gzip: cut in its header": (PACKED[:5], "cut short: its gzip data end"),
    "gzip: wrong checksum": (PACKED[:-8] + bytes(4) + PACKED[-4:], "damaged: CRC check failed"),
    "gzip: wrong size": (PACKED[:-4] + bytes(4), "damaged: Incorrect length"),
    "gzip: wrong method": (PACKED[:2] + b"\7" + PACKED[3:], "damaged: Unknown compression method"),
    "gzip: garbage inside": (PACKED[:10] + b"\xff" * 20, "damaged: Error -3"),
    "gzip: garbage after": (PACKED + b"garbage", "damaged: Not a gzipped file"),
    "gzip: twice in a row": (PACKED + PACKED, "too long: bytes follow the 24"),
    "gzip: in members, one byte short": (gzip.compress(SMALL[:10]) + gzip.compress(SMALL[10:-1]), "cut short"),
    "gzip: a second member cut short": (gzip.compress(SMALL[:10]) + gzip.compress(SMALL[10:])[:-9], "cut short"),
    "gzip: a name without end": (b"\x1f\x8b\x08\x08" + bytes(6) + b"a" * 100_000, "cut short"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_idx_file_is_one_sentence(tmp_path, kind):
    content, sentence = BAD[kind]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_idx(path)
    assert_one_sentence(str(error.value), path, sentence)


def test_read_idx_joins_gzip_members(tmp_path):
    (tmp_path / "file").write_bytes(b"".join(gzip.compress(SMALL[i : i + 5]) for i in range(0, len(SMALL), 5)))
    np.testing.assert_array_equal(read_idx(tmp_path / "file"), pixels(3, 4))


def names_that_are_no_files(folder):
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    return {
        folder: "is a folder, not a file",
        folder / "pipe": "is a device or a pipe, not a file",
        "/dev/zero": "is a device or a pipe, not a file",
        folder / "missing": "does not exist",
        folder / "pipe" / "below": "does not exist",
        folder / "loop": "cannot be read: Too many levels of symbolic links",
        folder / ("long" * 100): "cannot be read: File name too long",
        "nul\0byte": r"'nul\\x00byte' does not exist",
    }


@pytest.mark.parametrize("loader", [read_idx, ta.load, ta.load_metadata])
def test_a_path_that_is_no_file_is_refused(tmp_path, loader):
    for path, sentence in names_that_are_no_files(tmp_path).items():
        with pytest.raises(ta.FileFormatError, match=sentence) as error:
            loader(path)
        assert isinstance(error.value, FileNotFoundError) == (loader is not read_idx and "exist" in sentence)


@pytest.mark.parametrize("loader", [read_idx, ta.load, ta.load_metadata])
def test_an_unreadable_file_is_refused(tmp_path, monkeypatch, loader):
    path = tmp_path / "file"
    path.write_bytes(SMALL)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ta.FileFormatError, match="cannot be read: Permission denied"):
        loader(path)


def refused(loader, path):
    with pytest.raises(ta.FileFormatError) as error:
        loader(path)
    return str(error.value)


def test_a_file_that_lies_about_its_size_takes_no_memory(tmp_path):
    header = idx(pixels(3), dims=(50_000_000,))[:8]
    (tmp_path / "short").write_bytes(header + bytes(49_999_999))
    (tmp_path / "claims").write_bytes(gzip.compress(header))
    bomb = header[:4] + struct.pack(">I", 1000) + bytes(50_000_000)
    (tmp_path / "bomb").write_bytes(gzip.compress(bomb, compresslevel=1))
    del bomb
    for name in ("short", "claims", "bomb"):
        tracemalloc.start()
        with pytest.raises(DataError):
            read_idx(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5_000_000


@pytest.mark.parametrize("packed", [False, True])
def test_read_idx_takes_three_times_the_file_size(tmp_path, packed):
    content = idx(np.arange(1_000_000, dtype="f8"))
    (tmp_path / "file").write_bytes(gzip.compress(content, 1) if packed else content)
    peak, array = peak_of(lambda: read_idx(tmp_path / "file"))
    assert array[-1] == 999_999
    assert peak < 3 * len(content)


def test_images_and_labels_must_belong_together(toy, tmp_path):
    name = "train-labels-idx1-ubyte"
    folder = put(toy, tmp_path / "given")
    (folder / name).write_bytes(idx(pixels(49) % 10))
    assert "holds uint8 of shape (49,), but uint8 of shape (50,) is expected" in refused(load_mnist, folder)
    (folder / name).write_bytes(idx(pixels(50)))  # labels up to 255
    assert "is not MNIST's" in refused(load_mnist, folder)
    (folder / name).write_bytes(toy[name])
    check(load_mnist(folder), toy)


IMAGES, LABELS = np.zeros((3, 5, 5), np.uint8), np.array([0, 9, 5])


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            (IMAGES, LABELS[:2], IMAGES, LABELS),
            "toy: training labels of shape (2,) do not match images of shape (3, 5, 5)",
        ),
        ((IMAGES, LABELS, IMAGES[:2], LABELS), "toy: test labels of shape (3,) do not match images of shape (2, 5, 5)"),
        ((IMAGES[:, 0], LABELS, IMAGES, LABELS), "do not match images of shape (3, 5)"),
        (
            (IMAGES, LABELS + 1, IMAGES, LABELS),
            "toy: training label 10 at index 1 is not one of 0 to 9 (1 such labels)",
        ),
        ((IMAGES, LABELS, IMAGES, LABELS - 6), "toy: test label -6 at index 0 is not one of 0 to 9 (2 such labels)"),
    ],
)
def test_image_dataset_parts_must_fit(arrays, sentence):
    with pytest.raises(DataError) as error:
        ImageDataset("toy", *arrays)
    assert sentence in str(error.value)


# --- safetensors: the header ---------------------------------------------------------------------


def file_of(header, data=b"", length=None):
    """The bytes of a safetensors file, with a header and a length that may lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin=0, end=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


DATA = np.array([1, 2], "<f4").tobytes()
TWICE = b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2)
FIELD_TWICE = b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
HEADERS = {
    "empty": (b"", "is not a safetensors file: it has no header"),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "bytes, but 36 follow"),
    "seven bytes": (bytes(7), "it has no header"),
    "no header": (struct.pack("<Q", 0), "it has no header"),
    "no header, then data": (struct.pack("<Q", 1) + b"{}", "it has no header"),
    "a header of 2^64 - 1 bytes": (b"\xff" * 8 + b"{}", "its header claims 18446744073709551615 bytes, but 2 follow"),
    "one byte of the header missing": (file_of({"a": entry()})[:-1], "cut short, or not a safetensors file: its header claims 61 bytes, but 60 follow"),
    "a huge header": (file_of(b"{" + b" " * serialization.MAX_HEADER + b"}"), "has a header of 4194306 bytes, but at most 4194304 are allowed"),
    "no JSON": (file_of(b"{'a': 1}"), "its header is not valid JSON"),
    "half of JSON": (file_of(b'{"a": {"dtype"'), "its header is not valid JSON"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "its header is not UTF-8"),
    "UTF-16": (file_of("{}".encode("utf-16")), "its header is not UTF-8"),
    "a list": (file_of([1, 2]), "its header is not an object of tensors and a __metadata__ of strings"),
    "a number": (file_of(b"12"), "its header is not an object of tensors and a __metadata__ of strings"),
    "a number of 5,000 digits": (file_of(b"[" + b"1" * 5000 + b"]"), "its header is not valid JSON"),
    "100,000 brackets": (file_of(b"[" * 100_000), "its header is not valid JSON"),
    "a tensor that is a list": (file_of({"a": [1]}, DATA), "tensor 'a' has no dtype, shape and data_offsets"),
    "a tensor without dtype": (file_of({"a": {"shape": [2], "data_offsets": [0, 8]}}, DATA), "tensor 'a' has no dtype, shape and data_offsets"),
    "metadata that is a list": (file_of({"__metadata__": [1]}), "its header is not an object of tensors and a __metadata__ of strings"),
    "metadata with a number": (file_of({"__metadata__": {"a": 1}}), "its header is not an object of tensors and a __metadata__ of strings"),
    "a name twice": (file_of(TWICE, DATA), "its header has the key 'a' twice"),
    "a field twice": (file_of(FIELD_TWICE, DATA), "its header has the key 'dtype' twice"),
}  # fmt: skip
TENSORS = {
    "dtype": (entry(dtype="F31"), "tensor 'a' has dtype 'F31', not one of BOOL, U8"),
    "dtype of another size": (entry(dtype="F64"), "tensor 'a' is F64 of shape [2], which does not fit its 8 bytes"),
    "dtype that is no string": (entry(dtype=32), "has dtype 32, not one of"),
    "float8": (entry(dtype="F8_E4M3", shape=(8,)), "has dtype 'F8_E4M3', not one of"),
    "complex": (entry(dtype="C64", shape=(1,)), "has dtype 'C64', not one of"),
    "shape too large": (entry(shape=(3,)), "tensor 'a' is F32 of shape [3], which does not fit its 8 bytes"),
    "shape too small": (entry(shape=()), "tensor 'a' is F32 of shape [], which does not fit its 8 bytes"),
    "shape of 2^31 items": (entry(shape=(2**31,)), "is F32 of shape [2147483648], which does not fit its 8 bytes"),
    "shape beyond 64 bits": (entry(0, 0, shape=(0, 2**62, 2**62)), "which does not fit its 0 bytes"),
    "shape beyond 64 bits of bytes": (entry(0, 0, shape=(0, 2**62)), "which does not fit its 0 bytes"),
    "shape that overflows to 8 bytes": (entry(shape=(2**62 + 2,)), "which does not fit its 8 bytes"),
    "negative shape": (entry(shape=(-1, -2)), "tensor 'a' has an invalid shape or data_offsets"),
    "shape with a float": (entry(shape=(2.0,)), "tensor 'a' has an invalid shape or data_offsets"),
    "shape with true": (entry(shape=(2, True)), "tensor 'a' has an invalid shape or data_offsets"),
    "shape that is a number": (entry() | {"shape": 2}, "tensor 'a' has an invalid shape or data_offsets"),
    "33 dimensions": (entry(shape=(2, *[1] * 32)), "tensor 'a' has an invalid shape or data_offsets"),
    "a hole at the start": (entry(4, 12), "tensor 'a' has a gap before it"),
    "negative place": (entry(-4, 4), "tensor 'a' has an invalid shape or data_offsets"),
    "backwards": (entry(8, 0), "which does not fit its -8 bytes"),
    "beyond the end": (entry(0, 16, shape=(4,)), "it is cut short: its header describes 16 bytes of data, but there are 8"),
    "three offsets": (entry() | {"data_offsets": [0, 4, 8]}, "tensor 'a' has an invalid shape or data_offsets"),
    "bytes behind it": (entry(0, 4, shape=(1,)), "bytes follow its last tensor: its header describes 4 bytes of data, but there are 8"),
}  # fmt: skip
HEADERS |= {f"tensor: {kind}": (file_of({"a": fields}, DATA), words) for kind, (fields, words) in TENSORS.items()}
PAIRS = {
    "overlap": (entry(0, 8), entry(4, 12), "tensor 'b' overlaps another"),
    "the same bytes": (entry(0, 8), entry(0, 8), "tensor 'b' overlaps another"),
    "hole": (entry(0, 4, shape=(1,)), entry(8, 12, shape=(1,)), "tensor 'b' has a gap before it"),
    "one byte missing": (entry(0, 8), entry(8, 13, "U8", (5,)), "cut short"),
}
HEADERS |= {f"two: {kind}": (file_of({"a": a, "b": b}, bytes(12)), words) for kind, (a, b, words) in PAIRS.items()}
NAMES = [
    "", "../a", "a/../../b", "..", "/etc/passwd", "a//b", "a/", "./a", "..\\a", "C:\\a", "c:a", "~/a", "\\\\host\\a",
    "a\0b", "a\nb", "\x1b[2J", "\u202egpj", "\ud800", "\x7f", "a\u2028b",
]  # fmt: skip
HEADERS |= {
    f"name {name!r}": (file_of({name: entry()}, DATA), f"{name!r} is not a valid tensor name") for name in NAMES
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_bad_safetensors_file_is_one_sentence(tmp_path, kind):
    content, sentence = HEADERS[kind]
    path = tmp_path / "file"
    path.write_bytes(content)
    assert_one_sentence(refused(ta.load, path), path, sentence)
    assert_one_sentence(refused(ta.load_metadata, path), path, sentence)


def test_load_explains_a_file_of_torch_save(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "file")
    assert "(as torch.save writes), not a safetensors file; write it with safetensors.torch" in refused(
        ta.load, tmp_path / "file"
    )


def test_load_accepts_harmless_names(tmp_path):
    names = ["a", "blocks.0.weight", "encoder/layer_0/kernel:0", "größe", "a b", "..a", "a..b", "重み", "x" * 1000]
    entries = {name: entry(8 * i, 8 * i + 8) for i, name in enumerate(names)}
    (tmp_path / "file").write_bytes(file_of(entries, DATA * len(names)))
    assert list(ta.load(tmp_path / "file")) == names


def test_load_checks_the_header_before_a_byte_is_read(tmp_path):
    """A sparse file of 1 GiB whose header does not fit it: refused at once, with next to no memory."""
    for fields in (entry(0, 2**30), entry(4, 2**30, "U8", (2**30 - 4,)), entry(0, 2**30 - 1, "U8", (2**30 - 1,))):
        with open(tmp_path / "file", "wb") as file:
            file.write(file_of({"a": fields}))
            file.truncate(file.tell() + 2**30)
        peak, _ = peak_of(lambda: refused(ta.load, tmp_path / "file"))
        assert peak < 50_000 + io.DEFAULT_BUFFER_SIZE  # an open file's: 128 KiB from Python 3.14 on, 8 KiB before


def test_the_worst_header_that_is_read_takes_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_HEADER", 1 << 18)
    (tmp_path / "file").write_bytes(file_of(b'{"a":[' + b"[]," * (serialization.MAX_HEADER // 3 - 4) + b"[]]}"))
    assert peak_of(lambda: refused(ta.load, tmp_path / "file"))[0] < 25 * serialization.MAX_HEADER


@pytest.mark.parametrize("nested", [False, True])
def test_an_honest_safetensors_file_takes_little_more_than_its_size(tmp_path, nested):
    array = np.arange(3_000_000, dtype="f4")
    ta.save(tmp_path / "file", {"a": [ta.tensor(array)]} if nested else {"a": ta.tensor(array)})
    peak, loaded = peak_of(lambda: ta.load(tmp_path / "file"))
    np.testing.assert_array_equal((loaded["a"][0] if nested else loaded["a"]).numpy(), array)
    assert peak < 3 * array.nbytes


RESIDENT = """
import resource, sys
import tinyattn as ta
ta.load(sys.argv[2])  # what the libraries need themselves
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
state = ta.load(sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / state["a"].array.nbytes)
"""


def test_load_takes_little_resident_memory(tmp_path):
    """As before, but counting what is not Python's: the library's copy, which is let go of."""
    ta.save(tmp_path / "file", {"a": ta.ones(10_000_000)})
    ta.save(tmp_path / "small", {"a": ta.ones(1)})
    command = [sys.executable, "-c", RESIDENT, tmp_path / "file", tmp_path / "small"]
    assert float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 2.5


def test_load_refuses_a_file_that_shrinks_meanwhile(tmp_path, monkeypatch):
    path = tmp_path / "file"
    ta.save(path, {"a": ta.zeros(100_000)})  # more than one buffer
    read_header = serialization._read_header

    def then_shrink(file, name, size):
        found = read_header(file, name, size)
        os.truncate(path, 200)
        return found

    monkeypatch.setattr(serialization, "_read_header", then_shrink)
    assert "is not a valid safetensors file" in refused(ta.load, path)


# --- safetensors: the numbers --------------------------------------------------------------------


def test_load_refuses_booleans_other_than_0_and_1(tmp_path):
    (tmp_path / "file").write_bytes(file_of({"a": entry(0, 2, "BOOL")}, b"\1\2"))
    assert "tensor 'a' of BOOL holds other bytes than 0 and 1" in refused(ta.load, tmp_path / "file")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_one_warning(tmp_path, dtype, value):
    path = tmp_path / "file"
    tensor = torch.zeros(300_000, dtype=dtype)
    save_file({"fine": tensor, "whole": torch.zeros(3, dtype=torch.int64)}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ta.load(path)
    tensor[-1] = value
    save_file({"b": tensor, "a": tensor.clone(), "fine": torch.zeros(3)}, path)
    with pytest.warns(
        UserWarning, match=f"^{path}: tensor '[ab]' .and 1 more tensors. contains NaN or infinity.$"
    ) as caught:
        loaded = ta.load(path)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert loaded["a"][-1].item() == value or value != value


# --- the JSON beside the tensors -----------------------------------------------------------------


def state_file(text, tensors=("a",)):
    text = text if isinstance(text, str) else json.dumps({"version": 1, "state": text})
    entries = {name: entry(8 * i, 8 * i + 8) for i, name in enumerate(tensors)}
    return file_of({"__metadata__": {"tinyattn.state": text}} | entries, DATA * len(tensors))


DEEP = "[" * 500 + "]" * 500
STATES = {
    "no JSON": ("{", "its state is not valid JSON"),
    "not even brackets": ("", "its state is not valid JSON"),
    "a list": ("[1]", "its state is not an object of a version and a state"),
    "no version": ('{"state": 1}', "its state is not an object of a version and a state"),
    "a version to come": ('{"version": 2, "state": 1}', "its state has version 2, but only 1 is supported"),
    "no state": ('{"version": 1}', "its state is not an object of a version and a state"),
    "NaN": ('{"version": 1, "state": NaN}', "its state contains NaN, which is not valid JSON"),
    "a key twice": ('{"version": 1, "state": {"dict": {"x": 1, "x": 2}}}', "its state has the key 'x' twice"),
    "too deep": (f'{{"version": 1, "state": {DEEP}}}', "nested deeper than 100"),
    "far too deep": ("[" * 100_000, "its state is not valid JSON"),
    "an unknown kind": ({"object": "os.system"}, "its state contains {'object': 'os.system'}, which is of no known kind"),
    "two kinds at once": ({"dict": {}, "tuple": []}, "its state contains {'dict': {}, 'tuple': []}, which is of no known kind"),
    "no kind": ({}, "its state contains {}, which is of no known kind"),
    "a dict of a list": ({"dict": [1]}, "its state contains {'dict': [1]}, which is of no known kind"),
    "a tuple of a number": ({"tuple": 1}, "its state contains {'tuple': 1}, which is of no known kind"),
    "a tuple of letters": ({"tuple": "ab"}, "its state contains {'tuple': 'ab'}, which is of no known kind"),
    "a list in a set": ({"set": [[1]]}, "the set [[1]], with an invalid element"),
    "a set of letters": ({"set": "ab"}, "its state contains {'set': 'ab'}, which is of no known kind"),
    "a namespace of a list": ({"namespace": {"tuple": []}}, "{'tuple': []} where a namespace's attributes are expected"),
    "a namespace with a number for a name": ({"namespace": {"items": [[1, 2]]}}, "where a namespace's attributes are expected"),
    "items of one": ({"items": [[1]]}, "[1] where a key and a value are expected"),
    "items of letters": ({"items": ["ab"]}, "'ab' where a key and a value are expected"),
    "a list as key": ({"items": [[[1], 2]]}, "the key [1], which is invalid or a duplicate"),
    "a tensor as key": ({"items": [[{"tensor": "a"}, 2]]}, "which is invalid or a duplicate"),
    "one key twice": ({"items": [[1, 2], [True, 3]]}, "the key True, which is invalid or a duplicate"),
    "too deep to print": (f'{{"version": 1, "state": {{"x": {"[" * 900 + "]" * 900}}}}}', "which is of no known kind"),
    "a float that is none": ({"float": "1e5"}, "the float '1e5', not one of nan, inf, -inf"),
    "a tensor that is not there": ({"tensor": "b"}, "refers to tensor 'b', which is missing or already used"),
    "a tensor by number": ({"tensor": 0}, "its state contains {'tensor': 0}, which is of no known kind"),
    "a tensor by list": ({"tensor": ["a"]}, "its state contains {'tensor': ['a']}, which is of no known kind"),
    "a tensor twice": ([{"tensor": "a"}, {"tensor": "a"}], "refers to tensor 'a', which is missing or already used"),
    "a tensor left over": (1, "its state does not use tensor 'a'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STATES)
def test_a_bad_state_is_one_sentence(tmp_path, kind):
    text, sentence = STATES[kind]
    (tmp_path / "file").write_bytes(state_file(text))
    message = refused(ta.load, tmp_path / "file")
    assert_one_sentence(message, tmp_path / "file", sentence)
    assert "is damaged: " in message
