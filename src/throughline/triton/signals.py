"""Signals that end a supervisor, and what it supervises with it."""

from __future__ import annotations

import signal
import threading
from typing import Any, Self


class EndingSignals:
    """Turns SIGTERM and SIGHUP into `SystemExit`, so that what is being started is stopped; the first one alone.

    A server has a session of its own: if these ended its supervisor at once, it would go on without one.

    Attributes:
        quiet: Ignore them, because all is being stopped already.
    """

    def __init__(self) -> None:
        self.quiet = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.quiet = False
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._handle) for number in ending_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        while self._former:
            signal.signal(*self._former.popitem())

    def _handle(self, number: int, frame: object) -> None:
        if not self.quiet:
            self.quiet = True
            raise SystemExit(128 + number)


def ending_signals() -> list[signal.Signals]:
    """Returns SIGTERM, and SIGHUP unless it is ignored (nohup)."""
    found = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found
