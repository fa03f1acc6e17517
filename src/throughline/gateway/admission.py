"""How much work the engine gets at a time; what does not fit is refused at once, with an honest wait."""

from __future__ import annotations

from throughline.contracts.gateway import GatewayLimits
from throughline.gateway.errors import overloaded

_SMOOTHING = 0.2
_MAX_RETRY_AFTER = 60.0


class Admission:
    """Counts requests and their tokens (prompt plus requested output) from admission to end.

    Args:
        limits: See `GatewayLimits`.
    """

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._mean_seconds = 1.0
        self.requests = 0
        self.tokens = 0

    def enter(self, tokens: int, requests: int = 1) -> None:
        """Admits a request that is `requests` to the engine. One that is larger than a limit runs when it is alone.

        Raises:
            ApiError: 429 with `Retry-After`.
        """
        limits = self._limits
        if self.requests and self.requests + requests > limits.max_concurrent_requests:
            raise overloaded(
                f"{self.requests} of {limits.max_concurrent_requests} requests are running and this one makes "
                f"{requests}. Try again later.",
                retry_after=self._wait(),
            )
        if self.requests and self.tokens + tokens > limits.max_concurrent_tokens:
            raise overloaded(
                f"{self.tokens} of {limits.max_concurrent_tokens} tokens are taken and this request needs "
                f"{tokens}. Try again later.",
                retry_after=self._wait(),
            )
        self.requests += requests
        self.tokens += tokens

    def leave(self, tokens: int, seconds: float, requests: int = 1) -> None:
        """Gives back what `enter` took, after the request ran for `seconds`."""
        self.requests -= requests
        self.tokens -= tokens
        self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds)

    def _wait(self) -> float:
        """Expected seconds until a running request ends."""
        return min(_MAX_RETRY_AFTER, self._mean_seconds / max(1, self.requests))
