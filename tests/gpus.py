"""What "cuda" is in the tests, by TINYATTN_GPU: unset or "0" the stand-in (tests/standin), "1" a real GPU, "fake" CuPy
itself on the processor (tests/fakecuda)."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator

import pytest

CHOICE = os.environ.get("TINYATTN_GPU") or "0"
if CHOICE not in ("0", "1", "fake"):
    raise ValueError(f"TINYATTN_GPU={CHOICE!r}; expected 0 (the stand-in), fake (CuPy without a GPU) or 1 (a GPU)")
STAND_IN, COUNTS = CHOICE == "0", CHOICE != "1"


def install() -> None:
    """Have `import cupy` find it."""
    if STAND_IN:
        import standin

        standin.install()
    elif CHOICE == "fake":
        import fakecuda

        fakecuda.install()


def counts() -> Counter[str]:
    """What has happened on the GPU so far: launches, copies ("upload", "download"), waits; a real one does not count."""
    if STAND_IN:
        import standin

        return standin.counts.copy()
    from fakecuda import hooks

    return hooks.counts()


@contextlib.contextmanager
def counting() -> Iterator[Counter[str]]:
    """What happens inside of the block."""
    before, found = counts(), Counter[str]()
    yield found
    found.update(counts() - before)


@contextlib.contextmanager
def memory_limited(more: int, index: int = 0) -> Iterator[None]:
    """GPU `index` has only so many bytes more than were taken from it so far."""
    if STAND_IN:
        from standin import machine

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine.MemoryPool, "capacity", machine.MemoryPool.totals[index] + more)
            yield
    else:
        from fakecuda import hooks

        with hooks.memory_limited(more, index):
            yield
