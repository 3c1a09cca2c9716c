"""One file over HTTP, given up soon where nothing answers and never while bytes arrive.

Time-outs of sockets do not add up to a promise: a name server may think for half a minute, a host may
have eight addresses that all swallow packets, and a header may arrive one byte at a time. So the
transfer runs in a thread of its own, and the caller watches one thing only: when a byte last came.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tinyattn.extras import require

SILENCE = 6.0  # seconds without a byte, from the very start, after which an attempt is given up
SLOWEST, TRIAL = 1000, 15.0  # bytes a second that a transfer must average once TRIAL seconds are over


class MirrorError(Exception):
    """A mirror that did not deliver; the message is the reason in a few words."""


def fetch(url: str, limit: int) -> bytes:
    """The bytes at a URL, without following redirects (a mirror of ours has none; a login page has).

    Args:
        url: where.
        limit: the most bytes to accept.

    Raises:
        MirrorError: no connection, no answer, an error status, too slow, or too many bytes.
        ImportError: pooch is not installed.
    """
    # in pieces of 1 KiB: the watch sees nothing of a piece until the whole of it is there
    downloader = require("pooch", "downloading MNIST").HTTPDownloader(
        chunk_size=1 << 10, timeout=SILENCE, allow_redirects=False
    )
    body = _Body(limit)
    threading.Thread(target=body.receive, args=(downloader, url), daemon=True).start()
    try:
        reason = body.watch()
    finally:
        body.cancelled = True  # a thread left behind stops at its next byte and stores nothing
    if reason:
        raise MirrorError(reason)
    return bytes(body.content)


class _Body:
    """What has arrived so far: the file that pooch's downloader writes into, and its watch."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.content = bytearray()
        self.started = self.last = time.monotonic()
        self.done = threading.Event()
        self.cancelled = False
        self.reason = ""

    def receive(self, downloader: Any, url: str) -> None:
        """Runs in the thread: the whole transfer, with any failure turned into a reason."""
        try:
            downloader(url, self, None)
        except MirrorError as error:
            self.reason = str(error)
        except Exception as error:  # whatever requests, urllib3 or ssl may raise is one thing here
            status = getattr(getattr(error, "response", None), "status_code", None)
            self.reason = f"HTTP status {status}" if status else type(error).__name__
        finally:
            self.done.set()

    def write(self, chunk: bytes) -> None:
        if self.cancelled:
            raise MirrorError("given up")
        if len(self.content) + len(chunk) > self.limit:
            raise MirrorError(f"it sends more than {self.limit} bytes")
        self.content += chunk
        self.last = time.monotonic()

    def flush(self) -> None:
        """Part of what the downloader expects of a file."""

    def watch(self) -> str:
        """Wait for the end of the transfer; the reason why it failed, or nothing."""
        while not self.done.wait(max(0.0, min(1.0, self.last + SILENCE - time.monotonic()))):
            now = time.monotonic()
            if now - self.last >= SILENCE:
                return f"nothing came for {SILENCE:g} s"
            if now - self.started > TRIAL and len(self.content) < SLOWEST * (now - self.started):
                return f"slower than {SLOWEST} bytes/s"
        return self.reason


def store(content: bytes, path: Path) -> None:
    """Write a file so that others see it whole or not at all: aside, to the disk, then renamed.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
