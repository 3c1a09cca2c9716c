"""What becomes of freed memory."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # in malloc.h of glibc


def keep_freed_memory(size: int = 1 << 30) -> None:
    """Have the C library keep what is freed, up to `size` bytes (1 GiB), for the next allocation.

    glibc asks the system for every large array and gives it back when it is freed, and the system
    clears it page by page: a fifth to a third of a training step. It is told here to keep arrays of
    up to 32 MB, the most that it allows, and to have one heap for all threads, since it gives back
    whole heaps of others (mallopt(3)). Who has told it otherwise in the environment, is left alone;
    with another C library this does nothing.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    mallopt(_MMAP_THRESHOLD, 32 << 20)
    mallopt(_TRIM_THRESHOLD, size)
    mallopt(_ARENA_MAX, 1)
