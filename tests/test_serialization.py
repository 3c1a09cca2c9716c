"""ta.save and ta.load: what goes in comes out, torch reads it, and a failure costs nothing."""

from __future__ import annotations

import errno
import io
import math
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import safetensors.numpy
from answers import optional, torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinyattn as ta
from tinyattn import extras
from tinyattn.files import whole as files
from tinyattn.models import AttentionClassifier

load_file, save_file = optional("safetensors.torch").load_file, optional("safetensors.torch").save_file
DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


def numbers(dtype, shape):
    return (np.random.default_rng(0).standard_normal(shape) * 100).astype(dtype)


def same(a, b):
    """Whether two states are equal in kinds, order, dtypes, shapes and bits."""
    if isinstance(a, ta.Tensor | np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        return type(a) is type(b) and x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(*each) for pair in zip(a.items(), b.items(), strict=True) for each in zip(*pair, strict=True)
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Namespace):
        return same(vars(a), vars(b))
    return a == b or (a != a and b != b)


# --- plain files: names and tensors --------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (4, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_save_and_load_exchange_files_with_torch(tmp_path, dtype, shape):
    path = tmp_path / "file"
    array = numbers(dtype, shape)
    ta.save(path, {"b": ta.tensor(array), "a.weight": ta.tensor(array.T)})
    theirs = load_file(path)
    assert sorted(theirs) == ["a.weight", "b"]
    for ours, tensor in ((array, theirs["b"]), (array.T, theirs["a.weight"])):
        assert str(tensor.dtype) == f"torch.{ours.dtype}"
        assert tensor.shape == ours.shape
        np.testing.assert_array_equal(tensor.numpy(), ours)
    save_file({"b": torch.tensor(array), "a.weight": torch.tensor(array.T.copy())}, path, {"format": "pt"})
    loaded = ta.load(path)
    assert same(
        {name: loaded[name] for name in ("b", "a.weight")}, {"b": ta.tensor(array), "a.weight": ta.tensor(array.T)}
    )
    assert ta.load_metadata(path) == {"format": "pt"}
    assert all(t.array.flags.writeable and t.array.flags.c_contiguous and not t.requires_grad for t in loaded.values())


def test_load_reads_unsigned_integers(tmp_path):
    arrays = {dtype: np.arange(3, dtype=dtype) for dtype in ("uint16", "uint32", "uint64")}
    safetensors.numpy.save_file(arrays, tmp_path / "file")
    loaded = ta.load(tmp_path / "file")
    assert {name: (str(t.dtype), t.tolist()) for name, t in loaded.items()} == {d: (d, [0, 1, 2]) for d in arrays}


def test_load_converts_bfloat16_to_float32_exactly(tmp_path):
    bits = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)  # all there are
    save_file({"a": bits}, tmp_path / "file")
    with pytest.warns(UserWarning, match="contains NaN or infinity"):
        loaded = ta.load(tmp_path / "file")["a"]
    assert loaded.dtype == ta.float32
    np.testing.assert_array_equal(loaded.numpy(), bits.float().numpy())


def test_saved_modules_compute_the_same_in_torch(tmp_path):
    model = ta.nn.Sequential(ta.nn.Linear(5, 4), ta.nn.ReLU(), ta.nn.LayerNorm(4))
    twin = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.LayerNorm(4))
    x = numbers("float32", (3, 5))
    ta.save(tmp_path / "ours", model.state_dict())
    twin.load_state_dict(load_file(tmp_path / "ours"))
    np.testing.assert_allclose(model(ta.tensor(x)).detach().numpy(), twin(torch.tensor(x)).detach().numpy(), atol=1e-6)
    other = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.LayerNorm(4))
    save_file(other.state_dict(), tmp_path / "theirs")
    model.load_state_dict(ta.load(tmp_path / "theirs"))
    np.testing.assert_allclose(model(ta.tensor(x)).detach().numpy(), other(torch.tensor(x)).detach().numpy(), atol=1e-6)


