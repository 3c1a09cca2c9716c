"""What "cuda" is in the tests, by TINYATTN_GPU: "fake" CuPy itself on the processor (tests/fakecuda), the default where it
can run; "1" a real GPU; "0" nothing, so tests that need a GPU are skipped."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fakecuda
import pytest

CHOICE = os.environ.get("TINYATTN_GPU") or ("0" if fakecuda.why_not() else "fake")
if CHOICE not in ("0", "1", "fake"):
    raise ValueError(f"TINYATTN_GPU={CHOICE!r}; expected 0 (nothing), fake (CuPy without a GPU) or 1 (a GPU)")
FAKE = CHOICE == "fake"
PATH = [
    Path(fakecuda.__file__).with_name("path")
] * FAKE  # for PYTHONPATH of processes, in which `import cupy` finds it


only_where_counted = pytest.mark.skipif(CHOICE == "1", reason="a GPU does not count")


def install() -> None:
    """Have `import cupy` find it; skip what needs it if there is none, and say why."""
    if CHOICE == "0":
        pytest.skip(fakecuda.why_not() or "TINYATTN_GPU=0", allow_module_level=True)
    if FAKE and "fakecuda.arguments" not in sys.modules:
        fakecuda.install()
        from fakecuda import arguments

        arguments.install()


def counts() -> Counter[str]:
    """What has happened on the GPU so far: launches, copies ("upload", "download"), waits; a real one does not count."""
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
    from fakecuda import hooks

    with hooks.memory_limited(more, index):
        yield
