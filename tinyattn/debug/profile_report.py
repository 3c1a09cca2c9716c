"""What a profile has found: sums by operation, module and node, as text, and as a trace for a browser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from tinyattn.debug.describe import in_units, size, table
from tinyattn.engine.modes import Site

__all__ = ["ProfileEvent", "ProfileReport", "ProfileRow"]


@dataclass(slots=True)
class ProfileEvent:
    """One call: "forward" or "backward" of an operation, or a "step" of an optimizer.

    operation: its name; "accumulate" adds to the .grad of a leaf. module: the path of the innermost module, None
    outside of all; if the outermost module is not the first of the profile, the path begins with its class. node: the
    id of what was recorded, or None. start: in nanoseconds of time.perf_counter_ns(), as duration and own, which
    leaves out the calls within it. bytes: read and written; 0 for views. flops: None if unknown. shapes: of the
    inputs. depth: how many calls it ran within. root: the class of the outermost module, "" for the first of them.
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
    root: str = ""

    @property
    def modules(self) -> list[str]:
        """The paths of its modules from the outermost inwards, "", "blocks", "blocks.0"; none outside of modules."""
        if self.module is None:
            return []
        parts = self.module.split(".") if self.module else []
        paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return paths if self.root else ["", *paths]


@dataclass(slots=True)
class ProfileRow:
    """A sum of calls. calls: how many forward (or steps; backward if there is nothing else). Times in seconds."""

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
        """Add one call."""
        setattr(self, event.phase, getattr(self, event.phase) + event.own / 1e9)
        self.backward_calls += event.phase == "backward"
        self.calls += event.phase != "backward"
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
        """The time that passed inside of the `with`, so far if it has not ended."""
        return (self.wall + (perf_counter_ns() - self._entered[0] if self._entered else 0)) / 1e9

    @property
    def overhead(self) -> float:
        """Seconds that the profile itself took, in all threads together."""
        return self.overhead_ns / 1e9

    @property
    def total(self) -> ProfileRow:
        """The sum of all calls."""
        return _sums(("", event) for event in self.events).get("", ProfileRow(""))

    @property
    def by_operation(self) -> dict[str, ProfileRow]:
        """Name of the operation -> the sum of its calls, longest first."""
        rows = _sums((event.operation, event) for event in self.events)
        return dict(sorted(rows.items(), key=lambda item: -item[1].seconds))

    @property
    def by_module(self) -> dict[str, ProfileRow]:
        """Path of the module -> the calls in it and in its submodules, in the order in which they first ran.

        "" is the outermost module that ran first; paths in another one, such as a loss, begin with its class. Calls
        outside of modules are left out.
        """
        return _sums((path, event) for event in self.events for path in event.modules)

    @property
    def by_node(self) -> dict[int, ProfileRow]:
        """Id of the node -> its calls forward and backward: the colours of a graph."""
        return _sums((event.node, event) for event in self.events if event.node is not None)

    # --- as text ---

    def table(self, rows: int = 20) -> str:
        """Time, calls, bytes and FLOPs as text: the `rows` longest operations, and all modules."""
        if not self.events:
            return "profile: no operation ran"
        total, operations = self.total, [*self.by_operation.values()]
        parts = {"forward": total.forward, "backward": total.backward, "steps": total.step}
        inside = ", ".join(f"{name} {_duration(s)}" for name, s in parts.items() if s)
        lines = [
            f"profile: {_duration(self.seconds)} passed; {_duration(total.seconds)} in {len(self.events)} calls "
            f"({inside}); the profile itself took {_duration(self.overhead)}",
            "",
            *_table("operation", [(row.name, row) for row in operations[:rows]], total.seconds),
        ]
        if more := operations[rows:]:
            lines.append(f"  and {len(more)} more with {_duration(sum(row.seconds for row in more))}")
        roots, modules = {event.root for event in self.events}, []
        for path, row in self.by_module.items():
            depth = path.count(".") + (path.partition(".")[0] not in roots)
            modules.append(("  " * depth + (path.rpartition(".")[2] or "(the model)"), row))
        if modules:
            lines += ["", *_table("module, with what is in it", modules, total.seconds)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    # --- as a trace ---

    def save_trace(self, path: str | os.PathLike[str]) -> Path:
        """Write every call as JSON for https://ui.perfetto.dev or chrome://tracing.

        Each thread has a row; operations lie inside of their modules; an arrow leads from a forward to its backward.
        """
        path = Path(path)
        trace = {"traceEvents": [*self._trace()], "displayTimeUnit": "ms"}
        path.write_text(json.dumps(trace, separators=(",", ":")) + "\n", encoding="utf-8")
        return path

    def _trace(self) -> Iterator[dict[str, Any]]:
        first = min((event.start for event in self.events), default=0)
        threads = {thread: i for i, thread in enumerate(dict.fromkeys(event.thread for event in self.events))}
        forward = {e.node: e for e in self.events if e.phase == "forward" and e.node is not None}
        for thread, i in threads.items():
            name = f"worker {i}" if i else "main"
            yield {"ph": "M", "name": "thread_name", "pid": 0, "tid": i, "args": {"name": name}}
            own = sorted((e for e in self.events if e.thread == thread), key=lambda e: (e.start, e.depth))
            slices = [*_module_slices([e for e in own if e.depth == 0]), *map(_slice, own)]
            # of slices that begin at the same time the outer one comes first: readers nest them in this order
            for start, _, duration, about in sorted(slices, key=lambda slice: slice[:2]):
                times = {"ts": (start - first) / 1e3, "dur": duration / 1e3}  # microseconds
                yield {"ph": "X", **times, "pid": 0, "tid": i, **about}
            for event in own:
                if event.phase == "backward" and event.node in forward:
                    source = forward[event.node]
                    arrow = {"name": "backward", "cat": "backward", "id": event.node, "pid": 0}
                    yield {**arrow, "ph": "s", "ts": (source.start - first) / 1e3, "tid": threads[source.thread]}
                    yield {**arrow, "ph": "f", "bp": "e", "ts": (event.start - first) / 1e3, "tid": i}


def _sums(pairs: Iterable[tuple[Any, ProfileEvent]]) -> dict[Any, ProfileRow]:
    rows: dict[Any, ProfileRow] = {}
    for key, event in pairs:
        rows.setdefault(key, ProfileRow(str(key))).add(event)
    return rows


_Slice = tuple[int, int, int, dict[str, Any]]  # start, depth, duration, and what to show
_WITHIN_MODULES = 1000  # operations lie deeper than any module


def _slice(event: ProfileEvent) -> _Slice:
    facts = {"phase": event.phase, "module": event.module or "", "shapes": str([*event.shapes]),
             "bytes": event.bytes, "FLOPs": event.flops, "line": str(event.site or "")}  # fmt: skip
    about = {"name": event.operation, "cat": event.phase, "args": facts}
    return event.start, _WITHIN_MODULES + event.depth, event.duration, about


def _module_slices(events: Sequence[ProfileEvent], depth: int = 0) -> Iterator[_Slice]:
    """When each module ran: neighbouring calls of one phase in it."""
    for (phase, path), calls in groupby(events, lambda e: (e.phase, next(iter(e.modules[depth:]), None))):
        if path is not None:
            *_, last = inside = [*calls]
            name = f"{path or 'model'}{' (backward)' * (phase == 'backward')}"
            duration = last.start + last.duration - inside[0].start
            yield inside[0].start, depth, duration, {"name": name, "cat": "module", "args": {}}
            yield from _module_slices(inside, depth + 1)


def _table(head: str, rows: Sequence[tuple[str, ProfileRow]], whole: float) -> list[str]:
    """The lines of a table, without empty columns. whole: the seconds that are 100 %."""
    cells = [[head, "calls", "forward", "backward", "step", "share", "bytes", "FLOPs", "GFLOP/s"]]
    for name, row in rows:
        times = [_duration(s) if s else "" for s in (row.forward, row.backward, row.step)]
        share = f"{100 * row.seconds / whole:.1f} %" if whole else ""
        rate = f"{row.flops / row.seconds / 1e9:.1f}" if row.flops and row.seconds else ""
        calls = str(row.calls or row.backward_calls)
        cells.append([name, calls, *times, share, size(row.bytes), _count(row.flops), rate])
    columns = [column for column in zip(*cells, strict=True) if any(column[1:])]
    return table([*zip(*columns, strict=True)], left=[0])


def _duration(seconds: float) -> str:
    """Seconds as text: "1.25 ms"."""
    return in_units(seconds, (("s", 1.0), ("ms", 1e-3)), 2) or f"{seconds / 1e-6:.1f} us"


def _count(n: int | None) -> str:
    if n is None:
        return ""
    return in_units(n, (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)), 2) or str(n)
