"""Everything that needs a GPU to be proven, in parts of under ten minutes each.

    pip install -e ".[cuda12,train,test]" (or cuda13), and a PyTorch that knows the GPU; then
    python tests/gpu_check.py                       # all parts; those that are done are not done again
    python tests/gpu_check.py --parts step,bandwidth --again
    python tests/gpu_check.py --list
    python tests/gpu_check.py --markdown            # what has been found so far, as a page

Each part runs in a process of its own and leaves a file, results/gpu/<part>.json, so that a run which is stopped goes
on where it was; results/gpu/benchmark/ keeps what examples/benchmark.py wrote, for its --write-docs. A part that could not run says why; one that found something wrong makes the exit status 1.
`--rehearse` runs the same code on the processor (tests/fakecuda), in miniature and beside PyTorch's CPU: that says nothing
of any GPU, only that this script works.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from gpu_parts import KEPT, LIMIT, PARTS, ROOT, Found, one_step  # noqa: E402


def machine() -> Found:
    """The GPU and the versions, for the page."""
    import cupy

    import tinyattn as ta

    return {
        "gpu": ta.cuda.get_device_name(), "capability": ta.cuda.get_device_capability(), "cupy": cupy.__version__,
        "driver": cupy.cuda.runtime.driverGetVersion(), "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "python": sys.version.split()[0], "numpy": np.__version__,
    }  # fmt: skip


def inside(name: str, rehearse: bool) -> Found:
    """One part, in this process."""
    if rehearse:
        import fakecuda

        fakecuda.install()
    start = time.perf_counter()
    found = (PARTS | {"one_step": one_step})[name](rehearse)
    return {**found, "took": time.perf_counter() - start, "rehearsal": rehearse, "machine": machine()}


def outside(name: str, folder: Path, rehearse: bool) -> Found:
    """One part in a process of its own, its finding kept."""
    command = [sys.executable, __file__, "--inside", name, *(["--rehearse"] if rehearse else [])]
    kept = folder / "benchmark"
    kept.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, KEPT: str(kept.resolve())}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT + 20)
        found = (
            json.loads(done.stdout.splitlines()[-1])
            if done.returncode == 0
            else {"ok": False, "error": done.stderr[-2000:]}
        )
    except subprocess.TimeoutExpired:
        found = {"ok": False, "error": f"took more than {LIMIT} seconds"}
    fresh = folder / f"{name}.tmp"
    fresh.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    fresh.replace(folder / f"{name}.json")
    return found


def verdict(found: Found) -> str:
    """In one word or two."""
    if "skipped" in found:
        return f"skipped: {found['skipped']}"
    return "as it must be" if found.get("ok") else "NOT as it must be"


def markdown(results: dict[str, Found]) -> str:
    """A page with every figure that was found; those of a rehearsal are no figures."""
    lines = ["| part | | found |", "| --- | --- | --- |"]
    for name, found in results.items():
        keep = {k: v for k, v in found.items() if k not in ("ok", "machine", "rehearsal", "skipped", "failed")}
        shown = "nothing: this was a rehearsal" if found.get("rehearsal") else json.dumps(_rounded(keep))
        lines.append(f"| {name} | {verdict(found)} | {shown.replace('|', '/')} |")
    machines = {json.dumps(f["machine"]) for f in results.values() if "machine" in f and not f.get("rehearsal")}
    return "\n".join([*lines, "", *sorted(machines)])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.3g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--parts", type=lambda text: text.split(","), default=list(PARTS), help="which, separated by commas (all)")
    option("--out", type=Path, default=ROOT / "results/gpu", help="folder for what is found (results/gpu)")
    option("--again", action="store_true", help="do parts again that are done")
    option("--rehearse", action="store_true", help="on the processor, to see that this script works")
    option("--list", action="store_true", help="name the parts")
    option("--markdown", action="store_true", help="print what was found as a page")
    option("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(inside(args.inside, args.rehearse)))
        return 0
    unknown = [name for name in args.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]!r}; --list names them")
    if args.list:
        print(*PARTS, sep="\n")
        return 0
    results = {}
    for name in args.parts:
        kept = args.out / f"{name}.json"
        if kept.exists() and not args.again:
            results[name] = json.loads(kept.read_text(encoding="utf-8"))
        elif not args.markdown:
            results[name] = outside(name, args.out, args.rehearse)
        if name in results and not args.markdown:
            print(f"{name}: {verdict(results[name])} {results[name].get('error', '')}".rstrip(), flush=True)
    if args.markdown:
        print(markdown(results))
    return 0 if all(found.get("ok") or "skipped" in found for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
