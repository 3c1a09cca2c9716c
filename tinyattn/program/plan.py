"""The plan: which calls a program needs, and where in one block of memory each value lies while it is alive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tinyattn.program.recorder import Call, Recorder, Value, values

ALIGNED = 64  # bytes: a line of the processor's cache
_PRIVATE = ("made", "input")  # roles of memory that is the program's own
_ELEMENTWISE = {name for name, x in vars(np).items() if isinstance(x, np.ufunc)}
_ELEMENTWISE -= {"matmul", "vecdot", "matvec", "vecmat"}


class Plan(NamedTuple):
    """calls: in order. homes: of each root, the one in whose memory it lies. places: of each home, its offset in bytes.
    size: of the block. values: the bytes of all values, which would be allocated without a plan. roots: those used."""

    calls: list[Call]
    homes: dict[int, int]
    places: dict[int, int]
    size: int
    values: int
    roots: set[int]

    def at(self, value: Value) -> Value:
        """The value in its home."""
        return value._replace(root=self.homes.get(value.root, value.root))


def make_plan(recorder: Recorder, kept: Iterable[Value]) -> Plan:
    """Plan the calls of a record, after which the values in `kept` must be there."""
    lasting = {value.root for value in kept}
    calls = _needed(recorder, lasting)
    homes: dict[int, int] = {}
    calls = _without_copies(recorder, calls, lasting, homes)
    sizes = {i: recorder.roots[i].nbytes for i in range(len(recorder.roots)) if recorder.roots[i].role in _PRIVATE}
    places, size = _placed(calls, {homes.get(r, r) for r in lasting}, homes, sizes, recorder)
    used = {value.root for call in calls for value in (*values([call.args, call.options]), *call.writes)}
    return Plan(calls, homes, places, size, sum(sizes[r] for r in used if r in sizes), used)


def _reads(call: Call) -> set[int]:
    return {value.root for value in values([call.args, call.options])}


def _needed(recorder: Recorder, lasting: set[int]) -> list[Call]:
    """The calls without those whose results nobody reads. Guards and draws stay, and writes into tensors."""
    live = lasting | {i for i, root in enumerate(recorder.roots) if root.role == "tensor"}
    kept = []
    for call in reversed(recorder.calls):
        if call.kind in ("guard", "draw") or any(value.root in live for value in call.writes):
            kept.append(call)
            live |= _reads(call)
    return kept[::-1]


def _spans(calls: list[Call]) -> tuple[dict[int, int], dict[int, int]]:
    """The first and the last call that touches each root."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, call in enumerate(calls):
        for root in _reads(call) | {value.root for value in call.writes}:
            first.setdefault(root, i)
            last[root] = i
    return first, last


def _without_copies(recorder: Recorder, calls: list[Call], lasting: set[int], homes: dict[int, int]) -> list[Call]:
    """Let an elementwise result take the place of an operand that ends there, and drop copies of what ends there."""
    first, last = _spans(calls)
    last.update(dict.fromkeys(lasting, len(calls)))
    kept = []
    for i, call in enumerate(calls):
        copies = call.kind == "copy" and len(call.args) == 1 and type(call.args[0]) is Value
        if copies or (call.kind == "ufunc" and call.name in _ELEMENTWISE):
            (out,) = call.writes
            operand = _ending(recorder, call, out, i, first, last, homes)
            if operand is not None:
                homes[out.root] = home = homes.get(operand.root, operand.root)
                last[home] = last[out.root]
                if copies:
                    continue
        kept.append(call)
    return kept


def _ending(
    recorder: Recorder,
    call: Call,
    out: Value,
    i: int,
    first: dict[int, int],
    last: dict[int, int],
    homes: dict[int, int],
) -> Value | None:
    """An operand of call `i` whose memory its output can take over."""
    roots = recorder.roots
    if first[out.root] != i or roots[out.root].role != "made" or _bytes(out) != roots[out.root].nbytes:
        return None
    read = list(values([call.args, call.options]))
    for operand in read:
        home = homes.get(operand.root, operand.root)
        alike = [v for v in read if homes.get(v.root, v.root) == home]
        if (
            roots[operand.root].role == "made"
            and operand.root != out.root
            and last[home] == i
            and operand[1:] == out[1:]
            and all(v[1:] == out[1:] for v in alike)
            and roots[home].nbytes == roots[out.root].nbytes
        ):
            return operand
    return None


def _bytes(value: Value) -> int:
    return int(np.prod(value.shape, dtype=np.int64)) * value.dtype.itemsize


def _placed(
    calls: list[Call], lasting: set[int], homes: dict[int, int], sizes: dict[int, int], recorder: Recorder
) -> tuple[dict[int, int], int]:
    """An offset for every root of the program's own, by best fit among the holes that ended ones have left."""
    start: dict[int, list[int]] = {}
    end: dict[int, list[int]] = {}
    first, last = _spans(calls)
    born: dict[int, int] = {}
    dies: dict[int, int] = {}
    inputs = {root for root in sizes if recorder.roots[root].role == "input"}
    for root in {*first, *lasting, *inputs} & {*sizes}:
        home = homes.get(root, root)
        earliest = -1 if recorder.roots[root].role == "input" else first.get(root, len(calls))
        born[home] = min(born.get(home, len(calls)), earliest)
        dies[home] = len(calls) if home in lasting else max(dies.get(home, -1), last.get(root, -1))
    for home, i in born.items():
        start.setdefault(i, []).append(home)
        end.setdefault(dies[home], []).append(home)
    holes: list[tuple[int, int]] = []  # offset, size
    places: dict[int, int] = {}
    total = 0
    for i in range(-1, len(calls)):
        for home in sorted(start.get(i, []), key=lambda r: -sizes[r]):
            size = -(-max(sizes[home], 1) // ALIGNED) * ALIGNED
            hole = min((h for h in holes if h[1] >= size), key=lambda h: h[1], default=None)
            if hole is None:
                places[home], total = total, total + size
                continue
            places[home] = hole[0]
            holes.remove(hole)
            if hole[1] > size:
                holes.append((hole[0] + size, hole[1] - size))
        for home in end.get(i, []):
            holes = _joined([*holes, (places[home], -(-max(sizes[home], 1) // ALIGNED) * ALIGNED)])
    return places, total


def _joined(holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbouring holes as one."""
    joined: list[tuple[int, int]] = []
    for offset, size in sorted(holes):
        if joined and joined[-1][0] + joined[-1][1] == offset:
            joined[-1] = joined[-1][0], joined[-1][1] + size
        else:
            joined.append((offset, size))
    return joined
