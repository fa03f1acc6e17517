"""The scheduler thread of the engine model: it alone feeds the engine, sends responses and sets metrics.

Triton crashes when metrics and responses come from different threads, so one thread does both and every other thread
only puts requests into its inbox. The engine steps in a process of its own (`engine_process`) meanwhile.
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
from typing import Protocol

from throughline.contracts.engine import EngineRuntime, ErrorKind, StepOutput
from throughline.contracts.errors import EngineError
from throughline.triton.channels import RETRY_SECONDS, Channel, Code, Ends
from throughline.triton.live import Live
from throughline.triton.requests import GenerateRequest, RequestError, StopRequest
from throughline.triton.streaming import FlushPolicy, Message, Outbox, RateMeter, tokens_per_message
from throughline.triton.waiting import WaitingQueue

Request = GenerateRequest | StopRequest | RequestError
_CODES: dict[ErrorKind, Code] = {"invalid": "INVALID_ARG", "unavailable": "UNAVAILABLE", "internal": "INTERNAL"}
# How long an idle scheduler goes without looking whether its engine still lives.
_IDLE_SECONDS = 0.5
# Share of the engine's sequences that may wait within it: a place that a step frees is then taken by the next one,
# which does not wait for this thread. What waits there is past all priorities.
_AHEAD = 4


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
    """See `ServeSpec`; times in seconds. `max_batch_size` is the engine's."""

    max_active_requests: int = 512
    max_batch_size: int = 64
    priority_aging_seconds: float = 5.0
    flush: FlushPolicy = field(default_factory=FlushPolicy)
    cancel_poll_interval_seconds: float = 0.05
    metrics_interval_seconds: float = 0.25
    drain_timeout_seconds: float = 20.0