def test_loading_a_wrong_state_dict_changes_nothing(tmp_path):
    model = ta.nn.Linear(3, 2)
    before = model.weight.numpy().copy()
    ta.save(tmp_path / "file", {"weight": ta.zeros(2, 4), "bais": ta.zeros(2)})
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(ta.load(tmp_path / "file"))
    for part in (
        "'bias' is missing (nearest given: 'bais')",
        "'bais' is unexpected",
        "has shape (2, 4), but here it is (2, 3)",
    ):
        assert part in str(error.value)
    np.testing.assert_array_equal(model.weight.numpy(), before)


def test_save_of_tensors_writes_a_plain_file(tmp_path):
    ta.save(tmp_path / "file", {"a": ta.zeros(2)})
    content = (tmp_path / "file").read_bytes()
    assert b"tinyattn" not in content
    assert content == safetensors.numpy.save({"a": np.zeros(2, "f4")})


# --- any state -----------------------------------------------------------------------------------

Point = namedtuple("Point", "x y")
SCALARS = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats() | st.text()
ARRAYS = st.sampled_from(DTYPES[:6] + DTYPES[7:]).flatmap(
    lambda d: hnp.arrays(
        d,
        hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
        elements={"allow_nan": False, "allow_infinity": False} if d[0] == "f" else None,
    )
)
KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())


def namespace(options):
    found = Namespace()
    vars(found).update(options)
    return found


STATES = st.recursive(
    SCALARS | ARRAYS | ARRAYS.map(ta.tensor),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4).map(namespace)
        | st.sets(KEYS, max_size=4)
    ),
    max_leaves=20,
)


@given(STATES)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_state_comes_back_as_it_was(tmp_path, state):
    ta.save(tmp_path / "file", state, {"about": "größe"})
    plain = isinstance(state, dict) and all(isinstance(value, ta.Tensor) for value in state.values())
    loaded = ta.load(tmp_path / "file")
    if plain:  # the format orders its tensors as it likes
        loaded = {key: loaded[key] for key in state}
    assert same(loaded, state)
    assert ta.load_metadata(tmp_path / "file") == {"about": "größe"}
    load_file(tmp_path / "file")  # torch finds the tensors, whatever they are called


@given(
    st.permutations(["weight", "bias", "b.weight", "a.bias", "running"]),
    st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_load_keeps_the_order_of_names(tmp_path_factory, names, doubles):
    path = tmp_path_factory.mktemp("order") / "state.safetensors"
    state = {n: ta.ones(2, dtype="float64" if double else "float32") for n, double in zip(names, doubles, strict=True)}
    ta.save(path, state)
    assert [*ta.load(path)] == names
    assert {*safetensors.numpy.load_file(path)} == {*names}


def test_a_path_in_a_state_is_saved_as_a_string(tmp_path):
    ta.save(tmp_path / "file", {"args": Namespace(out=tmp_path / "runs", lr=0.1)})
    assert ta.load(tmp_path / "file") == {"args": Namespace(out=str(tmp_path / "runs"), lr=0.1)}


def test_save_keeps_extreme_numbers(tmp_path):
    state = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 2**4096 - 1, -(2**64), True, 0, ""]
    ta.save(tmp_path / "file", state)
    loaded = ta.load(tmp_path / "file")
    assert same(loaded, state)
    assert math.copysign(1, loaded[3]) == -1


def test_load_returns_plain_numbers_and_containers(tmp_path):
    state = {
        "ordered": OrderedDict(b=1, a=2),
        "named": Point(1, 2.5),
        "numpy": [np.float32(0.5), np.int8(3), np.bool_(True), np.str_("x")],
        np.int64(5): 1,
    }
    ta.save(tmp_path / "file", state)
    assert same(
        ta.load(tmp_path / "file"), {"ordered": {"b": 1, "a": 2}, "named": (1, 2.5), "numpy": [0.5, 3, True, "x"], 5: 1}
    )


