"""Runs a job on its engine and sends the answer, as a stream of events or whole."""

from __future__ import annotations

import asyncio
import time

from throughline.gateway.admission import Admission
from throughline.gateway.errors import ApiError, server_error, timed_out
from throughline.gateway.http import Exchange, Headers
from throughline.gateway.jobs import Job
from throughline.gateway.logprobs import ScoredToken
from throughline.gateway.sse import DONE, error_event
from throughline.gateway.toolcalls import Piece
from throughline.gateway.upstream import ClientGoneError, TokenStream, infer_request

EVENT_STREAM = b"text/event-stream; charset=utf-8"
# Proxies must hand events on as they come.
_STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
# Beyond the engine's own limit in time only a client that does not read can keep a request alive.
_UNREAD_SECONDS = 5.0


async def answer(
    exchange: Exchange, job: Job, admission: Admission, *, total_seconds: float, prepare_seconds: float
) -> None:
    """Admits, runs and answers a job; leaves nothing running in the engine, however it ends.

    Args:
        exchange: The client.
        job: What to run.
        admission: Where it counts.
        total_seconds: Limit of the whole run.
        prepare_seconds: How long it took to make the job, for the metrics.

    Raises:
        ApiError: 429 when full, 503 while the breaker is open; else as `TokenStream.read` says, unless the stream has
            begun, in which case the error is the stream's last event.
    """
    size = len(job.prompt) + job.params.max_tokens
    job.model.guard.admit()
    admission.enter(size)
    metrics = job.model.metrics
    metrics.prepare.observe(prepare_seconds)
    metrics.running += 1
    entered = time.perf_counter()
    attempts = _Attempts(exchange, job)
    watcher = asyncio.create_task(attempts.abort_when_gone())
    reason = "error"
    try:
        async with asyncio.timeout(total_seconds + _UNREAD_SECONDS):
            reason = await _run(exchange, job, attempts)
    except (ClientGoneError, asyncio.CancelledError) as error:
        reason = "abort"
        if isinstance(error, asyncio.CancelledError):
            raise
    except TimeoutError:
        if not exchange.status:
            raise timed_out(f"The request took longer than {total_seconds:g} seconds.") from None
    finally:
        watcher.cancel()
        tokens = attempts.tokens
        ended = time.perf_counter()
        metrics.running -= 1
        metrics.finish(reason)
        metrics.e2e_latency.observe(ended - exchange.started)
        metrics.prompt_tokens += tokens.prompt_tokens
        metrics.request_prompt_tokens.observe(len(job.prompt))
        metrics.request_generation_tokens.observe(tokens.completion_tokens)
        admission.leave(size, ended - entered)
        exchange.prompt_tokens, exchange.completion_tokens = len(job.prompt), tokens.completion_tokens
        exchange.end(reason)
        await job.model.upstream.finish(tokens)


class _Attempts:
    """A request upstream, sent again while the engine is away and nothing has come; `tokens` is the present one."""

    def __init__(self, exchange: Exchange, job: Job) -> None:
        self._exchange, self._job = exchange, job
        self._gone = False
        self.tokens = self._start()

    async def first_message(self) -> TokenStream:
        """Sends the request and waits for its first message; raises as `TokenStream.read`."""
        job, guard = self._job, self._job.model.guard
        request = infer_request(
            job.model.triton_model, self._exchange.request_id, job.prompt, job.params, stream=job.stream
        )
        attempt = 0
        while True:
            try:
                await self.tokens.send(request)
                await self.tokens.read()
            except ApiError as error:
                guard.failed(error)
                pause = guard.pause(error, attempt)
                if pause is None:
                    raise
            else:
                guard.succeeded()
                return self.tokens
            attempt += 1
            await job.model.upstream.finish(self.tokens)
            await asyncio.sleep(pause)
            self.tokens = self._start()
            if self._gone:
                self.tokens.abort(ClientGoneError())

    async def abort_when_gone(self) -> None:
        """Cancels the request when the client has left."""
        await self._exchange.disconnected()
        self._gone = True
        self.tokens.abort(ClientGoneError())

    def _start(self) -> TokenStream:
        return self._job.model.upstream.start(self._job.model.triton_model, stream=self._job.stream)


