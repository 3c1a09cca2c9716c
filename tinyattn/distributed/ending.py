"""The end of a rank: one that ends without leaving the group ends all others, which would wait for it for ever."""

from __future__ import annotations

import atexit
import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["watch"]

PATIENCE = 5.0  # seconds that a rank which ends normally gives the others to do the same
_watched: Any = None  # the group of this process


def watch(group: Any) -> None:
    """Have the end of this process end all ranks of `group`; None: no longer."""
    global _watched
    if sys.excepthook is not _failed:
        _failed.before = sys.excepthook  # type: ignore[attr-defined]
        sys.excepthook = _failed
        atexit.register(_ended)
    _watched = group


def _failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In the place of sys.excepthook: an error that nothing caught."""
    _failed.before(kind, error, trace)  # type: ignore[attr-defined]
    if _watched is not None:
        text = f": {error}" if str(error) else ""
        _abort(f"has failed with {kind.__name__}{text}")


def _ended() -> None:
    if _watched is None:
        return
    request, until = _watched.leaving(), time.monotonic() + PATIENCE
    while not request.is_completed():
        if time.monotonic() > until:
            _abort("has ended without destroy_process_group()")
        time.sleep(0.001)


def _abort(what: str) -> None:
    print(f"rank {_watched.rank} of {_watched.size} {what}; all ranks are ended.", file=sys.stderr, flush=True)
    sys.stdout.flush()
    _watched.abort()
