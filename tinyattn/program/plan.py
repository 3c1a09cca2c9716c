"""The plan: which calls a program needs, and where in one block of memory each value lies while it is alive."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinyattn.backends.cpu.blocks import BLOCK
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
    calls = _without_detours(_needed(recorder, lasting), lasting)
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
        if call.kind in ("guard", "draw", "spawn") or any(value.root in live for value in call.writes):
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


def _without_detours(calls: list[Call], lasting: set[int]) -> list[Call]:
    """Copy directly what is converted to a wider dtype and back, with nothing computed from it in between."""
    first, last = _spans(calls)
    touched = Counter(root for call in calls for root in _reads(call) | {value.root for value in call.writes})
    written: dict[int, int] = {}  # the last call so far that writes to each root
    kept: list[Call | None] = [*calls]
    for i, call in enumerate(calls):
        source = _copied(call)
        root = -1 if source is None else source.root
        there = first.get(root, i)
        wide = _copied(calls[there])
        if (
            source is not None and wide is not None and there < i == last[root]
            and touched[root] == 2 and root not in lasting
            and np.can_cast(wide.dtype, source.dtype) and wide.dtype == call.writes[0].dtype
            and len({size_of(v) // v.dtype.itemsize for v in (source, wide, *calls[there].writes, *call.writes)}) == 1
            and source[:2] == calls[there].writes[0][:2]
            and all(map(_dense, (source, wide, *calls[there].writes, *call.writes)))
            and written.get(wide.root, -1) <= there
        ):  # fmt: skip
            (out,) = call.writes
            kept[i] = call._replace(args=(wide._replace(shape=out.shape, strides=out.strides),))
            kept[there] = None
        written |= {value.root: i for value in call.writes}
    return [call for call in kept if call is not None]


def _copied(call: Call) -> Value | None:
    """The value that a call copies; None for another call."""
    copies = call.kind == "copy" and len(call.args) == 1 and type(call.args[0]) is Value
    return call.args[0] if copies else None


def _dense(value: Value) -> bool:
    """Whether a value fills its memory in the order of its axes."""
    size = value.dtype.itemsize
    for n, step in zip(value.shape[::-1], value.strides[::-1], strict=True):
        if n != 1 and step != size:
            return False
        size *= n
    return True


def _without_copies(recorder: Recorder, calls: list[Call], lasting: set[int], homes: dict[int, int]) -> list[Call]:
    """Let an elementwise result take the place of an operand that ends there, and drop copies of what ends there."""
    first, last = _spans(calls)
    last.update(dict.fromkeys(lasting, len(calls)))
    users = _users(calls, homes)
    kept = []
    for i, call in enumerate(calls):
        copies = _copied(call) is not None
        if copies or (call.kind == "ufunc" and call.name in _ELEMENTWISE):
            (out,) = call.writes
            operand = _ending(recorder, call, out, i, first, last, homes)
            home = homes.get(operand.root, operand.root) if operand is not None else 0
            if operand is not None and not _others(call, users[home]):
                homes[out.root] = home
                last[home] = last[out.root]
                users[home] |= users[out.root]
                if copies:
                    continue
        kept.append(call)
    return kept


def _users(calls: list[Call], homes: dict[int, int]) -> dict[int, set[Any]]:
    """The shares of a batch that touch each piece of memory; None among them for the calls outside."""
    users: dict[int, set[Any]] = defaultdict(set)
    for call in calls:
        for root in _reads(call) | {value.root for value in call.writes}:
            users[homes.get(root, root)].add(call.share)
    return users


def _others(call: Call, users: set[Any]) -> bool:
    """Whether other shares, which run at the same time as the call, are among these users."""
    return call.share is not None and any(u and u[0] == call.share[0] and u != call.share for u in users)


def _ending(
    recorder: Recorder, call: Call, out: Value, i: int, first: dict[int, int], last: dict[int, int],
    homes: dict[int, int],
) -> Value | None:  # fmt: skip
    """An operand of call `i` whose memory its output can take over."""
    roots = recorder.roots
    if first[out.root] != i or roots[out.root].role != "made" or size_of(out) != roots[out.root].nbytes:
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


def _placed(
    calls: list[Call], lasting: set[int], homes: dict[int, int], sizes: dict[int, int], recorder: Recorder
) -> tuple[dict[int, int], int]:
    """An offset for every root of the program's own, and the size of all.

    What one share of a batch alone touches has a block of its own, in the order of its calls. All else lies in one
    block, where the time in which the shares run counts as one moment.
    """
    first, last = _spans(calls)
    users, begins = _users(calls, homes), _moments(calls)
    lives: dict[Any, dict[int, tuple[int, int]]] = {}
    inputs = {root for root in sizes if recorder.roots[root].role == "input"}
    for root in sorted({*first, *lasting, *inputs} & {*sizes}):
        home = homes.get(root, root)
        shares = {None if user is None else user[1] for user in users.get(home, [None])}
        share = shares.pop() if len(shares) == 1 else None
        at: Sequence[int] = begins if share is None else range(len(calls))
        born = -1 if root in inputs else at[first[root]] if root in first else len(calls)
        dies = len(calls) if home in lasting else at[last[root]] if root in last else -1
        block = lives.setdefault(-1 if share is None else share, {})
        earlier = block.get(home, (born, dies))
        block[home] = min(born, earlier[0]), max(dies, earlier[1])
    places: dict[int, int] = {}
    total = 0
    for _, block in sorted(lives.items()):
        own, size = _packed(block, sizes, len(calls))
        places |= {home: total + offset for home, offset in own.items()}
        total += size
    return places, total


def _moments(calls: list[Call]) -> list[int]:
    """The number of each call; for those in shares, that of the first call in any of them."""
    begins: dict[int, int] = {}
    return [i if call.share is None else begins.setdefault(call.share[0], i) for i, call in enumerate(calls)]


def _packed(lives: dict[int, tuple[int, int]], sizes: dict[int, int], calls: int) -> tuple[dict[int, int], int]:
    """An offset for each root by best fit among the holes that ended ones have left, and the size of all.

    lives: the first and the last call of each.
    """
    start: dict[int, list[int]] = {}
    end: dict[int, list[int]] = {}
    for home, (born, dies) in lives.items():
        start.setdefault(born, []).append(home)
        end.setdefault(dies, []).append(home)
    holes: list[tuple[int, int]] = []  # offset, size
    places: dict[int, int] = {}
    total = 0
    for i in range(-1, calls):
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


# --- the memory besides that block: what NumPy allocates inside a call ---

_BUFFER = np.getbufsize()  # elements that a ufunc converts or repeats at a time
_WITH_OUT = {"concatenate", "einsum", "copyto", "where", "cumsum", "cumprod", "argmax", "argmin"}


def temporary(calls: Iterable[Call], steps: Sequence[Any]) -> int:
    """The largest number of bytes that a call allocates while it runs; shares of a batch allocate at the same time.

    steps: of optimizers, which need room for a part of their parameters.
    """
    most = 0
    for split, together in groupby(calls, lambda call: call.share and call.share[0]):
        shares = groupby(together, lambda call: call.share)
        largest = [max(map(_of_call, share)) for _, share in shares]
        most = max(most, *largest) if split is None else max(most, sum(largest))
    for step in steps:
        arrays = [p.array for p, _ in step.gradients]
        most = max(most, min(sum(array.size for array in arrays), BLOCK) * max(array.itemsize for array in arrays))
    return most


def _of_call(call: Call) -> int:
    written = sum(map(size_of, call.writes))
    if call.kind == "ufunc":
        return _buffers(call)
    if call.kind == "get":
        many = prod(call.writes[0].shape) > _BUFFER
        return written + (_BUFFER * np.dtype(np.intp).itemsize if many else 0)
    if call.kind == "kernel":
        return sum(size_of(v) for v in call.options["results"] if v is not None)
    if call.kind == "function":
        casts = [v for v in values(call.args) if v.dtype == np.float32] if call.name == "bincount" else []
        return sum(2 * size_of(v) for v in casts) + (0 if call.name in _WITH_OUT else written)
    whole = call.kind in ("array", "method") or (call.kind == "draw" and call.writes[0].dtype.kind != "f")
    reshaped = call.kind == "copy" and type(call.args[0]) is Value and call.args[0].shape != call.writes[0].shape
    return written if whole or reshaped else 0


def _buffers(call: Call) -> int:
    """The buffers of a ufunc for operands that it converts or repeats."""
    read, (out,) = list(values(call.args)), call.writes or (None,)
    if call.name in ("matmul", "vecdot") or not read or out is None:
        return 0
    dtype = np.result_type(*(v.dtype for v in read))
    largest = max([out, *read], key=lambda v: prod(v.shape))
    n = min(prod(largest.shape), _BUFFER)
    converted = [v for v in (*read, out) if v.dtype not in (dtype, bool)]
    repeated = [v for v in read if v.dtype == dtype and (v.shape, v.strides) != (largest.shape, largest.strides)]
    return n * dtype.itemsize * (len(converted) + len(repeated))


def size_of(value: Value) -> int:
    """The bytes of a value."""
    return prod(value.shape) * value.dtype.itemsize
