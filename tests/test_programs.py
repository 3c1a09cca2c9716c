"""Random programs agree with PyTorch: a fixed range of those that `python tests/programs.py` runs."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from programs import DifferenceError, Program, run

CHUNK = 100


@pytest.mark.parametrize("first", range(0, 600, CHUNK))
def test_random_programs_agree_with_pytorch(first):
    ends, different = Counter(), []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of floating-point operations, and PyTorch's own
        for seed in range(first, first + CHUNK):
            try:
                ends[run(seed)] += 1
            except DifferenceError as error:
                different.append(f"python tests/programs.py --show {seed}: {error}")
    assert not different, "\n".join(different)
    assert ends["same"] > 0.6 * CHUNK, ends  # most are compared to the end
    excused = sum(count for end, count in ends.items() if end.startswith(("refused", "excused")))
    assert excused < 0.12 * CHUNK, ends


def test_a_program_is_that_of_its_seed():
    assert str(Program(4711)) == str(Program(4711)) != str(Program(4712))


def test_programs_use_all_kinds_of_lines():
    text = "\n".join(str(Program(seed)) for seed in range(100))
    kinds = [
        "with T.no_grad",
        "checkpoint(",
        "branches(",
        "retain_grad",
        "register_hook",
        "_(",
        "] = ",
        "requires_grad=True",
    ]
    assert [kind for kind in kinds if kind not in text] == []