def test_save_takes_any_layout_and_byte_order(tmp_path):
    array = np.arange(12, dtype=">f4").reshape(3, 4)[:, ::2]
    array.flags.writeable = False
    weight = ta.nn.Parameter(ta.ones(2, 3))
    ta.save(
        tmp_path / "file", {"a": array, "t": (weight * 2).T, "p": weight, "torch": torch.ones(2, requires_grad=True)}
    )
    loaded = ta.load(tmp_path / "file")
    ta.save(tmp_path / "plain", {"t": (weight * ta.arange(3)).T, "strided": ta.arange(9)[::2]})
    assert {name: t.tolist() for name, t in ta.load(tmp_path / "plain").items()} == {
        "t": [[0, 0], [1, 1], [2, 2]], "strided": [0, 2, 4, 6, 8],
    }  # fmt: skip
    assert loaded["a"].dtype == np.dtype("=f4")
    np.testing.assert_array_equal(loaded["a"], array)
    assert loaded["t"].tolist() == [[2, 2]] * 3
    assert {type(loaded[name]) for name in ("t", "p", "torch")} == {ta.Tensor}
    assert not loaded["p"].requires_grad


def test_save_names_tensors_after_their_place(tmp_path):
    t = ta.zeros(1)
    keys = {
        "model": {"blocks.0.weight": t},
        "optimizer": {"state": {0: {"step": t}}},
        "list": [t, (t,)],
        "a": {"b": t},
        "a.b": t,
    }
    bad = {"": t, "..": t, "../x": t, "__metadata__": t, "\n": t, "\ud800": t}
    ta.save(tmp_path / "file", keys | bad)
    names = ["model.blocks.0.weight", "optimizer.state.0.step", "list.0", "list.1.0", "a.b", "a.b_2"]
    names += ["tensor_", "tensor_..", ".._x", "tensor___metadata__", "_", "__2"]
    assert sorted(load_file(tmp_path / "file")) == sorted(names)
    assert same(ta.load(tmp_path / "file"), keys | bad)


def test_saved_training_resumes_bit_for_bit(tmp_path):
    """Weights, optimizer, schedule and generator in one file: the steps after it repeat bit for bit."""

    def parts():
        model = AttentionClassifier(num_layers=1, hidden_dim=16, mlp_dim=16)
        optimizer = ta.optim.AdamW(model.parameters(), lr=0.01)
        return model, optimizer, ta.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10), ta.Generator().manual_seed(1)

    def go(model, optimizer, schedule, generator):
        for _ in range(3):
            optimizer.zero_grad()
            model(ta.rand(4, 28, 28, generator=generator)).square().mean().backward()
            optimizer.step()
            schedule.step()
        return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])

    one, other = parts(), parts()
    go(*one)
    ta.save(tmp_path / "file", {"parts": [part.state_dict() for part in one[:3]], "generator": one[3].get_state()})
    loaded = ta.load(tmp_path / "file")
    for part, state in zip(other, loaded["parts"], strict=False):
        part.load_state_dict(state)
    other[3].set_state(loaded["generator"])
    assert go(*one).tobytes() == go(*other).tobytes()


def test_save_takes_either_order_and_open_files(tmp_path):
    state = {"epoch": 3, "weights": {"w": ta.ones(2)}}
    path = tmp_path / "state.pt"
    for first, second in ((path, state), (state, path), (str(path), state), (state, str(path))):
        path.unlink(missing_ok=True)
        ta.save(first, second)
        assert repr(ta.load(path, weights_only=True)) == repr(state)
    ta.save(str(path), "a string")  # of two strings, the first is the path
    assert ta.load(path) == "a string"
    buffer = io.BytesIO()
    buffer.write(b"before")
    ta.save(state, buffer)
    buffer.seek(6)
    assert repr(ta.load(buffer)) == repr(state)
    with open(path, "wb") as file:
        ta.save(state, file)
    with open(path, "rb") as file:
        assert repr(ta.load(file, "cpu", weights_only=False)) == repr(state)
    with open(path, "r+b") as file:
        file.truncate(40)
    with open(path, "rb") as file, pytest.raises(ta.FileFormatError, match=r"state.pt is cut short"):
        ta.load(file)


@pytest.mark.parametrize("where", ["cpu", ta.device("cpu"), None, {"cuda:0": "cpu"}, lambda storage, place: storage])
def test_load_takes_map_location_as_torch(tmp_path, where):
    ta.save(tmp_path / "a", {"deep": [(ta.ones(2), 1)]})
    assert ta.load(tmp_path / "a", map_location=where)["deep"][0][0].device == "cpu"


