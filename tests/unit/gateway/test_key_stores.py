"""One suite for both stores: keys, exact accounting, leases, kept answers, many gateways at a time."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.gateway.key_stores import KINDS, Clock, opened, server
from throughline.gateway.keys import ApiKey, KeyLimits, Secret, digest, new_key
from throughline.gateway.limits import PARTS, full
from throughline.gateway.store import Claim, Claimed, KeyStore, Lease, Refusal, StoreError

NUMBERS = iter(range(10**9))


@pytest.fixture(scope="module", params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield f"sqlite:///{folder / 'keys.sqlite'}"
        return
    with server(request.param, folder) as address:
        yield address


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(url: str, clock: Clock) -> AsyncIterator[KeyStore]:
    async with opened(url, clock) as found:
        yield found


def key(expires: int | None = None, **limits: int) -> tuple[ApiKey, Secret]:
    return new_key(name="test", tenant="lab", limits=KeyLimits(**limits), created=1_800_000_000, expires=expires)


async def test_a_key_keeps_its_priority(store: KeyStore) -> None:
    made, _ = new_key(name="batch", tenant="lab", limits=KeyLimits(), created=1_800_000_000, priority=-7)
    await store.create(made)
    entry = await store.enter(made.digest)
    assert entry is not None and entry.key == made and entry.key.priority == -7
    assert made in await store.all_keys()
    assert (await store.revoke(made.id, 1)).priority == -7  # type: ignore[union-attr]


def lease(owner: ApiKey, tokens: int = 0) -> Lease:
    return Lease(owner, f"lease-{next(NUMBERS)}", tokens)


def claim(owner: ApiKey, name: str, body: str = "a") -> Claim:
    return Claim(owner, name, digest(body), f"run-{next(NUMBERS)}")


async def test_a_key_is_found_by_its_secret_alone(store: KeyStore) -> None:
    made, secret = key(requests_per_minute=5, tokens_per_minute=50, concurrent_requests=2)
    await store.create(made)
    found = await store.enter(digest(secret.reveal()))
    assert found is not None
    assert (found.key, found.allowed) == (made, True)
    assert await store.enter(digest(secret.reveal() + "x")) is None
    assert made in await store.all_keys()


async def test_revoked_and_expired_keys(store: KeyStore, clock: Clock) -> None:
    made, _ = key(expires=clock.now // 1000 + 10, requests_per_minute=2)
    await store.create(made)
    clock.forward(9_999)
    entry = await store.enter(made.digest)
    assert entry is not None and entry.allowed
    clock.forward(1)
    entry = await store.enter(made.digest)
    assert entry is not None and not entry.allowed
    assert entry.key.refusal(clock.now / 1000) == "has expired"
    other, _ = key()
    await store.create(other)
    revoked = await store.revoke(other.id, 1_800_000_001)
    assert revoked is not None and revoked.revoked == 1_800_000_001
    # The first time counts.
    assert await store.revoke(other.id, 1_800_000_009) == revoked
    entry = await store.enter(other.digest)
    assert entry is not None and not entry.allowed
    assert entry.key.refusal(0) == "was revoked"
    assert await store.revoke("key-none", 1) is None


async def test_requests_run_out_and_come_back(store: KeyStore, clock: Clock) -> None:
    made, _ = key(requests_per_minute=3)
    await store.create(made)
    seen = [await store.enter(made.digest) for _ in range(4)]
    assert [entry.allowed for entry in seen if entry] == [True, True, True, False]
    assert [entry.requests.remaining for entry in seen if entry and entry.requests] == [2, 1, 0, 0]
    clock.forward(19_999)
    entry = await store.enter(made.digest)
    assert entry and not entry.allowed and entry.requests and entry.requests.wait_ms(1) == 1
    clock.forward(1)
    entry = await store.enter(made.digest)
    assert entry and entry.allowed


async def test_what_was_not_used_comes_back_once(store: KeyStore) -> None:
    made, _ = key(tokens_per_minute=100)
    await store.create(made)
    running = lease(made, 80)
    reserved = await store.reserve(running, 30)
    assert reserved.refusal is None and reserved.tokens and reserved.tokens.remaining == 20
    refused = await store.reserve(lease(made, 21), 30)
    assert refused.refusal is Refusal.TOKENS and refused.tokens and refused.tokens.remaining == 20
    for _ in range(2):
        left = await store.settle(running, 30)
        assert left and left.remaining == 70


async def test_places_are_given_back_and_those_of_the_dead_end(store: KeyStore, clock: Clock) -> None:
    made, _ = key(concurrent_requests=2, tokens_per_minute=1000)
    await store.create(made)
    first, second = lease(made, 100), lease(made, 100)
    for wish in (first, second):
        assert (await store.reserve(wish, 10)).refusal is None
    assert (await store.reserve(lease(made, 100), 10)).refusal is Refusal.CONCURRENCY
    await store.settle(first, 0)
    third = lease(made, 100)
    assert (await store.reserve(third, 10)).refusal is None
    clock.forward(9_000)
    # The gateway of `third` lives, that of `second` is dead.
    await store.renew([third], [], 10)
    clock.forward(1_000)
    fourth = lease(made, 100)
    assert (await store.reserve(fourth, 10)).refusal is None
    assert (await store.reserve(lease(made, 100), 10)).refusal is Refusal.CONCURRENCY
    # What a dead gateway had reserved counts as used, so that a late end gives nothing back and frees no place.
    before = (await store.settle(lease(made, 0), 0), await store.settle(second, 0))
    assert before[0] == before[1]
    assert (await store.reserve(lease(made, 100), 10)).refusal is Refusal.CONCURRENCY


async def test_an_end_after_the_lease_gives_nothing_back(store: KeyStore, clock: Clock) -> None:
    made, _ = key(tokens_per_minute=600)
    await store.create(made)
    late = lease(made, 600)
    assert (await store.reserve(late, 10)).refusal is None
    clock.forward(10_000)
    left = await store.settle(late, 0)
    # What ten seconds bring.
    assert left and left.remaining == 100


async def test_keys_do_not_share(store: KeyStore) -> None:
    one, _ = key(requests_per_minute=1)
    other, _ = key(requests_per_minute=1)
    for made in (one, other):
        await store.create(made)
        entry = await store.enter(made.digest)
        assert entry and entry.allowed
    assert await store.claim(claim(one, "same"), 10) is Claimed.NEW
    assert await store.claim(claim(other, "same"), 10) is Claimed.NEW


async def test_an_answer_is_kept_for_its_time(store: KeyStore, clock: Clock) -> None:
    made, _ = key()
    await store.create(made)
    first = claim(made, "a b")
    assert await store.claim(first, 10) is Claimed.NEW
    assert await store.claim(claim(made, "a b"), 10) is Claimed.RUNNING
    assert await store.claim(claim(made, "a b", "other"), 10) is Claimed.OTHER_BODY
    await store.keep(first, b"\x00answer", 60)
    assert await store.claim(claim(made, "a b"), 10) == b"\x00answer"
    # Neither a late word of its owner nor of another changes it.
    await store.release(first)
    await store.keep(claim(made, "a b"), b"false", 60)
    clock.forward(59_999)
    assert await store.claim(claim(made, "a b"), 10) == b"\x00answer"
    clock.forward(1)
    assert await store.claim(claim(made, "a b"), 10) is Claimed.NEW


async def test_a_claim_ends_with_its_release_or_its_gateway(store: KeyStore, clock: Clock) -> None:
    made, _ = key()
    await store.create(made)
    first, second = claim(made, "n"), claim(made, "n")
    assert await store.claim(first, 10) is Claimed.NEW
    await store.release(second)
    assert await store.claim(second, 10) is Claimed.RUNNING
    await store.release(first)
    assert await store.claim(second, 10) is Claimed.NEW
    clock.forward(9_000)
    await store.renew([], [second], 10)
    clock.forward(9_999)
    assert await store.claim(first, 10) is Claimed.RUNNING
    clock.forward(1)
    assert await store.claim(first, 10) is Claimed.NEW
    # Too late: the name is another's now.
    await store.keep(second, b"false", 60)
    assert await store.claim(claim(made, "n"), 10) is Claimed.RUNNING


# What, milliseconds before it, and per cent of the limit of tokens.
WISHES = st.lists(
    st.tuples(
        st.sampled_from(["enter", "reserve", "reserve", "settle", "settle", "renew"]),
        st.integers(0, 2000) | st.sampled_from([0, 9_999, 10_000, 70_000]),
        st.integers(0, 60) | st.just(101),
    ),
    min_size=5,
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(WISHES, st.integers(50, 1000), st.integers(1, 20), st.integers(0, 4))
async def test_any_course_of_requests_is_accounted_as_by_hand(
    url: str, wishes: list[tuple[str, int, int]], tokens: int, requests: int, places: int
) -> None:
    """The twin keeps plain lists and asks every lease whether it still runs."""
    clock = Clock()
    limits = {"tokens_per_minute": tokens, "requests_per_minute": requests, "concurrent_requests": places}
    made, _ = key(**limits)
    async with opened(url, clock) as store:
        await store.create(made)
        token_twin, request_twin = full(tokens, clock.now), full(requests, clock.now)
        running: list[tuple[Lease, int]] = []
        for what, wait, share in wishes:
            clock.forward(wait)
            amount = tokens * share // 100
            now = clock.now
            token_twin, request_twin = token_twin.refilled(now), request_twin.refilled(now)
            alive = [item for item in running if item[1] > now]
            if what == "enter":
                entry = await store.enter(made.digest)
                expected = request_twin.level >= PARTS
                request_twin = request_twin.take(1) if expected else request_twin
                assert entry and (entry.allowed, entry.requests, entry.tokens) == (expected, request_twin, token_twin)
            elif what == "reserve":
                wish = lease(made, amount)
                found = await store.reserve(wish, 10)
                refusal = Refusal.TOKENS if amount * PARTS > token_twin.level else None
                refusal = Refusal.CONCURRENCY if len(alive) >= places else refusal
                if refusal is None:
                    token_twin = token_twin.take(amount)
                    running.append((wish, now + 10_000))
                assert (found.refusal, found.tokens) == (refusal, token_twin)
            elif what == "renew":
                await store.renew([item[0] for item in running], [], 10)
                running = [(item[0], now + 10_000 if item in alive else item[1]) for item in running]
            elif running:
                ended = running.pop(amount % len(running))
                used = min(amount // 4, ended[0].tokens)
                if ended in alive:
                    token_twin = token_twin.give(ended[0].tokens - used)
                assert await store.settle(ended[0], used) == token_twin


async def test_many_gateways_at_once_neither_lose_nor_double(url: str) -> None:
    made, _ = key(tokens_per_minute=1000, requests_per_minute=30, concurrent_requests=7)
    clock = Clock()
    async with opened(url, clock) as one, opened(url, clock) as two:
        await one.create(made)
        entries = await asyncio.gather(*(each.enter(made.digest) for each in (one, two) for _ in range(20)))
        assert sum(entry.allowed for entry in entries if entry) == 30
        leases = [lease(made, 100) for _ in range(20)]
        stores = [(one, two)[number % 2] for number in range(20)]
        found = await asyncio.gather(*(each.reserve(wish, 30) for each, wish in zip(stores, leases, strict=True)))
        held = [wish for wish, reserved in zip(leases, found, strict=True) if reserved.refusal is None]
        assert len(held) == 7
        # Each ends at both gateways at once, and counts once.
        await asyncio.gather(*(each.settle(wish, 40) for wish in held for each in (one, two)))
        left = await one.settle(lease(made, 0), 0)
        assert left and left.level == (1000 - 7 * 40) * PARTS


def test_a_sqlite_file_is_shared_by_processes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.sqlite"
    made, _ = key(requests_per_minute=150)

    async def create() -> None:
        async with opened(f"sqlite:///{path}") as store:
            await store.create(made)

    asyncio.run(create())
    code = (
        "import asyncio, sys\n"
        "from throughline.gateway.store_sqlite import SqliteStore\n"
        "async def main():\n"
        "    store = SqliteStore(sys.argv[1], lambda: 1_800_000_000_000)\n"
        "    await store.open()\n"
        "    found = [await store.enter(bytes.fromhex(sys.argv[2])) for _ in range(100)]\n"
        "    print(sum(entry.allowed for entry in found))\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, str(path), made.digest.hex()]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sum(int(child.communicate()[0]) for child in children) == 150
    # For its owner alone, and the key itself is not in it.
    assert path.stat().st_mode & 0o077 == 0
    rows = sqlite3.connect(path).execute("SELECT digest FROM keys").fetchall()
    assert rows == [(made.digest,)]


# The tables of a file that version 0.1.0 made before its keys had a priority.
_FIRST = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE, name TEXT NOT NULL, tenant TEXT NOT NULL,
    requests INTEGER, tokens INTEGER, concurrent INTEGER,
    created INTEGER NOT NULL, expires INTEGER, revoked INTEGER
) STRICT;
CREATE TABLE buckets (
    key TEXT NOT NULL, kind TEXT NOT NULL, level INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (key, kind)
) STRICT, WITHOUT ROWID;
"""


