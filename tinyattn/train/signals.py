"""Ctrl-C and SIGTERM end a run between two steps, not in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Self


class StopSignals:
    """Inside `with StopSignals() as stop:`, a first signal only sets `stop.caught`; a second one ends at once.

    `stop.caught` is None or the number of the signal; `stop.exit_code` the usual 128 + that number:
    130 for Ctrl-C, 143 for SIGTERM, 129 for a terminal that was closed (unless nohup has it ignored).
    Only the main thread can have signals: in another one, nothing is ever caught.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
                    continue
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal has ended; 0 if there was none."""
        return 128 + self.caught if self.caught else 0

    @property
    def name(self) -> str:
        """What stopped the run, in words."""
        return "Ctrl-C" if self.caught == signal.SIGINT else signal.Signals(self.caught).name if self.caught else ""

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            os._exit(128 + number)
        self.caught = number
