"""What a memory ledger has found: rows, a timeline, and what the peak is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from tinyattn.engine.modes import Site

__all__ = ["MemoryMoment", "MemoryReport", "MemoryRow"]


@dataclass(slots=True)
class MemoryRow:
    """One reason why memory is held, from one call of the timeline to another.

    kind: "saved" for backward; "output" of an operation; "gradient" on its way; "leaf gradient", which
    becomes a `.grad`; "state" of an optimizer; "outside": made by no operation, but given to one;
    "scratch": the most that a kernel needed beside its results, while it ran.
    name: of the input, output, option or state; of scratch, the phase. bytes: of the whole memory, of
    which the array may be a view. start: the call that made or saved it. end: the last call that it
    outlived or served, None if that was after the ledger. memory: the same number for the same memory.
    shared: the place in `rows` of the row that had already saved it, or None. given: it was there
    before the ledger, and is not counted.
    """

    kind: str
    operation: str
    module: str
    site: Site | None
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    memory: int
    start: int
    end: int | None = None
    shared: int | None = None
    given: bool = False

    @property
    def line(self) -> str:
        """The line of the user's program, "file.py:12"; "" if there is none."""
        return "" if self.site is None else str(self.site)


class MemoryMoment(NamedTuple):
    """One call: "forward", "backward" or "step" of what; the bytes held after it, and the most during it."""

    phase: str
    operation: str
    module: str
    live: int
    high: int


class MemoryReport:
    """rows: a MemoryRow for every reason to hold memory, in order. timeline: a MemoryMoment a call."""

    rows: list[MemoryRow]
    timeline: list[MemoryMoment]
    measured: int

    @property
    def peak(self) -> int:
        """The most bytes at once above those from before: the arrays known to be alive, and one kernel's scratch."""
        return max((moment.high for moment in self.timeline), default=0)

    @property
    def peak_call(self) -> int:
        """The place in the timeline of the first call that reached the peak."""
        return max(range(len(self.timeline)), key=lambda i: self.timeline[i].high, default=0)

    @property
    def saved(self) -> list[MemoryRow]:
        """The rows of what was saved for backward."""
        return [row for row in self.rows if row.kind == "saved"]

    def held(self, call: int) -> list[MemoryRow]:
        """A row for each memory held during that call: of who saved it first, or else of who made it."""
        rows: dict[int, MemoryRow] = {}
        for row in self.rows:
            if row.given or row.kind == "scratch" or row.start > call or (row.end is not None and row.end < call):
                continue
            if row.memory not in rows or (row.kind == "saved" and rows[row.memory].kind != "saved"):
                rows[row.memory] = row
        return list(rows.values())

    def at_peak(self, by: str = "kind") -> dict[str, int]:
        """What the peak is made of by "kind", "operation" or "module": bytes, most first, in all `peak`."""
        if not self.timeline:
            return {}
        moment, totals = self.timeline[self.peak_call], Counter[str]()
        for row in self.held(self.peak_call):
            totals[getattr(row, by)] += row.bytes
        totals["scratch" if by == "kind" else getattr(moment, by)] += moment.high - totals.total()
        return dict(totals.most_common())

    def table(self, rows: int = 12) -> str:
        """The peak, what it is made of, and the largest memories held then, as text."""
        if not self.timeline:
            return "memory ledger: no operation ran"
        moment = self.timeline[self.peak_call]
        lines = [
            f"memory ledger: {size(moment.high)} at the peak (tracemalloc: {size(self.measured)}), in call "
            f"{self.peak_call} of {len(self.timeline)}, the {moment.phase} of {_place(moment.operation, moment.module)}"
        ]
        for by in ("kind", "operation", "module"):
            parts = [f"{name or 'no module'} {size(n)}" for name, n in self.at_peak(by).items() if n > self.peak / 1000]
            lines.append(f"  by {by}: " + ", ".join(parts[:6]) + ", ..." * (len(parts) > 6))
        held = sorted(self.held(self.peak_call), key=lambda row: -row.bytes)
        cells = [("bytes", "kind", "operation", "name", "shape", "dtype", "calls", "line")]
        lines += _columns(cells + [_cells(row) for row in held[:rows]])
        if held[rows:]:
            lines.append(f"  and {len(held) - rows} more with {size(sum(row.bytes for row in held[rows:]))}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def size(n: int) -> str:
    """Bytes for people: "1.2 MB"."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= bytes_:
            return f"{n / bytes_:.1f} {unit}"
    return f"{n} B"


def _place(operation: str, module: str) -> str:
    return f"{operation} in {module}" if module else operation


def _cells(row: MemoryRow) -> tuple[str, ...]:
    calls = f"{row.start}-{'' if row.end is None else row.end}"
    where = _place(row.operation, row.module)
    return (size(row.bytes), row.kind, where, row.name, str(row.shape), row.dtype, calls, row.line)


def _columns(cells: list[tuple[str, ...]]) -> list[str]:
    """Cells below each other, the first of a line aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join([line[0].rjust(widths[0]), *map(str.ljust, line[1:], widths[1:])]).rstrip() for line in cells
    ]
