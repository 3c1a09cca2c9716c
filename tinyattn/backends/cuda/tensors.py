"""Many tensors in one launch: the list of them that kernels/tensors.cuh reads, handed over by value.

CuPy passes a NumPy array of one element, whatever its type, as the bytes it holds. So addresses and sizes travel with
the launch: nothing is copied to the GPU for them, and a captured launch keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np

from tinyattn.backends.cuda.launch import launch

__all__: list[str] = []

Array = Any
Roles: TypeAlias = Sequence[Sequence[Array] | None]
MOST, _ROLES = 64, 5
THREADS = 256  # of a block
_LEAST = 4 * THREADS  # elements that a block does: four a thread ...
_CROWD = 1 << 11  # ... and more of them where there would be more blocks than this, which fill any GPU

_LIST = np.dtype(
    [
        ("at", np.uint64, (_ROLES, MOST)), ("step", np.uint64, (MOST,)), ("size", np.int64, (MOST,)),
        ("first", np.int32, (MOST,)), ("count", np.int64), ("share", np.int64),
    ],
    align=True,
)  # fmt: skip


def share_of(sizes: Sequence[int]) -> int:
    """How many elements a block does of tensors of these sizes."""
    return _LEAST * max(-(-sum(sizes) // (_LEAST * _CROWD)), 1)


def lists(roles: Roles, share: int, steps: Sequence[Array] = ()) -> Iterator[tuple[Any, int]]:
    """What a kernel is to be given for tensors, in portions of at most `MOST`: a list, and how many blocks do it.

    roles: for each role in the kernel the contiguous arrays of all tensors, or None; none that is written may
        overlap another.
    share: elements of a block. steps: of each tensor, the 0-d float32 number of its step.
    Tensors without elements are left out.
    """
    there = [i for i, array in enumerate(roles[0] or ()) if array.size]
    for start in range(0, len(there), MOST):
        places = there[start : start + MOST]
        found = np.zeros(1, _LIST)
        found["count"], found["share"] = len(places), share
        for role, arrays in enumerate(roles):
            if arrays is not None:
                found["at"][0, role, : len(places)] = [arrays[i].data.ptr for i in places]
        if steps:
            found["step"][0, : len(places)] = [steps[i].data.ptr for i in places]
        sizes = [roles[0][i].size for i in places]  # type: ignore[index]
        *first, blocks = accumulate((-(-size // share) for size in sizes), initial=0)
        found["size"][0, : len(places)], found["first"][0, : len(places)] = sizes, first
        yield found, blocks


def launch_on(
    source: str, kernel: str, roles: Roles, args: Sequence[Any], dtype: Any, steps: Sequence[Array] = (),
    shared_bytes: int = 0,
) -> None:  # fmt: skip
    """Run a kernel on tensors, see `lists`. args: what it takes after the list; dtype: what `real` is."""
    share = share_of([array.size for array in roles[0] or ()])
    for found, blocks in lists(roles, share, steps):
        launch(source, kernel, (blocks,), (THREADS,), [found, *args], shared_bytes, dtype)
