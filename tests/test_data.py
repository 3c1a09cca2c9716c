"""Data: IDX files, where MNIST is looked for, the digits, batches, shifts."""

from __future__ import annotations

import doctest
import gzip
import importlib
import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
from answers import torch
from toy_mnist import CODES, check, idx, pixels, put

import tinyattn as ta
from tinyattn import extras
from tinyattn.data import DataError, DataLoader, TensorDataset, load, load_digits, load_mnist, random_shift, read_idx

# --- IDX -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4), (2, 3, 4, 5)])
def test_read_idx_returns_dtype_shape_and_values(tmp_path, dtype, shape, packed):
    array = (np.random.default_rng(0).standard_normal(shape) * 100).astype(dtype)
    path = tmp_path / "any.name"  # what the file is called does not matter
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    read = read_idx(path)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.dtype(dtype)
    assert read.flags.writeable


# --- where MNIST is looked for -------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("way", ["data_dir", "environment", "cache", "./data"])
def test_load_mnist_finds_every_folder_and_layout(toy, tmp_path, monkeypatch, way, layout, packed):
    folder = {"cache": tmp_path / "cache", "./data": Path("data")}.get(way, tmp_path / "given")
    put(toy, folder / layout, packed)
    if way == "environment":
        monkeypatch.setenv("TINYATTN_DATA", str(folder))
    check(load_mnist(folder if way == "data_dir" else None), toy)
    check(load("auto", str(folder) if way == "data_dir" else None), toy)


def test_data_dir_precedes_the_environment_and_the_cache(toy, tmp_path, monkeypatch):
    put(toy, tmp_path / "cache")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("TINYATTN_DATA", str(empty))
    with pytest.raises(DataError, match=f"^TINYATTN_DATA {empty} lacks train-images"):
        load_mnist()
    check(load_mnist(tmp_path / "cache"), toy)
    with pytest.raises(DataError, match=f"^data_dir {empty} lacks train-images"):
        load_mnist(empty)
    monkeypatch.setenv("TINYATTN_DATA", "")  # set to nothing is not set
    check(load_mnist(), toy)


def test_load_mnist_expands_the_home_folder(toy, tmp_path, monkeypatch):
    put(toy, tmp_path / "digits")
    monkeypatch.setenv("HOME", str(tmp_path))
    check(load_mnist("~/digits"), toy)


def test_load_mnist_names_the_files_a_folder_lacks(toy, tmp_path):
    for folder, state in ((tmp_path, "lacks"), (tmp_path / "no", "is not a folder and so lacks")):
        with pytest.raises(DataError) as error:
            load_mnist(folder)
        assert str(error.value) == (
            f"data_dir {folder} {state} train-images-idx3-ubyte, train-labels-idx1-ubyte,"
            " t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (each was searched for with and without .gz,"
            " in the folder itself, in MNIST/raw and in raw)."
        )
    del toy["t10k-labels-idx1-ubyte"]
    put(toy, tmp_path)
    with pytest.raises(DataError, match="lacks t10k-labels-idx1-ubyte \\("):
        load_mnist(tmp_path)


def test_files_of_another_data_set_are_refused(toy, tmp_path):
    name = "t10k-images-idx3-ubyte"
    folder = put(toy, tmp_path / "given")
    (folder / name).write_bytes(idx(pixels(30, 16, 16) ^ 1))
    with pytest.raises(DataError, match=f"{name} is not MNIST's: the SHA-256 of its unpacked"):
        load_mnist(folder)
    (folder / name).write_bytes(idx(pixels(30, 5, 4)))
    with pytest.raises(DataError, match=r"shape \(30, 5, 4\), but uint8 of shape \(30, 16, 16\) is expected"):
        load_mnist(folder)
    (folder / f"{name}.gz").write_bytes(gzip.compress(toy[name]))  # a whole one beside it will do
    check(load_mnist(folder), toy)


REAL = [os.environ.get("TINYATTN_DATA"), Path(__file__).parents[2] / "shared" / "mnist"]
REAL = next((Path(f) for f in REAL if f and list(Path(f).glob("**/train-images-idx3-ubyte*"))), None)


