"""One request's stream of messages from Triton: sent, read, aborted and closed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from throughline.gateway.errors import ApiError
from throughline.gateway.trace import CallTrace
from throughline.gateway.upstream.contract import Message, Reader
from throughline.gateway.upstream.faults import ClientGoneError, protocol_error, rpc_error, stream_error

_CLOSE_SECONDS = 1.0


class TokenStream(Message):
    """One running request. `read` replaces the public attributes with those of the next message.

    Args:
        call: The gRPC stream.
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
        "_call",
        "_eof",
        "_heard",
        "_model",
        "_reader",
        "_sender",
        "error_type",
        "read_at",
        "started",
        "trace",
        "waiting_since",
    )

    def __init__(
        self, call: Any, eof: object, model: str, heard: dict[str, float], reader: Reader, trace: CallTrace
    ) -> None:
        super().__init__()
        self.trace = trace
        self.error_type = ""
        self._call = call
        self._eof = eof
        self._model = model
        self._heard = heard
        self._reader = reader
        self._abort: Exception | None = None
        self._sender: asyncio.Task[Any] | None = None
        self.started = False
        self.read_at = 0.0
        self.waiting_since = time.perf_counter()

    async def send(self, request: Any) -> None:
        """Writes the one request; raises as `read` does."""
        sender = self._sender = asyncio.current_task()
        try:
            await self._call.write(request)
            await self._call.done_writing()
        except asyncio.InvalidStateError:
            # The call has ended already; `read` says how.
            return
        except asyncio.CancelledError:
            if self._abort is None:
                raise
            if sender is not None and self._sender is None:
                # It was `abort` that cancelled, and nobody else.
                sender.uncancel()
            raise self._failed(self._abort) from None
        except Exception as error:
            raise self._failed(self._abort or rpc_error(error)) from None
        finally:
            self._sender = None

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
        """Cancels the request upstream; a waiting `send` or `read` raises `reason`."""
        if self._abort is None:
            self._abort = reason
            if not isinstance(reason, ClientGoneError):
                self._heard.pop(self._model, None)
            self._call.cancel()
            if self._sender is not None:
                # A write that waits for the call to begin would wait for ever (grpcio 1.85).
                sender, self._sender = self._sender, None
                sender.cancel()

    async def close(self) -> None:
        """Ends the call: waits shortly for the server's own end after the last message, else cancels it."""
        if self.finish_reason and not self._call.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._call.code()
        self._call.cancel()
