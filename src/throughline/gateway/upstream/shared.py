"""One ModelStreamInfer call that carries many requests: told apart by their ids, ended one by one, opened anew."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from throughline.gateway.errors import server_error, timed_out, unavailable
from throughline.gateway.upstream.contract import FINAL
from throughline.gateway.upstream.faults import away, protocol_error

# Messages that wait for one request's reader; an engine sends some hundred a second to all of them together.
MOST_UNREAD = 4096
# A stream that stays open keeps a Triton that is to stop from doing so.
_IDLE_SECONDS = 1.0
# For Triton to end an idle stream; one that holds a request of a dead process never does.
_CLOSE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 0.5


class SharedStream:
    """Keeps one call open while there are requests for it, and for a second after the last.

    Args:
        open_call: Begins a ModelStreamInfer call of `grpc.aio`, to which requests are written.
        eof: What it gives after its last message.
        clock: Monotonic seconds.
    """

    def __init__(
        self, open_call: Callable[[], Any], eof: object, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_call = open_call
        self._eof = eof
        self._clock = clock
        self._link: _Link | None = None
        self._links: set[_Link] = set()
        self._pause = 0.0
        self._shut_until = float("-inf")

    def begin(self, request: Any, *, timeout: float) -> SharedCall:
        """Sends a `ModelInferRequest`, under an id that no other request has, and returns what answers it.

        Args:
            request: Is changed: its id, and the parameters that ask for what only a shared stream needs.
            timeout: Seconds until it is ended with a 504.
        """
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        # A status of its own would end the stream for all.
        request.parameters["error_status_prefix"].bool_param = True
        call = SharedCall(request, self._eof, timeout)
        if self._link is None and self._clock() < self._shut_until:
            call.fail(away())
            return call
        if self._link is None:
            self._link = self._open()
        self._link.send(call)
        return call

    def _open(self) -> _Link:
        link = _Link(self._open_call(), self._eof, self._ended)
        self._links.add(link)
        link.reading.add_done_callback(lambda _: self._links.discard(link))
        return link

    def _ended(self, link: _Link) -> None:
        if self._link is link:
            self._link = None
        if link.is_retired:
            return
        # One that has worked is opened again at once.
        pause = min(max(_FIRST_PAUSE_SECONDS, 2 * self._pause), _LONGEST_PAUSE_SECONDS)
        self._pause = 0.0 if link.has_worked else pause
        self._shut_until = self._clock() + self._pause

    def close(self) -> None:
        """Cancels the call, and with it every request."""
        for link in list(self._links):
            link.close()


class SharedCall:
    """One request of a shared stream, with those methods of a gRPC call that `TokenStream` uses.

    Args:
        request: What is asked.
        eof: What `read` gives after the last message.
        timeout: Seconds until it ends with a 504.
    """

    __slots__ = ("_eof", "_error", "_is_done", "_messages", "_stop", "_timer", "_waiter", "request")

    def __init__(self, request: Any, eof: object, timeout: float) -> None:
        self.request = request
        self._eof = eof
        self._messages: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._is_done = False
        self._stop: Callable[[SharedCall], None] | None = None
        self._timer = asyncio.get_running_loop().call_later(timeout, self._expire)

    def carried_by(self, stop: Callable[[SharedCall], None]) -> None:
        """Is on its way; `stop` ends it there."""
        self._stop = stop

    def take(self, message: Any, *, final: bool) -> None:
        """Takes a message for `read`; after the final one there is none."""
        self._messages.append(message)
        if final:
            self._end(None)
        elif len(self._messages) > MOST_UNREAD:
            self._break_off(server_error("The client read too slowly for the stream.", code="client_too_slow"))
        else:
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Ends it: after what has come `read` raises `error`."""
        if not self._is_done:
            self._end(error)

    async def read(self) -> Any:
        """Waits for the next message.

        Raises:
            asyncio.CancelledError: After `cancel`.
            Exception: As `fail` was called with.
        """
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._is_done:
                return self._eof
            await self._wait()
        return self._messages.popleft()

    def cancel(self) -> None:
        """Ends it here and in the engine."""
        self._break_off(asyncio.CancelledError())

    def done(self) -> bool:
        """Whether the engine has said its last, or nobody waits for it."""
        return self._is_done

    async def code(self) -> None:
        """Waits until it is done."""
        while not self._is_done:
            await self._wait()

    def _expire(self) -> None:
        self._break_off(timed_out("The request took longer than its total limit."))

    def _break_off(self, error: BaseException) -> None:
        if self._is_done:
            return
        self._messages.clear()
        self._end(error)
        if self._stop is not None:
            self._stop(self)

    def _end(self, error: BaseException | None) -> None:
        self._is_done, self._error = True, error
        self._timer.cancel()
        self._wake()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Link:
    """One call and the requests on it.

    Args:
        call: See `SharedStream`.
        eof: See there.
        ended: Is told when it takes no more requests, before those that it has are.

    Attributes:
        reading: The task that ends with it.
        has_worked: Whether a message has come.
        is_retired: Whether it ended because nobody needed it.
    """

    def __init__(self, call: Any, eof: object, ended: Callable[[_Link], None]) -> None:
        self._call, self._eof, self._ended = call, eof, ended
        self._calls: dict[str, SharedCall] = {}
        # Triton finds a request that is to be stopped by its id alone, whoever sent it.
        self._nonce, self._numbers = os.urandom(6).hex(), itertools.count()
        self._unsent: asyncio.Queue[Any] = asyncio.Queue()
        self._writing = asyncio.create_task(self._write())
        self.reading = asyncio.create_task(self._read())
        self._idle: asyncio.TimerHandle | None = None
        self.has_worked = self.is_retired = False

    def send(self, call: SharedCall) -> None:
        """Sends a request."""
        request = call.request
        request.id = f"{request.id}~{self._nonce}-{next(self._numbers)}"
        self._calls[request.id] = call
        self._be_idle(False)
        call.carried_by(self._stop)
        self._unsent.put_nowait(request)

    def close(self) -> None:
        """Cancels everything."""
        self.reading.cancel()
        self._writing.cancel()
        self._call.cancel()
        self._end(unavailable("The gateway is shutting down."))

    def _stop(self, call: SharedCall) -> None:
        if self._calls.pop(call.request.id, None) is not None:
            self._unsent.put_nowait(stop_request(call.request))
            self._be_idle(not self._calls)

    def _be_idle(self, idle: bool) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._retire) if idle else None

    def _retire(self) -> None:
        self.is_retired = True
        self._ended(self)
        self._unsent.put_nowait(None)

    async def _read(self) -> None:
        error: BaseException = away()
        try:
            while (message := await self._call.read()) is not self._eof:
                self.has_worked = True
                self._hand_on(message)
        except Exception as raised:
            error = raised
        self._call.cancel()
        self._writing.cancel()
        self._end(error)

    def _hand_on(self, message: Any) -> None:
        response = message.infer_response
        name, parameters = response.id, response.parameters
        if message.error_message and not name:
            # Nobody knows whose it is, so that one would wait for ever.
            raise protocol_error(f"The engine failed a request without its id: {message.error_message}")
        final = bool(message.error_message) or (FINAL in parameters and parameters[FINAL].bool_param)
        # What was stopped here may have said something meanwhile.
        call = self._calls.pop(name, None) if final else self._calls.get(name)
        if call is not None:
            call.take(message, final=final)
        if final and not self.is_retired:
            self._be_idle(not self._calls)

    async def _write(self) -> None:
        try:
            while (request := await self._unsent.get()) is not None:
                await self._call.write(request)
            await self._call.done_writing()
            await asyncio.sleep(_CLOSE_SECONDS)
            self._call.cancel()
        except Exception:
            # The reader hears why the call has ended.
            return

    def _end(self, error: BaseException) -> None:
        self._be_idle(False)
        self._ended(self)
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.fail(error)


def stop_request(request: Any) -> Any:
    """The request that ends another one, as TensorRT-LLM's models know it: the same id, and the input `stop`."""
    stop = type(request)(model_name=request.model_name, id=request.id)
    stop.inputs.add(name="stop", datatype="BOOL", shape=(1,))
    stop.raw_input_contents.append(b"\x01")
    return stop
