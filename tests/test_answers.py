"""PyTorch's stored answers: they are PyTorch's, they are read without it, and a wrong operation fails against them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import answers
import numpy as np
import pytest

TESTS = Path(__file__).parent
WITHOUT = "import sys; sys.modules['torch'] = None; import pytest; "  # an import of torch raises ImportError


def run(code, *args):
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=TESTS.parent, capture_output=True, text=True)
    return done.stdout + done.stderr


def flat(x):
    return [each for item in x for each in flat(item)] if isinstance(x, list) else [x]


def test_stored_answers_come_back_rounded_to_1e_12(tmp_path):
    rng = np.random.default_rng(0)
    kept = [
        np.array([np.nan, np.inf, -np.inf, 0.0]),
        np.float32([[0.1], [-1e-45]]),
        np.array([2**40, -(2**62)]),
        np.array(True),
    ]
    made = {"b": [None, ["x", 1.5], kept], "a": [rng.normal(size=(2, 3)), np.zeros((0, 2), "uint8")]}
    answers.store(made, tmp_path / "file.npz")
    found = answers.stored(tmp_path / "file.npz")
    assert found["b"][:2] == made["b"][:2]
    for key in made:
        for a, b in zip(flat(found[key]), flat(made[key]), strict=True):
            if isinstance(b, np.ndarray):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                np.testing.assert_allclose(a, b, rtol=1e-12 if b is made["a"][0] else 0, atol=0)
    with pytest.raises(AssertionError, match="not exact as float64"):
        answers.store({"a": np.array([2**53 + 1])}, tmp_path / "file.npz")


@pytest.mark.slow
def test_answers_are_compared_without_pytorch():
    """The same tests pass with the stored answers, and fail where the operation is wrong."""
    names = [
        str(TESTS / "test_ops.py"),
        "-k",
        "test_elementwise and cpu and cos",
        "-q",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
    ]
    code = f"{WITHOUT}import tinyattn as ta; {{}}raise SystemExit(pytest.main(sys.argv[1:]))"
    right = run(code.format(""), *names)
    assert " passed" in right and "skipped" not in right and "failed" not in right
    wrong = run(code.format("ta.Tensor.cos = lambda x: x.sin(); "), *names)
    assert " failed" in wrong and "skipped" not in wrong


def test_a_call_of_pytorch_where_it_is_missing_skips_the_test(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "from answers import torch\n"
        "class Net(torch.nn.Module): pass\n"
        "def test_of_a_function(): assert isinstance(1, torch.Tensor) or torch.ones(2)\n"
        "def test_of_a_class(): Net()\n"
        "def test_alone(): assert repr(torch.nn.Linear) == 'torch.nn.Linear'\n"
    )
    code = f"{WITHOUT}sys.path.insert(0, sys.argv.pop()); raise SystemExit(pytest.main(sys.argv[1:]))"
    assert "1 passed, 2 skipped" in run(code, str(tmp_path), "-q", "-p", "no:cacheprovider", str(TESTS))


@pytest.mark.slow
def test_stored_answers_are_pytorchs(tmp_path):
    done = subprocess.run([sys.executable, TESTS / "answers.py", tmp_path / "new.npz"], cwd=TESTS.parent, check=False)
    assert (tmp_path / "new.npz").exists(), done
    new, old = answers.stored(tmp_path / "new.npz"), answers.stored()
    assert [*new] == [*old], "python tests/answers.py writes tests/answers.npz anew"
    for key in old:
        for a, b in zip(flat(new[key]), flat(old[key]), strict=True):
            if not isinstance(b, np.ndarray):
                assert a == b, key
            else:
                assert (a.dtype, a.shape) == (b.dtype, b.shape), key
                tolerance = 1e-5 if b.dtype == np.float32 else 1e-10  # processors round in different places
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=key)
