"""When a request is sent upstream again, and when it is not sent at all, because the deployment is down."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from throughline.contracts.gateway import UpstreamSettings
from throughline.gateway.errors import ApiError, unavailable

# The retry throttle of gRPC (proposal A6): a failure takes a token, a success gives a tenth of one back, and only with
# more than half of the tokens left is anything sent again: in the long run a tenth of the traffic at most.
_TOKENS, _GIVEN_BACK = 10.0, 0.1
_FIRST_PAUSE_SECONDS = 0.05
_AWAY, _LATE = "upstream_unavailable", "upstream_timeout"


class Guard:
    """One deployment's: retries within a budget, and a circuit breaker; times in seconds of a monotonic clock.

    Args:
        settings: See `UpstreamSettings`.
        clock: The time.
        draw: Random numbers from 0 to 1, for jitter.

    Attributes:
        retries: Requests that were sent again.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._clock, self._draw = clock, draw
        self._tokens = _TOKENS
        self._failures = 0
        self._shut_until = float("-inf")
        self.retries = 0

    @property
    def is_open(self) -> bool:
        """Whether the breaker keeps requests away."""
        return self._failures >= self._settings.breaker_failures

    def admit(self) -> None:
        """Lets a request pass; while the breaker is open one every `breaker_seconds`, to find out.

        Raises:
            ApiError: 503 with `Retry-After`.
        """
        if not self.is_open:
            return
        now = self._clock()
        if now < self._shut_until:
            raise unavailable(
                f"The engine has failed {self._failures} requests in a row.", retry_after=self._shut_until - now
            )
        self._shut_until = now + self._settings.breaker_seconds

    def succeeded(self) -> None:
        """Counts a request that the engine has begun to answer."""
        self._failures = 0
        self._tokens = min(_TOKENS, self._tokens + _GIVEN_BACK)

    def failed(self, error: ApiError) -> None:
        """Counts a request that it has not; errors of the request itself say nothing of the deployment."""
        if error.code not in (_AWAY, _LATE):
            return
        self._failures += 1
        self._tokens = max(0.0, self._tokens - 1)
        if self.is_open:
            self._shut_until = self._clock() + self._settings.breaker_seconds

    def pause(self, error: ApiError, attempt: int) -> float | None:
        """Seconds until a request that has shown nothing yet is sent again; None if it is not.

        Args:
            error: Why it failed. What ran into a limit in time is not sent again: it has had its time.
            attempt: How often it was sent again already.
        """
        if error.code != _AWAY or attempt >= self._settings.max_retries or self._tokens <= _TOKENS / 2 or self.is_open:
            return None
        self.retries += 1
        # Jitter: what failed together does not come together again.
        return _FIRST_PAUSE_SECONDS * 2.0**attempt * (0.5 + self._draw())