class Scheduler:
    """In-flight batching over one engine runtime: requests wait here by priority and age until it has room for them.

    Args:
        load: Makes the runtime; called again when a step has failed.
        settings: Limits and intervals.
        metrics: Where to report to.
        fatal: Called when the engine failed and cannot be loaded again, when the end of a request cannot be sent, and
            on any other fault of the thread: it must end the process, for a server without this thread answers nobody.
        wake: Ends a wait of the runtime's `step`, so that it sees a new request; called by any thread.
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
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._settings = settings
        self._metrics = metrics
        self._fatal = fatal
        self._wake = wake
        self._clock = clock
        self._runtime: EngineRuntime = load()
        self._inbox: queue.SimpleQueue[tuple[Channel, Request, float] | None] = queue.SimpleQueue()
        self._ids = itertools.count()
        self._live: dict[str, Live] = {}
        self._waiting: WaitingQueue[Live] = WaitingQueue(settings.priority_aging_seconds)
        self._poll_order: deque[str] = deque()
        self._ends = Ends(fatal)
        self._rate = RateMeter()
        self._finished: Counter[str] = Counter()
        self._iterations = 0
        self._published = float("-inf")
        self._deadline: float | None = None

    def put(self, channel: Channel, request: Request) -> None:
        """Hands over a request, or the error to answer it with; any thread may call this."""
        self._inbox.put((channel, request, self._clock()))
        self._wake()

    def stop(self) -> None:
        """Asks `run` to finish what is live and to return; any thread may call this."""
        self._inbox.put(None)
        self._wake()

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
        """Admits everything in the inbox, waiting a moment for the first item if `block`."""
        timeout = RETRY_SECONDS if self._ends else _IDLE_SECONDS
        try:
            item = self._inbox.get(block=block, timeout=timeout if block else None)
            while True:
                if item is None:
                    self._deadline = self._clock() + self._settings.drain_timeout_seconds
                else:
                    self._admit(*item)
                item = self._inbox.get(block=False)
        except queue.Empty:
            return

    def iterate(self) -> None:
        """Ends what is cancelled or late, feeds the engine, takes the outputs of a step and sends what is due."""
        now = self._clock()
        self._ends.pay(now)
        self._poll_cancelled(now)
        self._end_late(now)
        self._feed()
        try:
            outputs = self._runtime.step()
            has_work = self._runtime.has_work()
        except Exception:
            self._recover()
            return
        if self._runtime.stats().iterations is None:
            self._iterations += 1
        self._deliver(outputs)
        if not has_work:
            self._end_forgotten()
        self._publish()

    def _admit(self, channel: Channel, request: Request, arrived: float) -> None:
        if isinstance(request, RequestError):
            self._refuse(channel, "INVALID_ARG", str(request))
        elif isinstance(request, StopRequest):
            self._stop(request.id)
            self._ends.end(channel, None, "", self._clock())
        elif self._deadline is not None:
            self._refuse(channel, "UNAVAILABLE", "the model is being unloaded — try again")
        elif len(self._live) >= self._settings.max_active_requests:
            limit = self._settings.max_active_requests
            self._refuse(channel, "UNAVAILABLE", f"{limit} requests are active, the limit — try again later")
        else:
            request_id = f"r{next(self._ids)}"
            outbox = Outbox(
                request.echo, arrived, request.params.logprobs, request.perf_metrics, request.interval_seconds
            )
            live = Live(channel, request, outbox, arrived, self._clock())
            self._live[request_id] = live
            self._waiting.push(request_id, live, arrived=arrived, priority=request.priority)
            self._poll_order.append(request_id)

    def _feed(self) -> None:
        """Gives the engine what it has room for, and a few more, so that no place stays empty for a step."""
        size = self._settings.max_batch_size
        room = size + max(1, size // _AHEAD) - (len(self._live) - len(self._waiting))
        while room > 0 and self._waiting:
            request_id, live = self._waiting.pop()
            try:
                self._runtime.submit(request_id, live.request.prompt_token_ids, live.request.params)
            except EngineError as error:
                del self._live[request_id]
                self._refuse(live.channel, "INVALID_ARG", str(error))
                continue
            live.running = True
            live.outbox.scheduled(self._clock())
            room -= 1

    def _refuse(self, channel: Channel, code: Code, text: str) -> None:
        self._finished["rejected"] += 1
        self._ends.end(channel, code, text, self._clock())

    def _send(self, request_id: str, live: Live, message: Message, *, final: bool) -> bool:
        """Sends a message; if that fails, ends the request and frees what it has. Returns whether it was sent."""
        try:
            live.channel.send(message, final=final)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._lose(request_id, live)
            return False
        return True

    def _lose(self, request_id: str, live: Live) -> None:
        self._drop(request_id, live, "error", "UNAVAILABLE", "a response could not be sent — send the request again")

    def _drop(self, request_id: str, live: Live, reason: str, code: Code | None, text: str = "") -> None:
        """Ends a request before its time and takes it out of the queue or the engine."""
        if self._live.pop(request_id, None) is not None:
            if live.running:
                self._runtime.cancel(request_id)
            else:
                self._waiting.remove(request_id)
        self._finished[reason] += 1
        self._ends.end(live.channel, code, text, self._clock())

    def _poll_cancelled(self, now: float) -> None:
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
            if not is_cancelled:
                self._poll_order.append(request_id)
            elif live.running:
                live.cancelling = True
                self._runtime.cancel(request_id)
            else:
                self._drop(request_id, live, "cancelled", None)

    def _stop(self, wanted: str) -> None:
        """Ends every request that its client calls so; there may be none any more."""
        for request_id, live in [item for item in self._live.items() if item[1].request.id == wanted]:
            live.stopped = True
            if not live.running:
                self._waiting.remove(request_id)
                output = StepOutput(request_id, (), "", "cancelled", len(live.request.prompt_token_ids), 0)
                live.outbox.add(output, self._clock())
                self._finish(live, output)
            elif not live.cancelling:
                live.cancelling = True
                self._runtime.cancel(request_id)

    def _end_late(self, now: float) -> None:
        for request_id, live in [item for item in self._live.items() if item[1].is_late(now)]:
            where = f"after {live.outbox.completion_tokens} tokens" if live.running else "in the queue"
            text = f"the request's timeout of {live.request.timeout_seconds:g} s expired {where} — try again later"
            self._drop(request_id, live, "timeout", "UNAVAILABLE", text)

    def _deliver(self, outputs: list[StepOutput]) -> None:
        streamed = 0
        now = self._clock()
        made = self._runtime.stats().stepped_at if outputs else None
        for output in outputs:
            live = self._live.get(output.request_id)
            if live is None:
                continue
            live.outbox.add(output, now if made is None else made)
            if live.request.stream and live.request.interval_seconds is None:
                streamed += len(output.token_ids)
            if output.finish_reason is not None:
                self._finish(live, output)
        if outputs:
            self._rate.add(streamed, now)
        policy = self._settings.flush
        tokens = tokens_per_message(policy, self._rate.per_second())
        for request_id, live in list(self._live.items()):
            if live.request.stream and not live.cancelling and live.outbox.due(policy, tokens, now):
                self._send(request_id, live, live.outbox.take(now), final=False)

    def _finish(self, live: Live, output: StepOutput) -> None:
        del self._live[output.request_id]
        reason = output.finish_reason or "error"
        now = self._clock()
        if reason == "cancelled" and not live.stopped:
            self._finished[reason] += 1
            self._ends.end(live.channel, None, "", now)
        elif reason == "error":
            self._finished[reason] += 1
            code = _CODES[output.error_kind or "internal"]
            self._ends.end(live.channel, code, output.error or "the engine ended the request without a reason", now)
        elif self._send(output.request_id, live, live.outbox.take(now, reason), final=True):
            self._finished[reason] += 1
            if reason != "cancelled":
                self._metrics.observe(output.prompt_tokens, output.completion_tokens)

    def _end_forgotten(self) -> None:
        for live in self._take_running().values():
            if live.cancelling:
                self._finished["cancelled"] += 1
                self._ends.end(live.channel, None, "", self._clock())
            else:
                self._fail(live, "UNAVAILABLE", "the engine dropped the request without a last output")

    def _recover(self) -> None:
        """Ends what ran and loads the engine again, for what waits and what comes."""
        traceback.print_exc(file=sys.stderr)
        for live in self._take_running().values():
            self._fail(live, "UNAVAILABLE", "the engine failed and is being loaded again — send the request again")
        try:
            self._iterations += self._runtime.stats().iterations or 0
            self._runtime.close()
            self._runtime = self._load()
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._fatal()

    def _take_running(self) -> dict[str, Live]:
        running = {request_id: live for request_id, live in self._live.items() if live.running}
        for request_id in running:
            del self._live[request_id]
        return running

    def _abandon(self) -> None:
        for request_id, live in self._live.items():
            if live.running:
                self._runtime.cancel(request_id)
            self._fail(live, "UNAVAILABLE", "the model was unloaded before the request ended")
        self._live.clear()
        self._waiting.clear()

    def _fail(self, live: Live, code: Code, text: str) -> None:
        self._finished["error"] += 1
        self._ends.end(live.channel, code, text, self._clock())

    def _done(self) -> bool:
        if self._deadline is None:
            return False
        return not (self._live or self._ends) or self._clock() > self._deadline

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
                waiting=stats.waiting_requests + len(self._waiting),
                maximum=self._settings.max_active_requests,
                kv_cache_usage=stats.kv_cache_usage,
                kv_cache_bytes=stats.kv_cache_bytes,
                iterations=self._iterations + (stats.iterations or 0),
                generated_tokens=stats.generated_tokens,
                finished=dict(self._finished),
            )
        )
