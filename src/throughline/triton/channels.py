"""The way back to the client of each request, and the ends that could not be sent yet."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from throughline.triton.streaming import Message

Code = Literal["INVALID_ARG", "UNAVAILABLE", "INTERNAL", "CANCELLED"]
# The end of a request that cannot be sent is tried again this often, and this long.
RETRY_SECONDS, GIVE_UP_SECONDS = 0.05, 2.0


class Channel(Protocol):
    """The way back to one client; every request ends with exactly one final call.

    Any of them may raise, e.g. where Triton's shared memory is full.
    """

    def send(self, message: Message, *, final: bool) -> None:
        """Sends one response."""
        ...

    def fail(self, code: Code, text: str) -> None:
        """Ends the request with an error."""
        ...

    def close(self) -> None:
        """Ends the request without a response."""
        ...

    def is_cancelled(self) -> bool:
        """Returns whether the client has gone; costs a round trip to the server."""
        ...


@dataclass(frozen=True)
class _End:
    channel: Channel
    code: Code | None
    text: str
    since: float

    def send(self) -> None:
        if self.code is None:
            self.channel.close()
        else:
            self.channel.fail(self.code, self.text)


class Ends:
    """Ends requests that get no answer; those that cannot be told so are told again, for a client waits for it.

    Args:
        fatal: Called when an end could not be sent for long: a client would wait for ever.
    """

    def __init__(self, fatal: Callable[[], None]) -> None:
        self._fatal = fatal
        self._owed: list[_End] = []

    def __len__(self) -> int:
        return len(self._owed)

    def end(self, channel: Channel, code: Code | None, text: str, now: float) -> None:
        """Ends a request, with an error unless `code` is None: now, or as soon as it can be sent."""
        end = _End(channel, code, text, now)
        try:
            end.send()
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self._owed.append(end)

    def pay(self, now: float) -> None:
        """Sends the ends that are owed."""
        owed, self._owed = self._owed, []
        for end in owed:
            try:
                end.send()
            except Exception:
                self._owed.append(end)
                if now - end.since > GIVE_UP_SECONDS:
                    traceback.print_exc(file=sys.stderr)
                    self._fatal()
