"""The store for gateways on many machines: Redis, or what speaks its protocol, as Valkey.

Every step that reads and writes is one Lua script, which Redis runs alone, on Redis's own clock. All names of a key
carry its digest in braces, so that a cluster keeps them in one slot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from throughline.contracts.errors import MissingDependencyError
from throughline.gateway.keys import ApiKey, KeyLimits
from throughline.gateway.limits import PARTS, Bucket
from throughline.gateway.scripts import CLAIM, ENTER, KEEP, RELEASE, RENEW, RENEW_CLAIM, RESERVE, SETTLE
from throughline.gateway.store import Claim, Claimed, Entry, Lease, Refusal, Reservation, StoreError

R = TypeVar("R")
_TIMEOUT_SECONDS = 2.0
_IDS = "tl:ids"
_FIELDS = ("requests", "tokens", "concurrent", "created", "expires", "revoked", "priority")


class RedisStore:
    """See `KeyStore`.

    Args:
        url: `redis://[user:password@]host:port/db`, or `rediss://` with TLS.
        clock: Unix milliseconds, in place of Redis's own clock.

    Raises:
        MissingDependencyError: If the `redis` package is not there.
    """

    def __init__(self, url: str, clock: Callable[[], int] | None = None) -> None:
        try:
            import redis.asyncio
        except ImportError:
            raise MissingDependencyError(
                "keys in Redis need the package 'redis'", where="keys.store", fix="pip install 'throughline[gateway]'"
            ) from None
        self._redis = redis
        self._url = url
        self._clock = clock
        self._client: Any = None
        self._scripts: dict[str, Any] = {}

    async def open(self) -> None:
        """See `KeyStore.open`."""
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        # A connection that the server has closed meanwhile is opened again; every script may be run twice.
        self._client = self._redis.asyncio.Redis.from_url(
            self._url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1),
        )
        self._scripts = {
            text: self._client.register_script(text)
            for text in (ENTER, RESERVE, SETTLE, RENEW, RENEW_CLAIM, CLAIM, KEEP, RELEASE)
        }
        await self._run(self._client.ping())

    async def close(self) -> None:
        """See `KeyStore.close`."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def create(self, key: ApiKey) -> None:
        """See `KeyStore.create`."""
        held = key.limits
        values = (
            held.requests_per_minute,
            held.tokens_per_minute,
            held.concurrent_requests,
            key.created,
            key.expires,
            key.revoked,
            key.priority,
        )
        fields: dict[str, Any] = {"id": key.id, "digest": key.digest, "name": key.name, "tenant": key.tenant}
        fields |= {name: value for name, value in zip(_FIELDS, values, strict=True) if value is not None}
        await self._run(self._client.hset(_name(key.digest, "key"), mapping=fields))
        await self._run(self._client.hset(_IDS, key.id, key.digest))

    async def all_keys(self) -> list[ApiKey]:
        """See `KeyStore.all_keys`."""
        digests = (await self._run(self._client.hgetall(_IDS))).values()
        found = [await self._run(self._client.hgetall(_name(digest, "key"))) for digest in digests]
        return sorted((_key(fields) for fields in found if fields), key=lambda key: (key.created, key.id))

    async def revoke(self, key_id: str, now: int) -> ApiKey | None:
        """See `KeyStore.revoke`."""
        digest = await self._run(self._client.hget(_IDS, key_id))
        if digest is None:
            return None
        name = _name(digest, "key")
        await self._run(self._client.hsetnx(name, "revoked", now))
        return _key(await self._run(self._client.hgetall(name)))

    async def enter(self, digest: bytes) -> Entry | None:
        """See `KeyStore.enter`."""
        names = [_name(digest, "key"), _name(digest, "use")]
        fields, allowed, requests, tokens, now = await self._script(ENTER, names, [self._now()])
        if not fields:
            return None
        key = _key(dict(zip(fields[::2], fields[1::2], strict=True)))
        if allowed < 0:
            return Entry(key, False, None, None)
        held = key.limits
        return Entry(
            key,
            bool(allowed),
            _bucket(held.requests_per_minute, requests, now),
            _bucket(held.tokens_per_minute, tokens, now),
        )

    async def reserve(self, lease: Lease, seconds: float) -> Reservation:
        """See `KeyStore.reserve`."""
        held = lease.key.limits
        names = [_name(lease.key.digest, "use"), _name(lease.key.digest, "leases")]
        values = [self._now(), lease.id, lease.tokens * PARTS, int(seconds * 1000)]
        most = [held.tokens_per_minute or 0, -1 if held.concurrent_requests is None else held.concurrent_requests]
        refusal, level, now = await self._script(RESERVE, names, [*values, *most])
        found = (None, Refusal.TOKENS, Refusal.CONCURRENCY)[refusal]
        return Reservation(found, _bucket(held.tokens_per_minute, level, now))

    async def settle(self, lease: Lease, used: int) -> Bucket | None:
        """See `KeyStore.settle`."""
        limit = lease.key.limits.tokens_per_minute
        names = [_name(lease.key.digest, "use"), _name(lease.key.digest, "leases")]
        back = max(0, lease.tokens - max(0, used)) * PARTS
        level, now = await self._script(SETTLE, names, [self._now(), lease.id, back, limit or 0])
        return _bucket(limit, level, now)

    async def renew(self, leases: Sequence[Lease], claims: Sequence[Claim], seconds: float) -> None:
        """See `KeyStore.renew`."""
        for lease in leases:
            values = [self._now(), lease.id, int(seconds * 1000)]
            await self._script(RENEW, [_name(lease.key.digest, "leases")], values)
        for claim in claims:
            values = [self._now(), claim.owner, int(seconds * 1000)]
            await self._script(RENEW_CLAIM, [_answer_name(claim)], values)

    async def claim(self, claim: Claim, seconds: float) -> Claimed | bytes:
        """See `KeyStore.claim`."""
        values = [self._now(), claim.fingerprint, claim.owner, int(seconds * 1000)]
        state, answer = await self._script(CLAIM, [_answer_name(claim)], values)
        if state == 3:
            kept: bytes = answer
            return kept
        return (Claimed.NEW, Claimed.RUNNING, Claimed.OTHER_BODY)[state]

    async def keep(self, claim: Claim, answer: bytes, seconds: float) -> None:
        """See `KeyStore.keep`."""
        await self._script(KEEP, [_answer_name(claim)], [self._now(), claim.owner, answer, int(seconds * 1000)])

    async def release(self, claim: Claim) -> None:
        """See `KeyStore.release`."""
        await self._script(RELEASE, [_answer_name(claim)], [claim.owner])

    def _now(self) -> int | str:
        return "" if self._clock is None else self._clock()

    async def _script(self, text: str, names: list[str], values: list[Any]) -> Any:
        if self._client is None:
            raise StoreError("the key store is not open")
        return await self._run(self._scripts[text](keys=names, args=values))

    async def _run(self, command: Awaitable[R]) -> R:
        try:
            return await command
        except (self._redis.RedisError, OSError) as error:
            # The address without user and password.
            where = urlsplit(self._url).netloc.rpartition("@")[2]
            raise StoreError(f"the key store {where} failed: {type(error).__name__}: {error}") from error


def _name(digest: bytes, what: str) -> str:
    return f"tl:{{{digest.hex()}}}:{what}"


def _answer_name(claim: Claim) -> str:
    return _name(claim.key.digest, f"answer:{claim.name}")


def _bucket(limit: int | None, level: int, now: int) -> Bucket | None:
    return None if limit is None else Bucket(limit, level, now)


def _key(fields: dict[bytes, bytes]) -> ApiKey:
    requests, tokens, concurrent, created, expires, revoked, priority = (
        int(fields[name.encode()]) if name.encode() in fields else None for name in _FIELDS
    )
    return ApiKey(
        fields[b"id"].decode(),
        fields[b"digest"],
        fields[b"name"].decode(),
        fields[b"tenant"].decode(),
        KeyLimits(requests, tokens, concurrent),
        created or 0,
        expires,
        revoked,
        # Keys of before there were priorities have none.
        priority or 0,
    )
