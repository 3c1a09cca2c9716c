"""What was measured, as tables: aligned for a terminal, or as Markdown into docs/performance.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench import machine

Rows = list[list[str]]
COMPACT = ("operations", "scaling")  # a row a comparison, not a table a comparison


def tables(name: str, part: dict[str, Any]) -> list[tuple[str, Rows]]:
    """The tables of a part: a title, and rows of which the first is the header."""
    comparisons = part.get("comparisons", [])
    if name in COMPACT and comparisons:
        header = ["", *_names(comparisons), "ratio", "95 % interval"]
        found = [("tinyattn / PyTorch", [header, *map(_row, comparisons)])]
    else:
        found = [(c["title"], _table(c)) for c in comparisons]
    return found + [(t["title"], [t["columns"], *_text(t["rows"])]) for t in part.get("tables", [])]


def notes(part: dict[str, Any]) -> list[str]:
    """Sides that were left out, once each, and what else there is to say."""
    lines = [line for c in part.get("comparisons", []) for line in c["left_out"]]
    return list(dict.fromkeys([*lines, *part.get("notes", [])]))


def terminal(name: str, part: dict[str, Any]) -> str:
    """A part for reading on the spot."""
    lines = [f"\n=== {name}"]
    for title, rows in tables(name, part):
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", title]
        for row in rows:
            first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            lines.append("  " + "  ".join([first.strip().ljust(widths[0]), *rest]))
    return "\n".join([*lines, "", *(f"  {line}" for line in notes(part))])


def markdown(name: str, part: dict[str, Any]) -> str:
    """A part for docs/performance.md."""
    blocks = []
    for title, rows in tables(name, part):
        header, *body = rows
        rule = ["---", *("---:" for _ in header[1:])]
        blocks.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *body)))
    blocks += ["\n".join(f"- {line}" for line in notes(part))] if notes(part) else []
    return "\n\n".join(blocks)


def write_docs(results: Path, page: Path) -> list[str]:
    """Put the tables of a JSON file between the page's markers, those of a GPU between markers of their own.

    Returns the parts that were filled.
    """
    found = json.loads(results.read_text(encoding="utf-8"))
    on = "gpu-" if found["machine"].get("gpu") else ""  # what is before the name of a part there
    blocks = {f"{on}{name}": markdown(name, part) for name, part in found["parts"].items()}
    how = found["effort"]
    measured = f"{how['turns']} turns of {how['seconds']:g} s" + (", --quick: no figures to quote" * how["quick"])
    blocks[f"{on}machine"] = "\n".join(f"- {line}" for line in [*machine.lines(found["machine"]), measured])
    text, filled = page.read_text(encoding="utf-8"), []
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, block=block: f"{match[1]}\n{block}\n\n{match[2]}", text)
        filled += [name] if count else []
    page.write_text(text, encoding="utf-8")
    return filled


def _table(comparison: dict[str, Any]) -> Rows:
    ratios = {r["to"]: r for r in comparison["ratios"]}
    rows = [["", "median", "tinyattn / this", "95 % interval"]]
    if comparison["title"].startswith("16 batches"):
        rows[0][2] = "loop / this"
    for side in comparison["sides"]:
        rows.append([side["name"], _time(side["seconds"]), *_ratio(ratios.get(side["name"]))])
    return rows


def _row(comparison: dict[str, Any]) -> list[str]:
    times = [_time(side["seconds"]) for side in comparison["sides"]] + ["", ""]
    return [comparison["title"], *times[:2], *_ratio(next(iter(comparison["ratios"]), None))]


def _names(comparisons: list[dict[str, Any]]) -> list[str]:
    names = [side["name"] for side in max(comparisons, key=lambda c: len(c["sides"]))["sides"]]
    return [*names, "", ""][:2]


def _ratio(ratio: dict[str, Any] | None) -> list[str]:
    return [f"{ratio['ratio']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"] if ratio else ["", ""]


def _time(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:#.3g} {unit}".replace(". ", " ")
    return f"{seconds / 1e-6:#.3g} µs".replace(". ", " ")


def _text(rows: list[list[Any]]) -> Rows:
    return [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
