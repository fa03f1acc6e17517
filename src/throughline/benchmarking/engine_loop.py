"""Sends a load to an engine in the same process, without a thread or a socket between them."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from throughline.contracts.benchmark import BenchRequest, Load, RequestRecord
from throughline.contracts.engine import EngineRuntime, SamplingParams, StepOutput

# How long a loop with nothing to do sleeps at most: a request is late by less than a tenth of this.
_IDLE_SECONDS = 0.002


@dataclass(frozen=True)
class StepRecord:
    """One step of the engine: when it ended and how long it took, in seconds, and what it worked on.

    Attributes:
        ended: On the clock of the records.
        seconds: Its length.
        scheduled: Sequences that it had.
        waiting: Requests that it had no room for.
        kv_cache_usage: Share of the KV cache in use behind it.
        has_prompts: Whether it read prompts: a sequence in it had its first token, or none yet.
        paused: Streams that had a token of the step before and none of this one: put back for want of room.
    """

    ended: float
    seconds: float
    scheduled: int
    waiting: int
    kv_cache_usage: float
    has_prompts: bool
    paused: int = 0


@dataclass
class _Live:
    request: BenchRequest
    session: int
    turn: int
    due: float | None
    start: float
    seen: list[float] = field(default_factory=list)
    leaves: bool = False


_Step = Callable[[dict[str, "_Live"]], list[StepOutput]]


class EngineLoop:
    """Keeps a load's requests on a runtime.

    Args:
        runtime: A loaded engine; nothing else may use it meanwhile.
        timed: Whether to keep a record of every step.

    Attributes:
        steps: Of the last load, where they are kept.
    """

    def __init__(self, runtime: EngineRuntime, *, timed: bool = False) -> None:
        self._runtime = runtime
        self._timed = timed
        self._ids = itertools.count()
        self._left_out: set[str] = set()
        self.steps: list[StepRecord] = []

    def run(self, load: Load) -> tuple[float, list[RequestRecord]]:
        """Sends a load; a first token's time is when `step` returned it, and a late step makes requests late.

        Returns:
            When it began, and the records.
        """
        self.steps, self._left_out = [], set()
        return _Run(self._runtime, load, self._ids, self._step).run()

    def _step(self, live: dict[str, _Live]) -> list[StepOutput]:
        if not self._timed:
            return self._runtime.step()
        streams = {request_id for request_id, item in live.items() if item.seen}
        began = time.perf_counter()
        outputs = self._runtime.step()
        ended = time.perf_counter()
        stats = self._runtime.stats()
        answered = {output.request_id for output in outputs}
        left_out = streams - answered
        self.steps.append(
            StepRecord(
                ended,
                ended - began,
                stats.active_requests,
                stats.waiting_requests,
                stats.kv_cache_usage,
                bool(answered - streams) or stats.active_requests > len(answered & streams),
                len(left_out - self._left_out),
            )
        )
        self._left_out = left_out
        return outputs


class _Run:
    def __init__(self, runtime: EngineRuntime, load: Load, ids: itertools.count[int], step: _Step) -> None:
        self._runtime, self._load, self._ids, self._step = runtime, load, ids, step
        self._live: dict[str, _Live] = {}
        self._records: list[RequestRecord] = []
        # Due times, sessions and turns of what waits for its time.
        self._timed: list[tuple[float, int, int]] = []
        # Sessions of a closed loop that no user has taken.
        self._untaken: deque[int] = deque()

    def run(self) -> tuple[float, list[RequestRecord]]:
        load = self._load
        began = time.perf_counter()
        self._end = began + (load.seconds if load.seconds is not None else float("inf"))
        if load.due is None:
            self._untaken.extend(range(len(load.sessions)))
            for _ in range(min(load.users, len(load.sessions))):
                self._submit(self._untaken.popleft(), 0, None)
        else:
            self._timed = [(began + due, session, 0) for session, due in enumerate(load.due)]
            heapq.heapify(self._timed)
        while self._live or self._timed:
            self._submit_due()
            if self._live:
                for output in self._step(self._live):
                    self._take(output)
            elif self._timed:
                time.sleep(max(0.0, min(_IDLE_SECONDS, self._timed[0][0] - time.perf_counter())))
        return began, self._records

    def _submit_due(self) -> None:
        while self._timed and self._timed[0][0] <= time.perf_counter():
            due, session, turn = heapq.heappop(self._timed)
            self._submit(session, turn, due)

    def _submit(self, session: int, turn: int, due: float | None) -> None:
        request = self._load.sessions[session][turn]
        request_id = f"raw-{next(self._ids)}"
        self._live[request_id] = _Live(request, session, turn, due, time.perf_counter())
        params = SamplingParams(max_tokens=request.max_tokens, ignore_eos=self._load.ignore_eos)
        self._runtime.submit(request_id, request.prompt_token_ids, params)

    def _take(self, output: StepOutput) -> None:
        live = self._live[output.request_id]
        now = time.perf_counter()
        if output.token_ids:
            live.seen.append(now)
        if output.finish_reason:
            del self._live[output.request_id]
            self._records.append(_record(live, output, now))
            self._go_on(live, now)
        elif live.request.cancel_after and len(live.seen) >= live.request.cancel_after and not live.leaves:
            live.leaves = True
            self._runtime.cancel(output.request_id)

    def _go_on(self, live: _Live, now: float) -> None:
        """The user's next turn, or next session, once they have thought."""
        load = self._load
        session, turn = live.session, live.turn + 1
        if turn == len(load.sessions[session]):
            if not self._untaken:
                return
            session, turn = self._untaken.popleft(), 0
        due = now + load.think_seconds
        if due >= self._end:
            return
        if load.think_seconds:
            heapq.heappush(self._timed, (due, session, turn))
        else:
            self._submit(session, turn, None)


def _record(live: _Live, output: StepOutput, now: float) -> RequestRecord:
    seen = live.seen or [now]
    ok = output.finish_reason in {"stop", "length"}
    begin = live.start if live.due is None else live.due
    return RequestRecord(
        live.request.scenario,
        live.start,
        seen[0],
        now,
        output.prompt_tokens,
        output.completion_tokens,
        ok=ok or live.leaves,
        error=output.error or "",
        error_type="" if ok or live.leaves else output.error_kind or str(output.finish_reason),
        due=live.due,
        gaps=[b - a for a, b in itertools.pairwise(seen)],
        tenant=live.request.tenant,
        cancelled=live.leaves,
        session=live.session,
        turn=live.turn,
        phases={"queue": live.start - begin, "prefill": seen[0] - live.start, "decode": now - seen[0]},
    )
