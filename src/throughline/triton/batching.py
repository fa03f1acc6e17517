"""The scheduler thread of the engine model: it alone steps the engine, sends responses and sets metrics.

Triton crashes when metrics and responses come from different threads, and an engine's `step` holds
the GIL, so one thread does both and every other thread only puts requests into its inbox.
"""

from __future__ import annotations

import itertools
import queue
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from throughline.contracts.engine import EngineRuntime, ErrorKind, StepOutput
from throughline.contracts.errors import EngineError
from throughline.triton.requests import GenerateRequest, RequestError
from throughline.triton.streaming import FlushPolicy, Message, Outbox, RateMeter, tokens_per_message

Code = Literal["INVALID_ARG", "UNAVAILABLE", "INTERNAL", "CANCELLED"]
_CODES: dict[ErrorKind, Code] = {"invalid": "INVALID_ARG", "unavailable": "UNAVAILABLE", "internal": "INTERNAL"}
# The end of a request that cannot be sent is tried again this often, and this long.
_RETRY_SECONDS, _GIVE_UP_SECONDS = 0.05, 2.0


class Channel(Protocol):
    """The way back to one client; every request ends with exactly one final call.

    Any of them may raise, e.g. where Triton's shared memory is full.
    """

    def send(self, message: Message, *, final: bool) -> None:
        """Sends one response."""
        ...

    def fail(self, code: Code, text: str) -> None:
        """Ends the request with an error."""
        ...

    def close(self) -> None:
        """Ends the request without a response."""
        ...

    def is_cancelled(self) -> bool:
        """Returns whether the client has gone; costs a round trip to the server."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """State of the model for its metrics; `finished` counts ended requests by reason."""

    active: int
    scheduled: int
    waiting: int
    maximum: int
    kv_cache_usage: float
    kv_cache_bytes: int
    iterations: int
    generated_tokens: int
    finished: dict[str, int]


class Metrics(Protocol):
    """Where the scheduler reports to; called from its thread only."""

    def update(self, snapshot: Snapshot) -> None:
        """Publishes the present state."""
        ...

    def observe(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts one finished request's lengths."""
        ...


@dataclass(frozen=True)
class SchedulerSettings:
    """See `ServeSpec`; times in seconds."""

    max_active_requests: int = 512
    flush: FlushPolicy = field(default_factory=FlushPolicy)
    cancel_poll_interval_seconds: float = 0.05
    metrics_interval_seconds: float = 0.25
    drain_timeout_seconds: float = 20.0


@dataclass(frozen=True)
class _Owed:
    """The end of a request that could not be sent, without `code` one that has no error."""

    channel: Channel
    code: Code | None
    text: str
    since: float

    def send(self) -> None:
        if self.code is None:
            self.channel.close()
        else:
            self.channel.fail(self.code, self.text)


@dataclass
class _Live:
    channel: Channel
    stream: bool
    outbox: Outbox
    polled: float
    cancelling: bool = False


