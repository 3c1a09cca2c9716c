"""The parts that let something grow: scaling over batch, tokens and depth; graph length; memory."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.compare import Table, exponent, ratio
from bench.parts import Bench, engine, most_cores
from bench.problem import read, write
from bench.side import Process, Side, SideError

# axis: its values, the same when --quick, and what AttentionClassifier is told for a value
AXES: dict[str, tuple[list[int], list[int], Any]] = {
    "batch": ([2**k for k in range(11)], [1, 8], lambda n: {"batch": n}),
    "tokens": ([16, 64, 256, 1024, 4096], [16, 64], lambda n: {"batch": 2, "image_size": 4 * round(n**0.5)}),
    "depth": ([1, 2, 4, 8, 16, 32], [1, 2], lambda n: {"num_layers": n}),
}
LENGTHS = [10**k for k in range(2, 7)]
TRIED = 1e9  # multiplications and additions of a step: above, all cores are quicker without a trial


def scaling(bench: Bench) -> dict[str, Any]:
    """The training step over batch, tokens (at batch 2) and depth (at batch 64).

    PyTorch does small steps on one core by itself; tinyattn, compiled, is told how many workers to use, by a trial.
    """
    cores, alone = most_cores(), []
    comparisons, fits = [], []
    for axis, (full, quick, arguments) in AXES.items():
        values, points = quick if bench.effort.quick else full, []
        for value in values:
            problem = write(bench.folder / f"{axis}-{value}.npz", **arguments(value))
            arithmetic = read(problem).arithmetic()
            workers = cores if arithmetic > TRIED else quickest(bench, problem, cores)
            if workers < cores:
                alone.append(f"{axis} {value}")
            sides = [engine(workers, "tinyattn compiled", graph=True), Side("PyTorch eager", "pytorch", cores)]
            with Table(bench.chosen(sides), bench.say) as table:  # new processes: no point inherits another's memory
                found = table.compare(f"{axis} {value}", "train", bench.effort.part(0.25), problem, checks=3)
            points.append({**found, "arithmetic": arithmetic})
            problem.unlink()
        comparisons += points
        fits.append(_fit(axis, values, points))
    columns = ["over", "tinyattn's exponent", "PyTorch's", "the arithmetic's", "fitted from", "to"]
    slower = [f"slower than PyTorch: {c['title']}" for c in comparisons if any(r["low"] > 1 for r in c["ratios"])]
    notes = [f"tinyattn with {cores} workers, and with one at {', '.join(alone)}"] if alone else []
    return {
        "comparisons": comparisons,
        "tables": [{"title": "time grows with this power", "columns": columns, "rows": fits}],
        "notes": notes + (slower or ["nowhere slower than PyTorch (no interval lies above 1)"]),
    }


def quickest(bench: Bench, problem: Path, cores: int) -> int:
    """One worker or one a core: the number with which a compiled step takes less time."""
    times: dict[int, list[float]] = {workers: [] for workers in sorted({1, cores})}
    with ExitStack() as stack:
        sides = {n: stack.enter_context(Process(engine(cores, workers=n, graph=True))) for n in times}
        for process in sides.values():
            process.make("train", problem)
            process.check(4)
            process.warm(bench.effort.warming)
        for _ in range(3):
            for workers, process in sides.items():
                times[workers].append(statistics.median(process.turn(bench.effort.seconds)))
    return min(times, key=lambda workers: statistics.median(times[workers]))


def _fit(axis: str, values: list[int], points: list[dict[str, Any]]) -> list[Any]:
    """Exponents over the upper half of the values, where a step is more than the cost of its operations."""
    upper = values[len(values) // 2 :] if len(values) > 2 else values
    fitted = [axis]
    for name in ("tinyattn", "PyTorch"):
        times = {
            value: side["seconds"]
            for value, point in zip(values, points, strict=True)
            for side in point["sides"]
            if side["name"].startswith(name) and value in upper
        }
        fitted.append(exponent(list(times), list(times.values())))
    arithmetic = [point["arithmetic"] for value, point in zip(values, points, strict=True) if value in upper]
    return [*fitted, exponent(upper, arithmetic), upper[0], upper[-1]]


def graph(bench: Bench) -> dict[str, Any]:
    """Chains of 0-d additions, recorded and walked: time over length, with the cyclic collector and without."""
    lengths = LENGTHS[:3] if bench.effort.quick else LENGTHS
    runs = 1 if bench.effort.quick else 5
    medians: dict[bool, list[float]] = {True: [], False: []}
    raw = []
    with Process(engine(1, "tinyattn")) as process:
        for length in lengths:
            for collector in (True, False):
                process.make("chain", operation="add", length=length, collector=collector)
                process.warm(0)
                times = [statistics.median(process.turn(0)) for _ in range(runs)]
                medians[collector].append(statistics.median(times))
                raw.append({"length": length, "collector": collector, "turns": times})
    rows: list[list[Any]] = [
        [f"{length:,} nodes", f"{1e3 * on:.3g} ms", f"{1e3 * off:.3g} ms"]
        for length, on, off in zip(lengths, medians[True], medians[False], strict=True)
    ]
    fitted = [exponent(lengths[1:], medians[collector][1:]) for collector in (True, False)]
    rows.append([f"exponent from {lengths[1]:,} on", *fitted])
    columns = ["chain", "with the cyclic collector", "without it"]
    return {"tables": [{"title": "graph length", "columns": columns, "rows": rows}], "raw": raw}


def memory(bench: Bench) -> dict[str, Any]:
    """How much a process grows, at its peak, over its size after the import: model, optimizer, six steps."""
    problem, found, pairs, notes = write(bench.folder / "memory.npz"), {}, [], []
    for cores in sorted({1, most_cores()}):
        sides = [engine(cores), Side(f"PyTorch eager, {cores} core{'s' * (cores > 1)}", "pytorch", cores)]
        for side in bench.chosen(sides):
            try:
                found[side.name] = [_grown(side, problem) for _ in range(1 if bench.effort.quick else 5)]
            except SideError as error:
                notes.append(str(error))
        if all(side.name in found for side in sides):
            growths = ([x["peak"] - x["after_import"] for x in found[side.name]] for side in sides)
            pairs.append(ratio(sides[0].name, sides[1].name, *growths))
    rows = [[name, *map(_mebibytes, _medians(each))] for name, each in found.items()]
    notes += [f"{r['of']} / {r['to']}: {r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in pairs]
    columns = ["side", "growth at the peak", "after the import", "peak"]
    return {
        "tables": [{"title": "memory of the training step at batch 64", "columns": columns, "rows": rows}],
        "notes": notes, "ratios": pairs, "raw": found,
    }  # fmt: skip


def _grown(side: Side, problem: Path) -> dict[str, int]:
    with Process(side) as process:
        process.make("train", problem)
        process.check(6)
        return process.memory()


def _medians(runs: list[dict[str, int]]) -> list[float]:
    """Of growth, size after the import, and peak."""
    each = [(run["peak"] - run["after_import"], run["after_import"], run["peak"]) for run in runs]
    return [statistics.median(values) for values in zip(*each, strict=True)]


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