async def test_a_sqlite_file_of_before_goes_on_with_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    made, _ = key(requests_per_minute=3)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript(_FIRST)
        values = (made.id, made.digest, made.name, made.tenant, 3, made.created)
        db.execute("INSERT INTO keys VALUES (?,?,?,?,?,NULL,NULL,?,NULL,NULL)", values)
        db.execute("INSERT INTO buckets VALUES (?,'requests',0,?)", (made.id, Clock().now))
    # Two at once: one takes the steps, the other finds them taken.
    url = f"sqlite:///{path}"
    async with opened(url, Clock()) as one, opened(url, Clock()) as other:
        entry = await one.enter(made.digest)
        assert entry is not None and (entry.key, entry.allowed) == (made, False)
        later, _ = new_key(name="x", tenant="lab", limits=KeyLimits(), created=1_800_000_001, priority=9)
        await other.create(later)
        assert [found.priority for found in await one.all_keys()] == [0, 9]
    async with opened(url) as again:
        assert len(await again.all_keys()) == 2


async def test_a_sqlite_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=r"newer version.*schema 99"):
        async with opened(f"sqlite:///{path}"):
            pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
        assert db.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


async def test_a_store_that_cannot_be_reached_says_where_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    from throughline.gateway.store_redis import RedisStore

    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9 failed") as caught:
        await RedisStore("redis://user:hunter2@127.0.0.1:9/0").open()
    assert "hunter2" not in str(caught.value)
    (tmp_path / "no").write_text("")
    with pytest.raises(StoreError, match=r"keys\.sqlite failed"):
        async with opened(f"sqlite:///{tmp_path}/no/keys.sqlite"):
            pass
