"""One file over HTTPS, given up soon where nothing answers, and in the end where it takes too long.

Time-outs of sockets do not add up to a promise: a name server may think for half a minute, a host may
have eight addresses that all swallow packets, and a header may arrive one byte at a time. So the
transfer runs in a thread of its own, and the caller watches the clock: when a byte last came, how many
came in all, and when everything must be over.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from tinyattn.extras import require

SCHEME = "https://"  # nothing else is asked
SILENCE = 6.0  # seconds without a byte, from the very start, after which an attempt is given up
SLOWEST, TRIAL = 1000, 15.0  # bytes a second that a transfer must average once TRIAL seconds are over


class MirrorError(Exception):
    """A mirror that did not deliver; the message is the reason in a few words."""


def fetch(url: str, limit: int, until: float) -> bytes:
    """The bytes at a URL, without following redirects (a mirror of ours has none; a login page has).

    Args:
        url: where; https only.
        limit: the most bytes to accept.
        until: when to give up even so, as time.monotonic() tells the time.

    Raises:
        MirrorError: no connection, no answer, an error status, a redirect, too slow, or too many bytes.
        ImportError: pooch is not installed.
    """
    if not url.startswith(SCHEME):
        raise MirrorError(f"only {SCHEME} is asked")
    # in pieces of 1 KiB: the watch sees nothing of a piece until the whole of it is there
    downloader = require("pooch", "downloading MNIST").HTTPDownloader(
        chunk_size=1 << 10, timeout=SILENCE, allow_redirects=False, hooks={"response": _refuse_redirect}
    )
    body = _Body(limit, until)
    threading.Thread(target=body.receive, args=(downloader, url), daemon=True).start()
    try:
        reason = body.watch()
    finally:
        body.cancelled = True  # a thread left behind stops at its next byte and stores nothing
    if reason:
        raise MirrorError(reason)
    return bytes(body.content)


def _refuse_redirect(response: Any, *args: Any, **kwargs: Any) -> None:
    if response.is_redirect:
        raise MirrorError(f"HTTP status {response.status_code}, which leads elsewhere")


class _Body:
    """What has arrived so far: the file that pooch's downloader writes into, and its watch."""

    def __init__(self, limit: int, until: float) -> None:
        self.limit, self.until = limit, until
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
        while not self.done.wait(max(0.0, min(1.0, min(self.last + SILENCE, self.until) - time.monotonic()))):
            now = time.monotonic()
            if now >= self.until:
                return "the time for downloads is over"
            if now - self.last >= SILENCE:
                return f"nothing came for {SILENCE:g} s"
            if now - self.started > TRIAL and len(self.content) < SLOWEST * (now - self.started):
                return f"slower than {SLOWEST} bytes/s"
        return self.reason
