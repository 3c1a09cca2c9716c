"""How fast tinyattn is, beside other libraries: the same model, data and optimizer, equal results first.

    python examples/benchmark.py                          # everything; an hour on a quiet machine
    python examples/benchmark.py --quick                  # a look at every part, in a few minutes
    python examples/benchmark.py --parts step,memory --json results.json
    python examples/benchmark.py --write-docs results.json

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
from pathlib import Path
from typing import Any

from bench import accuracy, growth, machine, parts, report
from bench.compare import Effort
from bench.side import PACKAGES

PARTS = {
    "step": parts.step,
    "inference": parts.inference,
    "scalars": parts.scalars,
    "operations": parts.operations,
    "scaling": growth.scaling,
    "graph": growth.graph,
    "memory": growth.memory,
    "example": parts.example,
}
PAGE = Path(__file__).parents[1] / "docs/performance.md"


def main() -> int:
    args = parse_arguments()
    if args.write_docs:
        print(f"{PAGE}: {', '.join(report.write_docs(args.write_docs, PAGE))}")
        return 0
    effort = Effort(args.turns, args.seconds, args.quick)
    found: dict[str, Any] = {"machine": machine.describe(), "effort": dataclasses.asdict(effort), "parts": {}}
    print(*machine.lines(found["machine"]), sep="\n")
    wanted = {name: PARTS[name] for name in args.parts}
    if args.time_to_accuracy:
        wanted["accuracy"] = accuracy.time_to_accuracy
    with tempfile.TemporaryDirectory() as folder:
        bench = parts.Bench(effort, args.peers, Path(folder), lambda line: print(line, file=sys.stderr))
        for name, part in wanted.items():
            result = part(bench)
            found["parts"][name] = result
            print(report.terminal(name, result), flush=True)
            if args.json:  # after each part: a run that is stopped keeps what it has
                args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure tinyattn beside other libraries.")
    option = parser.add_argument
    option("--parts", type=names(PARTS), default=list(PARTS), help=f"what to measure, of {','.join(PARTS)} (all)")
    option("--peers", type=names(PACKAGES), default=tuple(PACKAGES), help=f"whom, of {','.join(PACKAGES)} (all)")
    option("--time-to-accuracy", action="store_true", help="also the time to 98 and 99 %% on MNIST, in minutes")
    option("--turns", type=int, help="turns of each side (30; 3 when --quick)")
    option("--seconds", type=float, help="length of a turn (1; 0.05 when --quick)")
    option("--quick", action="store_true", help="few short turns, small sizes, nothing that compiles long")
    option("--json", type=Path, metavar="FILE", help="write everything there, with the median of each turn")
    option(
        "--write-docs", type=Path, metavar="FILE", help="measure nothing: put FILE's tables into docs/performance.md"
    )
    args = parser.parse_args()
    args.turns = args.turns or (3 if args.quick else 30)
    args.seconds = args.seconds or (0.05 if args.quick else 1.0)
    if args.turns < 1 or args.seconds <= 0:
        parser.error(f"--turns {args.turns} and --seconds {args.seconds:g} must be above 0")
    return args


def names(known: Any) -> Any:
    """An argument that is a list of names with commas."""

    def parse(text: str) -> tuple[str, ...]:
        given = tuple(text.split(","))
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return given

    return parse


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
