"""PyTorch, or its stored answers: tests that compare with PyTorch also run where it is not installed.

    python tests/answers.py [FILE]     runs the tests that compare, with PyTorch, and writes tests/answers.npz anew

Test modules import `torch` from here. Without PyTorch it is a `Missing`: a call of one of its functions skips the test.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).with_name("answers.npz")
STORED = [f"test_{name}.py" for name in "engine gradients inplace names numbers ops optim".split()]  # call `answer`
BITS = 12  # of the 52 of a float64's significand that are not stored: an error of 1e-12, a hundredth of the tolerance


LARGEST = 2_000  # numbers in an answer; larger ones are not stored


class Missing:
    """A name of PyTorch where it is not installed: it has further names, and to call it skips the test."""

    def __init__(self, name: str, *_: Any) -> None:  # with bases and a body if a class inherits from one
        self.name = name

    def __getattr__(self, name: str) -> Missing:
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self.name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        pytest.skip(f"{self.name} needs PyTorch", allow_module_level=True)

    def __repr__(self) -> str:
        return self.name

    def __instancecheck__(self, x: Any) -> bool:
        return False


def optional(name: str) -> Any:
    """The module of this name, which is or needs PyTorch."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return Missing(name)


torch = optional("torch")

made: dict[str, Any] | None = None  # a dictionary while answers are recorded
place = ["", 0]  # the running test, and its number of answers so far


def as_arrays(x: Any) -> Any:
    """The same with arrays for the tensors of either library, and lists for tuples."""
    if isinstance(x, list | tuple):
        return [as_arrays(each) for each in x]
    if isinstance(x, torch.Tensor):
        return x.numpy(force=True)
    return x.detach().cpu().numpy() if hasattr(x, "detach") else x


def answer(make: Callable[[], Any]) -> Any:
    """What `make` computes with PyTorch, now or when it was stored: arrays, numbers, strings and None in lists.

    Not for tests of Hypothesis: their examples differ between its versions.
    """
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0].rpartition("/")[2].replace("cuda", "cpu")
    place[:] = [test, place[1] + 1 if place[0] == test else 0]
    key = f"{test} {place[1]}"
    if not isinstance(torch, Missing):
        found = as_arrays(make())
        if made is not None:
            made[key] = found
        return found
    if key not in stored():
        pytest.skip("PyTorch's answer is not stored")
    return stored()[key]


@cache
def stored(file: Path = FILE) -> dict[str, Any]:
    """The answers in a file, each under its test and a number."""
    with np.load(file) as found:
        values, index = found["planes"].T.copy().view(np.float64)[:, 0], json.loads(found["index"].tobytes())
    start = 0

    def taken(x: Any) -> Any:
        nonlocal start
        if isinstance(x, list):
            return [taken(each) for each in x]
        if not isinstance(x, dict):
            return x
        ((dtype, shape),) = x.items()
        stop = start + int(np.prod(shape))
        array, start = values[start:stop].reshape(shape).astype(dtype), stop
        return array

    return {key: taken(x) for key, x in index.items()}


def store(answers: dict[str, Any], file: Path) -> None:
    """Write answers: a JSON text with places for arrays, and all numbers as float64, byte by byte."""
    numbers = [np.zeros(0)]

    def put(x: Any) -> Any:
        if isinstance(x, list):
            return [put(each) for each in x]
        if not isinstance(x, np.ndarray):
            return x
        exact = x.astype(np.float64)
        assert np.array_equal(exact.astype(x.dtype), x, equal_nan=x.dtype.kind == "f"), f"{x} is not exact as float64"
        numbers.append(rounded(exact).ravel() if x.dtype == np.float64 else exact.ravel())
        return {str(x.dtype): x.shape}

    index = json.dumps({key: put(answers[key]) for key in sorted(answers)}, separators=(",", ":"))
    planes = np.concatenate(numbers).view(np.uint8).reshape(-1, 8).T  # like bytes side by side: a third smaller
    np.savez_compressed(file, index=np.frombuffer(index.encode(), np.uint8), planes=np.ascontiguousarray(planes))


def size(x: Any) -> int:
    """How many numbers the arrays have."""
    return sum(map(size, x)) if isinstance(x, list) else getattr(x, "size", 0)


def rounded(x: np.ndarray) -> np.ndarray:
    """The nearest numbers whose last BITS bits are zero."""
    bits = np.ascontiguousarray(x).view(np.int64)
    near = ((bits + (1 << (BITS - 1))) >> BITS << BITS).view(np.float64)
    return np.where(np.isfinite(x), near, x)


def main(file: Path) -> int:
    import answers  # the tests import this file under its own name

    answers.made = {}
    tests = Path(__file__).parent
    code = pytest.main(["-qq", "-k", "not cuda", "-p", "no:cacheprovider", *(str(tests / name) for name in STORED)])
    if code <= pytest.ExitCode.TESTS_FAILED:  # PyTorch has answered in those too
        store({key: x for key, x in answers.made.items() if size(x) <= LARGEST}, file)
        print(f"{len(answers.made):,} answers, {file.stat().st_size:,} bytes in {file}")
        code = 0
    return int(code)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]) if sys.argv[1:] else FILE))
