"""Requests that wait for a place in the engine, by priority and age."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

Item = TypeVar("Item")


class WaitingQueue(Generic[Item]):
    """Hands out the lowest priority first, as vLLM does, and lets what waits rise with time.

    Waiting `aging_seconds` makes up for one step of priority. A request is therefore overtaken only by those that
    come within `aging_seconds` times the difference of their priorities after it: no one starves. As all of them rise
    at the same pace, their order never changes, and a heap by `arrival + priority * aging_seconds` keeps it.

    Args:
        aging_seconds: See above.
    """

    def __init__(self, aging_seconds: float) -> None:
        self._aging_seconds = aging_seconds
        self._heap: list[tuple[float, int, str]] = []
        self._items: dict[str, Item] = {}
        self._count = itertools.count()

    def __len__(self) -> int:
        return len(self._items)

    def push(self, key: str, item: Item, *, arrived: float, priority: int) -> None:
        """Adds a request; `arrived` in seconds of any one clock."""
        self._items[key] = item
        heapq.heappush(self._heap, (arrived + priority * self._aging_seconds, next(self._count), key))

    def pop(self) -> tuple[str, Item]:
        """Takes the next request out; raises IndexError if there is none."""
        while True:
            _, _, key = heapq.heappop(self._heap)
            if key in self._items:
                return key, self._items.pop(key)

    def remove(self, key: str) -> Item | None:
        """Takes a request out, wherever it stands; None if it is not there."""
        return self._items.pop(key, None)

    def clear(self) -> None:
        """Takes all requests out."""
        self._heap.clear()
        self._items.clear()
