"""Waiting for what another process does; each look is a question to it, so that nobody sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable

WAIT = 20.0


def until(condition: Callable[[], bool], seconds: float = WAIT) -> bool:
    """Asks again until it holds, or patience ends; returns whether it holds."""
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        pass
    return held
