"""The budget of lines: python .ci/rooms.py prints the size of every room of tinyattn/, and fails if one is too large.

A ceiling may be raised, in the commit that needs it; so growth is a decision. `--readme` writes the true numbers of
lines into the reading table of README.md and of its translations.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinyattn"
SOURCES = {".py", ".cu", ".cuh", ".js", ".css", ".html"}
TOP = "(top)"  # files of no other room

CEILINGS = {  # in lines; the first that fits a path counts
    "engine/": 1_565,
    "ops/": 10_200,
    "tensors.py": 330,
    "autograd/": 870,
    "backends/cpu/": 2_115,
    "backends/cuda/": 2_945,
    "backends/": 645,  # its other files
    "cuda/": 440,
    "program/": 2_285,
    "files/": 715,
    "nn/": 5_210,
    "optim/": 2_635,
    "models.py": 400,
    "distributed/": 390,
    "data/": 1_595,
    "train/": 1_305,
    "debug/": 2_400,
    "viz/": 7_775,
    "compat/": 3_475,
    TOP: 1_605,
}
TOTAL = 48_870  # a sixth of them docstrings (a ninth in 0.1.0); to be brought down to 22,500
CORE, FILE, FUNCTION = 1_895, 400, 50  # CORE: engine/ and tensors.py

ROW = re.compile(r"^(\| `([^`]+)` \| )([\d,]+)( \|)", re.MULTILINE)


def lines(path: Path) -> int:
    """Count the lines of a file, or of all sources in a folder, as wc -l does."""
    if path.is_dir():
        return sum(lines(file) for file in sources(path))
    return path.read_bytes().count(b"\n")


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in SOURCES)


def room_of(path: Path, package: Path) -> str:
    name = path.relative_to(package).as_posix()
    return next((room for room in CEILINGS if name == room or (room.endswith("/") and name.startswith(room))), TOP)


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines and the place of every function of a Python file, without its decorators."""
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{path.name}:{node.lineno} {node.name}"


def report(package: Path) -> tuple[list[str], list[str]]:
    """Return the rows of the table, and a sentence for everything that is too large."""
    rows = [f"{'room':<15} {'lines':>6} {'ceiling':>7}  {'longest file':<24} longest function"]
    wrong, sizes = [], {}
    for room, ceiling in CEILINGS.items():
        files = [path for path in sources(package) if room_of(path, package) == room]
        by_size = sorted((lines(path), path.relative_to(package).as_posix()) for path in files)
        by_length = sorted(each for path in files for each in functions(path))
        sizes[room] = sum(size for size, _ in by_size)
        size, file = by_size[-1] if by_size else (0, "")
        length, function = by_length[-1] if by_length else (0, "")
        longest = f"{size} {file.rpartition('/')[2]}"
        rows.append(f"{room:<15} {sizes[room]:>6,} {ceiling:>7,}  {longest:<24} {length} {function}")
        wrong += too_large(room, sizes[room], ceiling)
        wrong += [each for size, file in by_size for each in too_large(file, size, FILE)]
        wrong += [each for length, place in by_length for each in too_large(place, length, FUNCTION)]
    for name, size, ceiling in (
        ("engine, tensors", sizes.get("engine/", 0) + sizes.get("tensors.py", 0), CORE),
        ("total", sum(sizes.values()), TOTAL),
    ):
        rows.append(f"{name:<15} {size:>6,} {ceiling:>7,}")
        wrong += too_large(name, size, ceiling)
    return rows, wrong


def too_large(name: str, size: int, ceiling: int) -> list[str]:
    return [f"{name} has {size:,} lines, but at most {ceiling:,} are allowed"] if size > ceiling else []


def with_true_numbers(text: str) -> str:
    """Return a README whose reading table, | `path` | 1,234 | ..., has the true numbers of lines."""
    return ROW.sub(lambda row: f"{row[1]}{lines(ROOT / row[2]):,}{row[4]}", text)


def main() -> int:
    if sys.argv[1:] == ["--readme"]:
        for path in sorted(ROOT.glob("README*.md")):
            path.write_text(with_true_numbers(path.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    rows, wrong = report(PACKAGE)
    print(*rows, sep="\n")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