async def _run(exchange: Exchange, job: Job, attempts: _Attempts) -> str:
    tokens = await attempts.first_message()
    if not job.stream:
        return await _whole(exchange, job, tokens)
    try:
        return await _stream(exchange, job, tokens)
    except ApiError as error:
        if not exchange.status:
            raise
        await exchange.chunk(error_event(error.body()), more=False)
        return "error"


async def _stream(exchange: Exchange, job: Job, tokens: TokenStream) -> str:
    """One event a message; the last message, finish reason and usage leave together."""
    frames, parser, metrics = job.frames, job.parser, job.model.metrics
    await exchange.start(200, EVENT_STREAM, _STREAM_HEADERS)
    first_at = last_at = tokens.read_at
    metrics.time_to_first_token.observe(first_at - exchange.started)
    if tokens.engine_seconds is not None:
        metrics.engine_first_token.observe(tokens.engine_seconds)
        metrics.framework_first_token.observe(max(0.0, first_at - exchange.started - tokens.engine_seconds))
    seen = tokens.completion_tokens
    metrics.generation_tokens += seen
    body = frames.first()
    while True:
        text = tokens.text
        if job.params.logprobs:
            body += _scored_events(job, tokens)
        else:
            body += frames.text(text) if parser is None else frames.pieces(parser.feed(text))
        if tokens.finish_reason:
            break
        if body:
            await exchange.chunk(body, more=True)
        await tokens.read()
        body = b""
        new = tokens.completion_tokens - seen
        if new > 0:
            metrics.inter_token_latency.observe((tokens.read_at - last_at) / new, new)
            metrics.generation_tokens += new
            seen += new
        last_at = tokens.read_at
    if seen > 1:
        metrics.time_per_output_token.observe((last_at - first_at) / (seen - 1))
    if parser is not None:
        body += frames.pieces(parser.flush())
    reason = _reason(job, tokens)
    body += frames.finish(reason)
    if job.include_usage:
        body += frames.usage(tokens.prompt_tokens, seen)
    await exchange.chunk(body + DONE, more=False)
    return reason


def _scored_events(job: Job, tokens: TokenStream) -> bytes:
    """Text with its tokens; where calls are looked for, which text a token became is not known any more."""
    scored = _scored(job, tokens)
    if job.parser is None:
        return job.frames.scored(tokens.text, scored)
    return job.frames.pieces(job.parser.feed(tokens.text)) + job.frames.scored("", scored)


def _scored(job: Job, tokens: TokenStream) -> list[ScoredToken]:
    scorer = job.model.facts.scorer
    if scorer is None or not job.params.logprobs:
        return []
    if tokens.log_probs is None or len(tokens.log_probs) != len(tokens.token_ids):
        raise server_error(
            "The engine's answer lacks the log-probabilities that it was asked for.",
            code="upstream_protocol",
            status=502,
        )
    return scorer.scored(tokens.token_ids, tokens.log_probs, tokens.finish_reason)


async def _whole(exchange: Exchange, job: Job, tokens: TokenStream) -> str:
    texts = [tokens.text]
    scored = _scored(job, tokens)
    while not tokens.finish_reason:
        await tokens.read()
        texts.append(tokens.text)
        scored += _scored(job, tokens)
    job.model.metrics.generation_tokens += tokens.completion_tokens
    text = "".join(texts)
    parser = job.parser
    pieces = [Piece(content=text)] if parser is None else parser.feed(text) + parser.flush()
    reason = _reason(job, tokens)
    body = job.frames.whole(
        pieces, reason, tokens.prompt_tokens, tokens.completion_tokens, scored if job.params.logprobs else None
    )
    await exchange.answer(200, body)
    return reason


def _reason(job: Job, tokens: TokenStream) -> str:
    reason = tokens.finish_reason
    if reason == "stop":
        return "tool_calls" if job.parser is not None and job.parser.calls else "stop"
    if reason != "length":
        raise server_error(
            f"The engine ended the request with an unknown reason: {reason!r:.40}.",
            code="upstream_protocol",
            status=502,
        )
    return reason
