"""Token buckets in whole numbers: what a key may still use now, and how long it has to wait for more.

A bucket holds as much as its limit for a minute and fills by as much in a minute, without steps (the token bucket of
RFC 2697 with CIR = limit/60 s and CBS = limit). It is what OpenAI's own headers show: with 5000 requests a minute one
request leaves 4999 and a reset of 12 ms. A sliding window would have to keep every request; a bucket is two numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

# A part is 1/60000 of a request or token, so that a limit by the minute is as many parts by the millisecond.
PARTS = 60_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left of one limit.

    Attributes:
        limit: Requests or tokens a minute.
        level: Parts left, 0 to `limit * PARTS`.
        at: Unix milliseconds at which that was so.
    """

    limit: int
    level: int
    at: int

    @property
    def remaining(self) -> int:
        """Whole requests or tokens left."""
        return self.level // PARTS

    @property
    def reset_ms(self) -> int:
        """Milliseconds until it is full again if nothing is taken."""
        return -(-(self.limit * PARTS - self.level) // self.limit)

    def wait_ms(self, amount: int) -> int:
        """Milliseconds until `amount` is there, 0 if it is now; of use only up to `limit`."""
        return max(0, -(-(amount * PARTS - self.level) // self.limit))

    def refilled(self, now: int) -> Bucket:
        """The bucket at `now`; a clock that went back fills nothing."""
        elapsed = max(0, now - self.at)
        return Bucket(self.limit, min(self.limit * PARTS, self.level + elapsed * self.limit), max(now, self.at))

    def take(self, amount: int) -> Bucket:
        """The bucket without `amount`, which it must have."""
        if amount * PARTS > self.level:
            raise ValueError(f"the bucket has {self.remaining}, asked for {amount}")
        return Bucket(self.limit, self.level - amount * PARTS, self.at)

    def give(self, amount: int) -> Bucket:
        """The bucket with `amount` more, never beyond its limit."""
        return Bucket(self.limit, min(self.limit * PARTS, self.level + amount * PARTS), self.at)


def full(limit: int, now: int) -> Bucket:
    """The bucket of a key that has used nothing."""
    return Bucket(limit, limit * PARTS, now)


def stored(limit: int, level: int | None, at: int | None, now: int) -> Bucket:
    """A bucket at `now` from what a store holds of it, if anything; its limit may have been lowered since."""
    if level is None or at is None:
        return full(limit, now)
    return Bucket(limit, min(level, limit * PARTS), at).refilled(now)


def duration(milliseconds: int) -> str:
    """A time as OpenAI's headers write it: `12ms`, `7.66s`, `1m0s`."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
