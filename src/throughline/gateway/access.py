"""Who a client is and what it may still use: the stages that ask the key store."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from throughline.contracts.gateway import KeySettings
from throughline.gateway.call import Call
from throughline.gateway.errors import ApiError, beyond_limit, invalid_key, overloaded
from throughline.gateway.http import Exchange, Headers
from throughline.gateway.jobs import Job
from throughline.gateway.keys import ApiKey, bearer_digest
from throughline.gateway.limits import Bucket, duration
from throughline.gateway.store import Claim, Entry, Lease, Refusal, Reservation, StoreError
from throughline.gateway.stores import make_store

logger = logging.getLogger("throughline.gateway")
_RENEWALS = 3
_PLACE_SECONDS = 1.0


class Access:
    """The key store and what this process holds in it.

    Args:
        settings: See `KeySettings`.
        url: The `store` of the settings.

    Attributes:
        store: See `KeyStore`.
        settings: The settings.
        leases: Running generations, by id.
        claims: Running requests with an `Idempotency-Key`, by owner.

    Raises:
        MissingDependencyError: If the store needs a package that is not there.
    """

    def __init__(self, settings: KeySettings, url: str) -> None:
        self.settings = settings
        self.store = make_store(url)
        self.leases: dict[str, Lease] = {}
        self.claims: dict[str, Claim] = {}
        self._renewer: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connects; raises `StoreError`."""
        await self.store.open()
        self._renewer = asyncio.create_task(self._renew())

    async def close(self) -> None:
        """Disconnects."""
        if self._renewer is not None:
            self._renewer.cancel()
        await self.store.close()

    async def settle(self, lease: Lease, used: int) -> None:
        """Ends a lease; a store that fails then lets it end by itself, and its tokens count as used."""
        self.leases.pop(lease.id, None)
        try:
            await self.store.settle(lease, used)
        except StoreError as error:
            logger.error("the use of %s was not settled: %s", lease.key.id, error)

    async def _renew(self) -> None:
        """A process that dies renews nothing, so that what it held comes free after `lease_seconds`."""
        seconds = self.settings.lease_seconds
        while True:
            await asyncio.sleep(seconds / _RENEWALS)
            if not self.leases and not self.claims:
                continue
            try:
                await self.store.renew(list(self.leases.values()), list(self.claims.values()), seconds)
            except StoreError as error:
                logger.warning("leases were not renewed: %s", error)


class Authenticate:
    """Wants a good key and takes one request of its limit, whatever becomes of it."""

    def __init__(self, access: Access) -> None:
        self._store = access.store

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Raises `ApiError` 401, or 429 when the key has no request left."""
        exchange = call.exchange
        entry = await self._entry(exchange)
        key = call.key = entry.key
        exchange.key, exchange.tenant = key.id, key.tenant
        exchange.headers += [*_headers(entry.requests, b"requests"), *_headers(entry.tokens, b"tokens")]
        if not entry.allowed and entry.requests is not None:
            raise overloaded(
                f"This key has used its {entry.requests.limit} requests a minute.",
                retry_after=entry.requests.wait_ms(1) / 1000,
            )
        yield

    async def _entry(self, exchange: Exchange) -> Entry:
        header = exchange.header(b"authorization")
        if not header:
            raise invalid_key("No API key was sent: send 'Authorization: Bearer KEY'.")
        digest = bearer_digest(header)
        entry = None if digest is None else await self._store.enter(digest)
        if digest is None or entry is None or not entry.key.is_of(digest):
            raise invalid_key("The API key is not known here: send one that `recipes.keys action=create` has made.")
        if not entry.allowed and entry.requests is None:
            # By the store's clock, which may be ahead of ours.
            why = entry.key.refusal(time.time()) or "has expired"
            raise invalid_key(f"The API key {entry.key.id} {why}.")
        return entry


class Tier:
    """Gives a request its key's priority; its own counts only where it is less urgent."""

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Raises nothing."""
        if call.key is not None and isinstance(call.job, Job):
            call.job.priority = call.key.priority_of(call.job.priority)
        yield


class TokenLimits:
    """Reserves the prompt and all output that a generation may make, and gives back what it did not make."""

    def __init__(self, access: Access) -> None:
        self._access = access

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Raises `ApiError` 429 when the key has not enough tokens or places left."""
        key, job, exchange = call.key, call.job, call.exchange
        if key is None or job is None or (key.limits.tokens_per_minute, key.limits.concurrent_requests) == (None, None):
            yield
            return
        lease = Lease(key, os.urandom(12).hex(), job.most_tokens)
        await self._reserve(lease, exchange)
        ended: asyncio.Task[None] | None = None

        def end() -> None:
            nonlocal ended
            if ended is None:
                ended = asyncio.create_task(self._access.settle(lease, _used(exchange)))

        # As soon as the tokens are counted, not after the engine's farewell: the client may ask again at once.
        exchange.on_end = end
        try:
            yield
        finally:
            exchange.on_end = None
            end()
            if ended is not None:
                await asyncio.shield(ended)

    async def _reserve(self, lease: Lease, exchange: Exchange) -> None:
        limits = lease.key.limits
        if limits.tokens_per_minute is not None and lease.tokens > limits.tokens_per_minute:
            raise beyond_limit(
                f"This request may need {lease.tokens} tokens (prompt and output), and this key has no more than "
                f"{limits.tokens_per_minute} a minute. Shorten the prompt or lower 'max_tokens'."
            )
        found = await self._access.store.reserve(lease, self._access.settings.lease_seconds)
        if found.tokens is not None:
            others = [(name, value) for name, value in exchange.headers if not name.endswith(b"-tokens")]
            exchange.headers = [*others, *_headers(found.tokens, b"tokens")]
        if found.refusal is not None:
            raise _refused(found, lease)
        self._access.leases[lease.id] = lease


def _refused(found: Reservation, lease: Lease) -> ApiError:
    if found.refusal is Refusal.TOKENS and found.tokens is not None:
        return overloaded(
            f"This request may need {lease.tokens} tokens (prompt and output), and this key has "
            f"{found.tokens.remaining} of its {found.tokens.limit} a minute left.",
            retry_after=found.tokens.wait_ms(lease.tokens) / 1000,
        )
    return overloaded(
        f"{lease.key.limits.concurrent_requests} requests of this key are running, its limit.",
        retry_after=_PLACE_SECONDS,
    )


def _used(exchange: Exchange) -> int:
    """Tokens to pay for: the prompt and what was generated; nothing when the engine made nothing of it."""
    if not exchange.outcome or (exchange.outcome == "error" and not exchange.completion_tokens):
        return 0
    return exchange.prompt_tokens + exchange.completion_tokens


def _headers(bucket: Bucket | None, kind: bytes) -> Headers:
    """OpenAI's three headers of a limit; `reset` is when it is full again."""
    if bucket is None:
        return []
    return [
        (b"x-ratelimit-limit-" + kind, str(bucket.limit).encode()),
        (b"x-ratelimit-remaining-" + kind, str(bucket.remaining).encode()),
        (b"x-ratelimit-reset-" + kind, duration(bucket.reset_ms).encode()),
    ]


def owner_of(key: ApiKey | None) -> ApiKey:
    """The key that `Authenticate` has found; later stages cannot do without."""
    if key is None:
        raise RuntimeError("a stage that needs the client's key stands before Authenticate")
    return key
