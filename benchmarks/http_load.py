"""A cheap HTTP/1.1 client on asyncio for load generators: one core sends what an ordinary client cannot.

It knows what a gateway's answers need and no more: a status, `content-length` or chunks, server-sent events counted by
their `data:` lines.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

_HEAD_END = b"\r\n\r\n"


@dataclass
class Answer:
    """What came of a request; times in seconds of the monotonic clock.

    Attributes:
        sent: Before the request was written; where a connection had to be opened, before that.
        first: When the first event came, or the whole body.
        last: When the last byte came.
        status: HTTP status, 0 for a connection that broke.
        events: `data:` lines of a stream.
        whole: Whether a stream ended with `[DONE]`, or a body came in full.
    """

    sent: float
    first: float = 0.0
    last: float = 0.0
    status: int = 0
    events: int = 0
    whole: bool = False

    def values(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


class Client:
    """Connections to one server, opened when all are busy and kept.

    Args:
        url: `http://host:port`.
        headers: Header lines of every request, each ending with CRLF.
    """

    def __init__(self, url: str, headers: str = "") -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._headers = f"Host: {parts.netloc}\r\nContent-Type: application/json\r\n{headers}".encode()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def payload(self, path: str, body: bytes) -> bytes:
        """The bytes of a POST."""
        return b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (path.encode(), self._headers, len(body), body)

    async def ask(self, payload: bytes) -> Answer:
        """Sends a request; a connection that breaks is an answer with status 0."""
        answer = Answer(time.monotonic())
        try:
            reader, writer = self._idle.pop() if self._idle else await self._open()
        except OSError:
            return answer
        try:
            writer.write(payload)
            keep = await _read(reader, answer)
        except (OSError, asyncio.IncompleteReadError):
            answer.status = 0
            writer.close()
            return answer
        answer.last = time.monotonic()
        if keep:
            self._idle.append((reader, writer))
        else:
            writer.close()
        return answer

    async def open(self, count: int) -> None:
        """Opens connections ahead."""
        self._idle += [await self._open() for _ in range(count)]

    def close(self) -> None:
        """Closes idle connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)


async def _read(reader: asyncio.StreamReader, answer: Answer) -> bool:
    """Fills the answer in; returns whether the connection may be used again."""
    head = (await reader.readuntil(_HEAD_END)).lower()
    answer.status = int(head[9:12])
    keep = b"connection: close" not in head
    if b"transfer-encoding: chunked" in head:
        await _chunks(reader, answer)
        return keep
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    answer.first = time.monotonic()
    answer.whole = True
    return keep


async def _chunks(reader: asyncio.StreamReader, answer: Answer) -> None:
    last = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        part = (await reader.readexactly(size + 2))[:-2]
        if not answer.first:
            answer.first = time.monotonic()
        answer.events += part.count(b"data: ")
        last = part
    await reader.readexactly(2)
    answer.whole = b"data: [DONE]" in last


def quantile(values: list[float], share: float) -> float:
    """The value at a share of the sorted values, nearest rank; not a number of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
