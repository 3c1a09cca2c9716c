"""Time to 98 % and to 99 % of MNIST's test images, beside the same recipe in PyTorch. Minutes long."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

from bench import gpu
from bench.parts import RECIPE, Bench, engine, most_cores
from bench.problem import write
from bench.side import Process, Side, SideError

GOALS = (0.98, 0.99)
SEEDS = (0, 1, 2)


def time_to_accuracy(bench: Bench) -> dict[str, Any]:
    """Seconds of training (loader and shifts counted, test passes not) until each goal is reached."""
    cores, seeds = most_cores(), SEEDS[:1] if bench.effort.quick else SEEDS
    sides = [
        engine(cores, graph=True),
        Side("PyTorch eager, AdamW fused=True", "pytorch", cores, options={"fused": True}),
    ]
    where = f"{cores} cores"
    if bench.device != "cpu":
        ours, theirs = (side for side in gpu.sides(bench) if side.options.get("graph") or side.name == "PyTorch eager")
        sides = [ours, replace(theirs, name=sides[1].name, options={**theirs.options, "fused": True})]
        where = f"{bench.device}, TF32 {'on' if bench.tf32 else 'off'}"
    reached: dict[str, list[list[float]]] = {}
    notes = []
    for seed in seeds:
        problem = write(bench.folder / f"recipe-{seed}.npz", 128, seed, **RECIPE)
        for side in bench.chosen(sides):
            bench.say(f"  {side.name}, seed {seed}")
            try:
                with Process(side) as process:
                    process.make("accuracy", problem, seed=seed, goals=GOALS, epochs=1 if bench.effort.quick else 10)
                    reached.setdefault(side.name, []).append(process.check()[0])
            except SideError as error:
                notes.append(str(error))
    rows = [
        [name, *(_median([run[i] for run in runs]) for i in range(len(GOALS))), f"{max(run[-1] for run in runs):.2%}"]
        for name, runs in reached.items()
    ]
    columns = ["", *(f"seconds to {goal:.0%}" for goal in GOALS), "best seen"]
    title = f"time to accuracy on MNIST, {where}, median of {len(seeds)} seeds"
    return {"tables": [{"title": title, "columns": columns, "rows": rows}], "notes": notes, "raw": reached}


def _median(seconds: list[float]) -> str:
    """Of the runs' times; -1, which is never, counts as the longest."""
    median = statistics.median(x if x >= 0 else math.inf for x in seconds)
    return f"{median:.1f}" if math.isfinite(median) else "not reached"
