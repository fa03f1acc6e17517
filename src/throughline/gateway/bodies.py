"""What a request body may cost before it is parsed: how deep it nests, and how many bytes of all wait in memory."""

from __future__ import annotations

import numpy as np

from throughline.gateway.errors import overloaded

_RETRY_SECONDS = 1.0
_QUOTE, _OPENING, _CLOSING = ord('"'), (ord("["), ord("{")), (ord("]"), ord("}"))


def deeper_than(body: bytes, depth: int) -> bool:
    """Whether arrays and objects of a JSON text nest deeper than `depth`, in time linear in its length.

    Of a text that is no JSON it says what its brackets look like; the parser refuses it.
    """
    if body.count(b"[") + body.count(b"{") <= depth:
        return False
    if b"\\" in body:
        # A run of backslashes starts outside an escape, so that pairs from its left are escapes.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    characters = np.frombuffer(body, np.uint8)
    outside = np.cumsum(characters == _QUOTE, dtype=np.int32) % 2 == 0
    step = np.isin(characters, _OPENING).astype(np.int8) - np.isin(characters, _CLOSING).astype(np.int8)
    return bool(np.cumsum(step * outside, dtype=np.int32).max(initial=0) > depth)


class BodyBudget:
    """Counts the bytes of all bodies that have come and are not parsed yet.

    Beyond the limit a body is refused that is larger than an equal share of it: some large ones do not keep everyone
    else's requests out. So the bytes are at most twice the limit.

    Args:
        limit: See there.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.bodies = 0

    def hold(self) -> Hold:
        """The share of one request, empty at first."""
        return Hold(self)


class Hold:
    """The bytes of one body."""

    __slots__ = ("_budget", "_held")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._held = 0

    def add(self, size: int) -> None:
        """Counts bytes that have come.

        Raises:
            ApiError: 429 when the bodies together are larger than the limit and this one has more than its share. One
                body alone always fits.
        """
        budget = self._budget
        others = budget.held - self._held
        bodies = budget.bodies + (not self._held)
        if others and budget.held + size > budget.limit and self._held + size > budget.limit / bodies:
            raise overloaded("Too many request bodies are waiting to be read.", retry_after=_RETRY_SECONDS)
        budget.bodies += bool(size) and not self._held
        self._held += size
        budget.held += size

    def release(self) -> None:
        """Counts them no more."""
        self._budget.held -= self._held
        self._budget.bodies -= bool(self._held)
        self._held = 0