@pytest.mark.skipif(REAL is None, reason="needs MNIST in TINYATTN_DATA")
def test_load_mnist_on_the_real_files():
    found = load_mnist(REAL)
    assert found.train_images.shape == (60000, 28, 28)
    assert found.test_images.shape == (10000, 28, 28)
    assert found.train_labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert np.bincount(found.test_labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    assert abs(found.train_images.mean() / 255 - 0.1307) < 1e-4


def test_load_mnist_without_download_raises(toy, tmp_path):
    with pytest.raises(DataError, match="download=False forbids to download it"):
        load_mnist(download=False)
    put(toy, tmp_path / "cache")
    (tmp_path / "cache/train-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="train-labels-idx1-ubyte is not an IDX file"):
        load_mnist(download=False)


def test_load_refuses_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="data is 'cifar', but it must be"):
        load("cifar")
    with pytest.raises(ValueError, match="the digits come with scikit-learn"):
        load("digits", tmp_path)


@pytest.mark.parametrize("package", ["pooch", "sklearn"])
def test_a_missing_data_package_names_the_extra(toy, monkeypatch, package):
    monkeypatch.undo()
    import_module = extras.importlib.import_module

    def without(name, *args):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}")
        return import_module(name, *args)

    monkeypatch.setattr(extras.importlib, "import_module", without)
    monkeypatch.delenv("TINYATTN_DATA", raising=False)
    with pytest.raises(ImportError, match=rf'needs {package} .*pip install "tinyattn\[train\]"'):
        load_mnist() if package == "pooch" else load_digits()


# --- digits --------------------------------------------------------------------------------------


def test_digits_look_like_mnist_and_split_alike():
    from sklearn.datasets import load_digits as original

    found, again, source = load_digits(), load("digits"), original()
    assert found.train_images.shape == (1442, 28, 28)
    assert found.test_images.shape == (355, 28, 28)
    assert found.train_images.dtype == np.uint8
    assert found.train_labels.dtype == np.int64
    both = np.concatenate([found.train_labels, found.test_labels])
    assert np.bincount(both).tolist() == np.bincount(source.target).tolist()
    share = np.bincount(found.test_labels) / np.bincount(both)
    assert share.min() > 0.19
    assert share.max() <= 0.2
    np.testing.assert_array_equal(found.test_images, again.test_images)
    assert found.train_images.max() == 255
    assert found.train_images[:, 4:24, 4:24].any()
    frame = found.train_images.copy()
    frame[:, 4:24, 4:24] = 0
    assert not frame.any()  # 20x20 amid 28x28, as in MNIST
    small = found.train_images[0, 4:24, 4:24].reshape(10, 2, 10, 2).mean((1, 3))  # the first is the first
    big = np.kron(source.images[0], np.ones((5, 5))).reshape(10, 4, 10, 4).mean((1, 3)) * 255 / 16
    assert np.corrcoef(small.ravel(), big.ravel())[0, 1] > 0.97


def test_validation_split_holds_out_training_images():
    whole = load_digits()
    split = whole.validation_split(200, seed=1)
    assert split.name == "digits (scikit-learn, not MNIST), 200 training images held out"
    assert len(split.train_images) == 1242
    assert len(split.test_labels) == 200
    parts = np.concatenate([split.train_images, split.test_images]).reshape(-1, 784)
    key = np.lexsort(parts.T), np.lexsort(whole.train_images.reshape(-1, 784).T)
    np.testing.assert_array_equal(parts[key[0]], whole.train_images.reshape(-1, 784)[key[1]])
    np.testing.assert_array_equal(split.test_labels, whole.validation_split(200, seed=1).test_labels)
    assert (split.test_labels != whole.validation_split(200, seed=2).test_labels).any()
    for count in (0, 1442):
        with pytest.raises(ValueError, match="1 to 1441 can be held out"):
            whole.validation_split(count)


# --- batches -------------------------------------------------------------------------------------

X, Y = np.random.default_rng(0).random((10, 3), dtype=np.float32), np.arange(10)


def ids(batches):
    return [y.tolist() for _, y in batches]


def flat(lists):
    return list(itertools.chain(*lists))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 11])
