"""The stages that a request passes, in order: the one place where tenants, quotas, tiers and guardrails join."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from throughline.contracts.gateway import GatewayLimits, GatewaySpec, GatewayTimeouts
from throughline.gateway.access import Access, Authenticate, Tier, TokenLimits
from throughline.gateway.admission import Admission
from throughline.gateway.answers import answer
from throughline.gateway.bodies import BodyBudget, deeper_than
from throughline.gateway.call import Call, Chain, Handler, Stage
from throughline.gateway.embedding_answers import answer_embeddings
from throughline.gateway.embedding_jobs import EmbeddingJob
from throughline.gateway.errors import bad_request
from throughline.gateway.idempotency import Idempotent
from throughline.gateway.jobs import Job

MakeJob = Callable[[Call], Awaitable[Job | EmbeddingJob]]


class Chains:
    """Makes the chain of each kind of route; all of them share one budget of bodies and one admission.

    Args:
        spec: See `GatewaySpec`.
        access: The key store; None where nobody is asked for a key.
        admission: Requests and tokens in the engines.
        traced: Makes a request a span; None where nobody is told.
    """

    def __init__(
        self, spec: GatewaySpec, access: Access | None, admission: Admission, traced: Stage | None = None
    ) -> None:
        self._traced = traced
        self._authenticate = None if access is None else Authenticate(access)
        self._read_body = ReadBody(spec.limits, spec.timeouts, BodyBudget(spec.limits.max_unread_bytes))
        self._idempotent = None if access is None else Idempotent(access)
        self._tier = None if access is None else Tier()
        self._token_limits = None if access is None else TokenLimits(access)
        self._room = Room(admission)
        self._run = Run(admission, spec.timeouts)

    def engine(self, make_job: MakeJob) -> Chain:
        """From a client's request to the engine's answer, be it text or embeddings."""
        return Chain(
            self._traced,  # refuses nothing; its span has the refusals too
            self._authenticate,  # 401; 429 by requests a minute
            self._read_body,  # 408, 413, 429 by bytes of all bodies, 400 by depth
            self._idempotent,  # the answer of the first time; 409, 422
            self._room,  # 429 where not even the smallest request fits: nothing is tokenised then
            Prepare(make_job),  # 400, 404: decoded, templated, tokenised
            self._tier,  # refuses nothing: how urgent the key lets it be
            self._token_limits,  # 429 by tokens a minute and concurrent requests
            self._run,  # 429 by the gateway's own limits; then the engine
        )

    def posted(self, handle: Callable[[Call], Awaitable[None]]) -> Chain:
        """For a request with a body that no engine sees."""
        return Chain(self._traced, self._authenticate, self._read_body, Handle(handle))

    def asked(self, handle: Handler) -> Chain:
        """For a request without a body."""
        return Chain(self._traced, self._authenticate, Handle(lambda call: handle(call.exchange)))


class ReadBody:
    """Reads the body, within limits of its own and of all bodies together."""

    def __init__(self, limits: GatewayLimits, timeouts: GatewayTimeouts, budget: BodyBudget) -> None:
        self._limits = limits
        self._seconds = timeouts.body_seconds
        self._budget = budget

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Raises `ApiError` 408, 413, 429, or 400 for one that nests too deeply."""
        limits = self._limits
        hold = call.hold = self._budget.hold()
        try:
            call.body = await call.exchange.body(limit=limits.max_body_bytes, seconds=self._seconds, hold=hold)
            call.begun = time.perf_counter()
            if deeper_than(call.body, limits.max_body_depth):
                message = f"The request body is nested too deeply: beyond {limits.max_body_depth} levels."
                raise bad_request(message, code="invalid_json")
            yield
        finally:
            call.parsed()


class Room:
    """Refuses early what the gateway's own limits would refuse whatever the request says."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Raises `ApiError` 429."""
        self._admission.look()
        yield


class Prepare:
    """Makes the job: tokens, and how the answer is made and written."""

    def __init__(self, make_job: MakeJob) -> None:
        self._make_job = make_job

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Raises `ApiError` 400 or 404 naming the field at fault."""
        call.job = await self._make_job(call)
        yield


class Run:
    """Admits the job among all of this gateway, runs it on its engine and answers."""

    def __init__(self, admission: Admission, timeouts: GatewayTimeouts) -> None:
        self._admission = admission
        self._timeouts = timeouts

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Raises what `answer` and `answer_embeddings` raise."""
        job, seconds = call.job, time.perf_counter() - call.begun
        if job is None:
            raise RuntimeError("Run stands before Prepare")
        if isinstance(job, EmbeddingJob):
            await answer_embeddings(call.exchange, job, self._admission, self._timeouts, prepare_seconds=seconds)
        else:
            await answer(call.exchange, job, self._admission, self._timeouts, prepare_seconds=seconds)
        yield


class Handle:
    """Answers with a function."""

    def __init__(self, handle: Callable[[Call], Awaitable[None]]) -> None:
        self._handle = handle

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Raises what the function raises."""
        await self._handle(call)
        yield
