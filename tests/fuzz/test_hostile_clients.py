"""Many clients at once that are slow, silent, greedy or speak no HTTP, while others go on being served.

python -m pytest tests/fuzz -m slow
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.fuzz.conftest import Record
from tests.unit.gateway.conftest import engine_dir, make_spec, running_triton  # noqa: F401  # fixtures
from tests.unit.gateway.fake_triton import FakeTriton, Say, Seen, say
from tests.unit.gateway.raw_http import GET, HOST, MALFORMED, POST
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("THROUGHLINE_HOSTILE_SECONDS", "8"))
LIMIT_SECONDS = 2.0
TIMEOUTS = {
    "header_seconds": LIMIT_SECONDS,
    "body_seconds": LIMIT_SECONDS,
    "unread_seconds": LIMIT_SECONDS,
    "drain_seconds": 3,
}
# Two limits may come one after the other, the body's and that of an answer that nobody reads.
MOST_SECONDS = 3 * LIMIT_SECONDS
MOST_P99_SECONDS = 0.5
MOST_GROWTH_MIB = 48.0
BODY = {"model": "lab", "prompt": "Hi", "max_tokens": 2}
STREAM = POST.replace(b'"max_tokens":2}', b'"stream":true }')
CHUNKED = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n"


@dataclass
class Attack:
    """What came of one kind of client."""

    url: str
    connections: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    longest: float = 0.0
    over: bool = False

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.url)
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # What a client leaves unread shall wait in the gateway, not in its own kernel.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (parts.hostname, parts.port))
        self.connections += 1
        return await asyncio.open_connection(sock=client, limit=2**16)

    def count(self, answer: bytes) -> None:
        self.answers[int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0] += 1


Client = Callable[[Attack, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def to_the_end(attack: Attack, reader: asyncio.StreamReader) -> None:
    attack.count(await reader.read(4096))
    while await reader.read(65536):
        pass


def dripping(begin: bytes, drip: bytes, pause: float) -> Client:
    """Begins, then sends a little at a time until the gateway ends it."""

    async def run(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        end = asyncio.create_task(to_the_end(attack, reader))
        try:
            while not end.done():
                writer.write(drip)
                await writer.drain()
                await asyncio.wait([end], timeout=pause)
            await end
        finally:
            end.cancel()

    return run


async def silent(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await to_the_end(attack, reader)


async def deaf(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks for a stream and reads no more than its beginning."""
    writer.write(STREAM)
    attack.count(await reader.read(16))
    # The transport stops reading the socket at twice its limit.
    while not writer.is_closing():
        try:
            writer.write(b"\r\n")
            await writer.drain()
        except ConnectionError:
            return
        await asyncio.sleep(0.2)


