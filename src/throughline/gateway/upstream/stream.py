"""One request's stream of messages from Triton: sent, read, aborted and closed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from throughline.gateway.errors import ApiError
from throughline.gateway.trace import CallTrace
from throughline.gateway.upstream.contract import Message, Reader
from throughline.gateway.upstream.faults import ClientGoneError, protocol_error, rpc_error, stream_error

_CLOSE_SECONDS = 1.0


class TokenStream(Message):
    """One running request. `read` replaces the public attributes with those of the next message.

    Args:
        begin: Begins the gRPC call with a request and returns it.
        eof: What it gives after its last message.
        model: Name on Triton.
        heard: Where the time of each model's last message is kept.
        reader: Reads messages of the model's contract.
        trace: What the call's trace is told.

    Attributes:
        trace: See above.
        error_type: Code of the error that ended it; empty if none did or its client left.
        read_at: `time.perf_counter()` of the last message.
        started: Whether a message has come.
        waiting_since: `time.perf_counter()` since when the engine owes a message, 0 while it does not.
    """

    __slots__ = (
        "_abort",
        "_begin",
        "_call",
        "_eof",
        "_heard",
        "_model",
        "_reader",
        "error_type",
        "read_at",
        "started",
        "trace",
        "waiting_since",
    )

    def __init__(
        self,
        begin: Callable[[Any], Any],
        eof: object,
        model: str,
        heard: dict[str, float],
        reader: Reader,
        trace: CallTrace,
    ) -> None:
        super().__init__()
        self.trace = trace
        self.error_type = ""
        self._begin = begin
        self._call: Any = None
        self._eof = eof
        self._model = model
        self._heard = heard
        self._reader = reader
        self._abort: Exception | None = None
        self.started = False
        self.read_at = 0.0
        self.waiting_since = time.perf_counter()

    def send(self, request: Any) -> None:
        """Begins the call with its one request.

        Raises:
            ApiError: As `abort` was called with.
            ClientGoneError: After `abort` with it.
        """
        if self._abort is not None:
            raise self._failed(self._abort)
        self._call = self._begin(request)

    async def read(self) -> None:
        """Waits for the next message.

        Raises:
            ApiError: 503 while the engine is away, 504 past a limit, 4xx or 5xx as the engine says.
            ClientGoneError: After `abort` with it.
        """
        self.waiting_since = time.perf_counter()
        while True:
            try:
                message = await self._call.read()
            except asyncio.CancelledError:
                if self._abort is None:
                    raise
                raise self._failed(self._abort) from None
            except Exception as error:
                self._heard.pop(self._model, None)
                raise self._failed(self._abort or rpc_error(error)) from None
            if message is self._eof:
                self._heard.pop(self._model, None)
                ended = protocol_error("The engine ended the stream without a finish reason.")
                raise self._failed(self._abort or ended)
            if message.error_message:
                raise self._failed(stream_error(message.error_message))
            if self._take(message.infer_response):
                self.started = True
                self.waiting_since = 0.0
                self.read_at = self._heard[self._model] = time.perf_counter()
                if self.is_cut:
                    self._call.cancel()
                return

    def _take(self, response: Any) -> bool:
        try:
            return self._reader.take(response, self)
        except ApiError as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> Exception:
        if isinstance(error, ApiError):
            self.error_type = error.code or str(error.status)
        return error

    def abort(self, reason: Exception) -> None:
        """Cancels the request upstream; a waiting `read`, or a later `send`, raises `reason`."""
        if self._abort is None:
            self._abort = reason
            if not isinstance(reason, ClientGoneError):
                self._heard.pop(self._model, None)
            if self._call is not None:
                self._call.cancel()

    async def close(self) -> None:
        """Ends the call: waits shortly for the server's own end after the last message, else cancels it."""
        if self._call is None:
            return
        if self.finish_reason and not self._call.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._call.code()
        self._call.cancel()
