"""What a profile has found: sums by operation, module and node, a table, and a trace to look at in a browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

from tinyattn.debug.memory_report import size
from tinyattn.engine.modes import Site

__all__ = ["ProfileEvent", "ProfileReport", "ProfileRow"]


@dataclass(slots=True)
class ProfileEvent:
    """One call: "forward" or "backward" of an operation, or a "step" of an optimizer.

    operation: its name; "accumulate" is adding to the .grad of a leaf. module: the path of the innermost module,
    None outside of all; in other than the first of the outermost modules it begins with the class of that one.
    node: the id of what was recorded, None if nothing was. start: in nanoseconds of time.perf_counter_ns(); duration,
    and own, without the calls within it. bytes: read and written; 0 for views. flops: None where nobody knows. shapes:
    of the inputs. depth: how many calls it ran within.
    """

    phase: str
    operation: str
    module: str | None
    node: int | None
    start: int
    duration: int
    own: int
    thread: int
    bytes: int
    flops: int | None
    shapes: Sequence[tuple[int, ...] | None]
    site: Site | None
    depth: int
    root: str = ""  # the class of the outermost module, "" for the first of them


@dataclass(slots=True)
class ProfileRow:
    """A sum of calls. calls: how many forward (or steps; backward where there were no others). Times in seconds."""

    name: str
    calls: int = 0
    forward: float = 0.0
    backward: float = 0.0
    step: float = 0.0
    bytes: int = 0
    flops: int | None = None
    backward_calls: int = 0

    @property
    def seconds(self) -> float:
        """Forward, backward and step together."""
        return self.forward + self.backward + self.step

    def add(self, event: ProfileEvent) -> None:
        """Count a call in."""
        setattr(self, event.phase, getattr(self, event.phase) + event.own / 1e9)
        if event.phase == "backward":
            self.backward_calls += 1
        else:
            self.calls += 1
        self.bytes += event.bytes
        if event.flops is not None:
            self.flops = (self.flops or 0) + event.flops


class ProfileReport:
    """Sums of `events`, over all threads."""

    events: list[ProfileEvent]
    wall: int
    overhead_ns: int
    _entered: list[int]

    @property
    def seconds(self) -> float:
        """The time that passed inside of the `with`, so far if it is not over."""
        return (self.wall + (perf_counter_ns() - self._entered[0] if self._entered else 0)) / 1e9

    @property
    def overhead(self) -> float:
        """Seconds that the profile itself took of these, in all threads together."""
        return self.overhead_ns / 1e9

    @property
    def total(self) -> ProfileRow:
        """All calls together."""
        return next(iter(self._sums(("", event) for event in self.events).values()), ProfileRow(""))

    @property
    def by_operation(self) -> dict[str, ProfileRow]:
        """Name of the operation -> its calls, those that took longest first."""
        rows = self._sums((event.operation, event) for event in self.events)
        return dict(sorted(rows.items(), key=lambda item: -item[1].seconds))

    @property
    def by_module(self) -> dict[str, ProfileRow]:
        """Path of the module -> the calls in it and in its submodules, in the order in which they first ran.

        "" is the outermost module, the first that ran; paths in another one, such as a loss, begin with its class.
        What ran outside of any module is in none of them.
        """
        return self._sums((path, event) for event in self.events for path in _up(event))

    @property
    def by_node(self) -> dict[int, ProfileRow]:
        """Id of the node -> its call forward and back: what colours a graph."""
        return self._sums((event.node, event) for event in self.events if event.node is not None)

    def _sums(self, pairs: Iterable[tuple[Any, ProfileEvent]]) -> dict[Any, ProfileRow]:
        rows: dict[Any, ProfileRow] = {}
        for key, event in pairs:
            if key not in rows:
                rows[key] = ProfileRow(str(key))
            rows[key].add(event)
        return rows

    # --- as text ---

    def table(self, rows: int = 20) -> str:
        """Time, calls, bytes and FLOPs by operation, the longest first, and by module, as text."""
        if not self.events:
            return "profile: no operation ran"
        total = self.total
        parts = {"forward": total.forward, "backward": total.backward, "steps": total.step}
        inside = ", ".join(f"{name} {duration(s)}" for name, s in parts.items() if s)
        lines = [
            f"profile: {duration(self.seconds)} passed; {duration(total.seconds)} in {len(self.events)} calls "
            f"({inside}); the profile itself took {duration(self.overhead)}"
        ]
        operations = [*self.by_operation.values()]
        lines += ["", *_columns([_HEAD, *(_cells(row, total.seconds) for row in operations[:rows])])]
        if operations[rows:]:
            lines.append(
                f"  and {len(operations) - rows} more with {duration(sum(r.seconds for r in operations[rows:]))}"
            )
        roots = {event.root for event in self.events}
        cells: list[tuple[str, ...]] = [("module, with what is in it", *_HEAD[1:])]
        for path, row in self.by_module.items():
            above = path.count(".") + (path.partition(".")[0] not in roots)
            name = "  " * above + (path.rpartition(".")[2] or "(the model)")
            cells.append((name, *_cells(row, total.seconds)[1:]))
        return "\n".join([*lines, "", *_columns(cells)] if cells[1:] else lines)

    def __str__(self) -> str:
        return self.table()

    # --- as a trace ---

    def save_trace(self, path: str | os.PathLike[str]) -> Path:
        """Write every call as JSON for https://ui.perfetto.dev or chrome://tracing: threads below each other,
        operations inside of their modules, an arrow from each forward to its backward."""
        path = Path(path)
        trace = {"traceEvents": [*self._trace()], "displayTimeUnit": "ms"}
        path.write_text(json.dumps(trace, separators=(",", ":")) + "\n", encoding="utf-8")
        return path

    def _trace(self) -> Iterator[dict[str, Any]]:
        first = min((event.start for event in self.events), default=0)
        threads = {thread: i for i, thread in enumerate(dict.fromkeys(event.thread for event in self.events))}
        for i in threads.values():
            name = "main" if i == 0 else f"worker {i}"
            yield {"ph": "M", "name": "thread_name", "pid": 0, "tid": i, "args": {"name": name}}
        forward: dict[int, ProfileEvent] = {}
        for event in self.events:
            if event.phase == "forward" and event.node is not None:
                forward[event.node] = event
        for thread, i in threads.items():
            own = sorted((e for e in self.events if e.thread == thread), key=lambda e: (e.start, e.depth))
            slices = [(span, _slice(span.name, "module", span.start - first, span.end - span.start, i))
                      for span in _module_spans([e for e in own if e.depth == 0])]  # fmt: skip
            for event in own:
                facts = {"phase": event.phase, "module": event.module or "", "shapes": str([*event.shapes]),
                         "bytes": event.bytes, "FLOPs": event.flops, "line": str(event.site or "")}  # fmt: skip
                span = _Span(event.start, event.start + event.duration, _WITHIN_MODULES + event.depth, event.operation)
                slices.append((span, _slice(span.name, event.phase, event.start - first, event.duration, i, facts)))
            # what begins at the same time: the outer one first, which is how readers of traces nest them
            yield from (slice for _, slice in sorted(slices, key=lambda pair: (pair[0].start, pair[0].depth)))
            for event in own:
                came = forward.get(event.node) if event.phase == "backward" and event.node is not None else None
                if came is not None:
                    arrow = {"name": "backward", "cat": "backward", "id": event.node, "pid": 0}
                    yield {**arrow, "ph": "s", "ts": (came.start - first) / 1e3, "tid": threads[came.thread]}
                    yield {**arrow, "ph": "f", "bp": "e", "ts": (event.start - first) / 1e3, "tid": i}


def _up(event: ProfileEvent) -> list[str]:
    """The outermost module and every one on the way down: "", "blocks", "blocks.0"; none outside of modules."""
    if event.module is None:
        return []
    parts = event.module.split(".") if event.module else []
    paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return paths if event.root else ["", *paths]


class _Span(NamedTuple):
    """From when to when something ran, and within how much else."""

    start: int
    end: int
    depth: int
    name: str


_WITHIN_MODULES = 1000  # operations lie deeper than any module


def _module_spans(events: list[ProfileEvent]) -> Iterator[_Span]:
    """When each module ran: neighbouring calls of one phase that share it."""
    running: list[tuple[str, str, int]] = []  # (phase, path, start), outermost first
    end = 0

    def close(keep: int) -> Iterator[_Span]:
        while len(running) > keep:
            phase, path, start = running.pop()
            yield _Span(start, end, len(running), f"{path or 'model'}{' (backward)' if phase == 'backward' else ''}")

    for event in events:
        up = [(event.phase, path) for path in _up(event)]
        keep = 0
        while keep < min(len(up), len(running)) and running[keep][:2] == up[keep]:
            keep += 1
        yield from close(keep)
        running += [(phase, path, event.start) for phase, path in up[keep:]]
        end = event.start + event.duration
    yield from close(0)


def _slice(
    name: str, kind: str, start: int, duration: int, thread: int, facts: dict[str, Any] | None = None
) -> dict[str, Any]:
    times = {"ts": start / 1e3, "dur": duration / 1e3}  # microseconds
    return {"ph": "X", "name": name, "cat": kind, **times, "pid": 0, "tid": thread, "args": facts or {}}


_HEAD = ("operation", "calls", "forward", "backward", "step", "share", "bytes", "FLOPs", "GFLOP/s")


def _cells(row: ProfileRow, whole: float) -> tuple[str, ...]:
    rate = "" if not row.flops or not row.seconds else f"{row.flops / row.seconds / 1e9:.1f}"
    times = [duration(s) if s else "" for s in (row.forward, row.backward, row.step)]
    calls = row.calls or row.backward_calls
    share = f"{100 * row.seconds / whole:.1f} %" if whole else ""
    return (row.name, str(calls), *times, share, size(row.bytes), _count(row.flops), rate)


def _columns(cells: list[tuple[str, ...]]) -> list[str]:
    """Cells below each other; the first of a line on the left, the numbers on the right. Empty columns are left out."""
    used = [any(line[i] for line in cells[1:]) for i in range(len(cells[0]))]
    cells = [tuple(cell for cell, use in zip(line, used, strict=True) if use) for line in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in cells
    ]


def duration(seconds: float) -> str:
    """Seconds for people: "1.25 ms"."""
    for unit, length in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= length:
            return f"{seconds / length:.2f} {unit}"
    return f"{seconds / 1e-6:.1f} us"


def _count(n: int | None) -> str:
    if n is None:
        return ""
    for unit, amount in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if n >= amount:
            return f"{n / amount:.2f} {unit}"
    return str(n)
