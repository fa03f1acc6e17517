"""One choice of a job on its engine, as events of the shared stream or whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from throughline.gateway.errors import server_error
from throughline.gateway.events import EventStream
from throughline.gateway.http import Exchange
from throughline.gateway.jobs import Choice, Job
from throughline.gateway.logprobs import ScoredToken
from throughline.gateway.toolcalls import Piece
from throughline.gateway.upstream import Ask, ClientGoneError, TokenStream


class ChoiceRun:
    """A choice's request upstream, sent again while the engine is away and nothing has come.

    Args:
        exchange: The client.
        job: What the choice belongs to.
        choice: Which one.
        deadline: `time.perf_counter()` at which the request has had all its time.

    Attributes:
        choice: The choice.
        tokens: The present attempt.
    """

    def __init__(self, exchange: Exchange, job: Job, choice: Choice, deadline: float) -> None:
        self._exchange, self._job, self.choice = exchange, job, choice
        self._deadline = deadline
        self._gone = False
        self.tokens = self._start()

    def abort(self) -> None:
        """Cancels the request, because the client has left."""
        self._gone = True
        self.tokens.abort(ClientGoneError())

    async def close(self) -> None:
        """Leaves nothing running in the engine."""
        await self._job.model.upstream.finish(self.tokens)

    async def whole(self) -> tuple[dict[str, Any], str]:
        """Returns the finished choice and its finish reason; raises as `TokenStream.read`."""
        choice = self.choice
        texts: list[str] = []
        scored: list[ScoredToken] = []

        async def to_the_end() -> None:
            texts.clear()
            scored.clear()
            await self.tokens.read()
            while True:
                texts.append(self.tokens.text)
                scored.extend(self._scored())
                if self.tokens.finish_reason:
                    return
                await self.tokens.read()

        await self._attempt(to_the_end)
        self._job.model.metrics.generation_tokens += self.tokens.completion_tokens
        text, parser = "".join(texts), choice.parser
        pieces = [Piece(content=text)] if parser is None else parser.feed(text) + parser.flush()
        reason = self._reason()
        return choice.frames.choice(pieces, reason, scored if choice.params.logprobs else None), reason

    async def stream(self, events: EventStream) -> str:
        """Writes one event a message and returns the finish reason; raises as `TokenStream.read`."""
        frames, parser, metrics = self.choice.frames, self.choice.parser, self._job.model.metrics
        await self._attempt(lambda: self.tokens.read())
        tokens = self.tokens
        events.first_token(tokens)
        first_at = last_at = tokens.read_at
        seen = tokens.completion_tokens
        metrics.generation_tokens += seen
        body = frames.first()
        while True:
            if self.choice.params.logprobs:
                body += self._scored_events()
            else:
                body += frames.text(tokens.text) if parser is None else frames.pieces(parser.feed(tokens.text))
            if tokens.finish_reason:
                break
            if body:
                await events.write(body)
            await tokens.read()
            body = b""
            new = tokens.completion_tokens - seen
            if new > 0:
                metrics.inter_token_latency.observe((tokens.read_at - last_at) / new, new)
                metrics.generation_tokens += new
                seen += new
            last_at = tokens.read_at
        if seen > 1:
            seconds = (last_at - first_at) / (seen - 1)
            metrics.time_per_output_token.observe(seconds)
            metrics.gen_ai[self._exchange.route].time_per_output_token.observe(seconds)
        if parser is not None:
            body += frames.pieces(parser.flush())
        reason = self._reason()
        await events.finish(body + frames.finish(reason))
        return reason

    async def _attempt(self, read: Callable[[], Awaitable[None]]) -> None:
        """Sends the request and reads what the client is shown first; what fails before that may be sent again."""

        async def ask() -> None:
            self.tokens.send(await self._request())
            await read()

        async def again(pause: float) -> None:
            await self.close()
            await asyncio.sleep(pause)
            self.tokens = self._start()
            if self._gone:
                self.tokens.abort(ClientGoneError())

        await self._job.model.until_answered(ask, again)

    def _start(self) -> TokenStream:
        model, seconds = self._job.model, self._seconds_left()
        ask = self._ask(seconds)
        return model.upstream.start(
            model.triton_model, model.contract, ask, seconds=seconds, trace=self._exchange.trace
        )

    async def _request(self) -> Any:
        model = self._job.model
        shape = await model.upstream.shape(model.triton_model, model.contract)
        return model.contract.request(model.triton_model, self._ask(self._seconds_left()), shape)

    def _ask(self, seconds: float) -> Ask:
        job, choice = self._job, self.choice
        upstream = job.model.upstream
        return Ask(
            f"{self._exchange.request_id}-{choice.index}" if choice.index else self._exchange.request_id,
            choice.prompt,
            choice.text,
            choice.params,
            upstream.streams(job.model.contract, job.stream),
            job.priority or 0,
            seconds,
            upstream.interval_seconds,
        )

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline - time.perf_counter())

    def _scored_events(self) -> bytes:
        """Text with its tokens; where calls are looked for, which text a token became is not known any more."""
        frames, parser, scored = self.choice.frames, self.choice.parser, self._scored()
        if parser is None:
            return frames.scored(self.tokens.text, scored)
        return frames.pieces(parser.feed(self.tokens.text)) + frames.scored("", scored)

    def _scored(self) -> list[ScoredToken]:
        scorer, tokens = self._job.model.facts.scorer, self.tokens
        if scorer is None or not self.choice.params.logprobs:
            return []
        if tokens.log_probs is None or len(tokens.log_probs) != len(tokens.token_ids):
            raise server_error(
                "The engine's answer lacks the log-probabilities that it was asked for.",
                code="upstream_protocol",
                status=502,
            )
        return scorer.scored(tokens.token_ids, tokens.log_probs, tokens.finish_reason)

    def _reason(self) -> str:
        reason, parser = self.tokens.finish_reason, self.choice.parser
        if reason == "stop":
            return "tool_calls" if parser is not None and parser.calls else "stop"
        if reason != "length":
            raise server_error(
                f"The engine ended the request with an unknown reason: {reason!r:.40}.",
                code="upstream_protocol",
                status=502,
            )
        return reason