@pytest.mark.parametrize("kind", ["tuple of arrays", "TensorDataset", "items", "tuple of tensors"])
def test_dataloader_batches_equal_torchs(kind, batch_size, drop_last):
    dataset = {
        "tuple of arrays": (X, Y),
        "tuple of tensors": (ta.tensor(X), ta.tensor(Y)),
        "TensorDataset": TensorDataset(X, ta.tensor(Y)),
        "items": [(x, int(y)) for x, y in zip(X, Y, strict=True)],
    }[kind]
    ours = DataLoader(dataset, batch_size, drop_last=drop_last)
    same = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    theirs = torch.utils.data.DataLoader(same, batch_size, drop_last=drop_last)
    assert len(ours) == len(theirs)
    for _ in range(2):  # a loader can be gone through again
        batches = list(ours)
        assert len(batches) == len(theirs)
        for mine, other in zip(batches, theirs, strict=True):
            assert isinstance(mine, list) and isinstance(other, list)
            for a, b in zip(mine, other, strict=True):
                assert isinstance(a, ta.Tensor)
                assert str(b.dtype) == f"torch.{a.dtype}"
                np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_dataloader_stacks_items_of_any_kind():
    assert [b.tolist() for b in DataLoader(Y, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [b.tolist() for b in DataLoader(ta.tensor(Y[:2]))] == [[0], [1]]
    assert [b.dtype for b in DataLoader([0.5, 1.5], 2)] == [ta.float64]  # as torch's default_collate
    (batch,) = DataLoader([{"a": ta.tensor([i]), "b": [i, True]} for i in range(3)], 3)
    assert batch["a"].tolist() == [[0], [1], [2]]
    assert batch["b"][1].dtype == ta.bool
    assert list(DataLoader([], 2)) == [] == list(DataLoader(np.zeros((0, 3)), 2, shuffle=True))
    assert TensorDataset(X, Y)[3][1].item() == 3
    assert len(TensorDataset(X)) == 10


def test_dataloader_batches_in_order_are_views():
    for x, _ in DataLoader((X, Y), 4):
        assert np.shares_memory(x.array, X)
    for x, _ in DataLoader((X, Y), 4, shuffle=True):
        assert not np.shares_memory(x.array, X)


def test_dataloader_shuffling_is_repeated_by_its_seed():
    def two_passes(seed):
        loader = DataLoader((X, Y), 4, shuffle=True, generator=ta.Generator().manual_seed(seed))
        return ids(loader), ids(loader)

    first, second = two_passes(7)
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(10))
    assert first != second
    assert first != ids(DataLoader((X, Y), 4))
    assert two_passes(7) == (first, second)
    assert two_passes(8) != (first, second)
    for x, y in DataLoader((X, Y), 4, shuffle=True):
        np.testing.assert_array_equal(x.numpy(), X[y.numpy()])  # rows stay together


def test_dataloader_shuffling_draws_nothing_from_the_global_generator():
    def order_and_next_number(shuffle):
        ta.manual_seed(3)
        loader = DataLoader((X, Y), 4, shuffle=shuffle)
        return ids(loader), ta.rand(3).tolist()

    assert order_and_next_number(True) == order_and_next_number(True)
    assert order_and_next_number(True)[1] == order_and_next_number(False)[1]
    ta.manual_seed(3)
    same = ta.default_generator.random.permutation(10).tolist()
    assert flat(order_and_next_number(True)[0]) != same  # nor does it repeat its numbers


def test_dataloader_passes_can_be_interleaved():
    loader = DataLoader((X, Y), 4, shuffle=True)
    pairs = list(zip(loader, loader, strict=True))
    for side in (0, 1):
        assert sorted(flat(ids(pair[side] for pair in pairs))) == list(range(10))


def test_dataloader_transform_replaces_the_batch():
    loader = DataLoader((X, Y), 4, transform=lambda x, y: (x * 2, y))
    np.testing.assert_array_equal(next(iter(loader))[0].numpy(), X[:4] * 2)
    assert [b.tolist() for b in DataLoader(Y[:3], 2, transform=lambda y: y + 1)] == [[1, 2], [3]]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stop", range(11))
def test_dataloader_resumes_within_a_pass(shuffle, stop):
    def make(seed):
        generator = ta.Generator().manual_seed(seed)

        def noise(x, y):  # a transform may draw from the loader's own generator
            return x, y + 10 * generator.random.integers(100, size=len(y))

        return DataLoader((X, Y), 4, shuffle=shuffle, generator=generator, transform=noise)

    loader = make(0)
    straight = ids(loader) + ids(loader) + ids(loader) + ids(loader)
    stopped, batches, passes = make(0), [], 0
    while len(batches) < stop:
        for _, y in stopped:
            batches.append(y.tolist())
            if len(batches) == stop:
                break
        else:
            passes += 1
    state = stopped.state_dict()
    resumed = make(99)
    resumed.load_state_dict(state)
    while passes < 4:
        batches += ids(resumed)
        passes += 1
    assert batches == straight


def test_dataloader_state_between_passes_begins_the_next():
    loader = DataLoader((X, Y), 4, shuffle=True)
    before = loader.state_dict()
    first = ids(loader)
    between = loader.state_dict()
    second = ids(loader)
    resumed = DataLoader((X, Y), 4, shuffle=True, generator=ta.Generator())
    resumed.load_state_dict(between)
    assert ids(resumed) == second
    resumed.load_state_dict(before)
    assert [ids(resumed), ids(resumed)] == [first, second]


def test_dataloader_refuses_wrong_arguments():
    loader = DataLoader((X, Y), 4)
    for wrong, error, sentence in [
        (lambda: DataLoader((X, Y), 0), ValueError, "batch_size is 0, but it must be 1 or more"),
        (lambda: DataLoader((X, Y), 2.5), TypeError, "float"),
        (lambda: DataLoader((X, Y[:9])), ValueError, r"got shapes \[\(10, 3\), \(9,\)\]"),
        (lambda: TensorDataset(), ValueError, r"got shapes \[\]"),
        (lambda: TensorDataset(np.zeros(())), ValueError, r"got shapes \[\(\)\]"),
        (lambda: DataLoader(7), TypeError, "but got int"),
        (lambda: next(iter(DataLoader([{1}, {2}]))), TypeError, "cannot stack items of type set"),
        (lambda: loader.load_state_dict({"position": 4}), ValueError, "at batch 4, .* has 3"),
    ]:
        with pytest.raises(error, match=sentence):
            wrong()


# --- shifts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 7, 9), (4, 3, 6, 5), (1, 1, 1), (2, 2, 2, 3, 3), (0, 4, 4)])
@pytest.mark.parametrize("max_shift", [0, 1, 2, 5])
def test_random_shift_equals_a_loop_over_pixels(shape, dtype, max_shift):
    images = (np.random.default_rng(0).random(shape) * 255 + 1).astype(dtype)
    kept = images.copy()
    shifted = random_shift(images, max_shift, ta.Generator().manual_seed(1))
    offsets = ta.Generator().manual_seed(1).random.integers(0, 2 * max_shift + 1, (2, shape[0]))
    expected = np.zeros_like(images)
    for n, (down, right) in enumerate((offsets - max_shift).T):
        for row in range(shape[-2]):
            for column in range(shape[-1]):
                if 0 <= row + down < shape[-2] and 0 <= column + right < shape[-1]:
                    expected[n, ..., row, column] = images[n, ..., row + down, column + right]
    np.testing.assert_array_equal(shifted, expected)
    np.testing.assert_array_equal(images, kept)
    assert shifted.dtype == images.dtype
    assert shifted.flags.c_contiguous
    assert not np.shares_memory(shifted, images)


def test_random_shift_draws_every_offset_from_its_generator():
    points = np.zeros((2000, 5, 5), np.float32)
    points[:, 2, 2] = 1
    shifted = random_shift(points, 2, ta.Generator().manual_seed(0))
    counts = shifted.sum(0)
    assert counts.sum() == 2000
    assert counts.min() > 40
    as_tensor = random_shift(ta.tensor(points), 2, ta.Generator().manual_seed(0))
    assert isinstance(as_tensor, ta.Tensor)
    assert as_tensor.dtype == ta.float32
    np.testing.assert_array_equal(as_tensor.numpy(), shifted)
    ta.manual_seed(0)
    np.testing.assert_array_equal(random_shift(points), shifted)  # the default is the global one
    assert (random_shift(points) != shifted).any()


def test_random_shift_takes_under_a_millisecond():
    images = np.zeros((128, 28, 28), np.float32)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        random_shift(images)
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3


def test_random_shift_refuses_wrong_arguments():
    for images, max_shift in ((np.zeros((28, 28)), 2), (np.zeros((1, 28, 28)), -1)):
        with pytest.raises(ValueError, match="random_shift: got images of shape"):
            random_shift(images, max_shift)


# --- docstrings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data.idx", "data.loader", "data.augment", "files.serialization"])
def test_docstring_examples_of_data_and_files_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(f"tinyattn.{name}"), extraglobs={"ta": ta})
    assert done.attempted
    assert not done.failed