@pytest.mark.slow
def test_load_moves_tensors_to_a_gpu(tmp_path, gpu):
    ta.save(tmp_path / "a", {"deep": [(ta.ones(2), 1)]})
    ((tensor, number),) = ta.load(tmp_path / "a", map_location="cuda")["deep"]
    assert (tensor.is_cuda, tensor.tolist(), number) == (True, [1.0, 1.0], 1)


def test_load_refuses_unknown_options(tmp_path):
    with pytest.raises(TypeError, match=r"ta\.load has no option 'weight_only'"):
        ta.load(tmp_path / "a", weight_only=True)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (ta.nn.Linear(1, 1), "ta.save: the state is a Linear, but a state holds tensors.*; save its state_dict"),
        ({"a": [1, {b"x"}]}, r"ta.save: the state\['a'\]\[1\] is a set, but"),
        ({"a": print}, r"ta.save: the state\['a'\] is a builtin_function_or_method, but"),
        ({"a": b"x"}, r"ta.save: the state\['a'\] is a bytes, but"),
        ({"a": 1j}, r"ta.save: the state\['a'\] is a complex, but"),
        ({"a": np.array(["x"])}, r"ta.save: the state\['a'\] is not a tensor that can be saved"),
        ({"a": np.array([None])}, r"ta.save: the state\['a'\] is not a tensor that can be saved"),
        ({"a": np.zeros(2, complex)}, r"ta.save: the state\['a'\] is not a tensor that can be saved"),
        ({"a": torch.zeros(2).bfloat16()}, r"ta.save: the state\['a'\] is not a tensor that can be saved .*BFloat16"),
        ({"x": {ta.zeros(1): 1}}, r"ta.save: the state\['x'\] has a key of type Tensor; use a string"),
        ({(1, b"x"): 1}, "ta.save: the state has a key of type tuple; use a string"),
        ([[2**5000]], r"ta.save: the state\[0\]\[0\] is an integer of more than 4096 bits"),
        (
            {"a": "x" * 2**22},
            "ta.save: names, numbers and strings take 4194[0-9]* bytes, but at most 4194304 are allowed",
        ),
    ],
)
def test_save_refuses_other_objects_and_writes_nothing(tmp_path, state, sentence):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises((TypeError, ValueError), match=sentence) as error:
        ta.save(tmp_path / "file", state)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_save_refuses_a_state_that_contains_itself(tmp_path):
    circle = []
    circle.append({"again": circle})
    with pytest.raises(ValueError, match="is nested deeper than 100, or contains itself"):
        ta.save(tmp_path / "file", circle)


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"tinyattn.state": "x"}])
def test_save_refuses_wrong_metadata(tmp_path, metadata):
    with pytest.raises(TypeError, match="metadata must be a mapping from strings to strings"):
        ta.save(tmp_path / "file", {}, metadata)


@pytest.mark.parametrize("function", [lambda path: ta.save(path, {}), ta.load])
def test_a_missing_safetensors_names_the_extra(tmp_path, monkeypatch, function):
    def without(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(extras.importlib, "import_module", without)
    with pytest.raises(ImportError, match=r'^ta\.(save|load) needs safetensors .*: pip install "tinyattn\[train\]"\.$'):
        function(tmp_path / "file")
    assert os.listdir(tmp_path) == []


# --- whole or not at all -------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path):
    """A file that is there already, and a check that it still is, alone and as it was."""
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    ta.save(path, {"old": ta.ones(3)})
    content = path.read_bytes()
    yield path
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("stage", ["open", "fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_stage_leaves_the_old_file(old, monkeypatch, stage, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(files.os, stage, fail)
    with pytest.raises(type(error)) as caught:
        ta.save(old, {"new": ta.zeros(3)})
    monkeypatch.undo()
    if isinstance(error, OSError):
        assert str(caught.value) == f"[Errno 28] No space left on device: '{old}'"


FULL = """
import resource, sys
import tinyattn as ta
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # a disk that is full after 50 kB
try:
    ta.save(sys.argv[1], {"new": ta.zeros(100_000)})
except OSError as error:
    print(error)
"""


def run(script, *args, **options):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)], stdout=subprocess.PIPE, text=True, **options
    )


