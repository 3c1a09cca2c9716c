"""A small MNIST for tests: four IDX files, the folders where they may lie, and what must come out of them."""

from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np
import pytest

from tinyattn.data import download, mnist

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array, *, magic=None, dims=None):
    """The bytes of an IDX file; with a magic number or dimensions that lie, if given."""
    code = CODES[array.dtype.str[1:]]
    dims = array.shape if dims is None else dims
    header = magic if magic is not None else bytes([0, 0, code, len(dims)])
    return header + struct.pack(f">{len(dims)}I", *dims) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def pixels(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A MNIST of 50 training and 30 test images of 16x16; an empty cache and work folder; no proxy."""
    arrays = (pixels(50, 16, 16), pixels(50) % 10, pixels(30, 16, 16), pixels(30) % 10)
    contents = {file.name: idx(array) for file, array in zip(mnist.FILES, arrays, strict=True)}
    files = tuple(
        mnist.File(file.name, array.shape, hashlib.sha256(contents[file.name]).hexdigest())
        for file, array in zip(mnist.FILES, arrays, strict=True)
    )
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.delenv(mnist.ENVIRONMENT, raising=False)
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setattr(download, "SCHEME", "http://")  # the mirrors are servers on this machine
    monkeypatch.setattr(mnist, "cache_folder", lambda: tmp_path / "cache")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return contents


def put(contents, folder, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def check(found, contents, name="MNIST"):
    assert found.name == name
    assert found.note == ""
    images = (found.train_images, found.test_images)
    labels = (found.train_labels, found.test_labels)
    for array, content in zip((images[0], labels[0], images[1], labels[1]), contents.values(), strict=True):
        np.testing.assert_array_equal(array.ravel(), np.frombuffer(content, "u1")[-array.size :])
    assert [a.dtype for a in images + labels] == [np.uint8, np.uint8, np.int64, np.int64]
    assert [a.shape for a in images + labels] == [(50, 16, 16), (30, 16, 16), (50,), (30,)]
    assert all(a.flags.writeable for a in images + labels)
