"""The parts of the benchmark that compare libraries: step, texts, inference, scalars, operations, example."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compare import TF32_TOLERANCE, TOLERANCE, Effort, Table, by_definition
from bench.machine import usable_cores
from bench.peers.sizes import OPERATIONS
from bench.problem import write
from bench.side import Process, Side
from bench.texts import SIZES

Part = dict[str, Any]  # comparisons; tables; notes; what is raw
STEPS = 6  # whose losses must agree


@dataclass(frozen=True)
class Bench:
    """What every part is given: how long to measure, which peers, where to put files, how to say things, the device."""

    effort: Effort
    peers: tuple[str, ...]
    folder: Path
    say: Callable[[str], None]
    device: str = "cpu"
    tf32: bool = False  # whether products of float32 matrices may be rounded so, on a GPU

    @property
    def precision(self) -> str:
        """The same, as PyTorch and tinyattn are told."""
        return "high" if self.tf32 else "highest"

    @property
    def tolerance(self) -> float:
        """By how much losses may differ from those of the definitions."""
        return TF32_TOLERANCE if self.tf32 else TOLERANCE

    def chosen(self, sides: list[Side]) -> list[Side]:
        """The sides of the wanted peers."""
        return [side for side in sides if side.peer in self.peers]


def most_cores() -> int:
    """Two, where the machine has them."""
    return min(2, len(usable_cores()))


def engine(cores: int, name: str = "", workers: int = 0, **options: Any) -> Side:
    """tinyattn with a worker thread on each core, unless told otherwise, and a BLAS thread for each worker."""
    workers = workers or cores
    name = name or f"tinyattn{' compiled' * ('graph' in options)}, {workers} worker{'s' * (workers > 1)}"
    return Side(name, "engine", cores, blas=1, options={"workers": workers, **options})


def step(bench: Bench) -> Part:
    """A training step of AttentionClassifier's defaults: batch 64, float32, Adam."""
    problem, found = write(bench.folder / "step.npz"), []
    truth = by_definition(problem, STEPS)
    for cores in sorted({1, most_cores()}):
        sides = [
            engine(cores, graph=True),
            engine(cores),
            Side("PyTorch eager", "pytorch", cores),
            Side("PyTorch eager, Adam fused=True", "pytorch", cores, options={"fused": True}),
            Side("PyTorch compiled, Adam fused=True", "pytorch", cores, options={"fused": True, "compiled": True}),
            Side("JAX jit", "jax_jit", cores),
            Side("tinygrad TinyJit", "tiny_grad", cores),
            Side("HIPS autograd", "hips_autograd", cores),
            Side("NumPy, the step's matmuls alone", "matmul_floor", cores, blas=1),
        ]
        if bench.effort.quick:
            sides = [side for side in sides if not side.options.get("compiled") and side.peer != "tiny_grad"]
        if cores == 1:
            sides.append(Side("tinyattn by its definitions", "engine", 1, options={"definitions": True}))
        else:
            sides.append(Side("tinyattn, 1 worker", "engine", cores, blas=1))
        with Table(bench.chosen(sides), bench.say) as table:
            title = f"training step on {cores} core{'s' * (cores > 1)}"
            found.append(table.compare(title, "train", bench.effort, problem, checks=STEPS, truth=truth))
    return {"comparisons": found}


def texts(bench: Bench) -> Part:
    """A training step of a GPT and of an encoder-decoder that translates, with Adam."""
    cores, found = most_cores(), []
    sides = [
        engine(cores, graph=True),
        engine(cores),
        Side("PyTorch eager", "pytorch", cores),
        Side("PyTorch compiled, Adam fused=True", "pytorch", cores, options={"fused": True, "compiled": True}),
    ]
    sides = [side for side in sides if not (bench.effort.quick and side.options.get("compiled"))]
    for kind, sizes in SIZES.items():
        title = f"{kind}, {', '.join(f'{name} {n}' for name, n in sizes.items())}, on {cores} cores"
        with Table(bench.chosen(sides), bench.say) as table:
            found.append(table.compare(title, "text", bench.effort.part(0.5), checks=3, kind=kind, sizes=sizes))
    return {"comparisons": found}


