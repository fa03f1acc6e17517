"""Whether an engine still answers: its steps are counted, and where none is made an answer is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Heartbeat:
    """One model's; times in seconds of a monotonic clock.

    Args:
        ask: Asks the model for a token or a vector and returns when it has come, or raises; has a thread of its own.
        seconds: Time without a step after which one is asked for.
        patience: Time without a step or answer after which the model hangs.
        now: The time.
    """

    def __init__(self, ask: Callable[[], None], *, seconds: float, patience: float, now: float) -> None:
        self._ask = ask
        self._seconds, self._patience = seconds, patience
        self._iterations: float | None = None
        self._moved = now
        self._question: _Question | None = None

    def hangs(self, iterations: float | None, now: float) -> bool:
        """Looks once.

        Args:
            iterations: Steps of the engine so far; None if that is not known.
            now: The time.
        """
        answered = self._question is not None and self._question.answered.is_set()
        if answered or (iterations is not None and iterations != self._iterations):
            self._iterations, self._moved = iterations, now
        if self._question is not None and not self._question.is_alive():
            self._question = None
        if now - self._moved < self._seconds:
            return False
        if self._question is None:
            self._question = _Question(self._ask)
            self._question.start()
        return now - self._moved > self._patience


class _Question(threading.Thread):
    """Asks once; what goes wrong is no answer, and the next look asks again."""

    def __init__(self, ask: Callable[[], None]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._ask = ask
        self.answered = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._ask()
        except Exception as error:
            self.error = error
        else:
            self.answered.set()
