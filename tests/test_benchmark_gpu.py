"""examples/benchmark.py --device cuda, where no GPU is needed for it: all that it does but to be quick."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import gpus
import numpy as np
import pytest
import torch
from toy_mnist import put

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from bench import accuracy, compare, gpu, machine, parts, problem, recipe, report, worker  # noqa: E402
from bench.peers import engine, moving, pytorch  # noqa: E402
from bench.side import Process, Side, SideError  # noqa: E402
from test_benchmark import EFFORT, QUIET, benchmark  # noqa: E402

pytestmark = pytest.mark.usefixtures("gpu")
only_without_a_gpu = pytest.mark.skipif(gpus.CHOICE == "1", reason="about a machine without a GPU")


def path(*first):
    """PYTHONPATH for processes: these folders first."""
    return os.pathsep.join([*map(str, first), str(ROOT), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", path(*gpus.PATH))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return problem.write(tmp_path_factory.mktemp("bench") / "small.npz", batch=2, num_layers=1)


def bench(folder, device="cuda:0", effort=EFFORT, peers=gpu.PEERS, tf32=False):
    return parts.Bench(effort, peers, folder, print, device, tf32)


# --- as a user runs it ---


@pytest.fixture(scope="module")
def quick(gpu, tmp_path_factory):
    kept = tmp_path_factory.mktemp("bench") / "results.json"
    options = ["--device", "cuda", "--quick", "--turns", 2, "--seconds", 0.01, "--parts", "step-64", "--json", kept]
    done = benchmark(*options, env={**QUIET, "PYTHONPATH": path(*gpus.PATH)})
    assert done.returncode == 0, done.stderr
    return kept, done.stdout


@pytest.mark.slow
def test_a_quick_run_names_the_gpu_and_measures_every_side(quick):
    kept, said = quick
    found = json.loads(kept.read_text())
    assert found["machine"]["gpu"]["device"] == "cuda:0"
    for what in ("name", "driver", "cuda of the driver", "cupy", "cuda of cupy"):
        assert found["machine"]["gpu"][what] in said
    (comparison,) = found["parts"]["step-64"]["comparisons"]
    ours = ["tinyattn, one CUDA graph", "tinyattn, launch by launch"]
    theirs = ["PyTorch eager", "PyTorch eager, Adam fused=True"]
    assert [side["name"] for side in comparison["sides"]] == ours + theirs * torch.cuda.is_available()
    assert all(len(side["turns"]) == 2 and min(side["turns"]) > 0 for side in comparison["sides"])
    assert [r["to"] for r in comparison["ratios"]] == [side["name"] for side in comparison["sides"][1:]]
    if not torch.version.cuda:
        alone = f"RuntimeError: this PyTorch, {torch.__version__}, is built for the CPU alone"
        assert comparison["left_out"] == [f"{name}: {alone}" for name in theirs]
        assert f"PyTorch eager: {alone}" in said
    assert "training step at batch 64, TF32 off (--quick: at batch 2, with one block)" in said
    assert "on every side: float32 throughout, no TF32 ('highest')" in said
    assert all(f"{name} {runs}" in said for name, runs in comparison["at_once"].items())


@pytest.mark.slow
def test_the_page_keeps_the_tables_of_the_cpu_and_of_a_gpu_apart(quick, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text((ROOT / "docs/performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    before = page.read_text(encoding="utf-8")
    assert set(report.write_docs(quick[0], page)) == {"gpu-machine", "gpu-step-64"}
    after = page.read_text(encoding="utf-8")
    place = before.index("<!-- gpu-machine: begin -->")
    assert after[:place] == before[:place]
    assert "--quick: no figures to quote" in after[place:] and "CuPy" in after[place:]
    for name in ("gpu-step-1024", "gpu-bandwidth", "gpu-accuracy"):  # a table for whatever can be measured
        assert after.index(f"<!-- {name}: begin -->") < after.index(f"<!-- {name}: end -->")


@pytest.mark.slow
def test_the_other_parts_run(tmp_path):
    kept = tmp_path / "results.json"
    options = [
        "--device",
        "cuda",
        "--quick",
        "--turns",
        1,
        "--seconds",
        0.01,
        "--parts",
        "step-1024,bandwidth",
        "--tf32",
    ]
    done = benchmark(*options, "--json", kept, env={**QUIET, "PYTHONPATH": path(*gpus.PATH)})
    assert done.returncode == 0, done.stderr
    found = json.loads(kept.read_text())["parts"]
    assert "training step at batch 1024, TF32 on (--quick: at batch 32" in done.stdout
    assert "on every side: rounded to TF32 ('high')" in done.stdout
    assert [side["name"] for side in found["step-1024"]["comparisons"][0]["sides"]][:2] == [
        "tinyattn, one CUDA graph", "tinyattn, launch by launch",
    ]  # fmt: skip
    assert [r["kernel"] for r in found["bandwidth"]["raw"]] == list(moving.KERNELS)
    for row in found["bandwidth"]["raw"]:
        rate, copy = np.median(row["rates"]), np.median(row["copy"])
        assert rate > 0 and row["share"]["low"] <= row["share"]["ratio"] <= row["share"]["high"]
        assert row["share"]["ratio"] == pytest.approx(rate / copy, rel=0.9)
    assert "kernels on arrays of 1,024 rows of 256 float32 numbers" in done.stdout


@only_without_a_gpu
def test_without_a_gpu_one_sentence_says_what_to_install(tmp_path):
    (tmp_path / "cupy.py").write_text("raise ModuleNotFoundError('No module', name='cupy')")
    done = benchmark("--device", "cuda", env={**QUIET, "PYTHONPATH": path(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "device 'cuda' needs CuPy, and CuPy is not installed: pip install" in done.stderr


def test_parts_and_peers_of_the_cpu_are_refused():
    for option, name, known in (
        ("--parts", "scaling", "step-64, step-1024"),
        ("--peers", "jax_jit", "engine, pytorch"),
    ):
        done = benchmark("--device", "cuda", option, name, env={**QUIET, "PYTHONPATH": path(*gpus.PATH)})
        assert done.returncode == 2 and f"{option}: {name!r} is none of {known}" in done.stderr


# --- the same work, the same settings ---


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_all_sides_have_the_losses_of_the_definitions(small, tmp_path, compiled):
    here = bench(tmp_path, "cpu", compare.Effort(1, 0.01, not compiled))  # PyTorch's GPU is the CPU
    sides = gpu.sides(here)
    assert len(sides) == 4 + compiled
    with compare.Table(sides, print) as table:
        found = table.compare("", "train", EFFORT, small, checks=6, truth=compare.by_definition(small, 6))
    assert [side["name"] for side in found["sides"]] == [side.name for side in sides], found["left_out"]


def test_every_side_is_told_the_same_precision_and_asked_for_it(small, tmp_path):
    for side in gpu.sides(bench(tmp_path, "cpu", tf32=True))[1:3]:
        with Process(side) as process:
            assert process.precision() == "highest"  # off, unless it is asked for
            process.make("train", small)
            assert process.precision() == "high"


def test_without_the_same_precision_there_are_no_ratios(tmp_path):
    said = {"tinyattn": "high", "PyTorch": "high"}
    for tf32, kept in ((True, [1]), (False, [])):
        found = {"at_once": {}, "ratios": [1]}
        notes = gpu._notes(bench(tmp_path, tf32=tf32), found, said)
        assert found["ratios"] == kept and ("no ratios" in notes[-1]) == (not kept)


def test_tf32_allows_other_losses_and_nothing_else_does(tmp_path):
    assert bench(tmp_path).tolerance == compare.TOLERANCE == 1e-4
    assert bench(tmp_path, tf32=True).tolerance == 1e-3
    with compare.Table([], print, 1e-3) as table:
        process = type("Off", (), {"side": Side("off", ""), "check": lambda self, n: [[1.0005]]})()
        assert table._agreeing([process], [[1.0]], 1) == [process]
        table.tolerance = 1e-4
        assert table._agreeing([process], [[1.0]], 1) == []


@pytest.mark.slow
@only_without_a_gpu
def test_a_step_without_its_graph_is_left_out_with_the_reason(small, tmp_path, monkeypatch):
    (tmp_path / "cupy.py").write_text(f"""
