"""Where keys, what they have used and kept answers live: the protocol of the two stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from throughline.gateway.keys import ApiKey
from throughline.gateway.limits import Bucket


class StoreError(Exception):
    """The store cannot be reached, or failed; the message holds no secret."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key at the door.

    Attributes:
        key: The key.
        allowed: Whether there was room for one more request, which then was taken.
        requests: What is left of its requests, None without a limit.
        tokens: What is left of its tokens, None without a limit.
    """

    key: ApiKey
    allowed: bool
    requests: Bucket | None
    tokens: Bucket | None


class Refusal(Enum):
    """Why tokens were not reserved."""

    TOKENS = "tokens"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Reservation:
    """The answer to a wish for tokens.

    Attributes:
        refusal: None if they were reserved.
        tokens: What is left of the key's tokens now, None without a limit.
    """

    refusal: Refusal | None
    tokens: Bucket | None


@dataclass(frozen=True, slots=True)
class Lease:
    """One running generation of a key. A store forgets it when it was not renewed in time.

    Attributes:
        key: The key.
        id: Unique among all gateways.
        tokens: What was reserved for it.
    """

    key: ApiKey
    id: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Claim:
    """One request that its client named with an `Idempotency-Key`.

    Attributes:
        key: The client's API key; the same name under another key is another request.
        name: The header's value.
        fingerprint: Digest of path and body.
        owner: Unique to the gateway's run of this request.
    """

    key: ApiKey
    name: str
    fingerprint: bytes
    owner: str


class Claimed(Enum):
    """What a claim finds where no answer is kept."""

    NEW = "new"
    RUNNING = "running"
    OTHER_BODY = "other body"


class KeyStore(Protocol):
    """Keys and their use. Each method is one atomic step, whatever other gateways do with the same store.

    Times come from the store's one clock. Every method raises `StoreError` when the store fails.
    """

    async def open(self) -> None:
        """Connects; needs the running event loop."""

    async def close(self) -> None:
        """Lets go of everything that `open` took."""

    async def create(self, key: ApiKey) -> None:
        """Adds a key, safe from a power failure once this returns as far as the store can tell."""

    async def all_keys(self) -> list[ApiKey]:
        """All keys, oldest first."""

    async def revoke(self, key_id: str, now: int) -> ApiKey | None:
        """Refuses a key from `now` (Unix seconds) on; None if there is none of this id."""

    async def enter(self, digest: bytes) -> Entry | None:
        """Finds the key with a digest and takes one request of its limit; None if there is no such key.

        Takes nothing of a key that is no longer good.
        """

    async def reserve(self, lease: Lease, seconds: float) -> Reservation:
        """Takes a lease's tokens and one of the key's concurrent places for `seconds`, both or none."""

    async def settle(self, lease: Lease, used: int) -> Bucket | None:
        """Ends a lease and gives back all but `used` of its tokens. A second time, or too late, it does nothing."""

    async def renew(self, leases: Sequence[Lease], claims: Sequence[Claim], seconds: float) -> None:
        """Lets leases and claims that are still there end `seconds` from now."""

    async def claim(self, claim: Claim, seconds: float) -> Claimed | bytes:
        """The answer kept under a claim's name; else, if `NEW`, the name is the claim's for `seconds`."""

    async def keep(self, claim: Claim, answer: bytes, seconds: float) -> None:
        """Keeps the answer to a claim that still holds its name."""

    async def release(self, claim: Claim) -> None:
        """Gives up a claim without an answer."""