def compiling(bench: Bench) -> Part:
    """The first calls of `ta.compile(step)`, with AttentionClassifier's defaults at batch 64, on one core."""
    problem, runs = write(bench.folder / "compiling.npz"), []
    with Process(engine(1)) as process:
        process.make("compiling", problem)
        runs = process.check(2 if bench.effort.quick else 7)[1:]  # the first one imports and allocates
    first, second, third, later = (statistics.median(call) for call in zip(*runs, strict=True))
    rows = [
        ["first call, the function itself", f"{1e3 * first:.0f} ms"],
        ["second call, recorded and planned", f"{1e3 * second:.0f} ms"],
        ["third call, both ways and compared", f"{1e3 * third:.0f} ms"],
        ["later calls", f"{1e3 * later:.1f} ms"],
        ["recording and planning: second less first", f"{1e3 * (second - first):.0f} ms"],
    ]
    return {"tables": [{"title": "calls of a compiled step", "columns": ["", "median"], "rows": rows}], "raw": runs}


def inference(bench: Bench) -> Part:
    """The scores of a batch, nothing recorded."""
    cores, found = most_cores(), []
    for batch in (64, 1):
        workers = cores if batch > 1 else 1  # one image cannot be split
        ours = [engine(cores, workers=workers, graph=True), engine(cores, workers=workers)]
        problem = write(bench.folder / f"inference-{batch}.npz", batch)
        with Table(bench.chosen([*ours, Side("PyTorch eager", "pytorch", cores)]), bench.say) as table:
            title = f"inference at batch {batch} on {cores} core{'s' * (cores > 1)}"
            found.append(table.compare(title, "infer", bench.effort, problem))
    return {"comparisons": found}


def scalars(bench: Bench) -> Part:
    """What an operation costs where the arithmetic costs nothing."""
    sides = [
        engine(1, "tinyattn"), Side("PyTorch", "pytorch"), Side("MyGrad", "my_grad"),
        Side("HIPS autograd", "hips_autograd"), Side("DeZero", "de_zero"),
    ]  # fmt: skip
    with Table(bench.chosen(sides), bench.say) as table:
        found = [
            table.compare(f"1,000 {words} of 0-d tensors, forward and backward", "chain", bench.effort, operation=name)
            for name, words in (("add", "additions"), ("mul", "products"))
        ]
    return {"comparisons": found}


def operations(bench: Bench) -> Part:
    """Each fused operation, forward and backward, at the model's sizes, on one core."""
    sides = [engine(1, "tinyattn"), Side("PyTorch", "pytorch")]
    effort = bench.effort.part(0.5)
    with Table(bench.chosen(sides), bench.say) as table:
        found = [table.compare(name, "operation", effort, operation=name) for name in OPERATIONS]
    sides[1] = Side("PyTorch", "pytorch", options={"fused": True})
    with Table(bench.chosen(sides), bench.say) as table:
        found.append(table.compare("adam, fused=True in PyTorch", "operation", effort, operation="adam"))
    return {"comparisons": found}


def example(bench: Bench) -> Part:
    """A pass as examples/mnist.py makes it (loader, shifts, metrics) over the same training steps alone."""
    cores = most_cores()
    sides = [
        Side("the example's loop", "engine", cores, 1, {"workers": cores, "whole": True}),
        Side("its training steps alone", "engine", cores, 1, {"workers": cores}),
    ]
    problem = write(bench.folder / "example.npz", 128, **RECIPE)
    with Table(sides, bench.say) as table:
        found = table.compare("16 batches of examples/mnist.py", "epoch", bench.effort.part(0.5), problem)
    return {"comparisons": [found]}


# The model of examples/mnist.py's default recipe.
RECIPE = {
    "patch_size": 7, "patch_stride": 4, "patch_padding": 2, "stem_dim": 128, "mlp_dim": 128, "pooling": "attention"
}  # fmt: skip
