"""The driver of mutation.py: which edits it makes, that they take effect, and a small sample of its run."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import mutants
import mutation
import numpy as np
import pytest
from mutants import ROOT, all_mutants, mutants_of
from mutants_equivalent import EQUIVALENT

import tinyattn as ta

TOY = '''
from tinyattn.engine.operation import Operation, operation

toy = Operation(lambda xp, a, b: a * b, name="toy", a=lambda xp, g, b: g * b)


def check(x):
    if x.ndim > 1:
        raise ValueError(f"too many axes: {x.ndim + 1}")
    return x + 1


def _rule(xp, g, x, dim):
    """Docstrings and refusals stay as they are."""
    if x is None:
        raise ValueError("no x")
    return xp.sum(g.mT, dim) if g.ndim > 0 else xp.where(x == 0, 0.0, g)
'''
EDITS = """
    toy: a * b -> -(a * b)
    toy: a * b -> a * b * 1.01
    toy: a * b -> a
    toy: a * b -> b
    toy.a: g * b -> -(g * b)
    toy.a: g * b -> g * b * 1.01
    toy.a: g * b -> g
    toy.a: g * b -> b
    _rule: xp.sum(g.mT, dim) -> -xp.sum(g.mT, dim)
    _rule: xp.sum(g.mT, dim) -> xp.sum(g.mT, dim) * 1.01
    _rule: xp.where(x == 0, 0.0, g) -> -xp.where(x == 0, 0.0, g)
    _rule: xp.where(x == 0, 0.0, g) -> xp.where(x == 0, 0.0, g) * 1.01
    _rule: g.ndim > 0 -> g.ndim >= 0
    _rule: g.ndim > 0 -> g.ndim <= 0
    _rule: 0 -> 1
    _rule: xp.sum(g.mT, dim) -> g.mT
    _rule: xp.sum(g.mT, dim) -> xp.sum(g.mT, dim - 1 if isinstance(dim, int) else tuple((d - 1 for d in dim)))
    _rule: g.mT -> g
    _rule: xp.where(x == 0, 0.0, g) -> xp.where(x == 0, g, 0.0)
    _rule: xp.where(x == 0, 0.0, g) -> x == 0
    _rule: x == 0 -> x != 0
    _rule: 0 -> 1 (no. 2)
    _rule: 0.0 -> 1.0
