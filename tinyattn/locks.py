"""Locks that a fork leaves usable: a child process has no other threads that could release them."""

from __future__ import annotations

import os
from typing import Any


def fork_safe(lock: Any) -> Any:
    """Return `lock`, a Lock or RLock, which `os.fork` acquires before and releases after, in parent and child.

    So what it guards is whole in the child too. A fork acquires the locks of upper rooms first, because these are
    imported last; code that holds two must acquire them in the same order.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
