"""Runs a job on its engine and sends the answer, as a stream of events or whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from throughline.contracts.gateway import GatewayTimeouts
from throughline.gateway.admission import Admission
from throughline.gateway.choices import ChoiceRun
from throughline.gateway.errors import ApiError, timed_out
from throughline.gateway.events import EventStream
from throughline.gateway.http import Exchange
from throughline.gateway.jobs import Job
from throughline.gateway.metrics import SUCCESSES
from throughline.gateway.upstream import ClientGoneError

# Beyond the engine's own limit in time only a client that does not read can keep a request alive.
_UNREAD_SECONDS = 5.0
T = TypeVar("T")


async def answer(
    exchange: Exchange, job: Job, admission: Admission, timeouts: GatewayTimeouts, *, prepare_seconds: float
) -> None:
    """Admits, runs and answers a job; leaves nothing running in the engine, however it ends.

    If one choice fails the others are cancelled, and its error is the answer.

    Args:
        exchange: The client.
        job: What to run.
        admission: Where it counts.
        timeouts: Limits in time.
        prepare_seconds: How long it took to make the job, for the metrics.

    Raises:
        ApiError: 429 when full, 503 while the breaker is open; else as `TokenStream.read` says, unless the stream has
            begun, in which case the error is the stream's last event.
    """
    size, count = job.engine_tokens, len(job.choices)
    job.model.guard.admit()
    admission.enter(size, count)
    metrics = job.model.metrics
    metrics.prepare.observe(prepare_seconds)
    metrics.running += count
    entered = time.perf_counter()
    total_seconds = timeouts.total_seconds
    deadline = entered + total_seconds
    runs = [ChoiceRun(exchange, job, choice, deadline) for choice in job.choices]
    watcher = asyncio.create_task(_abort_when_gone(exchange, runs))
    reasons: Sequence[str] = ("error",)
    try:
        async with asyncio.timeout(total_seconds + _UNREAD_SECONDS):
            reasons = await _run(exchange, job, runs, timeouts.sse_keep_alive_seconds)
    except (ClientGoneError, asyncio.CancelledError) as error:
        reasons = ("abort",)
        if isinstance(error, asyncio.CancelledError):
            raise
    except TimeoutError:
        if not exchange.status:
            raise timed_out(f"The request took longer than {total_seconds:g} seconds.") from None
    finally:
        watcher.cancel()
        ended = time.perf_counter()
        metrics.running -= count
        _count(exchange, job, runs, reasons, ended - exchange.started)
        admission.leave(size, ended - entered, count)
        exchange.end(",".join(dict.fromkeys(reasons)))
        for run in runs:
            await run.close()


def _count(exchange: Exchange, job: Job, runs: Sequence[ChoiceRun], reasons: Sequence[str], seconds: float) -> None:
    metrics = job.model.metrics
    metrics.e2e_latency.observe(seconds)
    for reason in reasons:
        metrics.finish(reason)
    for choice in job.choices[:: job.n]:
        metrics.request_prompt_tokens.observe(len(choice.prompt))
    for run in runs:
        metrics.request_generation_tokens.observe(run.tokens.completion_tokens)
    read = {run.choice.index // job.n: run.tokens.prompt_tokens for run in runs if run.tokens.started}
    metrics.prompt_tokens += sum(read.values())
    exchange.prompt_tokens = job.prompt_tokens
    exchange.completion_tokens = _completion_tokens(runs)
    errors = (run.tokens.error_type for run in runs)
    metrics.gen_ai[exchange.route].ended(
        seconds,
        input_tokens=exchange.prompt_tokens,
        output_tokens=exchange.completion_tokens,
        error_type="" if set(reasons) <= set(SUCCESSES) else next(filter(None, errors), reasons[0]),
    )


def _completion_tokens(runs: Sequence[ChoiceRun]) -> int:
    return sum(run.tokens.completion_tokens for run in runs)


async def _run(exchange: Exchange, job: Job, runs: Sequence[ChoiceRun], keep_alive_seconds: float) -> Sequence[str]:
    """Returns the choices' finish reasons, or `error` for a stream that ended with one."""
    frames = job.choices[0].frames
    if not job.stream:
        ended = await together([run.whole() for run in runs])
        body = frames.whole([choice for choice, _ in ended], job.prompt_tokens, _completion_tokens(runs))
        await exchange.answer(200, body)
        return [reason for _, reason in ended]

    def last() -> bytes:
        return frames.usage(job.prompt_tokens, _completion_tokens(runs)) if job.include_usage else b""

    events = EventStream(exchange, job.model.metrics, len(runs), last)
    keeper = asyncio.create_task(events.keep_alive(keep_alive_seconds)) if keep_alive_seconds else None
    try:
        reasons = await together([run.stream(events) for run in runs])
        job.model.metrics.gen_ai[exchange.route].time_to_first_token.observe(events.first_token_seconds)
        return reasons
    except ApiError as error:
        if not exchange.status:
            raise
        await events.fail(error)
        return ("error",)
    finally:
        if keeper is not None:
            keeper.cancel()


async def together(runs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first failure cancels the others and is raised as it is."""
    if len(runs) == 1:
        return [await runs[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run) for run in runs]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _abort_when_gone(exchange: Exchange, runs: Sequence[ChoiceRun]) -> None:
    await exchange.disconnected()
    for run in runs:
        run.abort()