"""


@pytest.fixture(scope="module")
def everything():
    return all_mutants()


def test_the_edits_of_a_toy(tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "PACKAGE", tmp_path)
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops/toy.py").write_text(TOY)
    found = [m.name.removeprefix("ops/toy.py ") for m in mutants_of(tmp_path / "ops/toy.py")]
    assert found == [line.strip() for line in EDITS.strip().splitlines()]


@pytest.mark.slow
def test_names_tell_mutants_apart_and_every_kind_and_floor_is_there(everything):
    assert len(everything) > 2000
    assert max(Counter(m.name for m in everything).values()) == 1
    assert {m.kind for m in everything} == {
        "sign", "factor", "drop", "swap", "axis", "branch", "boundary", "constant", "sibling"
    }  # fmt: skip
    kernels = {path.name for path in (mutants.PACKAGE / "backends/cpu").glob("[a-z]*.py")}
    assert kernels <= {m.file.name for m in everything}
    assert {"Walk.hand_on", "Pending.receive"} <= {m.function for m in everything if m.place == "engine/walk.py"}


@pytest.mark.slow
def test_what_is_called_equivalent_exists_and_has_one_reason(everything):
    names = [name for group in EQUIVALENT.values() for name in group]
    assert len(names) == len(set(names))
    assert set(names) - {m.name for m in everything} == set()


def named(everything, name):
    return next(m for m in everything if m.name == name)


def slope_of_product():
    x = ta.tensor([2.0, 3.0], requires_grad=True)
    return ta.grad((x * np.float32(5.0)).sum(), x)[0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ops/elementwise.py mul.a: g * b -> g", [1.0, 1.0]),
        ("ops/elementwise.py mul.a: g * b -> -(g * b)", [-5.0, -5.0]),
        ("ops/elementwise.py mul: a * b -> a * b * 1.01", [5.0, 5.0]),
    ],
)
def test_a_mutant_takes_effect_in_its_own_process_alone(everything, name, expected):
    mutant, live = named(everything, name), mutation.live_functions()

    def trial():
        mutant.put_in(live)
        return {"slope": slope_of_product()}

    assert mutation.in_child(trial, limit=60) == {"slope": expected}
    assert slope_of_product() == [5.0, 5.0]


@pytest.mark.slow
def test_closures_made_at_import_are_edited_too(everything):
    mutant = next(m for m in everything if m.function == "_rounding.forward" and m.after.endswith("* 1.01"))
    live = mutation.live_functions()

    def trial():
        mutant.put_in(live)
        return {"value": ta.floor(ta.tensor([2.5])).tolist()}

    assert mutation.in_child(trial, limit=60)["value"] == pytest.approx([2.02])


@pytest.mark.slow
def test_an_edit_that_adds_a_generator_takes_effect(everything):
    mutant = next(m for m in everything if m.function == "_argtop" and "tuple((d - 1 for d in dim))" in m.after)
    live = mutation.live_functions()

    def trial():
        mutant.put_in(live)
        return {"places": ta.topk(ta.tensor([[1.0, 5.0, 3.0]]), 1, 1).indices.tolist()}

    assert mutation.in_child(trial, limit=60) == {"places": [[0, 0, 0]]}  # along the other axis


@pytest.mark.slow
def test_a_constant_with_which_the_module_cannot_be_imported_is_caught(everything):
    mutant = named(everything, "backends/cpu/choices.py _BITS: 8 -> 9")

    def trial():
        try:
            mutant.put_in({})
        except mutants.ImportFailsError as error:
            return {"verdict": str(error)}

    assert "'i9' not understood" in mutation.in_child(trial, limit=60)["verdict"]


@pytest.mark.slow
def test_constants_are_edited_too(everything):
    from tinyattn.backends import cpu

    mutant = next(m for m in everything if m.function == "_CUBIC")

    def trial():
        mutant.put_in({})
        return {"value": float(cpu.gelu(np.ones(1), "tanh")[0])}

    assert mutation.in_child(trial, limit=60)["value"] != float(cpu.gelu(np.ones(1), "tanh")[0])


def test_a_process_that_dies_has_caught_and_a_fault_of_the_driver_has_not():
    def endless():
        while True:
            pass

    assert mutation.in_child(endless, limit=1) == {"verdict": "caught", "by": "SIGALRM"}
    assert mutation.in_child(lambda: {"verdict": "survived"}, limit=60) == {"verdict": "survived"}
    assert "ZeroDivisionError" in mutation.in_child(lambda: 1 / 0, limit=60)["error"]


def test_tables_go_between_their_markers():
    text = "a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb"
    assert mutation.put_between(text, "t", r"new \1") == "a\n<!-- t: begin -->\nnew \\1\n<!-- t: end -->\nb"
    with pytest.raises(ValueError, match="no place for 'u'"):
        mutation.put_between(text, "u", "")


@pytest.mark.slow
def test_verdicts_outlive_a_run_unless_the_function_changed(everything, tmp_path):
    mutant, other = everything[:2]
    ledger = mutation.Ledger(tmp_path / "verdicts")
    ledger.add(mutant, {"verdict": "survived"})
    ledger.add(mutant, {"verdict": "caught"})
    again = mutation.Ledger(tmp_path / "verdicts")
    assert (again.of(mutant), again.of(other)) == ("caught", "")
    again.known[mutant.name]["of"] = "another source"
    assert again.of(mutant) == ""


@pytest.mark.slow
@pytest.mark.long
def test_a_sample_of_mutants_is_caught():
    """A dozen of them, and one that changes nothing and must survive: see `mutation.main`."""
    command = [sys.executable, "tests/mutation.py", "--sample", "12", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 mutants and a control" in done.stdout