import runpy, sys
sys.path.remove({str(tmp_path)!r})
cupy = runpy.run_path({str(gpus.PATH[0] / "cupy.py")!r})["cupy"]
def refuse(*_):
    raise RuntimeError("no capture today")
cupy.cuda.Stream.begin_capture = refuse
""")
    monkeypatch.setenv("PYTHONPATH", path(tmp_path))
    with compare.Table(gpu.sides(bench(tmp_path))[:2], print) as table:
        found = table.compare("", "train", EFFORT, small, checks=4)
    assert [side["name"] for side in found["sides"]] == ["tinyattn, launch by launch"] and found["ratios"] == []
    (line,) = found["left_out"]
    assert line.startswith("tinyattn, one CUDA graph: RuntimeError") and "no capture today" in line


# --- the clock ---


@only_without_a_gpu
def test_many_runs_are_one_time_with_one_wait_at_its_end():
    cores = machine.usable_cores()
    runner = worker.Worker({"peer": "engine", "cores": cores, "threads": len(cores), "device": "cuda:0"})
    waited = []
    runner.run = lambda: waited.append(gpus.counts()["synchronise"])
    runner.inner = 5
    with gpus.counting() as cost:
        assert len(runner._times(0)) == 1
    assert cost["synchronise"] == 1 and len(waited) == 5 and len({*waited}) == 1
    assert runner.warm(0.01) > 1000  # of nothing there are many in 50 ms
    runner.settings["device"] = "cpu"
    with gpus.counting() as cost:
        runner._times(0)
    assert not cost["synchronise"]


ROWS = 8
ARRAY = 4 * ROWS * moving.WIDTH
MOVED = {  # in bytes: whole arrays, and what is beside them
    "copy": 2 * ARRAY, "softmax": 2 * ARRAY, "softmax backward": 3 * ARRAY,
    "layer norm": 3 * ARRAY + 2 * 4 * 256 + 4 * ROWS, "layer norm backward": 3 * ARRAY + 4 * ROWS + 3 * 4 * 256,
    "gelu": 2 * ARRAY, "gelu with slope": 3 * ARRAY, "cross-entropy": ARRAY + 12 * ROWS,
    "cross-entropy backward": 2 * ARRAY + 12 * ROWS, "dropout": 2.25 * ARRAY, "adam": 7 * ARRAY,
    "embedding gradient": ARRAY + 8 * ROWS + 4 * moving.TABLE * moving.WIDTH,
}  # fmt: skip


@pytest.mark.parametrize("name", moving.KERNELS)
def test_the_bytes_of_a_kernel_are_its_arguments_and_results(name):
    run = engine.moving(None, {"kernel": name, "rows": ROWS, "device": "cuda:0"})
    run()
    assert run.bytes_moved == MOVED[name]


def test_arrays_are_large_and_leave_room(tmp_path, monkeypatch):
    whole = compare.Effort(1, 1.0)
    for free, size in ((80 << 30, 1 << 30), (7 << 30, 256 << 20)):
        monkeypatch.setattr(gpu.ta.cuda, "mem_get_info", lambda device, free=free: (free, 80 << 30))
        assert gpu._rows(bench(tmp_path, effort=whole)) * 4 * moving.WIDTH == size
    assert gpu._rows(bench(tmp_path)) == 1024


@gpus.only_where_counted
def test_step_model_of_the_page_is_of_todays_launches():
    import step_model

    found = "\n".join(step_model.table()).rstrip()
    assert f"<!-- step-model: begin -->\n{found}\n" in step_model.PAGE.read_text(encoding="utf-8"), "run step_model.py"


# --- the machine, and time to accuracy ---


def test_the_driver_is_asked_for_its_version(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._driver() == "of unknown version"
    asked = tmp_path / "nvidia-smi"
    asked.write_text("#!/bin/sh\necho 570.86.15\necho 570.86.15\n")
    asked.chmod(0o755)
    assert machine._driver() == "570.86.15"


def test_time_to_accuracy_is_the_same_training_on_a_gpu(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYATTN_DATA", str(put(toy, tmp_path / "data")))
    monkeypatch.setattr(logging.getLogger("tinyattn"), "handlers", [])  # a graph that fails shall raise, here alone
    monkeypatch.setattr(recipe, "PEAK", 1e-2)  # learn something in four steps
    monkeypatch.setattr(recipe, "WARMUP", 1)
    start = problem.write(tmp_path / "toy.npz", 2, **{**parts.RECIPE, "image_size": 16, "num_layers": 1})
    options = {"seed": 0, "goals": [2.0, -1.0], "epochs": 4, "workers": 1, "threads": 1}
    found = [
        library.accuracy(problem.read(start), {**options, "device": device, **more})()[0]
        for library, device, more in (
            (engine, "cpu", {}), (engine, "cuda:0", {"graph": True}), (pytorch, "cpu", {"fused": True})
        )
    ]  # fmt: skip
    assert len({best for _, _, best in found}) == 1
    assert all(never == -1 and reached > 0 for never, reached, _ in found)


def test_time_to_accuracy_takes_the_graph_and_the_fused_adam(tmp_path, monkeypatch):
    made = []

    class Made(Process):
        def __init__(self, side):
            made.append(side)
            raise SideError(f"{side.name}: not today")

    monkeypatch.setattr(accuracy, "Process", Made)
    found = accuracy.time_to_accuracy(bench(tmp_path, tf32=True))
    assert [side.name for side in made] == ["tinyattn, one CUDA graph", "PyTorch eager, AdamW fused=True"]
    assert {side.device for side in made} == {"cuda:0"} and {side.options["precision"] for side in made} == {"high"}
    assert made[0].options["graph"] and made[1].options["fused"]
    assert found["tables"][0]["title"] == "time to accuracy on MNIST, cuda:0, TF32 on, median of 1 seeds"
