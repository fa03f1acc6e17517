"""The embedded store: one SQLite file that several gateways of a machine may share.

One thread owns the connection, so that neither the disk nor another gateway's lock stops the event loop. Whatever reads
and then writes is an immediate transaction: in SQLite a transaction that starts by reading cannot always be upgraded.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from throughline.gateway import limits
from throughline.gateway.keys import ApiKey, KeyLimits
from throughline.gateway.limits import Bucket
from throughline.gateway.migrations import migrate
from throughline.gateway.store import Claim, Claimed, Entry, Lease, Refusal, Reservation, StoreError

P = ParamSpec("P")
R = TypeVar("R")
_BUSY_SECONDS = 5.0
_KEY = "id, digest, name, tenant, requests, tokens, concurrent, created, expires, revoked, priority"


class SqliteStore:
    """See `KeyStore`.

    Args:
        path: The file; made with its folder when it is missing, for its owner alone.
        clock: Unix milliseconds.
    """

    def __init__(self, path: str, clock: Callable[[], int] | None = None) -> None:
        self._path = Path(path)
        self._clock = clock or (lambda: time.time_ns() // 1_000_000)
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """See `KeyStore.open`."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="key-store")
        await self._run(SqliteStore._connect)

    async def close(self) -> None:
        """See `KeyStore.close`."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._disconnect)
            thread.shutdown()

    async def create(self, key: ApiKey) -> None:
        """See `KeyStore.create`."""
        await self._run(SqliteStore._create, key)

    async def all_keys(self) -> list[ApiKey]:
        """See `KeyStore.all_keys`."""
        return await self._run(SqliteStore._all_keys)

    async def revoke(self, key_id: str, now: int) -> ApiKey | None:
        """See `KeyStore.revoke`."""
        return await self._run(SqliteStore._revoke, key_id, now)

    async def enter(self, digest: bytes) -> Entry | None:
        """See `KeyStore.enter`."""
        return await self._run(SqliteStore._enter, digest)

    async def reserve(self, lease: Lease, seconds: float) -> Reservation:
        """See `KeyStore.reserve`."""
        return await self._run(SqliteStore._reserve, lease, seconds)

    async def settle(self, lease: Lease, used: int) -> Bucket | None:
        """See `KeyStore.settle`."""
        return await self._run(SqliteStore._settle, lease, used)

    async def renew(self, leases: Sequence[Lease], claims: Sequence[Claim], seconds: float) -> None:
        """See `KeyStore.renew`."""
        await self._run(SqliteStore._renew, leases, claims, seconds)

    async def claim(self, claim: Claim, seconds: float) -> Claimed | bytes:
        """See `KeyStore.claim`."""
        return await self._run(SqliteStore._claim, claim, seconds)

    async def keep(self, claim: Claim, answer: bytes, seconds: float) -> None:
        """See `KeyStore.keep`."""
        await self._run(SqliteStore._keep, claim, answer, seconds)

    async def release(self, claim: Claim) -> None:
        """See `KeyStore.release`."""
        await self._run(SqliteStore._release, claim)

    async def _run(self, step: Callable[Concatenate[SqliteStore, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._thread is None:
            raise StoreError("the key store is not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: step(self, *args, **kwargs))
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the key store {self._path} failed: {error}") from error

    def _connect(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        # Without a sync at each commit: a power failure may undo the last moments' counts, never the file's order.
        connection.execute("PRAGMA synchronous = NORMAL")
        migrate(connection)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError("the key store is not open")
        return self._connection

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        db = self._db
        if durable:
            db.execute("PRAGMA synchronous = FULL")
        try:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
        finally:
            if durable:
                db.execute("PRAGMA synchronous = NORMAL")

    def _create(self, key: ApiKey) -> None:
        with self._transaction(durable=True) as db:
            db.execute(f"INSERT INTO keys ({_KEY}) VALUES (?,?,?,?,?,?,?,?,?,?,?)", _row(key))  # noqa: S608

    def _all_keys(self) -> list[ApiKey]:
        return [_key(row) for row in self._db.execute(f"SELECT {_KEY} FROM keys ORDER BY created, id")]  # noqa: S608

    def _revoke(self, key_id: str, now: int) -> ApiKey | None:
        with self._transaction(durable=True) as db:
            db.execute("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (now, key_id))
            row = db.execute(f"SELECT {_KEY} FROM keys WHERE id = ?", (key_id,)).fetchone()  # noqa: S608
        return _key(row) if row else None

    def _enter(self, digest: bytes) -> Entry | None:
        # Nobody changes a key's limits, and a revocation that comes between the two steps comes a moment later.
        row = self._db.execute(f"SELECT {_KEY} FROM keys WHERE digest = ?", (digest,)).fetchone()  # noqa: S608
        if row is None:
            return None
        key, now = _key(row), self._clock()
        if key.refusal(now / 1000):
            return Entry(key, False, None, None)
        if key.limits.requests_per_minute is None:
            return Entry(key, True, None, self._tokens(key, now))
        with self._transaction() as db:
            bucket = _bucket(db, key.id, "requests", key.limits.requests_per_minute, now)
            allowed = bucket.wait_ms(1) == 0
            if allowed:
                bucket = bucket.take(1)
                _put(db, key.id, "requests", bucket)
            return Entry(key, allowed, bucket, self._tokens(key, now))

    def _tokens(self, key: ApiKey, now: int) -> Bucket | None:
        limit = key.limits.tokens_per_minute
        return None if limit is None else _bucket(self._db, key.id, "tokens", limit, now)

    def _reserve(self, lease: Lease, seconds: float) -> Reservation:
        key, now = lease.key, self._clock()
        with self._transaction() as db:
            bucket = self._tokens(key, now)
            most = key.limits.concurrent_requests
            # What was reserved by a gateway that died counts as used: nobody knows what it has generated.
            db.execute("DELETE FROM leases WHERE key = ? AND ends <= ?", (key.id, now))
            if most is not None:
                running = db.execute("SELECT COUNT(*) FROM leases WHERE key = ?", (key.id,)).fetchone()[0]
                if running >= most:
                    return Reservation(Refusal.CONCURRENCY, bucket)
            if bucket is not None:
                if bucket.wait_ms(lease.tokens):
                    return Reservation(Refusal.TOKENS, bucket)
                bucket = bucket.take(lease.tokens)
                _put(db, key.id, "tokens", bucket)
            if bucket is not None or most is not None:
                ends = now + int(seconds * 1000)
                db.execute("INSERT INTO leases VALUES (?,?,?)", (key.id, lease.id, ends))
        return Reservation(None, bucket)

    def _settle(self, lease: Lease, used: int) -> Bucket | None:
        key, now = lease.key, self._clock()
        with self._transaction() as db:
            bucket = self._tokens(key, now)
            ended = db.execute(
                "DELETE FROM leases WHERE key = ? AND id = ? AND ends > ?", (key.id, lease.id, now)
            ).rowcount
            if ended and bucket is not None and used < lease.tokens:
                bucket = bucket.give(lease.tokens - max(0, used))
                _put(db, key.id, "tokens", bucket)
        return bucket

    def _renew(self, leases: Sequence[Lease], claims: Sequence[Claim], seconds: float) -> None:
        now = self._clock()
        ends = now + int(seconds * 1000)
        with self._transaction() as db:
            db.executemany(
                "UPDATE leases SET ends = ? WHERE key = ? AND id = ? AND ends > ?",
                [(ends, lease.key.id, lease.id, now) for lease in leases],
            )
            db.executemany(
                "UPDATE answers SET ends = ? WHERE key = ? AND name = ? AND owner = ? AND answer IS NULL AND ends > ?",
                [(ends, claim.key.id, claim.name, claim.owner, now) for claim in claims],
            )

    def _claim(self, claim: Claim, seconds: float) -> Claimed | bytes:
        now = self._clock()
        with self._transaction() as db:
            db.execute("DELETE FROM answers WHERE ends <= ?", (now,))
            row = db.execute(
                "SELECT fingerprint, answer FROM answers WHERE key = ? AND name = ?", (claim.key.id, claim.name)
            ).fetchone()
            if row is None:
                ends = now + int(seconds * 1000)
                values = (claim.key.id, claim.name, claim.fingerprint, claim.owner, ends)
                db.execute("INSERT INTO answers VALUES (?,?,?,?,?,NULL)", values)
                return Claimed.NEW
        if row[0] != claim.fingerprint:
            return Claimed.OTHER_BODY
        return Claimed.RUNNING if row[1] is None else bytes(row[1])

    def _keep(self, claim: Claim, answer: bytes, seconds: float) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE answers SET answer = ?, ends = ? WHERE key = ? AND name = ? AND owner = ? AND answer IS NULL",
                (answer, self._clock() + int(seconds * 1000), claim.key.id, claim.name, claim.owner),
            )

    def _release(self, claim: Claim) -> None:
        with self._transaction() as db:
            db.execute(
                "DELETE FROM answers WHERE key = ? AND name = ? AND owner = ? AND answer IS NULL",
                (claim.key.id, claim.name, claim.owner),
            )


def _bucket(db: sqlite3.Connection, key_id: str, kind: str, limit: int, now: int) -> Bucket:
    row = db.execute("SELECT level, at FROM buckets WHERE key = ? AND kind = ?", (key_id, kind)).fetchone()
    level, at = row or (None, None)
    return limits.stored(limit, level, at, now)


def _put(db: sqlite3.Connection, key_id: str, kind: str, bucket: Bucket) -> None:
    db.execute("INSERT OR REPLACE INTO buckets VALUES (?,?,?,?)", (key_id, kind, bucket.level, bucket.at))


def _row(key: ApiKey) -> tuple[object, ...]:
    held = key.limits
    used = (held.requests_per_minute, held.tokens_per_minute, held.concurrent_requests)
    return (key.id, key.digest, key.name, key.tenant, *used, key.created, key.expires, key.revoked, key.priority)


def _key(row: tuple[Any, ...]) -> ApiKey:
    """The table is STRICT: SQLite itself holds the columns to their types."""
    key_id, digest, name, tenant, requests, tokens, concurrent, created, expires, revoked, priority = row
    held = KeyLimits(requests, tokens, concurrent)
    return ApiKey(key_id, digest, name, tenant, held, created, expires, revoked, priority)
