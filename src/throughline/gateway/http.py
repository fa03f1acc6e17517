"""One HTTP exchange over raw ASGI: the body within limits, the answer, and whether the client left."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from throughline import __version__
from throughline.gateway.bodies import Hold
from throughline.gateway.errors import ApiError, body_too_large
from throughline.gateway.trace import NO_TRACE, RequestTrace

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
_VERSION = (b"x-throughline-version", __version__.encode())
_MAX_DISCARD_BYTES = 64 * 2**20
_DISCARD_SECONDS = 5.0
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:\-]{1,128}")


class Exchange:
    """A request and its one answer.

    Attributes:
        path: Decoded path.
        method: HTTP method.
        request_id: The client's `x-request-id` where it is a plain word, else ours.
        route: Pattern of the route, for metrics and logs.
        model: Model id, once known.
        status: Status of the answer, 0 before it.
        outcome: How the generation ended, for the log; empty where there was none.
        prompt_tokens: Its prompt tokens, for the log.
        completion_tokens: Its output tokens, for the log.
        started: `time.perf_counter()` of the arrival.
        key: Public id of the client's API key, for the log.
        tenant: Whose key it is, for the log.
        trace: What its trace is told.
        headers: Sent with the answer, whichever it is.
        on_end: Called once when the generation has ended and its tokens are counted.
        keep_bytes: Whole answers with status 200 of up to so many bytes stay in `kept`; -1 for none.
        kept: See `keep_bytes`.
    """

    __slots__ = (
        "_body_read",
        "_headers",
        "_receive",
        "_send",
        "completion_tokens",
        "headers",
        "keep_bytes",
        "kept",
        "key",
        "method",
        "model",
        "on_end",
        "outcome",
        "path",
        "prompt_tokens",
        "request_id",
        "route",
        "started",
        "status",
        "tenant",
        "trace",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._headers: Headers = scope["headers"]
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.route = "unknown"
        self.model = ""
        self.status = 0
        self.outcome = ""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.key = self.tenant = ""
        self.trace: RequestTrace = NO_TRACE
        self.headers: Headers = []
        self.on_end: Callable[[], None] | None = None
        self.keep_bytes = -1
        self.kept: bytes | None = None
        self.started = time.perf_counter()
        self._body_read = self.method in ("GET", "HEAD")
        given = self.header(b"x-request-id")
        if given and _REQUEST_ID.fullmatch(given):
            self.request_id = given.decode()
        else:
            self.request_id = f"req-{os.urandom(12).hex()}"

    def header(self, name: bytes) -> bytes:
        """The first value of a header, given in lower case; empty when absent."""
        for key, value in self._headers:
            if key == name:
                return value
        return b""

    async def body(self, *, limit: int, seconds: float, hold: Hold) -> bytes:
        """The whole request body, whose bytes `hold` counts as they come.

        Raises:
            ApiError: 413 beyond `limit` bytes, 408 when it has not come within `seconds`, 429 from `hold`.
            ConnectionError: If the client left.
        """
        length = self.header(b"content-length")
        if length.isdigit() and int(length) > limit:
            raise body_too_large(limit)
        try:
            async with asyncio.timeout(seconds):
                return await self._read(limit, hold)
        except TimeoutError:
            raise ApiError(
                408, f"The request body did not come within {seconds:g} seconds.", code="request_timeout"
            ) from None

    async def _read(self, limit: int, hold: Hold) -> bytes:
        chunks, size = [], 0
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise ConnectionError("the client left before its body was complete")
            self._body_read = not event.get("more_body")
            chunks.append(event.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise body_too_large(limit)
            hold.add(len(chunks[-1]))
            if self._body_read:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def discard_body(self) -> bool:
        """Reads what is left of the body, so that a client that still sends it can read our answer.

        Returns:
            Whether some of it may be left: too much or too slow, or the client asked before sending.
        """
        if self._body_read:
            return False
        length = self.header(b"content-length")
        if not length.isdigit() or int(length) > _MAX_DISCARD_BYTES or self.header(b"expect"):
            return True
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                while True:
                    event = await self._receive()
                    if event["type"] == "http.disconnect" or not event.get("more_body"):
                        return False
        except TimeoutError:
            return True

    def end(self, outcome: str) -> None:
        """Says how the generation ended, once its tokens are counted."""
        self.outcome = outcome
        if self.on_end is not None:
            self.on_end()

    async def disconnected(self) -> None:
        """Returns when the client has closed its connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, content_type: bytes, headers: Headers) -> None:
        """Sends status and headers."""
        self.status = status
        own = ((b"content-type", content_type), (b"x-request-id", self.request_id.encode()), _VERSION)
        everything = [*own, *self.headers, *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": everything})

    async def chunk(self, body: bytes, *, more: bool) -> None:
        """Sends a part of the body; waits while the client reads slower than the engine writes."""
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(
        self, status: int, body: bytes, *, content_type: bytes = JSON, headers: Headers | None = None
    ) -> None:
        """Sends a whole answer."""
        if status == 200 and len(body) <= self.keep_bytes:
            self.kept = body
        length = (b"content-length", str(len(body)).encode())
        await self.start(status, content_type, [length, *(headers or [])])
        await self.chunk(b"" if self.method == "HEAD" else body, more=False)

    async def fail(self, error: ApiError, *, close: bool = False) -> None:
        """Sends an error; `close` ends the connection, for bodies that were not read to their end."""
        headers = error.headers()
        if close:
            headers.append((b"connection", b"close"))
        await self.answer(error.status, error.body(), headers=headers)
