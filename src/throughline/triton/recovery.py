"""When what died may be started again: at once, then after pauses that double, and not for ever."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
# What has run this long since is no crash loop.
_FORGET_SECONDS = 300.0
MOST_ATTEMPTS = 8


@dataclass
class Recovery:
    """The attempts for one model, by a monotonic clock in seconds."""

    attempts: int = 0
    last: float = float("-inf")

    def due(self, now: float) -> bool:
        """Returns whether the pause since the last attempt is over."""
        if now - self.last > _FORGET_SECONDS:
            self.attempts = 0
        return now - self.last >= self.pause_seconds

    def note(self, now: float) -> None:
        """Counts an attempt."""
        self.attempts += 1
        self.last = now

    @property
    def pause_seconds(self) -> float:
        """Pause before the next attempt: none, then 0.5 s and twice as long each time, up to 30 s."""
        if not self.attempts:
            return 0.0
        return min(_FIRST_PAUSE_SECONDS * 2.0 ** (self.attempts - 1), _LONGEST_PAUSE_SECONDS)

    @property
    def exhausted(self) -> bool:
        """Whether there were as many attempts as make sense."""
        return self.attempts >= MOST_ATTEMPTS
