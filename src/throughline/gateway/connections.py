"""Client connections below HTTP: heads that do not come, answers that nobody reads, and what is no HTTP at all.

uvicorn has no limit for any of them. Each connection keeps the few times and sizes that they need, and one clock for
all (`sweep`) ends those that are beyond: a timer for each would cost every request.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from throughline import __version__
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway.errors import ApiError, bad_request, overloaded
from throughline.gateway.metrics import GatewayMetrics

# The parser also takes a line without a version for HTTP/0.9, and HTTP/2.0 in a line of text.
_VERSIONS = ("1.0", "1.1")
# What a header field costs beside its bytes, as HTTP/2 counts it (RFC 9113, 6.5.2).
_FIELD_BYTES = 32
# Clients that send ahead without waiting for answers send a few requests; each one waits in memory.
_MAX_PIPELINED = 64
_RETRY_SECONDS = 1.0


class Connection(HttpToolsProtocol):
    """One client connection; the class attributes are those of one server, see `connection_class`.

    Attributes:
        spec: Limits and timeouts.
        metrics: Counts the connections that were ended, by reason.
        waiting: Connections without a request, the one that has waited longest first.
    """

    spec: ClassVar[GatewaySpec]
    metrics: ClassVar[GatewayMetrics]
    waiting: ClassVar[OrderedDict[Connection, None]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._active: Any = None
        self._in_head = False
        self._head_bytes = 0
        # Since when a head is owed; None during a request, and between two while nothing comes.
        self._owed_since: float | None = None
        # How much the client has left unread, and since when.
        self._unread: tuple[int, float] | None = None
        self._refusal: tuple[str, ApiError] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Starts the clock of the first head; makes room where there are too many connections."""
        super().connection_made(transport)
        self._owed_since = self.loop.time()
        if len(self.connections) > self.spec.limits.max_connections:
            longest = next(iter(self.waiting), None)
            if longest is None:
                self._refuse("too_many", overloaded("Too many connections are open.", retry_after=_RETRY_SECONDS))
                return
            longest._end("too_many")
        self.waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the request that is being answered, where uvicorn tells only the last that came."""
        self.waiting.pop(self, None)
        self.pipeline.clear()
        if self._busy:
            self._active.disconnected = True
            self._active.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts a head's bytes while it comes."""
        if self._owed_since is None and not self._busy:
            self._owed_since = self.loop.time()
        goes_on = self._in_head
        super().data_received(data)
        if goes_on and self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self.spec.limits.max_header_bytes:
                self._refuse("head_too_large", self._too_large())

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """A head is whole; refuses what is too large, another HTTP, or one request too many ahead of its answer."""
        self._in_head, self._owed_since = False, None
        size = len(self.url) + sum(len(name) + len(value) + _FIELD_BYTES for name, value in self.headers)
        if size > self.spec.limits.max_header_bytes:
            self._refusal = "head_too_large", self._too_large()
        elif self.parser.get_http_version() not in _VERSIONS:
            self._refusal = "malformed", _malformed()
        elif len(self.pipeline) >= _MAX_PIPELINED:
            self._refusal = "pipelined", bad_request("Too many requests were sent ahead.", code="invalid_http")
        if self._refusal is not None:
            # The parser ends with this and calls `send_400_response`.
            raise ValueError(self._refusal[0])
        self.waiting.pop(self, None)
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The connection waits for its next request, of which some may be there, or for the rest of the last."""
        more = self._in_head or (self._active is not None and self._active.more_body)
        super().on_response_complete()
        if self._busy or self.transport.is_closing():
            return
        self.waiting[self] = None
        if more:
            self._owed_since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP, in OpenAI's shape."""
        self._refuse(*(self._refusal or ("malformed", _malformed())))

    def check(self, now: float) -> None:
        """Ends the connection if its head is late or its client does not read."""
        closing = self.transport.is_closing()
        if closing or self.flow.write_paused:
            # Nothing is written meanwhile, so that what is unread shrinks if and only if the client reads.
            size = self.transport.get_write_buffer_size()
            if self._unread is None or (size < self._unread[0] and not closing):
                self._unread = size, now
            elif now - self._unread[1] > self.spec.timeouts.unread_seconds:
                self._end("unread")
            return
        self._unread = None
        seconds = self.spec.timeouts.header_seconds
        if self._owed_since is None or self._busy or now - self._owed_since <= seconds:
            return
        if self._in_head:
            message = f"The head of the request did not come within {seconds:g} seconds."
            self._refuse("head_too_slow", ApiError(408, message, code="request_timeout"))
        else:
            self._end("head_too_slow")

    @property
    def _busy(self) -> bool:
        return self._active is not None and not self._active.response_complete

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def _too_large(self) -> ApiError:
        limit = self.spec.limits.max_header_bytes
        return ApiError(431, f"Path and headers are larger than {limit} bytes.", code="headers_too_large")

    def _refuse(self, reason: str, error: ApiError) -> None:
        """Answers and closes; where the answer of another request is due, only closes."""
        self.metrics.count_ended_connection(reason)
        self.waiting.pop(self, None)
        active = self._active
        if not self._busy or (active.more_body and not active.response_started):
            self.transport.write(_response(error))
        if self._busy:
            # The application must not answer behind this answer.
            active.disconnected = True
            active.message_event.set()
        self.transport.close()

    def _end(self, reason: str) -> None:
        self.metrics.count_ended_connection(reason)
        self.waiting.pop(self, None)
        self.transport.abort()


def connection_class(spec: GatewaySpec, metrics: GatewayMetrics) -> type[Connection]:
    """The class of one server's connections, for `uvicorn.Config(http=…)`."""
    return type("Connection", (Connection,), {"spec": spec, "metrics": metrics, "waiting": OrderedDict()})


def sweep(connections: Iterable[Any], now: float) -> None:
    """Ends every connection that is beyond a limit; call it about once a second with the loop's time."""
    for connection in list(connections):
        connection.check(now)


def _malformed() -> ApiError:
    return bad_request("This is no valid HTTP/1.1 request.", code="invalid_http")


def _response(error: ApiError) -> bytes:
    body = error.body()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", f"req-{os.urandom(12).hex()}".encode()),
        (b"x-throughline-version", __version__.encode()),
        *error.headers(),
        (b"connection", b"close"),
    ]
    return STATUS_LINE[error.status] + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + body
