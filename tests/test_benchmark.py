"""examples/benchmark.py: it runs as a user runs it, times no side whose results are wrong, and counts right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from bench import compare, growth, machine, parts, problem, ranks, report, texts  # noqa: E402
from bench.side import Process, Side  # noqa: E402

QUIET = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
EFFORT = compare.Effort(turns=2, seconds=0.02, quick=True)


def benchmark(*arguments, env=QUIET):
    command = [sys.executable, str(ROOT / "examples/benchmark.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return problem.write(tmp_path_factory.mktemp("bench") / "small.npz", batch=4, num_layers=1)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "results.json"
    done = benchmark(
        "--quick", "--turns", 2, "--seconds", 0.02,
        "--parts", "scalars,graph", "--peers", "engine,pytorch", "--json", path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path, done.stdout


def test_a_quick_run_writes_sides_ratios_and_intervals(quick):
    path, said = quick
    found = json.loads(path.read_text())
    assert {"processor", "cores", "python", "versions", "blas", "hint"} <= set(found["machine"])
    assert found["machine"]["processor"] in said
    assert found["effort"] == {"turns": 2, "seconds": 0.02, "quick": True}
    assert len(found["parts"]["scalars"]["comparisons"]) == 2
    for comparison in found["parts"]["scalars"]["comparisons"]:
        assert comparison["left_out"] == []
        assert [side["name"] for side in comparison["sides"]] == ["tinyattn", "PyTorch"]
        assert all(len(side["turns"]) == 2 and min(side["turns"]) > 0 for side in comparison["sides"])
        (ratio,) = comparison["ratios"]
        assert (ratio["of"], ratio["to"]) == ("tinyattn", "PyTorch")
        assert 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"]
        assert comparison["title"] in said
    assert [row[0] for row in found["parts"]["graph"]["tables"][0]["rows"]][:2] == ["100 nodes", "1,000 nodes"]


def test_the_page_gets_the_tables_between_its_markers(quick, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text((ROOT / "docs/performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    for _ in range(2):  # a second time changes nothing
        assert set(report.write_docs(quick[0], page)) == {"machine", "scalars", "graph"}
        written = page.read_text(encoding="utf-8")
        assert written.count("**1,000 products of 0-d tensors, forward and backward**") == 1
        assert written.count("--quick: no figures to quote") == 1
        assert "| 10,000 nodes |" in written


@pytest.mark.slow
def test_all_sides_have_the_losses_of_the_definitions(small):
    sides = [
        parts.engine(1), Side("two workers", "engine", parts.most_cores(), 1, {"workers": 2}),
        Side("PyTorch", "pytorch", options={"fused": True}),
        Side("floor", "matmul_floor", parts.most_cores()),
    ]  # fmt: skip
    with compare.Table(sides, print) as table:
        found = table.compare("", "train", EFFORT, small, checks=5, truth=compare.by_definition(small, 5))
    assert [side["name"] for side in found["sides"]] == [side.name for side in sides], found["left_out"]


def test_a_side_with_other_losses_is_not_timed(small, tmp_path, monkeypatch):
    with np.load(small) as file:
        arrays = dict(file)
    arrays["weights/head.weight"] = arrays["weights/head.weight"] * 1.01
    np.savez(tmp_path / "wrong.npz", **arrays)
    make = Process.make

    def made_wrong(process, task, path, **options):
        make(process, task, tmp_path / "wrong.npz" if process.side.name == "wrong" else path, **options)

    monkeypatch.setattr(Process, "make", made_wrong)
    said = []
    with compare.Table([Side("right", "engine"), Side("wrong", "engine")], said.append) as table:
        found = table.compare("", "train", EFFORT, small, checks=3)
    assert [side["name"] for side in found["sides"]] == ["right"]
    assert found["ratios"] == []
    (line,) = found["left_out"]
    assert line.startswith("wrong: not timed, for its results differ by")
    value, expected = re.search(r"\((\S+), expected (\S+)\)", line).groups()
    assert value != expected
    assert any(line in words for words in said)


def test_a_missing_library_is_one_line(small, tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text("raise ModuleNotFoundError(\"No module named 'jax'\")\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with compare.Table([Side("ours", "engine"), Side("JAX jit", "jax_jit")], print) as table:
        found = table.compare("", "infer", EFFORT, small)
    assert found["left_out"] == ["JAX jit: jax cannot be imported (No module named 'jax'); pip install -e \".[bench]\""]
    assert [side["name"] for side in found["sides"]] == ["ours"]


def test_scaling_takes_the_quicker_number_of_workers(tmp_path, monkeypatch):
    taken, turns = [], {1: [3.0, 1.0, 2.0], 2: [1.5, 9.0, 1.9]}

    class Noted(compare.Table):
        def __init__(self, sides, say):
            taken.append({side.name: side.options.get("workers") for side in sides})
            super().__init__([], say)

    class Timed(Process):
        def turn(self, seconds):
            return [turns[self.side.options["workers"]].pop()]

    monkeypatch.setattr(growth, "Table", Noted)
    monkeypatch.setattr(growth, "Process", Timed)
    monkeypatch.setattr(growth, "most_cores", lambda: 2)
    monkeypatch.setattr(growth, "AXES", {"batch": ([], [2, 4, 64], lambda n: {"batch": n, "num_layers": 1 + (n > 4)})})
    monkeypatch.setattr(growth, "TRIED", 2e9)
    bench = parts.Bench(EFFORT, ("engine", "pytorch"), tmp_path, print)
    turns[1] = [2.5, 2.5, 2.5, *turns[1]]  # from the end: 2 workers are quicker at batch 2 and slower at batch 4
    turns[2] = [3.0, 3.0, 3.0, *turns[2]]
    found = growth.scaling(bench)
    assert taken == [{"tinyattn compiled": n, "PyTorch eager": None} for n in (2, 1, 2)]
    assert found["notes"][0] == "tinyattn with 2 workers, and with one at batch 4"


@pytest.mark.slow
def test_texts_have_equal_losses_in_both_libraries():
    sizes = {"gpt": {"batch": 2, "tokens": 8, "characters": 9, "dim": 8, "heads": 2, "layers": 2},
             "translation": {"batch": 4, "tokens": 6, "characters": 9, "dim": 8, "heads": 2, "layers": 1, "written": 3}}  # fmt: skip
    assert {kind: [*each] for kind, each in sizes.items()} == {kind: [*each] for kind, each in texts.SIZES.items()}
    with compare.Table([parts.engine(2, graph=True), parts.engine(1), Side("PyTorch", "pytorch")], print) as table:
        for kind, each in sizes.items():
            found = table.compare(kind, "text", EFFORT, checks=5, kind=kind, sizes=each)
            assert found["left_out"] == [] and len(found["sides"]) == 3


def test_compiling_prints_the_cost_of_recording(tmp_path):
    found = parts.compiling(parts.Bench(EFFORT, ("engine",), tmp_path, print))
    rows = found["tables"][0]["rows"]
    assert [row[0].partition(",")[0] for row in rows[:4]] == ["first call", "second call", "third call", "later calls"]
    assert all(len(run) == 4 and min(run) > 0 for run in found["raw"])


@pytest.mark.slow
def test_two_processes_are_timed_beside_gloo_and_threads(tmp_path):
    found = ranks.ranks(parts.Bench(EFFORT, ("engine", "pytorch"), tmp_path, print))
    if not found["tables"]:
        pytest.skip(found["notes"][0])
    assert all([float(row[2]) > 0 for row in table["rows"]] == 3 * [True] for table in found["tables"])


def test_memory_is_growth_over_the_import(tmp_path):
    found = growth.memory(parts.Bench(EFFORT, ("engine",), tmp_path, print))
    assert found["ratios"] == []  # of one library to none
    for runs in found["raw"].values():
        assert all(2**20 < run["peak"] - run["after_import"] < 2**29 for run in runs)


def test_without_our_side_there_are_no_ratios():
    assert compare.ratios({"PyTorch": [1.0], "JAX": [2.0]}, "tinyattn") == []


def test_ratios_are_taken_turn_by_turn():
    found = compare.ratio("ours", "theirs", [1.0, 20.0, 3.0], [2.0, 40.0, 4.0])  # the machine was slow once
    assert found["ratio"] == 0.5
    assert (found["low"], found["high"]) == (0.5, 0.75)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponents(power):
    sizes = [10, 100, 1000]
    assert compare.exponent(sizes, [3 * n**power for n in sizes]) == pytest.approx(power)


def test_the_floor_has_the_products_of_the_step(small):
    products = problem.read(small).matmuls()
    assert all(a[-1] == b[-2] and a[:-2] == b[:-2] for a, b in products)
    # embedding 2, block 4 linear layers of 3 and 6 in attention, head 3
    assert len(products) == 2 + 4 * 3 + 6 + 3
    tokens, dim, hidden = 4 * 49, 64, 256
    linear = 3 * tokens * (3 * dim * dim + dim * dim + 2 * dim * hidden) + 2 * tokens * 16 * dim + 3 * 4 * dim * 10
    assert problem.read(small).arithmetic() == 2 * (linear + 6 * tokens * 49 * dim)


def test_a_pinned_kernel_is_said(monkeypatch):
    monkeypatch.setattr(machine, "_blas", lambda env: {"architecture": env.get("OPENBLAS_CORETYPE", "SkylakeX")})
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert "pins kernels for Haswell, where OpenBLAS would take those for SkylakeX" in machine._hint()
    monkeypatch.setenv("OPENBLAS_CORETYPE", "SkylakeX")
    assert machine._hint() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "stepp"], "'stepp' is none of step, inference"),
        (["--peers", "theano"], "'theano' is none of engine, pytorch"),
        (["--parts", "bandwidth"], "'bandwidth' is none of step, inference"),
        (["--seconds", "-1"], "'-1' is not a number above 0"),
        (["--turns", "0"], "'0' is not a whole number above 0"),
        (["--tf32"], "--tf32 is for a GPU"),
        (["--json", "no/such/folder/results.json"], "'no/such/folder/results.json' is no file that can be written"),
        (["--write-docs", __file__], "test_benchmark.py is not what --json writes"),
        (["--jsn", "x"], "there is no option --jsn (is --json meant?)"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_code_2(arguments, message):
    done = benchmark(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("benchmark.py: ") and message in done.stderr
