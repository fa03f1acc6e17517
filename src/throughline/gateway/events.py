"""The stream of server-sent events that the choices of a job share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from throughline.gateway.errors import ApiError
from throughline.gateway.http import Exchange, Headers
from throughline.gateway.metrics import ModelMetrics
from throughline.gateway.sse import DONE, KEEP_ALIVE, error_event
from throughline.gateway.upstream import TokenStream

EVENT_STREAM = b"text/event-stream; charset=utf-8"
# Proxies must hand events on as they come.
_HEADERS: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class EventStream:
    """Whole events of several writers, in the order in which they come.

    Args:
        exchange: The client.
        metrics: Where the time to the first token counts.
        choices: How many choices it ends with.
        last: What comes between the last of them and the end.

    Attributes:
        first_token_seconds: From the request's arrival to the first token of all, 0 before it.
    """

    def __init__(self, exchange: Exchange, metrics: ModelMetrics, choices: int, last: Callable[[], bytes]) -> None:
        self._exchange, self._metrics = exchange, metrics
        self._open, self._last = choices, last
        self.first_token_seconds = 0.0
        # A writer waits here while the client reads slower than the engine writes.
        self._lock = asyncio.Lock()
        self._sent_at = time.monotonic()

    def first_token(self, tokens: TokenStream) -> None:
        """Counts the time to the first token of a choice if it is the first of all."""
        if self.first_token_seconds:
            return
        seconds = self.first_token_seconds = tokens.read_at - self._exchange.started
        self._metrics.time_to_first_token.observe(seconds)
        if tokens.engine_seconds is not None:
            self._metrics.engine_first_token.observe(tokens.engine_seconds)
            self._metrics.framework_first_token.observe(max(0.0, seconds - tokens.engine_seconds))

    async def write(self, body: bytes) -> None:
        """Sends events."""
        async with self._lock:
            await self._send(body, more=True)

    async def finish(self, body: bytes) -> None:
        """Sends the last events of a choice, and with those of the last one the end of the stream."""
        async with self._lock:
            self._open -= 1
            if self._open:
                await self._send(body, more=True)
            else:
                await self._send(body + self._last() + DONE, more=False)

    async def fail(self, error: ApiError) -> None:
        """Sends an error as the last event."""
        async with self._lock:
            self._open = 0
            await self._send(error_event(error.body()), more=False)

    async def keep_alive(self, seconds: float) -> None:
        """Sends a comment whenever nothing has been sent for so long; ends with the stream."""
        while self._open:
            await asyncio.sleep(self._sent_at + seconds - time.monotonic())
            async with self._lock:
                # While it waited for its turn others have written, or ended the stream.
                if self._open and time.monotonic() - self._sent_at >= seconds:
                    await self._send(KEEP_ALIVE, more=True)

    async def _send(self, body: bytes, *, more: bool) -> None:
        self._sent_at = time.monotonic()
        if not self._exchange.status:
            await self._exchange.start(200, EVENT_STREAM, _HEADERS)
        await self._exchange.chunk(body, more=more)
