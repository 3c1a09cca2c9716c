"""One file over HTTPS, with limits on size, silence, speed and total time.

The time-outs of sockets do not add up to such limits: a name server may take half a minute, a host may have eight
addresses that all drop packets, and a header may arrive one byte at a time. So the transfer runs in a thread, and the
caller waits for its chunks with a time-out of its own.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from tinyattn.extras import require

SCHEME = "https://"  # the only one that is used
SILENCE = 6.0  # seconds without a byte, name look-up and connection included, after which an attempt ends
SLOWEST, TRIAL = 1000, 15.0  # bytes a second that a transfer must average after its first TRIAL seconds


class MirrorError(Exception):
    """A mirror did not deliver; the message is the reason in a few words."""


def fetch(url: str, limit: int, until: float) -> bytes:
    """Return the bytes at an https URL. Redirects are refused: no mirror has one, but a login page has.

    limit: the largest size to accept, in bytes.
    until: the end of all attempts, on the clock of time.monotonic().

    Raises MirrorError for no connection, no answer, an error status, a redirect, too low a speed or too many bytes,
    and ImportError if pooch is not installed.
    """
    if not url.startswith(SCHEME):
        raise MirrorError(f"only {SCHEME} is allowed")
    downloader = require("pooch", "downloading MNIST").HTTPDownloader(
        chunk_size=1 << 10,  # small, since a chunk counts as silence until it is complete
        timeout=SILENCE,
        allow_redirects=False,
        hooks={"response": _refuse_redirect},
    )
    pipe = _Pipe()
    threading.Thread(target=pipe.receive, args=(downloader, url), daemon=True).start()
    try:
        return pipe.read(limit, until)
    finally:
        pipe.closed = True  # an abandoned thread ends at its next chunk


def _refuse_redirect(response: Any, *args: Any, **kwargs: Any) -> None:
    if response.is_redirect:
        raise MirrorError(f"HTTP status {response.status_code}, a redirect")


class _Pipe:
    """Chunks on their way from the thread of the transfer to the caller; a file to pooch's downloader."""

    def __init__(self) -> None:
        self.arrived: queue.SimpleQueue[bytes | str | None] = queue.SimpleQueue()
        self.closed = False

    def receive(self, downloader: Any, url: str) -> None:
        """Run the transfer, in the thread, and send its end: None, or the reason of its failure."""
        end = None
        try:
            downloader(url, self, None)
        except MirrorError as error:
            end = str(error)
        except Exception as error:  # of requests, urllib3, ssl or socket: one reason for all of them
            status = getattr(getattr(error, "response", None), "status_code", None)
            end = f"HTTP status {status}" if status else type(error).__name__
        self.arrived.put(end)

    def write(self, chunk: bytes) -> None:
        if self.closed:
            raise MirrorError("abandoned")
        self.arrived.put(chunk)

    def flush(self) -> None:
        """Required by the downloader."""

    def read(self, limit: int, until: float) -> bytes:
        """Return everything that the thread sends, within the limits."""
        content, start = bytearray(), time.monotonic()
        now = start
        while now < until:
            try:
                chunk = self.arrived.get(timeout=min(SILENCE, until - now))
            except queue.Empty:
                if until - now <= SILENCE:
                    break
                raise MirrorError(f"no byte for {SILENCE:g} s") from None
            if chunk is None:
                return bytes(content)
            if isinstance(chunk, str):
                raise MirrorError(chunk)
            content += chunk
            now = time.monotonic()
            if len(content) > limit:
                raise MirrorError(f"more than {limit} bytes")
            if now - start > TRIAL and len(content) < SLOWEST * (now - start):
                raise MirrorError(f"slower than {SLOWEST} bytes/s")
        raise MirrorError("the time limit for all downloads is reached")
