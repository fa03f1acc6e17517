"""What stages of the chain share: the call that passes them, and the shape of a stage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from throughline.gateway.bodies import Hold
from throughline.gateway.embedding_jobs import EmbeddingJob
from throughline.gateway.http import Exchange
from throughline.gateway.jobs import Job
from throughline.gateway.keys import ApiKey


@dataclass(slots=True)
class Call:
    """One request on its way through the stages, each of which may add to it.

    Attributes:
        exchange: The client.
        key: Its API key, from `Authenticate` on; None where nobody is asked for one.
        body: The request body, from `ReadBody` until it is parsed.
        hold: Counts the body's bytes.
        begun: `time.perf_counter()` when the body was there.
        job: What to generate or to embed, from `Prepare` on.
    """

    exchange: Exchange
    key: ApiKey | None = None
    body: bytes = b""
    hold: Hold | None = None
    begun: float = 0.0
    job: Job | EmbeddingJob | None = None

    def parsed(self) -> None:
        """Lets go of the body."""
        self.body = b""
        if self.hold is not None:
            self.hold.release()


class Stage(Protocol):
    """One stage: what it does before the later ones and, however they end, after them."""

    def around(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Entered on the way in, left on the way out.

        A stage that answers the client itself ends the way in; one that raises `ApiError` refuses the request.
        """


class Chain:
    """Stages from the outside in.

    Args:
        stages: In order; None where one is switched off.
    """

    def __init__(self, *stages: Stage | None) -> None:
        self._stages = [stage for stage in stages if stage is not None]

    async def __call__(self, exchange: Exchange) -> None:
        """Takes a request in as far as it gets, and out again."""
        call = Call(exchange)
        async with AsyncExitStack() as stack:
            for stage in self._stages:
                await stack.enter_async_context(stage.around(call))
                if exchange.status:
                    return


Handler = Callable[[Exchange], Awaitable[None]]
