"""The parts on a GPU: the training step, and how near kernels that move bytes come to what a copy moves."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import tinyattn as ta
from bench.compare import Effort, Table, by_definition, ratio
from bench.machine import usable_cores
from bench.parts import STEPS, Bench, Part
from bench.peers.moving import KERNELS, WIDTH
from bench.problem import write
from bench.side import Process, Side, SideError

PEERS = ("engine", "pytorch")


def sides(bench: Bench) -> list[Side]:
    """tinyattn's step as one CUDA graph and launch by launch; PyTorch's eager and compiled."""
    told = {"precision": bench.precision}
    found = [
        ("tinyattn, one CUDA graph", "engine", {"graph": True}),
        ("tinyattn, launch by launch", "engine", {}),
        ("PyTorch eager", "pytorch", {}),
        ("PyTorch eager, Adam fused=True", "pytorch", {"fused": True}),
        ("PyTorch compiled, reduce-overhead, Adam fused=True", "pytorch",
         {"fused": True, "compiled": "reduce-overhead"}),
    ]  # fmt: skip
    if bench.effort.quick:  # compiling takes a minute
        found = found[:-1]
    cores = len(usable_cores())
    return [Side(name, peer, cores, 1, {**told, **options}, bench.device) for name, peer, options in found]


def step(batch: int) -> Callable[[Bench], Part]:
    """The part that measures a training step of AttentionClassifier's defaults: float32, Adam, batches on the GPU."""

    def part(bench: Bench) -> Part:
        quick = {"batch": batch // 32, "num_layers": 1}
        problem = write(bench.folder / f"step-{batch}.npz", **(quick if bench.effort.quick else {"batch": batch}))
        title = f"training step at batch {batch}, TF32 {'on' if bench.tf32 else 'off'}"
        title += f" (--quick: at batch {quick['batch']}, with one block)" * bench.effort.quick
        truth = by_definition(problem, STEPS)
        with Table(bench.chosen(sides(bench)), bench.say, bench.tolerance) as table:
            found = table.compare(title, "train", bench.effort, problem, checks=STEPS, truth=truth)
            said = {p.side.name: p.precision() for p in table.processes if p.side.name in found["at_once"]}
        problem.unlink()
        return {"comparisons": [found], "notes": _notes(bench, found, said)}

    return part


def _notes(bench: Bench, found: dict[str, Any], said: dict[str, str]) -> list[str]:
    """What was the same on all sides; without that there are no ratios."""
    waits = [f"{name} {runs}" for name, runs in found["at_once"].items()]
    lines = ["steps between two waits for the GPU: " + ", ".join(waits)]
    if not {*said.values()} <= {bench.precision}:
        found["ratios"] = []
        return [*lines, f"no ratios, for the sides' products were not the same: {said}"]
    how = "rounded to TF32" if bench.tf32 else "float32 throughout, no TF32"
    return [*lines, f"products of float32 matrices on every side: {how} ({bench.precision!r})"]


def bandwidth(bench: Bench) -> Part:
    """Bytes a second of each kernel, in turns with a copy on the device."""
    rows, effort, raw, notes = _rows(bench), bench.effort.part(1 / 3), [], []
    sides = [Side(name, "engine", device=bench.device) for name in ("the copy", "tinyattn")]
    with Process(sides[0]) as copy, Process(sides[1]) as kernel:
        copied = copy.make("moving", kernel="copy", rows=rows)
        copy.warm(effort.warming)
        for name in KERNELS:
            bench.say(f"  {name}")
            try:
                moved = kernel.make("moving", kernel=name, rows=rows)
                kernel.warm(effort.warming)
            except SideError as error:
                notes.append(f"{name}: {error}")
                continue
            turns = [(_rate(kernel, moved, effort), _rate(copy, copied, effort)) for _ in range(effort.turns)]
            ours, theirs = zip(*turns, strict=True)
            share = ratio(name, "a copy", ours, theirs)
            raw.append({"kernel": name, "bytes": moved, "rates": ours, "copy": theirs, "share": share})
    table = [
        [r["kernel"], f"{r['bytes'] / 2**20:,.1f} MiB", f"{statistics.median(r['rates']) / 1e9:,.4g} GB/s",
         r["share"]["ratio"], f"{r['share']['low']:.2f} to {r['share']['high']:.2f}"]
        for r in raw
    ]  # fmt: skip
    columns = ["", "bytes read and written", "a second", "of what a copy moves", "95 % interval"]
    title = f"kernels on arrays of {rows:,} rows of {WIDTH} float32 numbers"
    return {"tables": [{"title": title, "columns": columns, "rows": table}], "notes": notes, "raw": raw}


def _rate(process: Process, moved: int, effort: Effort) -> float:
    """Bytes a second in one turn."""
    return moved / statistics.median(process.turn(effort.seconds))


def _rows(bench: Bench) -> int:
    """So many that an array has 1 GiB, or a sixteenth of what is free; 1 MiB when --quick."""
    free, _ = ta.cuda.mem_get_info(bench.device)
    size = 1 << 20 if bench.effort.quick else min(1 << 30, 1 << (free // 16).bit_length() - 1)
    return size // (4 * WIDTH)
