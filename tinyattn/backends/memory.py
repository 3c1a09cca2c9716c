"""What becomes of freed memory."""

from __future__ import annotations

import numpy as np


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to 64 MB, for the next allocation.

    glibc asks the system for every large array and gives it back when it is freed, and the system
    clears it page by page: a fifth of a training step. It stops doing so for sizes that it has seen
    freed once (M_MMAP_THRESHOLD in mallopt(3), at most 32 MB), so one such array is made here. It is
    never touched, and takes no memory. Elsewhere this does nothing.
    """
    np.empty((32 << 20) - (64 << 10), np.uint8)