class Scheduler:
    """In-flight batching over one engine runtime.

    Args:
        load: Makes the runtime; called again when a step has failed.
        settings: Limits and intervals.
        metrics: Where to report to.
        fatal: Called when the engine failed and cannot be loaded again, when the end of a request cannot be sent, and
            on any other fault of the thread: it must end the process, for a server without this thread answers nobody.
        clock: Monotonic seconds.
    """

    # Each look at a client is a round trip: more of them in one iteration would slow every stream.
    _POLLS_PER_ITERATION = 4

    def __init__(
        self,
        load: Callable[[], EngineRuntime],
        settings: SchedulerSettings,
        *,
        metrics: Metrics,
        fatal: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._settings = settings
        self._metrics = metrics
        self._fatal = fatal
        self._clock = clock
        self._runtime: EngineRuntime = load()
        self._inbox: queue.SimpleQueue[tuple[Channel, GenerateRequest | RequestError, float] | None] = (
            queue.SimpleQueue()
        )
        self._ids = itertools.count()
        self._live: dict[str, _Live] = {}
        self._poll_order: deque[str] = deque()
        self._owed: list[_Owed] = []
        self._rate = RateMeter()
        self._finished: Counter[str] = Counter()
        self._iterations = 0
        self._published = float("-inf")
        self._deadline: float | None = None

    def put(self, channel: Channel, request: GenerateRequest | RequestError) -> None:
        """Hands over a request, or the error to answer it with; any thread may call this."""
        self._inbox.put((channel, request, self._clock()))

    def stop(self) -> None:
        """Asks `run` to finish what is live and to return; any thread may call this."""
        self._inbox.put(None)

    def run(self) -> None:
        """Serves until `stop`; the runtime is closed on return. A fault ends the process."""
        try:
            self._serve()
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._fatal()

    def _serve(self) -> None:
        while not self._done():
            idle = not self._live and self._deadline is None
            if idle:
                self._rate.reset()
                self._publish(force=True)
            self.take(block=idle)
            self.iterate()
        self._abandon()
        self._publish(force=True)
        self._runtime.close()

    def take(self, *, block: bool) -> None:
        """Admits everything in the inbox, waiting for the first item if `block`; no longer than an end is owed."""
        try:
            item = self._inbox.get(block=block, timeout=_RETRY_SECONDS if block and self._owed else None)
            while True:
                if item is None:
                    self._deadline = self._clock() + self._settings.drain_timeout_seconds
                else:
                    self._admit(*item)
                item = self._inbox.get(block=False)
        except queue.Empty:
            return

    def iterate(self) -> None:
        """Looks for cancelled requests, runs one engine step and sends what is due."""
        self._pay()
        if not self._live:
            return
        self._poll_cancelled()
        try:
            outputs = self._runtime.step()
            has_work = self._runtime.has_work()
        except Exception:
            self._recover()
            return
        self._iterations += 1
        self._deliver(outputs)
        if not has_work:
            self._end_forgotten()
        self._publish()

    def _admit(self, channel: Channel, request: GenerateRequest | RequestError, arrived: float) -> None:
        if isinstance(request, RequestError):
            self._refuse(channel, "INVALID_ARG", str(request))
        elif self._deadline is not None:
            self._refuse(channel, "UNAVAILABLE", "the model is being unloaded — try again")
        elif len(self._live) >= self._settings.max_active_requests:
            limit = self._settings.max_active_requests
            self._refuse(channel, "UNAVAILABLE", f"{limit} requests are active, the limit — try again later")
        else:
            self._submit(channel, request, arrived)

    def _submit(self, channel: Channel, request: GenerateRequest, arrived: float) -> None:
        request_id = f"r{next(self._ids)}"
        try:
            self._runtime.submit(request_id, request.prompt_token_ids, request.params)
        except EngineError as error:
            self._refuse(channel, "INVALID_ARG", str(error))
            return
        outbox = Outbox(request.echo, arrived, request.params.logprobs, request.perf_metrics)
        self._live[request_id] = _Live(channel, request.stream, outbox, self._clock())
        self._poll_order.append(request_id)

    def _refuse(self, channel: Channel, code: Code, text: str) -> None:
        self._finished["rejected"] += 1
        self._end(channel, code, text)

    def _end(self, channel: Channel, code: Code | None, text: str = "") -> None:
        """Ends a request without an answer, with an error unless `code` is None: now, or as soon as it can be sent."""
        end = _Owed(channel, code, text, self._clock())
        try:
            end.send()
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._owed.append(end)

    def _pay(self) -> None:
        """Sends the ends that are owed; one that cannot be sent for long leaves a client waiting for ever."""
        owed, self._owed = self._owed, []
        for end in owed:
            try:
                end.send()
            except Exception:
                self._owed.append(end)
                if self._clock() - end.since > _GIVE_UP_SECONDS:
                    traceback.print_exc(file=sys.stderr)
                    self._fatal()

    def _send(self, request_id: str, live: _Live, message: Message, *, final: bool) -> bool:
        """Sends a message; if that fails, ends the request and frees what it has. Returns whether it was sent."""
        try:
            live.channel.send(message, final=final)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._lose(request_id, live)
            return False
        return True

    def _lose(self, request_id: str, live: _Live) -> None:
        if self._live.pop(request_id, None) is not None:
            self._runtime.cancel(request_id)
        self._finished["error"] += 1
        self._end(live.channel, "UNAVAILABLE", "a response could not be sent — send the request again")

    def _poll_cancelled(self) -> None:
        now = self._clock()
        for _ in range(min(self._POLLS_PER_ITERATION, len(self._poll_order))):
            live = self._live.get(self._poll_order[0])
            if live is not None and now - live.polled < self._settings.cancel_poll_interval_seconds:
                return
            request_id = self._poll_order.popleft()
            if live is None or live.cancelling:
                continue
            live.polled = now
            try:
                is_cancelled = live.channel.is_cancelled()
            except Exception:
                traceback.print_exc(file=sys.stderr)
                self._lose(request_id, live)
                continue
            if is_cancelled:
                live.cancelling = True
                self._runtime.cancel(request_id)
            else:
                self._poll_order.append(request_id)

    def _deliver(self, outputs: list[StepOutput]) -> None:
        streamed = 0
        now = self._clock()
        for output in outputs:
            live = self._live.get(output.request_id)
            if live is None:
                continue
            live.outbox.add(output, now)
            if live.stream:
                streamed += len(output.token_ids)
            if output.finish_reason is not None:
                self._finish(live, output)
        self._rate.add(streamed, now)
        policy = self._settings.flush
        tokens = tokens_per_message(policy, self._rate.per_second())
        for request_id, live in list(self._live.items()):
            if live.stream and not live.cancelling and live.outbox.due(policy, tokens, now):
                self._send(request_id, live, live.outbox.take(now), final=False)

    def _finish(self, live: _Live, output: StepOutput) -> None:
        del self._live[output.request_id]
        reason = output.finish_reason or "error"
        if reason == "cancelled":
            self._finished[reason] += 1
            self._end(live.channel, None)
        elif reason == "error":
            self._finished[reason] += 1
            code = _CODES[output.error_kind or "internal"]
            self._end(live.channel, code, output.error or "the engine ended the request without a reason")
        elif self._send(output.request_id, live, live.outbox.take(self._clock(), reason), final=True):
            self._finished[reason] += 1
            self._metrics.observe(output.prompt_tokens, output.completion_tokens)

    def _end_forgotten(self) -> None:
        for live in self._live.values():
            if live.cancelling:
                self._finished["cancelled"] += 1
                self._end(live.channel, None)
            else:
                self._finished["error"] += 1
                self._end(live.channel, "UNAVAILABLE", "the engine dropped the request without a last output")
        self._live.clear()

    def _recover(self) -> None:
        traceback.print_exc(file=sys.stderr)
        self._fail_all("UNAVAILABLE", "the engine failed and is being loaded again — send the request again")
        try:
            self._runtime.close()
            self._runtime = self._load()
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._fatal()

    def _abandon(self) -> None:
        for request_id in list(self._live):
            self._runtime.cancel(request_id)
        self._fail_all("UNAVAILABLE", "the model was unloaded before the request ended")

    def _fail_all(self, code: Code, text: str) -> None:
        for live in self._live.values():
            self._finished["error"] += 1
            self._end(live.channel, code, text)
        self._live.clear()

    def _done(self) -> bool:
        if self._deadline is None:
            return False
        return not (self._live or self._owed) or self._clock() > self._deadline

    def _publish(self, *, force: bool = False) -> None:
        now = self._clock()
        if not force and now - self._published < self._settings.metrics_interval_seconds:
            return
        self._published = now
        stats = self._runtime.stats()
        self._metrics.update(
            Snapshot(
                active=len(self._live),
                scheduled=stats.active_requests,
                waiting=stats.waiting_requests,
                maximum=self._settings.max_active_requests,
                kv_cache_usage=stats.kv_cache_usage,
                kv_cache_bytes=stats.kv_cache_bytes,
                iterations=self._iterations,
                generated_tokens=stats.generated_tokens,
                finished=dict(self._finished),
            )
        )
