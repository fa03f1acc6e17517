"""Streams through the gateway that are open while something breaks, and how each of them ends."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

LIMIT_SECONDS = 60.0


@dataclass
class Load:
    """`users` streams at once; a context manager that starts them and waits until each has shown a token.

    Attributes:
        ends: How each stream ended: `finished`, an error code of the gateway, or `cut`.
        last: When the last one ended, by `time.monotonic()`.
    """

    url: str
    users: int
    tokens: int = 400
    ends: list[str] = field(default_factory=list)
    last: float = 0.0

    def __enter__(self) -> Self:
        self._open = threading.Semaphore(0)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        for _ in range(self.users):
            if not self._open.acquire(timeout=LIMIT_SECONDS):
                raise TimeoutError("a stream shows no token")
        return self

    def __exit__(self, *_: object) -> None:
        self.join()

    def join(self) -> Counter[str]:
        """Waits for all streams and counts their ends; one that hangs fails the test."""
        self._thread.join(LIMIT_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"{self.users - len(self.ends)} of {self.users} streams hang")
        return Counter(self.ends)

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=self.users)
        async with httpx.AsyncClient(base_url=self.url, timeout=LIMIT_SECONDS, limits=limits) as client:
            await asyncio.gather(*(self._one(client) for _ in range(self.users)))

    async def _one(self, client: httpx.AsyncClient) -> None:
        shown = False
        end = "cut"
        try:
            async with client.stream("POST", "/v1/completions", json=body(self.tokens)) as response:
                if response.status_code != 200:
                    end = error_code(json.loads(await response.aread()))
                    return
                async for line in response.aiter_lines():
                    if not line.startswith("data: "):
                        continue
                    if not shown:
                        shown = True
                        self._open.release()
                    if line == "data: [DONE]":
                        end = "finished"
                    elif '"error"' in line:
                        end = error_code(json.loads(line.removeprefix("data: ")))
        except httpx.HTTPError:
            end = "cut"
        finally:
            self.ends.append(end)
            self.last = time.monotonic()
            if not shown:
                self._open.release()


def body(tokens: int) -> dict[str, Any]:
    """A text completion of so many tokens, without an end of its own."""
    return {
        "model": "lab",
        "prompt": [5, 6, 7],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def error_code(answer: dict[str, Any]) -> str:
    """The gateway's code of an error."""
    return str(answer["error"]["code"])
