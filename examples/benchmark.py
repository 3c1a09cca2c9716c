"""How fast tinyattn is, beside other libraries: the same model, data and optimizer, equal results first.

    python examples/benchmark.py                          # everything; an hour on a quiet machine
    python examples/benchmark.py --quick                  # a look at every part, in a few minutes
    python examples/benchmark.py --parts step,memory --json results.json
    python examples/benchmark.py --write-docs results.json
    python examples/benchmark.py --device cuda            # the same training step on a GPU, in a quarter of an hour

Each side runs in a process of its own, in turns of a second, while the others sleep; a ratio is the
median over the turns, with a 95 % bootstrap interval. docs/performance.md has results and says more.
Other libraries take part where they are installed: pip install -e ".[bench]".
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parts import run_script

from bench import accuracy, cases, gpu, growth, machine, parts, ranks, report
from bench.compare import Effort
from bench.side import PACKAGES

from tinyattn import train
from tinyattn.train.parser import device, positive_number, whole_number

PARTS = {
    "step": parts.step,
    "inference": parts.inference,
    "texts": parts.texts,
    "compiling": parts.compiling,
    "scalars": parts.scalars,
    "operations": parts.operations,
    "scaling": growth.scaling,
    "graph": growth.graph,
    "memory": growth.memory,
    "ranks": ranks.ranks,
    "example": parts.example,
}
GPU_PARTS = {"step-64": gpu.step(64), "step-1024": gpu.step(1024), "bandwidth": gpu.bandwidth}
PAGE = Path(__file__).parents[1] / "docs/performance.md"


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    if args.write_docs:
        print(f"{PAGE}: {', '.join(write_docs(args.write_docs))}")
        return 0
    effort = Effort(args.turns, args.seconds, args.quick)
    found: dict[str, Any] = {
        "machine": machine.describe(args.device),
        "effort": dataclasses.asdict(effort),
        "parts": {},
    }
    print(*machine.lines(found["machine"]), sep="\n")
    wanted = {name: args.known[name] for name in args.parts}
    if args.time_to_accuracy:
        wanted["accuracy"] = accuracy.time_to_accuracy
    if args.operations:
        wanted = {"table": cases.table}
    with tempfile.TemporaryDirectory() as folder:
        bench = parts.Bench(effort, args.peers, Path(folder), say, args.device, args.tf32)
        for name, part in wanted.items():
            result = part(bench)
            found["parts"][name] = result
            print(report.terminal(name, result), flush=True)
            if args.json:  # after each part: a run that is stopped keeps what it has
                args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def say(line: str) -> None:
    """What goes on, beside what is found."""
    print(line, file=sys.stderr)


def write_docs(results: Path) -> list[str]:
    """Put what --json wrote into the page."""
    try:
        return report.write_docs(results, PAGE)
    except (ValueError, KeyError, TypeError):
        raise train.RefusedError(f"{results} is not what --json writes; give it a file of a run with --json.") from None


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; wrong words end here, with one sentence and code 2."""
    parser = train.Parser(prog="benchmark.py", description=__doc__)
    option = parser.add_argument
    option("--device", type=device, metavar="DEVICE", help="where to compute: cpu, cuda or cuda:1 (cpu)")
    option("--parts", type=words, metavar="PART,...", help=f"what to measure, of {','.join(PARTS)} (all); on a GPU of "
           f"{','.join(GPU_PARTS)}")  # fmt: skip
    option("--peers", type=words, metavar="PEER,...", help=f"whom, of {','.join(PACKAGES)} (all); on a GPU of "
           f"{','.join(gpu.PEERS)}")  # fmt: skip
    option("--tf32", action="store_true", help="on a GPU: let all sides round factors of float32 products to 10 bits")
    option("--time-to-accuracy", action="store_true", help="also the time to 98 and 99 %% on MNIST, in minutes")
    option("--operations", action="store_true", help="only the table of some 250 operations beside PyTorch, one thread")
    option("--turns", type=whole_number, metavar="N", help="turns of each side (30; 3 when --quick)")
    option("--seconds", type=positive_number, metavar="S", help="length of a turn (1; 0.05 when --quick)")
    option("--quick", action="store_true", help="few short turns, small sizes, nothing that compiles long")
    option("--json", type=new_file, metavar="FILE", help="write everything there, with the median of each turn")
    option(
        "--write-docs", type=Path, metavar="FILE", help="measure nothing: put FILE's tables into docs/performance.md"
    )
    args = argparse.Namespace(**{**DEFAULTS, **parser.given(arguments)})
    on_cpu = args.device == "cpu"
    args.known, peers = (PARTS, PACKAGES) if on_cpu else (GPU_PARTS, gpu.PEERS)
    args.parts = chosen(parser, "--parts", args.parts, args.known)
    args.peers = chosen(parser, "--peers", args.peers, peers)
    if args.tf32 and on_cpu:
        parser.error("--tf32 is for a GPU; give --device cuda, or leave it out")
    args.turns = args.turns or (3 if args.quick else 30)
    args.seconds = args.seconds or (0.05 if args.quick else 1.0)
    return args


DEFAULTS = {
    "device": "cpu", "parts": None, "peers": None, "tf32": False, "time_to_accuracy": False, "operations": False,
    "turns": None, "seconds": None, "quick": False, "json": None, "write_docs": None,
}  # fmt: skip


def chosen(parser: train.Parser, option: str, given: tuple[str, ...] | None, known: Any) -> tuple[str, ...]:
    """The names that were given, or all that are known."""
    for name in given or ():
        if name not in known:
            parser.error(f"argument {option}: {name!r} is none of {', '.join(known)}")
    return tuple(known) if given is None else given


def words(text: str) -> tuple[str, ...]:
    """An argument that is a list of names with commas."""
    return tuple(text.split(","))


def new_file(text: str) -> Path:
    """An argument that is a file which can be written."""
    path = Path(text).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no file that can be written")
    return path


if __name__ == "__main__":
    run_script(main)