async def half_open(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks, says that nothing more will come, and waits."""
    writer.write(STREAM)
    writer.write_eof()
    await to_the_end(attack, reader)
    # It is ended at once: without a pause this would be a flood of requests.
    await asyncio.sleep(1)


def mutated(draw: random.Random) -> bytes:
    """A request in which something was changed, or one of those that are known to be wrong."""
    data = bytearray(draw.choice((GET, POST, CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", GET + POST, *MALFORMED.values())))
    for _ in range(draw.choice((0, 1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        act = draw.randrange(5)
        if act == 0 and at < len(data):
            data[at] = draw.randrange(256)
        elif act == 1:
            data[at:at] = draw.randbytes(draw.randrange(1, 9))
        elif act == 2:
            del data[at : at + draw.randrange(1, 20)]
        elif act == 3:
            lines = bytes(data).split(b"\r\n")
            lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
            data = bytearray(b"\r\n".join(lines))
        else:
            data[at:at] = draw.choice(
                (b"\r\n", b"\0", b"\r", b"\n", b": ", b" ", b"\r\n\r\n", b"\xff", b"%00", b"a" * 9000)
            )
    return bytes(data)


def babbling(seed: int) -> Client:
    """Sends one changed request and leaves once it has an answer, or has waited for one a moment."""
    draw = random.Random(seed)

    async def run(attack: Attack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(mutated(draw))
        with contextlib.suppress(TimeoutError):
            attack.count(await asyncio.wait_for(reader.read(4096), 0.3))

    return run


async def attacker(attack: Attack, client: Client) -> None:
    while not attack.over:
        reader, writer = await attack.connect()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(60):
                await client(attack, reader, writer)
        except ConnectionError:
            # Ended without waiting for the rest.
            attack.answers[0] += 1
        finally:
            attack.longest = max(attack.longest, time.monotonic() - begun)
            writer.transport.abort()


async def bystander(attack: Attack) -> list[float]:
    """Somebody with honest requests; how long each took."""
    took = []
    async with httpx.AsyncClient(base_url=attack.url, timeout=10) as client:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            begun = time.monotonic()
            answer = await client.post("/v1/completions", json=BODY)
            took.append(time.monotonic() - begun)
            assert answer.status_code == 200, answer.text
            await asyncio.sleep(0.02)
    attack.over = True
    return took


def endless_streams(seen: Seen) -> Iterator[Say]:
    if not seen.is_streamed:
        yield Say("Hello", 1, "stop")
        return
    for number in range(1, 10**6):
        if seen.cancelled.wait(0.01):
            return
        yield Say("x" * 16384, number)


ATTACKS: dict[str, list[Client]] = {
    "nobody": [],
    "silence": [silent] * 300,
    "heads byte by byte": [dripping(b"GET /health HTTP/1.1\r\nx: ", b"a", 0.1)] * 300,
    "heads that do not end": [dripping(b"GET /health HTTP/1.1\r\nx: ", b"a" * 4096, 0.0)] * 20,
    "bodies byte by byte": [dripping(POST[: POST.index(b"{")], b" ", 0.25)] * 200,
    "chunks that do not end": [dripping(CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n", 0.0)] * 20,
    "chunk names that do not end": [dripping(CHUNKED + b"1;", b"a" * 1024, 0.05)] * 50,
    "requests without end": [dripping(b"", GET * 50, 0.0)] * 20,
    "half open": [half_open] * 50,
    # The scripted Triton has 16 threads, and the honest client needs one.
    "streams that nobody reads": [deaf] * 12,
    "no HTTP": [babbling(seed) for seed in range(64)],
}


@pytest.fixture(scope="module")
def gateway(make_spec: Callable[..., GatewaySpec]) -> Iterator[GatewayProcess]:  # noqa: F811
    with GatewayProcess(make_spec(timeouts=TIMEOUTS, limits={"max_unread_bytes": 2**24})) as process:
        httpx.post(f"{process.url}/v1/completions", json=BODY)
        yield process


@pytest.mark.parametrize("name", ATTACKS)
def test_others_are_served(
    name: str,
    gateway: GatewayProcess,
    running_triton: FakeTriton,  # noqa: F811
    record: Record,
) -> None:
    running_triton.script = endless_streams if "stream" in name or name == "half open" else say("Hello there")
    running_triton.seen.clear()
    process = psutil.Process(gateway.pid)
    before = process.memory_info().rss
    files = process.num_fds()
    attack = Attack(gateway.url)

    async def run() -> list[float]:
        tasks = [asyncio.create_task(attacker(attack, client)) for client in ATTACKS[name]]
        took = await bystander(attack)
        await asyncio.gather(*tasks)
        return sorted(took)

    took = asyncio.run(run())
    grew = (process.memory_info().rss - before) / 2**20
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    record(
        name,
        {
            "connections": attack.connections,
            "answers": dict(sorted(attack.answers.items())),
            "longest_seconds": round(attack.longest, 2),
            "others": len(took),
            "others_p50_ms": round(p50 * 1e3, 1),
            "others_p99_ms": round(p99 * 1e3, 1),
            "grew_mib": round(grew, 1),
        },
    )
    assert all(answer < 500 for answer in attack.answers)
    assert attack.longest < MOST_SECONDS
    assert p99 < MOST_P99_SECONDS
    assert grew < MOST_GROWTH_MIB
    wait_until = time.monotonic() + MOST_SECONDS
    while process.num_fds() > files + 2:
        assert time.monotonic() < wait_until, "connections are left behind"
        httpx.get(f"{gateway.url}/health")