def test_save_on_a_disk_full_in_the_middle(old):
    assert run(FULL, old).communicate()[0] == f"[Errno 27] File too large: '{old}'\n"


PROTECTED = """
import os, sys
import safetensors.numpy
import tinyattn as ta
folder, path = sys.argv[1], sys.argv[1] + "/file"
if os.getuid() == 0:  # who may write everywhere
    os.setuid(65534)
ta.save(path, {"old": ta.ones(1)})
for protected, mode in ((folder, 0o555), (path, 0o444)):
    os.chmod(protected, mode)
    try:
        ta.save(path, {})
    except PermissionError as error:
        print(error)
    os.chmod(folder, 0o755)
print(os.listdir(folder), ta.load(path))
"""


def test_save_to_write_protected_folder_and_file():
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which is closed to other users
        os.chmod(folder, 0o777)
        if os.getuid() == 0:
            os.chown(folder, 65534, 65534)
        refusal = f"[Errno 13] Permission denied: '{folder}/file'\n"
        assert run(PROTECTED, folder).communicate()[0] == refusal * 2 + "['file'] {'old': tensor([1.])}\n"


def test_save_replaces_no_write_protected_file(old, monkeypatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # root would be allowed
    with pytest.raises(PermissionError, match=f"Permission denied: '{old}'"):
        ta.save(old, {})


def test_save_replaces_only_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, error in (
        (tmp_path, IsADirectoryError),
        (tmp_path / "missing" / "file", FileNotFoundError),
        (tmp_path / "pipe", OSError),
        ("/dev/null", OSError),
    ):
        with pytest.raises(error, match=f"'{path}'"):
            ta.save(path, {})
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_save_keeps_permission_bits_and_links(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    before = os.umask(0o027)
    try:
        ta.save(path, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    link.symlink_to("file")
    ta.save(link, {"a": ta.ones(1)})
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert ta.load(path)["a"].tolist() == [1]
    ta.save(tmp_path / ("n" * 255), {})  # the longest name there is
    assert len(os.listdir(tmp_path)) == 3


def test_save_flushes_file_then_folder(tmp_path, monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def record(target, *more, name=name, real=real):
            folder = isinstance(target, int) and stat.S_ISDIR(os.fstat(target).st_mode)
            steps.append(f"{name} {'folder' if folder else 'file'}")
            return real(target, *more)

        monkeypatch.setattr(files.os, name, record)
    ta.save(tmp_path / "file", {})
    assert steps == ["fsync file", "replace file", "fsync folder"]


LOOP = """
import itertools, sys
import tinyattn as ta
print("ready", flush=True)
for i in itertools.count():
    ta.save(sys.argv[1], {"i": i, "tensors": [ta.full((50_000,), float(i)) for _ in range(4)]})
"""


def kill_while_it_saves(path, times, rng):
    """Start a process that saves without end and kill it, `times` times over; every file must be whole."""
    seen = set()
    for _ in range(times):
        with run(LOOP, path) as process:
            assert process.stdout.readline() == "ready\n"
            while not path.exists():
                time.sleep(0.001)
            time.sleep(rng.random() * 0.1)
            process.send_signal(signal.SIGKILL)
        state = ta.load(path)
        seen.add(state["i"])
        assert all((tensor.numpy() == state["i"]).all() for tensor in state["tensors"])
    return seen


def test_killed_while_it_saves(tmp_path):
    kill_while_it_saves(tmp_path / "file", 4, np.random.default_rng(0))


@pytest.mark.slow
def test_killed_while_it_saves_often(tmp_path):
    assert len(kill_while_it_saves(tmp_path / "file", 60, np.random.default_rng(1))) > 5


def test_two_processes_save_one_file(tmp_path):
    with run(LOOP, tmp_path / "file") as one, run(LOOP, tmp_path / "file") as two:
        assert one.stdout.readline() == two.stdout.readline() == "ready\n"
        until = time.monotonic() + 0.7
        reads = 0
        while time.monotonic() < until or not reads:
            if (tmp_path / "file").exists():
                state = ta.load(tmp_path / "file")
                assert all((tensor.numpy() == state["i"]).all() for tensor in state["tensors"])
                reads += 1
        one.kill()
        two.kill()
