"""Random programs of tests/programs.py, compiled and eager: the same bits, while their inputs change between calls."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import programs
import pytest

import tinyattn as ta

LEAF = re.compile(r"^(x\d+) = (T\.(?:tensor|zeros)\(.*\))$")


def pieces(seed: int) -> tuple[dict[str, ta.Tensor], str, list[str]]:
    """The leaves of a program, its other lines, and the names of the results."""
    program = programs.Program(seed)
    leaves = {m[1]: eval(m[2], {"T": ta}) for m in map(LEAF.match, program.lines) if m}
    return leaves, "\n".join(line for line in program.lines if not LEAF.match(line)), program.variables()


def outcomes(seed: int, how, calls: int = 6):
    """What each call gave, or the text of its error; and the function."""
    leaves, lines, variables = pieces(seed)
    code, random = compile(lines, f"<program {seed}>", "exec"), np.random.default_rng(seed)
    parameters = {name: x for name, x in leaves.items() if x.requires_grad and random.random() < 0.7}
    inputs = [name for name in leaves if name not in parameters]

    def step(*given):
        names = {**programs.namespace(ta), **parameters, **dict(zip(inputs, given, strict=True))}
        exec(code, names)
        total = programs._total(names, variables)
        if total is not None:
            total.backward()
        return [names[v].detach().clone() for v in variables if v not in leaves]

    compiled, found = how(step), []
    for _ in range(calls):
        given = [ta.tensor(leaves[name].array) for name in inputs]
        for x in given:
            if x.dtype.kind == "f":
                x.array[...] += random.integers(0, 3, x.shape) / 8
        for p in parameters.values():
            p.grad = None
        try:
            results = compiled(*given)
        except Exception as error:
            found.append(str(error))
            continue
        gradients = [p.grad for p in parameters.values()]
        found.append(
            [x if x is None else (x.shape, x.dtype, x.array.tobytes()) for x in (*results, *given, *gradients)]
        )
        with ta.no_grad():
            for p in parameters.values():
                p += 0.25
    return found, compiled


def compare(seeds: Iterable[int]) -> int:
    """Compare programs; returns how many ran as a program of NumPy."""
    ran = 0
    for seed in seeds:
        try:
            programs.Program(seed)
        except programs.EndedError:
            continue
        ta.manual_seed(seed)
        eager, _ = outcomes(seed, lambda f: f)
        ta.manual_seed(seed)
        compiled, step = outcomes(seed, ta.compile)
        assert eager == compiled, f"program {seed}:\n{pieces(seed)[1]}\n{step.program}"
        ran += step.program is not None
    return ran


def test_random_programs_compiled_equal_eager():
    assert compare([0, 4, 12, 14, 16, 23]) == 6


@pytest.mark.slow
def test_many_random_programs_compiled_equal_eager():
    assert compare(range(400)) >= 55
