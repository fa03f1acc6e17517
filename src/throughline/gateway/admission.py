"""How much work the engine gets at a time; what does not fit is refused at once, with an honest wait."""

from __future__ import annotations

from throughline.contracts.gateway import GatewayLimits
from throughline.gateway.board import Board
from throughline.gateway.errors import overloaded

_SMOOTHING = 0.2
_MAX_RETRY_AFTER = 60.0
# One of the prompt and one of the answer.
_LEAST_TOKENS = 2


class Admission:
    """Counts requests and their tokens (prompt plus requested output) from admission to end, over all workers.

    Two workers that look at the same moment may both let the last request in: of n workers n - 1 requests too many, at
    most, which a lock around every request would cost more than it is worth.

    Args:
        limits: See `GatewayLimits`.
        board: Where the workers count.
    """

    def __init__(self, limits: GatewayLimits, board: Board) -> None:
        self._limits, self._board = limits, board
        self._mean_seconds = 1.0

    @property
    def requests(self) -> int:
        """Requests in the engines."""
        return self._board.requests

    @property
    def tokens(self) -> int:
        """Their tokens."""
        return self._board.tokens

    def look(self) -> None:
        """Refuses what no request is small enough for, so that none is tokenised in vain.

        Raises:
            ApiError: 429 with `Retry-After`.
        """
        self._check(_LEAST_TOKENS, 1)

    def enter(self, tokens: int, requests: int = 1) -> None:
        """Admits a request that is `requests` to the engine. One that is larger than a limit runs when it is alone.

        Raises:
            ApiError: 429 with `Retry-After`.
        """
        self._check(tokens, requests)
        self._board.admit(requests, tokens)

    def _check(self, tokens: int, requests: int) -> None:
        limits, running, taken = self._limits, self.requests, self.tokens
        if running and running + requests > limits.max_concurrent_requests:
            raise overloaded(
                f"{running} requests are running, the limit is {limits.max_concurrent_requests}, and this one makes "
                f"{requests}. Try again later.",
                retry_after=self._wait(running),
            )
        if running and taken + tokens > limits.max_concurrent_tokens:
            raise overloaded(
                f"{taken} of {limits.max_concurrent_tokens} tokens are taken and this request needs "
                f"{'more' if tokens == _LEAST_TOKENS else tokens}. Try again later.",
                retry_after=self._wait(running),
            )

    def leave(self, tokens: int, seconds: float, requests: int = 1) -> None:
        """Gives back what `enter` took, after the request ran for `seconds`."""
        self._board.admit(-requests, -tokens)
        self._mean_seconds += _SMOOTHING * (seconds - self._mean_seconds)

    def _wait(self, running: int) -> float:
        """Expected seconds until a running request ends."""
        return min(_MAX_RETRY_AFTER, self._mean_seconds / max(1, running))
